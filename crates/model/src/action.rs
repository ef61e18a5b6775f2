//! What becomes of a request that a route matches.

use crate::name::Name;
use crate::pattern::Pattern;
use crate::template::Template;

/// What is done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to a pool.
    Pool(Name),
    /// It goes to one of several pools, by weight. At least one weight is above 0.
    Split(Vec<SplitPool>),
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// The client gets this answer.
    Answer(FixedAnswer),
}

/// One side of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPool {
    /// The pool.
    pub pool: Name,
    /// Its share of the clients, relative to the others; at most [`SplitPool::MAX_WEIGHT`]. 0: no new clients, those
    /// with a sticky cookie of the pool stay.
    pub weight: u32,
}

impl SplitPool {
    /// The greatest weight.
    pub const MAX_WEIGHT: u32 = 1_000_000;
    /// Pools of one split at most.
    pub const MAX_POOLS: usize = 64;
}

impl Action {
    /// The pools that it sends to.
    pub fn pools(&self) -> impl Iterator<Item = &Name> {
        let (one, several) = match self {
            Self::Pool(pool) => (Some(pool), &[][..]),
            Self::Split(pools) => (None, &pools[..]),
            Self::Redirect(_) | Self::Answer(_) => (None, &[][..]),
        };
        one.into_iter()
            .chain(several.iter().map(|split| &split.pool))
    }
}

/// A redirect: what is not given is as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; absent: as the client came.
    pub scheme: Option<Scheme>,
    /// The host; absent: as the client asked.
    pub host: Option<String>,
    /// The port; absent: as the client asked, or none where the scheme is another one.
    pub port: Option<u16>,
    /// The path.
    pub path: PathRewrite,
    /// Whether the query goes along.
    pub keep_query: bool,
}

impl Redirect {
    /// The status where none is given.
    pub const DEFAULT_STATUS: u16 = 302;
}

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An answer from the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer {
    /// From 200 to 599.
    pub status: u16,
    /// `Content-Type`; absent: none is sent where there is no body, else `text/plain`.
    pub content_type: Option<String>,
    /// The content, at most [`FixedAnswer::MAX_BODY`] bytes.
    pub body: String,
}

impl FixedAnswer {
    /// The longest body, in bytes: what is larger belongs on a server.
    pub const MAX_BODY: usize = 65_536;

    /// Whether an answer with this status has no content (RFC 9110, section 6.4.1).
    pub fn is_bodiless(status: u16) -> bool {
        matches!(status, 204 | 205 | 304)
    }
}

/// What a backend is asked for in place of what the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The path; the query stays.
    pub path: PathRewrite,
    /// `Host`.
    pub host: Option<String>,
}

impl Rewrite {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.path == PathRewrite::Keep && self.host.is_none()
    }
}

/// How a path is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathRewrite {
    /// Not at all.
    #[default]
    Keep,
    /// This takes its place.
    Full(String),
    /// This takes the place of the route's `path_prefix`; without the `/` at its end.
    Prefix(String),
    /// Where the expression matches the whole path, this takes its place.
    Regex(Pattern, Template<Group>),
}

/// A group of a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// By number; 0 is all that matched.
    Number(usize),
    /// By name.
    Name(String),
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}
