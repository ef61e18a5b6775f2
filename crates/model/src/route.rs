//! Routes: which pool a request of an HTTP listener, or a connection of a TLS listener, goes to.

use std::cmp::Reverse;
use std::fmt;

use crate::listener::Listener;
use crate::name::Name;

/// A condition on a request, and where it goes when the condition holds. The most specific match wins:
/// an exact host before a wildcard (a longer wildcard before a shorter one) before none, then the longest
/// path prefix; among equals the first in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Hosts it applies to; empty: all.
    pub hosts: Vec<HostPattern>,
    /// The path's beginning, in whole segments: `/v1` and `/v1/` match `/v1` and `/v1/x`, but not `/v1x`; absent:
    /// all paths. From a config it comes without the `/` at the end, and never as `/` alone.
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

/// The beginning of a path, in whole segments; [`Route::path_prefix`] once it is known to be one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Option<String>);

impl Listener {
    /// The route of a request, as [`Route`] says; `None`: the listener's own pool.
    ///
    /// `host` is the request's host without its port, `path` the path without the query, as it was sent: no percent
    /// encoding is undone here. This is the reference that says what is right; it looks at every route, so a data
    /// plane keeps an index instead, which must agree.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        let matches = self
            .routes
            .iter()
            .filter_map(|route| Some((route.specificity(host, path)?, route)));
        // The least of the reversed is the greatest, and of several the first.
        matches
            .min_by_key(|(specificity, _)| Reverse(*specificity))
            .map(|(_, route)| route)
    }

    /// The pool of a request: its route's, else the listener's own. `None`: nothing serves it.
    pub fn pool_for(&self, host: &str, path: &str) -> Option<&Name> {
        self.route(host, path)
            .map(|route| &route.pool)
            .or(self.pool.as_ref())
    }
}

impl Route {
    /// How closely the route fits a request, the host first; `None` if it does not.
    fn specificity(&self, host: &str, path: &str) -> Option<(HostFit, usize)> {
        let host_fit = match self.hosts.as_slice() {
            [] => HostFit::Any,
            hosts => hosts.iter().filter_map(|pattern| pattern.fit(host)).max()?,
        };
        let path_fit = match &self.path_prefix {
            None => 0,
            Some(prefix) => matched_prefix(prefix, path)?,
        };
        Some((host_fit, path_fit))
    }
}

/// From the loosest to the closest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostFit {
    Any,
    /// With the length of the suffix.
    Wildcard(usize),
    Exact,
}

/// The length of a prefix that fits a path, without the `/` at its end.
fn matched_prefix(prefix: &str, path: &str) -> Option<usize> {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

impl HostPattern {
    /// The longest host (RFC 1035, section 2.3.4, as text without the dot at the end).
    pub const MAX_LEN: usize = 253;

    /// Reads `www.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`.
    pub fn parse(written: &str) -> Result<Self, HostError> {
        let host = written
            .strip_suffix('.')
            .unwrap_or(written)
            .to_ascii_lowercase();
        if let Some(inner) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| HostError::Address)?;
            return Ok(Self::Exact(format!("[{address}]")));
        }
        if let Some(suffix) = host.strip_prefix("*.") {
            check_labels(suffix)?;
            return Ok(Self::Wildcard(suffix.to_owned()));
        }
        check_labels(&host)?;
        Ok(Self::Exact(host))
    }

    /// Whether a request's host, without its port, is meant. Case and a dot at the end are no difference.
    pub fn matches(&self, host: &str) -> bool {
        self.fit(host).is_some()
    }

    fn fit(&self, host: &str) -> Option<HostFit> {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Exact(exact) => host.eq_ignore_ascii_case(exact).then_some(HostFit::Exact),
            Self::Wildcard(suffix) => {
                let labels = host
                    .len()
                    .checked_sub(suffix.len() + 1)
                    .filter(|labels| *labels > 0)?;
                let end = host.as_bytes().get(labels..)?;
                let fits = end[0] == b'.' && end[1..].eq_ignore_ascii_case(suffix.as_bytes());
                fits.then_some(HostFit::Wildcard(suffix.len()))
            }
        }
    }
}

/// Labels of letters, digits, `-` and `_`, parted by dots (RFC 952, RFC 1123 section 2.1; `_` as servers meet it).
fn check_labels(host: &str) -> Result<(), HostError> {
    if host.is_empty() {
        return Err(HostError::Empty);
    }
    if let Some(other) = host
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'))
    {
        return Err(match other {
            '*' => HostError::Star,
            other => HostError::Character(other),
        });
    }
    if host.len() > HostPattern::MAX_LEN {
        return Err(HostError::TooLong);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.split('.').all(is_label) {
        Ok(())
    } else {
        Err(HostError::Label)
    }
}

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No characters at all.
    #[error("it is empty")]
    Empty,
    /// More than [`HostPattern::MAX_LEN`] characters.
    #[error("it is too long")]
    TooLong,
    /// A character that hosts do not have.
    #[error("it contains {0:?}")]
    Character(char),
    /// A `*` that is not the whole first label.
    #[error("a `*` stands only for whole labels at the beginning")]
    Star,
    /// An empty label, one of more than 63 characters, or one with `-` at an end.
    #[error("between two dots there are 1 to 63 characters, without `-` at the ends")]
    Label,
    /// Brackets without an IPv6 address in them.
    #[error("there is no IPv6 address in the brackets")]
    Address,
}

