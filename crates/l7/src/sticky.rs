//! Persistence by cookie: a client's requests stay with the backend that answered the first.
//!
//! A value of ours is a keyed hash of the backend, so that a client can neither learn an address from it nor choose a
//! backend by making one up. It is compared, not computed, while requests are served. It stands in a cookie of our own,
//! in the place of a backend's value, or before it; or the application's own value is remembered (`learned.rs`).

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use weir_model::{BackendId, CookieAttributes, Learning, Sticky, StickyMode};

use crate::codec::h1::{RequestHead, field};
use crate::learned::Session;
use crate::plan::PoolCell;

/// Bytes of the hash in a value: 128 bits cannot be guessed.
const VALUE_BYTES: usize = 16;
/// Its characters.
const VALUE_LENGTH: usize = VALUE_BYTES * 2;
/// Between our value and the backend's.
const SEPARATOR: u8 = b'~';

/// What values are made with: random, and as old as the engine. Values of an earlier run count as none.
#[derive(Debug)]
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self)
    }

    fn value(&self, backend: &BackendId) -> String {
        let tag = hmac::sign(
            &self.0,
            format!("{}\0{}", backend.pool, backend.address).as_bytes(),
        );
        let mut value = String::with_capacity(VALUE_LENGTH);
        for byte in &tag.as_ref()[..VALUE_BYTES] {
            // Writing to a string does not fail.
            let _ = write!(value, "{byte:02x}");
        }
        value
    }
}

/// The cookies of a pool.
#[derive(Debug)]
pub(crate) struct Cookies {
    name: Box<[u8]>,
    kind: Kind,
    values: Vec<String>,
    /// Backends by value, as indexes.
    backends: HashMap<Box<[u8]>, usize>,
}

#[derive(Debug)]
enum Kind {
    /// What follows the value, in clear and over TLS.
    Insert {
        clear: String,
        tls: String,
    },
    Rewrite,
    Prefix,
    Learn(Learn),
}

#[derive(Debug)]
struct Learn {
    learning: Learning,
    cell: Arc<PoolCell>,
    addresses: Vec<SocketAddr>,
    indexes: HashMap<SocketAddr, usize>,
}

/// What a request's cookie says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The backend that it is for.
    pub(crate) backend: Option<usize>,
    /// The session that is remembered.
    session: Option<Session>,
}

