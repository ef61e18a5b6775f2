//! Routes: which pool a request of an HTTP listener goes to.

use crate::name::Name;

/// A condition on a request, and where it goes when the condition holds. The most specific match wins:
/// an exact host before a wildcard (a longer wildcard before a shorter one) before none, then the longest
/// path prefix; among equals the first in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Hosts it applies to; empty: all.
    pub hosts: Vec<HostPattern>,
    /// The path's beginning, in whole segments: `/v1` and `/v1/` match `/v1/x` and not `/v1x`; absent: all paths.
    pub path_prefix: Option<String>,
    /// Where matching requests go.
    pub pool: Name,
}

/// A host that a route applies to, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone.
    Exact(String),
    /// One or more labels before this suffix, which is kept without `*.`: `*.example.com` is `example.com`.
    Wildcard(String),
}
