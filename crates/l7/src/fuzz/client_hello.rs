//! Server names of ClientHellos: a name that is found stands in the message, and is one.

use super::at_every_split;
use crate::codec::client_hello::{Hello, server_name};

/// A record's header: kind, version, length.
const RECORD_HEADER_BYTES: usize = 5;

/// Runs the bytes as the beginning of a connection.
pub fn names(bytes: &[u8]) {
    let said = at_every_split(bytes, |bytes| match server_name(bytes) {
        Hello::Partial => None,
        hello => Some(hello),
    });
    let Some(Hello::Name(name)) = said else {
        return;
    };
    assert!(!name.is_empty());
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
    assert_eq!(name, name.to_ascii_lowercase());
    // In one piece, behind its length, once the records are put together.
    let mut message = Vec::new();
    let mut rest = bytes;
    while let Some((&[_, _, _, high, low], behind)) =
        rest.split_first_chunk::<RECORD_HEADER_BYTES>()
    {
        let length = usize::from(high) << 8 | usize::from(low);
        let (fragment, behind) = behind.split_at(length.min(behind.len()));
        message.extend_from_slice(fragment);
        rest = behind;
    }
    let length = [(name.len() >> 8) as u8, name.len() as u8];
    let stands = message
        .windows(2 + name.len())
        .any(|window| window[..2] == length && window[2..].eq_ignore_ascii_case(name.as_bytes()));
    assert!(stands, "{name} is not in {message:?}");
}