impl Cookies {
    /// The cookies of these backends; `cell` is their pool's.
    pub(crate) fn new<'b>(
        sticky: &Sticky,
        backends: impl Iterator<Item = &'b BackendId> + Clone,
        key: &Key,
        cell: &Arc<PoolCell>,
    ) -> Self {
        let values: Vec<String> = backends.clone().map(|backend| key.value(backend)).collect();
        let by_value = values
            .iter()
            .enumerate()
            .map(|(index, value)| (value.as_bytes().into(), index));
        let kind = match &sticky.mode {
            StickyMode::Insert(attributes) => Kind::Insert {
                clear: written(attributes, false),
                tls: written(attributes, true),
            },
            StickyMode::Rewrite => Kind::Rewrite,
            StickyMode::Prefix => Kind::Prefix,
            StickyMode::Learn(learning) => {
                let addresses: Vec<SocketAddr> = backends.map(|backend| backend.address).collect();
                let indexes = addresses.iter().enumerate();
                Kind::Learn(Learn {
                    learning: *learning,
                    cell: Arc::clone(cell),
                    indexes: indexes.map(|(index, address)| (*address, index)).collect(),
                    addresses,
                })
            }
        };
        Self {
            name: sticky.cookie.as_bytes().into(),
            kind,
            backends: by_value.collect(),
            values,
        }
    }

    /// What a request's cookie says, if it is one that was given by us or by a backend.
    pub(crate) fn wanted(&self, request: &RequestHead, head: &[u8], now_ms: u64) -> Wanted {
        let mut values = request.cookies_named(head, &self.name);
        let found = match &self.kind {
            Kind::Insert { .. } | Kind::Rewrite => {
                values.find_map(|value| self.backends.get(value).copied())
            }
            Kind::Prefix => {
                values.find_map(|value| self.backends.get(&value[..prefix_length(value)?]).copied())
            }
            Kind::Learn(learn) => {
                let wanted = values.find_map(|value| learn.find(value, now_ms));
                return wanted.unwrap_or_default();
            }
        };
        Wanted {
            backend: found,
            session: None,
        }
    }

    /// The field that gives a client a cookie of ours.
    pub(crate) fn field(&self, backend: usize, is_tls: bool) -> Option<Vec<u8>> {
        let Kind::Insert { clear, tls } = &self.kind else {
            return None;
        };
        let name = String::from_utf8_lossy(&self.name);
        let attributes = if is_tls { tls } else { clear };
        let value = &self.values[backend];
        Some(format!("Set-Cookie: {name}={value}{attributes}\r\n").into_bytes())
    }

    /// Takes what is ours off the head of a request that goes to a backend. What looks like ours goes as well: it was,
    /// before a restart.
    pub(crate) fn strip(&self, head: &mut Vec<u8>) {
        if !matches!(self.kind, Kind::Prefix) {
            return;
        }
        edit_values(head, b"cookie", &self.name, |value| {
            prefix_length(value).map(|length| (0..length + 1, Vec::new()))
        });
    }

    /// Puts our value into the cookie that a backend sets, or remembers whose it is.
    pub(crate) fn answer(&self, backend: usize, head: &mut Vec<u8>, now_ms: u64) {
        let ours = self.values[backend].as_bytes();
        match &self.kind {
            Kind::Insert { .. } => {}
            Kind::Rewrite => edit_values(head, b"set-cookie", &self.name, |value| {
                Some((0..value.len(), ours.to_vec()))
            }),
            Kind::Prefix => edit_values(head, b"set-cookie", &self.name, |_| {
                Some((0..0, [ours, &[SEPARATOR]].concat()))
            }),
            Kind::Learn(learn) => edit_values(head, b"set-cookie", &self.name, |value| {
                if !value.is_empty() {
                    let session = learn.cell.learned.session(value);
                    learn.put(session, backend, now_ms);
                }
                None
            }),
        }
    }

    /// A request was answered by this backend: where its session was at another, it is here from now on.
    pub(crate) fn answered(&self, wanted: Wanted, backend: usize, now_ms: u64) {
        if let Kind::Learn(learn) = &self.kind
            && let Some(session) = wanted.session
            && wanted.backend != Some(backend)
        {
            learn.put(session, backend, now_ms);
        }
    }
}

impl Learn {
    fn find(&self, value: &[u8], now_ms: u64) -> Option<Wanted> {
        let session = self.cell.learned.session(value);
        let address = self.cell.learned.find(session, &self.learning, now_ms)?;
        Some(Wanted {
            // It may have left the pool.
            backend: self.indexes.get(&address).copied(),
            session: Some(session),
        })
    }

    fn put(&self, session: Session, backend: usize, now_ms: u64) {
        let address = self.addresses[backend];
        self.cell
            .learned
            .put(session, address, &self.learning, now_ms);
    }
}

/// A cookie's attributes as they follow its value.
fn written(attributes: &CookieAttributes, is_tls: bool) -> String {
    let mut text = format!("; Path={}", attributes.path);
    // Writing to a string does not fail.
    if let Some(domain) = &attributes.domain {
        let _ = write!(text, "; Domain={domain}");
    }
    if let Some(age) = attributes.max_age {
        let _ = write!(text, "; Max-Age={}", age.as_secs());
    }
    if attributes.http_only {
        text.push_str("; HttpOnly");
    }
    let _ = write!(text, "; SameSite={}", attributes.same_site.as_str());
    if attributes.secure.unwrap_or(is_tls) {
        text.push_str("; Secure");
    }
    text
}

