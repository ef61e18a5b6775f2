//! Persistence: a client's requests stay with one backend.

use std::time::Duration;

/// Persistence by cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// Whose cookie it is, and what is done with it.
    pub mode: StickyMode,
}

/// Whose cookie persistence goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StickyMode {
    /// The load balancer's own, set in addition to what the backend sets.
    Insert(CookieAttributes),
    /// The backend's: where it sets one, our value takes the place of its own.
    Rewrite,
    /// The backend's: our value is put before its own, and taken off again before the backend sees it.
    Prefix,
    /// The application's, as it is: which backend has set which value is remembered.
    Learn(Learning),
}

impl StickyMode {
    /// The word in the config.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Insert(_) => "insert",
            Self::Rewrite => "rewrite",
            Self::Prefix => "prefix",
            Self::Learn(_) => "learn",
        }
    }
}

/// What a browser is told about a cookie of ours (RFC 6265, section 4.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CookieAttributes {
    /// Whether it stays on TLS; absent: where the listener is one of TLS.
    pub secure: Option<bool>,
    /// Scripts do not see it. Default true.
    pub http_only: bool,
    /// Whether requests that other sites cause carry it. Default `lax`.
    pub same_site: SameSite,
    /// The domain, with those below it; absent: the host that set it alone.
    pub domain: Option<String>,
    /// Default `/`.
    pub path: String,
    /// How long it is kept; absent: until the browser ends.
    pub max_age: Option<Duration>,
}

impl Default for CookieAttributes {
    fn default() -> Self {
        Self {
            secure: None,
            http_only: true,
            same_site: SameSite::Lax,
            domain: None,
            path: "/".to_owned(),
            max_age: None,
        }
    }
}

/// Which requests that other sites cause carry a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// None.
    Strict,
    /// A user's way to another page.
    Lax,
    /// All; browsers want `Secure` with it.
    None,
}

impl SameSite {
    /// As in the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// How cookies of the application are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Learning {
    /// How long one is remembered that no request names. Default an hour.
    pub timeout: Duration,
    /// How many are remembered at most; beyond that, those that no request has named for longest are forgotten. Default
    /// 100,000.
    pub entries: u32,
}

impl Default for Learning {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            entries: 100_000,
        }
    }
}