impl HostError {
    /// What to write instead.
    pub(crate) fn remedy(self, written: &str) -> Option<String> {
        match self {
            Self::Star if written == "*" => Some("for all hosts, leave `host` out".to_owned()),
            Self::Star => Some("`*.example.com` matches every host below example.com".to_owned()),
            Self::Character('/') => {
                Some("write the host alone; a path goes into `path_prefix`".to_owned())
            }
            Self::Character(':') if written.contains("://") => {
                Some("write the host alone, without the scheme".to_owned())
            }
            Self::Character(':') => {
                Some("write the host without the port, an IPv6 address in brackets".to_owned())
            }
            Self::Character(other) if !other.is_ascii() => {
                Some("write it as it is sent, in Punycode: `xn--…` (RFC 5891)".to_owned())
            }
            _ => None,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl PathPrefix {
    /// The longest prefix, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Reads a path from `/`. `/` alone is every path; a `/` at the end makes no difference.
    pub fn parse(written: &str) -> Result<Self, PathError> {
        if !written.starts_with('/') {
            return Err(PathError::Beginning);
        }
        if written.len() > Self::MAX_LEN {
            return Err(PathError::TooLong);
        }
        if let Some(other) = written
            .chars()
            .find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#'))
        {
            return Err(PathError::Character(other));
        }
        if written
            .split('/')
            .any(|segment| matches!(segment, "." | ".."))
        {
            return Err(PathError::Dots);
        }
        let prefix = written.trim_end_matches('/');
        Ok(Self((!prefix.is_empty()).then(|| prefix.to_owned())))
    }

    /// The prefix, without the `/` at its end; `/` for all paths.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// As [`Route::path_prefix`] keeps it.
    pub fn into_option(self) -> Option<String> {
        self.0
    }
}

/// Why a text is not the beginning of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("it does not begin with `/`")]
    Beginning,
    /// More than [`PathPrefix::MAX_LEN`] bytes.
    #[error("it is too long")]
    TooLong,
    /// A character that paths do not have.
    #[error("it contains {0:?}")]
    Character(char),
    /// A segment `.` or `..`, which a path loses before it is routed (RFC 3986, section 5.2.4).
    #[error("it has a segment `.` or `..`")]
    Dots,
}

impl PathError {
    /// What to write instead.
    pub(crate) fn remedy(self, written: &str) -> Option<String> {
        match self {
            Self::Beginning if written.contains("://") => {
                Some("write the path alone; the host goes into `host`".to_owned())
            }
            Self::Beginning if written.is_empty() => {
                Some("for all paths, leave `path_prefix` out".to_owned())
            }
            Self::Beginning => Some(format!("write `/{}`", written.escape_debug())),
            Self::Character('?' | '#') => Some("routes do not look at the query".to_owned()),
            Self::Character(_) => {
                Some("percent-encode it as it is sent: a space is `%20`".to_owned())
            }
            Self::TooLong | Self::Dots => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::listener::{Forward, HttpLimits, Protocol, Timeouts};

    type Line<'a> = (&'a [&'a str], Option<&'a str>, &'a str);

    fn listener(routes: &[Line<'_>]) -> Listener {
        let route = |(hosts, path, pool): &Line<'_>| Route {
            hosts: hosts
                .iter()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect(),
            path_prefix: path.map(str::to_owned),
            pool: Name::new(pool),
        };
        Listener {
            name: Name::new("web"),
            bind: "203.0.113.1:80".parse().unwrap(),
            protocol: Protocol::Http,
            forward: Forward::Proxy,
            pool: Some(Name::new("default")),
            routes: routes.iter().map(route).collect(),
            certificates: Vec::new(),
            timeouts: Timeouts::default(),
            limits: HttpLimits::default(),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let listener = listener(&[
            (&[], Some("/deep/er"), "any-deep"),
            (&["*.com"], None, "com"),
            (&["*.example.com"], None, "example"),
            (&["*.example.com"], Some("/v1/"), "example-v1"),
            (&["www.example.com", "example.com"], None, "www"),
            (&["www.example.com"], Some("/v1"), "www-v1"),
            (&["www.example.com"], Some("/v1/users"), "www-users"),
            (&["www.example.com"], Some("/v1/users/"), "never"),
            (&[], None, "any"),
            (&["only.example.net"], Some("/a"), "only-a"),
        ]);
        let check = |host, path, expected: &str| {
            assert_eq!(
                listener.pool_for(host, path).unwrap().as_str(),
                expected,
                "{host}{path}"
            );
        };
        // Hosts.
        check("www.example.com", "/", "www");
        check("WWW.Example.COM.", "/", "www");
        check("example.com", "/v1", "www");
        check("a.example.com", "/", "example");
        check("a.b.example.com", "/", "example");
        check("example.net", "/", "any");
        check("wwwexample.com", "/", "com");
        check(".example.com", "/", "com");
        check("com", "/", "any");
        check("", "/", "any");
        // Paths, in whole segments.
        check("www.example.com", "/v1", "www-v1");
        check("www.example.com", "/v1/", "www-v1");
        check("www.example.com", "/v1x", "www");
        check("www.example.com", "/v1/users", "www-users");
        check("www.example.com", "/v1/users/7", "www-users");
        check("a.example.com", "/v1", "example-v1");
        check("a.example.com", "/V1", "example");
        check("www.example.com", "*", "www");
        // The host counts before the path, and a host without a fitting path leaves the others their turn.
        check("www.example.com", "/deep/er", "www");
        check("example.org", "/deep/er/x", "any-deep");
        check("only.example.net", "/a", "only-a");
        check("only.example.net", "/b", "any");
    }

    #[test]
    fn what_no_route_matches_goes_to_the_pool_of_the_listener() {
        let mut listener = listener(&[(&["a.example"], None, "a")]);
        assert_eq!(listener.route("b.example", "/"), None);
        assert_eq!(
            listener.pool_for("b.example", "/").unwrap().as_str(),
            "default"
        );
        listener.pool = None;
        assert_eq!(listener.pool_for("b.example", "/"), None);
        assert_eq!(listener.pool_for("a.example", "/").unwrap().as_str(), "a");
    }

    #[test]
    fn of_equals_the_first_wins() {
        let listener = listener(&[
            (&[], Some("/a/"), "first"),
            (&[], Some("/a"), "second"),
            (&[], Some("/"), "root"),
        ]);
        assert_eq!(listener.pool_for("x", "/a").unwrap().as_str(), "first");
        assert_eq!(listener.pool_for("x", "/").unwrap().as_str(), "root");
    }

    #[test]
    fn hosts_are_kept_as_they_are_compared() {
        let check = |written: &str, expected: Result<&str, HostError>| {
            let parsed = HostPattern::parse(written).map(|host| host.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{written}");
        };
        check("WWW.Example.com.", Ok("www.example.com"));
        check("*.Example.com", Ok("*.example.com"));
        check("localhost", Ok("localhost"));
        check("192.0.2.1", Ok("192.0.2.1"));
        check("[2001:DB8:0::1]", Ok("[2001:db8::1]"));
        check("_dmarc.example.com", Ok("_dmarc.example.com"));
        check("", Err(HostError::Empty));
        check(".", Err(HostError::Empty));
        check("*", Err(HostError::Star));
        check("*.", Err(HostError::Star));
        check("a.*.com", Err(HostError::Star));
        check("a b", Err(HostError::Character(' ')));
        check("a:80", Err(HostError::Character(':')));
        check("a..b", Err(HostError::Label));
        check("a-.b", Err(HostError::Label));
        check("[::1", Err(HostError::Character('[')));
        check("[x]", Err(HostError::Address));
        let longest = format!("{}b", "a.".repeat(126));
        check(&longest, Ok(&longest));
        check(&format!("a{longest}"), Err(HostError::TooLong));
    }

    #[test]
    fn prefixes_are_kept_without_the_slash_at_the_end() {
        let check = |written: &str, expected: Result<Option<&str>, PathError>| {
            let parsed = PathPrefix::parse(written).map(PathPrefix::into_option);
            assert_eq!(
                parsed,
                expected.map(|path| path.map(str::to_owned)),
                "{written}"
            );
        };
        check("/", Ok(None));
        check("//", Ok(None));
        check("/v1/", Ok(Some("/v1")));
        check("/v1", Ok(Some("/v1")));
        check("/a%20b/c", Ok(Some("/a%20b/c")));
        check("", Err(PathError::Beginning));
        check("v1", Err(PathError::Beginning));
        check("/a b", Err(PathError::Character(' ')));
        check("/a?b", Err(PathError::Character('?')));
        check("/a/./b", Err(PathError::Dots));
        check("/..", Err(PathError::Dots));
        check(&format!("/{}", "a".repeat(1024)), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn the_order_of_the_file_decides_only_between_equals(
            host in "(www|api)[.](a|b)[.]example", path in "(/v1|/v1/x|/v2|/)", turn in 0usize..6,
        ) {
            let routes: [Line<'_>; 6] = [
                (&["www.a.example"], None, "1"),
                (&["*.a.example"], Some("/v1"), "2"),
                (&["*.example"], Some("/v1/x"), "3"),
                (&["*.example"], Some("/v1"), "4"),
                (&[], Some("/v2"), "5"),
                (&["api.b.example"], Some("/v1"), "6"),
            ];
            let mut turned = routes;
            turned.rotate_left(turn);
            let (listener, turned) = (listener(&routes), listener(&turned));
            prop_assert_eq!(listener.pool_for(&host, &path), turned.pool_for(&host, &path));
        }
    }
}
