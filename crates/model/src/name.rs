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

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
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
