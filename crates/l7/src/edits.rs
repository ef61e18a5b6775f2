//! Header fields that a route takes off, replaces or adds, in a head that is about to be sent.

use std::io::Write;
use std::net::SocketAddr;

use weir_model::{HeaderEdits, HeaderField, HeaderVariable, Part};

use crate::routing::path_and_query;

/// What the variables of fields stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'f> {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) scheme: &'static str,
    pub(crate) method: &'f [u8],
    pub(crate) authority: &'f [u8],
    pub(crate) target: &'f [u8],
    pub(crate) request_id: RequestId,
    pub(crate) tls: Option<TlsFacts<'f>>,
    pub(crate) listener: &'f str,
}

/// What is known of a client's TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsFacts<'f> {
    /// `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The name that the client asked for; may be empty.
    pub(crate) sni: &'f str,
}

/// A number of one request alone: the worker's own, which is random, and a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) worker: u64,
    pub(crate) count: u64,
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.worker, self.count)
    }
}

/// Changes the fields of a head that is complete, its empty line included.
pub(crate) fn apply(edits: &HeaderEdits, facts: &Facts<'_>, head: &mut Vec<u8>) {
    head.truncate(head.len() - 2);
    remove(edits, head);
    write_fields(edits, facts, head);
    head.extend_from_slice(b"\r\n");
}

/// Takes the field lines off that the edits remove or replace; `head` is a start line and whole field lines.
pub(crate) fn remove(edits: &HeaderEdits, head: &mut Vec<u8>) {
    if edits.remove.is_empty() && edits.set.is_empty() {
        return;
    }
    let mut kept = memchr::memchr(b'\n', head).map_or(head.len(), |lf| lf + 1);
    let mut at = kept;
    while at < head.len() {
        let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |lf| at + lf + 1);
        let name = head[at..end].split(|byte| *byte == b':').next();
        if !name.is_some_and(|name| drops(edits, name)) {
            head.copy_within(at..end, kept);
            kept += end - at;
        }
        at = end;
    }
    head.truncate(kept);
}

/// Whether a field of this name is taken off.
pub(crate) fn drops(edits: &HeaderEdits, name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    edits.remove.iter().any(|other| is(other)) || edits.set.iter().any(|field| is(&field.name))
}

/// Writes the lines of the fields that are set and added.
pub(crate) fn write_fields(edits: &HeaderEdits, facts: &Facts<'_>, out: &mut Vec<u8>) {
    for field in edits.set.iter().chain(&edits.add) {
        let start = out.len();
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        let value = out.len();
        write_value(field, facts, out);
        if out.len() == value {
            out.truncate(start);
        } else {
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn write_value(field: &HeaderField, facts: &Facts<'_>, out: &mut Vec<u8>) {
    for part in field.value.parts() {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Variable(variable) => facts.write(*variable, out),
        }
    }
}

impl Facts<'_> {
    fn write(&self, variable: HeaderVariable, out: &mut Vec<u8>) {
        let (path, query) = path_and_query(self.target);
        // Writing to a vector does not fail.
        let _ = match variable {
            HeaderVariable::ClientAddress => write!(out, "{}", self.client.ip().to_canonical()),
            HeaderVariable::ClientPort => write!(out, "{}", self.client.port()),
            HeaderVariable::LocalAddress => write!(out, "{}", self.local.ip().to_canonical()),
            HeaderVariable::LocalPort => write!(out, "{}", self.local.port()),
            HeaderVariable::Scheme => out.write_all(self.scheme.as_bytes()),
            HeaderVariable::Host => out.write_all(self.authority),
            HeaderVariable::Method => out.write_all(self.method),
            HeaderVariable::Path => out.write_all(path),
            HeaderVariable::Query => out.write_all(query),
            HeaderVariable::RequestId => write!(out, "{}", self.request_id),
            HeaderVariable::TlsVersion => {
                out.write_all(self.tls.map_or("", |tls| tls.version).as_bytes())
            }
            HeaderVariable::TlsSni => out.write_all(self.tls.map_or("", |tls| tls.sni).as_bytes()),
            HeaderVariable::Listener => out.write_all(self.listener.as_bytes()),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_model::Template;

    use super::*;

    fn field(name: &str, value: &str) -> HeaderField {
        HeaderField {
            name: name.to_owned(),
            value: Template::parse(value, HeaderVariable::named).unwrap(),
        }
    }

    fn facts() -> Facts<'static> {
        Facts {
            client: "[::ffff:192.0.2.7]:4711".parse().unwrap(),
            local: "203.0.113.1:443".parse().unwrap(),
            scheme: "https",
            method: b"GET",
            authority: b"a.example:443",
            target: b"/p?q=1",
            request_id: RequestId {
                worker: 0xabc,
                count: 1,
            },
            tls: Some(TlsFacts {
                version: "TLSv1.3",
                sni: "a.example",
            }),
            listener: "web",
        }
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let edits = HeaderEdits {
            remove: vec!["server".to_owned()],
            set: vec![field("X-One", "{client_address}")],
            add: vec![field("X-Two", "b")],
        };
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nSERVER: x\r\nx-one: 1\r\nX-Two: a\r\nX-OneMore: 1\r\nx-ONE:\r\n\r\n".to_vec();
        apply(&edits, &facts(), &mut head);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Two: a\r\nX-OneMore: 1\r\nX-One: 192.0.2.7\r\nX-Two: b\r\n\r\n"
        );
    }

    #[test]
    fn every_variable_has_a_value_and_an_empty_one_leaves_the_field_out() {
        let check = |variable: HeaderVariable, expected: &str| {
            let mut out = Vec::new();
            facts().write(variable, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{variable}");
        };
        let expected = [
            "192.0.2.7",
            "4711",
            "203.0.113.1",
            "443",
            "https",
            "a.example:443",
            "GET",
            "/p",
            "q=1",
            "0000000000000abc0000000000000001",
            "TLSv1.3",
            "a.example",
            "web",
        ];
        assert_eq!(expected.len(), HeaderVariable::ALL.len());
        for (variable, expected) in HeaderVariable::ALL.iter().zip(expected) {
            check(*variable, expected);
        }
        let edits = HeaderEdits {
            set: vec![field("X-Sni", "{tls_sni}")],
            ..HeaderEdits::default()
        };
        let mut head = b"GET / HTTP/1.1\r\nX-Sni: forged\r\n\r\n".to_vec();
        let clear = Facts {
            tls: None,
            ..facts()
        };
        apply(&edits, &clear, &mut head);
        assert_eq!(head, b"GET / HTTP/1.1\r\n\r\n");
    }

    proptest! {
        #[test]
        fn what_is_not_named_stays_as_it_was(lines in proptest::collection::vec("(a|ab|b|B|c): ?[ -~]{0,5}", 0..8)) {
            let edits = HeaderEdits { remove: vec!["b".to_owned()], ..HeaderEdits::default() };
            let mut head = b"start line\r\n".to_vec();
            let mut expected = head.clone();
            for line in &lines {
                head.extend_from_slice(format!("{line}\r\n").as_bytes());
                if !line.to_ascii_lowercase().starts_with("b:") {
                    expected.extend_from_slice(format!("{line}\r\n").as_bytes());
                }
            }
            remove(&edits, &mut head);
            prop_assert_eq!(head, expected);
        }
    }
}
