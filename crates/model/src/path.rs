//! Paths as routes compare them: one way to write each (RFC 3986, section 6.2.2).
//!
//! Backends undo the encoding of a path before they look at it. A route that compared what was sent would let `/%61dmin`
//! pass where `/admin` is kept from the world.

use std::borrow::Cow;

/// The one way to write a path: what a segment may have as it is (`pchar`, RFC 3986, section 3.3) is not encoded, all else
/// is, with capital digits. `;` begins parameters where it is written as it is and is a character like others where it is
/// encoded, so that both stay what they are; and `%2F` is no `/`.
pub fn canonical(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = path.iter().position(|byte| !stands_for_itself(*byte)) else {
        return Cow::Borrowed(path);
    };
    let mut out = Vec::with_capacity(path.len() + 8);
    out.extend_from_slice(&path[..first]);
    let mut rest = &path[first..];
    while let Some((byte, is_encoded, after)) = next(rest) {
        rest = after;
        let stays_encoded = is_encoded && matches!(byte, b'/' | b';');
        if stands_for_itself(byte) && !stays_encoded {
            out.push(byte);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
        }
    }
    Cow::Owned(out)
}

/// As [`canonical`], of a text.
pub fn canonical_text(path: &str) -> String {
    match canonical(path.as_bytes()) {
        Cow::Borrowed(_) => path.to_owned(),
        // What is not ASCII has become so.
        Cow::Owned(path) => path.into_iter().map(char::from).collect(),
    }
}

/// `/` and what segments may have without encoding.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

/// The next character, and whether it was encoded. A `%` without two digits stands for itself.
fn next(path: &[u8]) -> Option<(u8, bool, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if let [b'%', high, low, rest @ ..] = path
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((high << 4 | low, true, rest));
    }
    path.split_first().map(|(byte, rest)| (*byte, false, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_paths_are_written_alike() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/B-c._~!$&'()*+,;=:@", "/a/B-c._~!$&'()*+,;=:@"),
            ("/%61dmin", "/admin"),
            ("/%41%2d%2E%5F%7e%3a%40", "/A-._~:@"),
            ("/a%2fb%2F", "/a%2Fb%2F"),
            ("/a;x/b%3bx", "/a;x/b%3Bx"),
            ("/a%20b/%c3%a9", "/a%20b/%C3%A9"),
            ("/a\\b%5c", "/a%5Cb%5C"),
            ("/a\"b%22", "/a%22b%22"),
            ("/%2561", "/%2561"),
            ("/100%/%zz/%4", "/100%25/%25zz/%254"),
            ("/%00%3f%23", "/%00%3F%23"),
        ] {
            assert_eq!(canonical_text(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_stays_so(path in "/([a-z;/]|%[0-9a-fA-F]{2}|%)*") {
            let once = canonical_text(&path);
            prop_assert_eq!(canonical_text(&once), once);
        }

        #[test]
        fn encoding_an_unreserved_character_changes_nothing(path in "[a-zA-Z0-9._~-]{1,8}", at in 0usize..8) {
            let at = at % path.len();
            let encoded = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
            prop_assert_eq!(canonical_text(&encoded), path);
        }
    }
}