/// How long what looks like our value at the front is, where a separator follows.
fn prefix_length(value: &[u8]) -> Option<usize> {
    let ours = value.get(..VALUE_LENGTH)?;
    let is_ours = ours
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_ours && value.get(VALUE_LENGTH) == Some(&SEPARATOR)).then_some(VALUE_LENGTH)
}

/// Looks at the values of a cookie in the lines of a field, and puts something in the place of a part of a value.
fn edit_values(
    head: &mut Vec<u8>,
    field_name: &[u8],
    cookie: &[u8],
    mut edit: impl FnMut(&[u8]) -> Option<(Range<usize>, Vec<u8>)>,
) {
    let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    let mut at = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let start = at;
        at += line.len();
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        if !line[..colon].eq_ignore_ascii_case(field_name) {
            continue;
        }
        let is_answers = field_name.eq_ignore_ascii_case(b"set-cookie");
        let mut from = start + colon + 1;
        let line_end = at;
        while from < line_end {
            let rest = &head[from..line_end];
            let length = memchr::memchr3(b';', b'\r', b'\n', rest).unwrap_or(rest.len());
            if let Some(value) = value_of(&rest[..length], cookie)
                && let Some((part, text)) = edit(&rest[value.clone()])
            {
                let base = from + value.start;
                edits.push((base + part.start..base + part.end, text));
            }
            // What follows in an answer's line are attributes.
            if is_answers || rest.get(length) != Some(&b';') {
                break;
            }
            from += length + 1;
        }
    }
    for (range, text) in edits.into_iter().rev() {
        head.splice(range, text);
    }
}

/// Where the value of a pair is, if it is that of this cookie.
fn value_of(pair: &[u8], cookie: &[u8]) -> Option<Range<usize>> {
    let equals = memchr::memchr(b'=', pair)?;
    if field::trim(&pair[..equals]) != cookie {
        return None;
    }
    let value = field::trim(&pair[equals + 1..]);
    let lead = pair[equals + 1..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let start = if value.is_empty() {
        pair.len()
    } else {
        equals + 1 + lead
    };
    Some(start..start + value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_edited_where_the_cookie_is_and_nowhere_else() {
        let check = |field: &str, before: &str, after: &str| {
            let mut head = before.as_bytes().to_vec();
            edit_values(&mut head, field.as_bytes(), b"S", |value| {
                (!value.is_empty()).then(|| (0..1, b"<>".to_vec()))
            });
            assert_eq!(String::from_utf8(head).unwrap(), after, "{before}");
        };
        check(
            "cookie",
            "GET /S=1 HTTP/1.1\r\nCookie: S=abc; T=S=1; XS=2;S=d\r\nX: S=1\r\ncookie: S = e \r\nCookie: S=\r\n\r\n",
            "GET /S=1 HTTP/1.1\r\nCookie: S=<>bc; T=S=1; XS=2;S=<>\r\nX: S=1\r\ncookie: S = <> \r\nCookie: S=\r\n\r\n",
        );
        check(
            "set-cookie",
            "HTTP/1.1 200 OK\r\nset-cookie:S=abc; S=no\r\nSet-Cookie: T=1; S=2\r\nSet-Cookie: s=1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nset-cookie:S=<>bc; S=no\r\nSet-Cookie: T=1; S=2\r\nSet-Cookie: s=1\r\n\r\n",
        );
    }

    #[test]
    fn only_what_looks_like_ours_is_a_prefix() {
        let ours = "0123456789abcdef0123456789abcdef";
        for (value, length) in [
            (format!("{ours}~x"), Some(32)),
            (format!("{ours}~"), Some(32)),
            (ours.to_owned(), None),
            (format!("{ours}x~"), None),
            (format!("{}~x", ours.to_uppercase()), None),
            ("a~b".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(prefix_length(value.as_bytes()), length, "{value}");
        }
    }
}
