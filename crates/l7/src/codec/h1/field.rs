//! Field values that are lists of tokens.

/// The elements of a comma-separated list, without the empty ones (RFC 9110, section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// Takes optional white space off both ends.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What the tokens of a message's `Connection` fields say, as far as the proxy acts on them itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Some other token: it names a field that goes no further than this hop.
    pub names_fields: bool,
}

impl Connection {
    /// Takes one field line into account.
    pub fn and(mut self, value: &[u8]) -> Self {
        for token in list(value) {
            match token.len() {
                5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if token.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => self.names_fields = true,
            }
        }
        self
    }
}

/// The values of the fields with this name among whole field lines.
pub fn values<'h>(lines: &'h [u8], name: &str) -> impl Iterator<Item = &'h [u8]> {
    let lines = lines.split(|byte| *byte == b'\n');
    lines.filter_map(move |line| {
        let (found, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        found
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| trim(value.strip_suffix(b"\r").unwrap_or(value)))
    })
}

/// Whether a `Connection` field may take this field off a message. The fields that say where a message goes and
/// where it ends are nobody's to remove.
pub fn may_be_named_by_connection(name: &[u8]) -> bool {
    !["host", "content-length", "transfer-encoding"]
        .iter()
        .any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_leave_out_empty_elements_and_white_space() {
        let elements: Vec<&[u8]> = list(b" a ,,\tb, c\t,").collect();
        assert_eq!(elements, [b"a", b"b", b"c"]);
        assert_eq!(list(b"").count(), 0);
    }

    #[test]
    fn connection_tokens_are_matched_whole_and_without_case() {
        let connection = Connection::default().and(b"Close, UPGRADE").and(b"closed");
        assert_eq!(
            connection,
            Connection {
                close: true,
                upgrade: true,
                keep_alive: false,
                names_fields: true
            }
        );
    }
}
