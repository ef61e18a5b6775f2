//! What can go wrong when a network is built.

use std::io;

/// What was tried, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: String,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The kind of the failure, as the system told it.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}
