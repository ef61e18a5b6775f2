//! What an `http` or `https` listener takes of its clients beyond plain requests.

/// What is allowed, per listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpPolicy {
    /// Protocols that a connection may be upgraded to, in lower case; others are left out of the request, which is then
    /// answered as if it had not asked. Default: `websocket`.
    pub allow_upgrade: Vec<String>,
    /// What becomes of `%2F`, `%5C` and `\` in paths. Default: refused.
    pub encoded_slashes: EncodedSlashes,
}

impl Default for HttpPolicy {
    fn default() -> Self {
        Self {
            allow_upgrade: vec!["websocket".to_owned()],
            encoded_slashes: EncodedSlashes::default(),
        }
    }
}

/// What becomes of paths with separators that some programs take for `/` and others do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EncodedSlashes {
    /// 400: a route and a backend could read the path differently.
    #[default]
    Refuse,
    /// Passed on as they are; routes take them for ordinary characters.
    Pass,
}

impl EncodedSlashes {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Pass => "pass",
        }
    }
}
