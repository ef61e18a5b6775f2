//! Names that operators give to listeners and pools.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a listener, a pool or a node. Cheap to clone; compares by its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Wraps a text that the caller has checked, or that needs no check, as in tests.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The longest name, in bytes; names become labels of metrics and parts of API paths.
    pub const MAX_LEN: usize = 63;

    /// Takes what can be a name: letters, digits, `-`, `_` and `.`, of ASCII, the first a letter or a digit.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.bytes().next() else {
            return Err(NameError::Empty);
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(other) = text.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character(other));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Beginning);
        }
        if text.len() > Self::MAX_LEN {
            return Err(NameError::TooLong);
        }
        Ok(Self::new(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text cannot be a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("it is empty")]
    Empty,
    /// More than [`Name::MAX_LEN`] bytes.
    #[error("it is too long")]
    TooLong,
    /// It does not begin with a letter or a digit.
    #[error("it does not begin with a letter or a digit")]
    Beginning,
    /// A character that names do not have.
    #[error("it contains {0:?}")]
    Character(char),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
