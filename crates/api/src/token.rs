//! The bearer token that guards the API.

use std::fmt;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A shared secret. Never shown, not even in debug output.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

/// Why a token file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("read the token from {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its token is too short to resist guessing.
    #[error("token in {path} has {length} characters, at least {MIN_LENGTH} are needed")]
    Short {
        /// The file.
        path: PathBuf,
        /// What it has.
        length: usize,
    },
    /// It has characters that a header cannot carry.
    #[error("token in {path} has characters other than visible ASCII")]
    Characters {
        /// The file.
        path: PathBuf,
    },
}

/// 16 random characters of base64 are 96 bits.
const MIN_LENGTH: usize = 16;

impl Token {
    /// Reads a token file: one line of visible ASCII; white space around it does not count.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds cannot be a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let token = text.trim_ascii();
        if token.len() < MIN_LENGTH {
            return Err(TokenError::Short {
                path: path.to_owned(),
                length: token.len(),
            });
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Characters {
                path: path.to_owned(),
            });
        }
        Ok(Self(token.into()))
    }

    /// Whether this is the token. Takes the same time wherever the first difference is; only the length shows.
    pub fn is(&self, given: &[u8]) -> bool {
        if given.len() != self.0.len() {
            return false;
        }
        let difference = self
            .0
            .iter()
            .zip(given)
            .fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
        difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Who may use the API. A cheap handle; the token can be exchanged while the API runs.
#[derive(Clone, Debug)]
pub struct Access(Arc<RwLock<Option<Token>>>);

impl Access {
    /// Whoever carries this token; everybody when there is none.
    pub fn new(token: Option<Token>) -> Self {
        Self(Arc::new(RwLock::new(token)))
    }

    /// From now on this token counts.
    pub fn set(&self, token: Option<Token>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Whether a request with this `Authorization` header is let in (RFC 6750, section 2.1; the scheme's case does
    /// not count, RFC 9110, section 11.1).
    pub fn lets_in(&self, authorization: Option<&[u8]>) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = token.as_ref() else {
            return true;
        };
        let Some((scheme, given)) =
            authorization.and_then(|value| value.split_at_checked(SCHEME.len()))
        else {
            return false;
        };
        scheme.eq_ignore_ascii_case(SCHEME) && token.is(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef";

    #[test]
    fn only_the_whole_token_counts() {
        let token = Token(SECRET.into());
        assert!(token.is(SECRET));
        for wrong in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdef0",
            b"0123456789abcdeF",
            b"x123456789abcdef",
        ] {
            assert!(!token.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn header_forms() {
        let access = Access::new(Some(Token(SECRET.into())));
        for (header, is_in) in [
            (Some(&b"Bearer 0123456789abcdef"[..]), true),
            (Some(b"bearer 0123456789abcdef"), true),
            (Some(b"Basic 0123456789abcdef"), false),
            (Some(b"Bearer  0123456789abcdef"), false),
            (Some(b"0123456789abcdef"), false),
            (Some(b"Bearer"), false),
            (Some(b""), false),
            (None, false),
        ] {
            assert_eq!(access.lets_in(header), is_in, "{header:?}");
        }
        access.set(None);
        assert!(access.lets_in(None));
    }

    #[test]
    fn is_not_shown() {
        assert_eq!(
            format!("{:?}", Access::new(Some(Token(SECRET.into()))))
                .matches("0123")
                .count(),
            0
        );
    }

    #[test]
    fn token_files() {
        let folder = std::env::temp_dir().join(format!("weir-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("token");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Token::read(&file).map_err(|error| error.to_string())
        };
        assert!(read("0123456789abcdef\n").unwrap().is(SECRET));
        assert!(
            read("short\n")
                .unwrap_err()
                .ends_with("has 5 characters, at least 16 are needed")
        );
        assert!(
            read("0123456789 abcdef")
                .unwrap_err()
                .ends_with("other than visible ASCII")
        );
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(
            Token::read(&file)
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }
}
