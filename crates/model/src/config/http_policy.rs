//! `allow_upgrade` and `encoded_slashes` of listeners.

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::policy::is_token_byte;
use super::section::{Read, Section, word};
use crate::http_policy::{EncodedSlashes, HttpPolicy};

static ENCODED_SLASHES: [(&str, EncodedSlashes); 2] = [
    ("refuse", EncodedSlashes::Refuse),
    ("pass", EncodedSlashes::Pass),
];

/// The longest name of a protocol to upgrade to; no registered one has half of it.
const MAX_UPGRADE: usize = 64;

pub(super) fn read_http_policy(section: &Section<'_>, out: &mut Findings<'_>) -> HttpPolicy {
    let default = HttpPolicy::default();
    let allow_upgrade = section.strings("allow_upgrade", "[\"websocket\"]", out, upgrade);
    let encoded_slashes = section.read(
        "encoded_slashes",
        out,
        word(
            "encoded_slashes",
            &ENCODED_SLASHES,
            &[("allow", "pass"), ("reject", "refuse"), ("deny", "refuse")],
        ),
    );
    HttpPolicy {
        allow_upgrade: match allow_upgrade {
            Read::Absent | Read::Bad(_) => default.allow_upgrade,
            Read::Good(list) => list.value.into_iter().map(|at| at.value).collect(),
        },
        encoded_slashes: encoded_slashes.or(default.encoded_slashes),
    }
}

/// A protocol that a connection can be upgraded to.
fn upgrade(written: &str) -> Result<String, Complaint> {
    let complaint = |message, label: &str| Complaint::new(Kind::InvalidValue, message, label);
    if written.is_empty() || written.len() > MAX_UPGRADE || !written.bytes().all(is_upgrade_byte) {
        let message = format!("{} is not the name of a protocol", quoted(written));
        return Err(complaint(
            message,
            "expected a token, as `websocket` (RFC 9110, section 7.8)",
        ));
    }
    let name = written.to_ascii_lowercase();
    if matches!(name.as_str(), "h2c" | "tls" | "connect") || name.starts_with("http/") {
        let message = format!("{} in `allow_upgrade`", quoted(written));
        return Err(complaint(
            message,
            "requests would go past routes and limits from there on",
        ));
    }
    Ok(name)
}

fn is_upgrade_byte(byte: u8) -> bool {
    is_token_byte(byte) || byte == b'/'
}
