//! Paths that two programs could read differently (RFC 3986, sections 2.2, 5.2.4 and 6.2.2): refused, not repaired.
//!
//! Routes compare paths as they are written, and backends may decode and shorten them: `/public/..%2Fadmin` must not be
//! routed as one thing and served as another.

use weir_model::EncodedSlashes;

use crate::errors::Reason;

/// Judges the path of a request's target.
pub fn check(target: &[u8], encoded_slashes: EncodedSlashes) -> Result<(), Reason> {
    // Most paths have nothing of the kind.
    if memchr::memchr3(b'%', b'\\', b'.', target).is_none() {
        return Ok(());
    }
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let mut rest = &target[..end];
    let mut segment = Segment::Empty;
    while let Some((byte, encoded, length)) = next(rest) {
        rest = &rest[length..];
        match byte {
            // Backends that are written in C see the end of the path here.
            0 => return Err(Reason::BadPath),
            b'/' | b'\\' => {
                if (encoded || byte == b'\\') && encoded_slashes == EncodedSlashes::Refuse {
                    return Err(Reason::BadPath);
                }
                segment.end()?;
                segment = Segment::Empty;
            }
            b'.' => segment = segment.and_dot(),
            // What stands behind it, some backends cut off: `..;x` is `..` to them.
            b';' if segment.is_dots() => return Err(Reason::BadPath),
            _ => segment = Segment::Other,
        }
    }
    segment.end()
}

/// The next character, whether it was encoded, and how many bytes it takes. A `%` without two digits stands for itself.
fn next(path: &[u8]) -> Option<(u8, bool, usize)> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    match path {
        [] => None,
        [b'%', high, low, ..] if hex(*high).is_some() && hex(*low).is_some() => {
            let byte = (hex(*high)? << 4 | hex(*low)?) as u8;
            Some((byte, true, 3))
        }
        [byte, ..] => Some((*byte, false, 1)),
    }
}

/// What a segment is so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Empty,
    Dot,
    TwoDots,
    Other,
}

impl Segment {
    fn and_dot(self) -> Self {
        match self {
            Self::Empty => Self::Dot,
            Self::Dot => Self::TwoDots,
            Self::TwoDots | Self::Other => Self::Other,
        }
    }

    fn is_dots(self) -> bool {
        matches!(self, Self::Dot | Self::TwoDots)
    }

    fn end(self) -> Result<(), Reason> {
        if self.is_dots() {
            Err(Reason::BadPath)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_refused_however_they_are_written() {
        for path in [
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/%2e?x",
            "/a/..;x/b",
            "/a/%2e;/b",
            "/../",
            "..",
        ] {
            for policy in [EncodedSlashes::Refuse, EncodedSlashes::Pass] {
                assert_eq!(
                    check(path.as_bytes(), policy),
                    Err(Reason::BadPath),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn other_separators_are_refused_unless_they_are_passed() {
        for path in ["/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%5Cb?x"] {
            let check = |policy| check(path.as_bytes(), policy);
            assert_eq!(
                check(EncodedSlashes::Refuse),
                Err(Reason::BadPath),
                "{path}"
            );
            assert_eq!(check(EncodedSlashes::Pass), Ok(()), "{path}");
        }
        // They separate dot segments all the same.
        for path in ["/a%2f..%2fb", "/a\\..\\b", "/a/..%5cb", "/a%2f%2e%2e"] {
            assert_eq!(
                check(path.as_bytes(), EncodedSlashes::Pass),
                Err(Reason::BadPath),
                "{path}"
            );
        }
    }

    #[test]
    fn nul_is_refused() {
        assert_eq!(
            check(b"/a%00.png", EncodedSlashes::Pass),
            Err(Reason::BadPath)
        );
    }

    #[test]
    fn what_everybody_reads_alike_passes() {
        for path in [
            "/",
            "*",
            "",
            "/a.b/..c/d../...",
            "/.well-known/x",
            "/a%20b/%C3%A9",
            "/%41",
            "/100%",
            "/%zz",
            "/a//b/",
            "/a;v=1/b",
            "/a?x=/../%2f\\..",
            "/a/.../b",
        ] {
            assert_eq!(
                check(path.as_bytes(), EncodedSlashes::Refuse),
                Ok(()),
                "{path}"
            );
        }
    }
}
