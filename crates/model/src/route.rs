//! Routes: what becomes of a request of an HTTP listener, or of a connection of a TLS listener.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use crate::action::{Action, Rewrite};
use crate::condition::{Condition, cookie_values, query_values};
use crate::header_edits::HeaderEdits;
use crate::ip_prefix::IpPrefix;
use crate::listener::Listener;
use crate::name::Name;
use crate::path::canonical_text;
use crate::pattern::Pattern;

/// Conditions on a request, and what is done with it when all of them hold. The most specific match wins, by the
/// order of [`Rank`]; among equals the first in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it is called in logs and metrics; unique in its listener.
    pub name: Option<Name>,
    /// Hosts it applies to; empty: all.
    pub hosts: Vec<HostPattern>,
    /// Paths it applies to.
    pub path: PathMatch,
    /// Methods it applies to, as they are sent; empty: all.
    pub methods: Vec<String>,
    /// What header fields have to be, all of them.
    pub headers: Vec<Condition>,
    /// What parameters of the query have to be, all of them.
    pub query: Vec<Condition>,
    /// What cookies have to be, all of them.
    pub cookies: Vec<Condition>,
    /// Where the client has to be, in one of these; empty: anywhere.
    pub clients: Vec<IpPrefix>,
    /// What is done with matching requests.
    pub action: Action,
    /// What a backend is asked for instead.
    pub rewrite: Rewrite,
    /// Changes of the fields that a backend gets.
    pub request_headers: HeaderEdits,
    /// Changes of the fields that the client gets.
    pub response_headers: HeaderEdits,
}

/// Paths that a route applies to: what stands before the query, as [`canonical`](crate::path::canonical) writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// All.
    #[default]
    Any,
    /// This one alone.
    Exact(String),
    /// Those that this matches as a whole.
    Regex(Pattern),
    /// The path's beginning, in whole segments: `/v1` matches `/v1` and `/v1/x`, but not `/v1x`. From a config it comes
    /// without the `/` at the end, and never as `/` alone.
    Prefix(String),
}

/// How closely a route fits a request; the greatest wins. What is compared first stands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    host: HostFit,
    path: PathFit,
    /// The route names methods.
    method: bool,
    /// Conditions on header fields.
    headers: usize,
    /// Conditions on the query.
    query: usize,
    /// Conditions on cookies.
    cookies: usize,
    /// The length of the range that the client is in, plus one; 0 where anybody may be.
    client: u8,
}

/// A request as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'r> {
    /// The host without its port.
    pub host: &'r str,
    /// The path without the query, as it was sent; it is compared as [`canonical`](crate::path::canonical).
    pub path: &'r str,
    /// The query without `?`; empty where there is none.
    pub query: &'r str,
    /// The method.
    pub method: &'r str,
    /// Header fields, names in lower case.
    pub fields: &'r [(&'r str, &'r [u8])],
    /// The client's address.
    pub client: IpAddr,
}

/// A host that a route applies to, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone.
    Exact(String),
    /// One or more labels before this suffix, which is kept without `*.`: `*.example.com` is `example.com`.
    Wildcard(String),
}

/// The beginning of a path, in whole segments; [`PathMatch::Prefix`] once it is known to be one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Option<String>);

impl Listener {
    /// The route of a request, as [`Route`] says; `None`: the listener's own pool.
    ///
    /// This is the reference that says what is right; it looks at every route, so a data plane keeps an index
    /// instead, which must agree.
    pub fn route(&self, request: &RequestParts<'_>) -> Option<&Route> {
        let matches = self
            .routes
            .iter()
            .filter_map(|route| Some((route.rank(request)?, route)));
        // The least of the reversed is the greatest, and of several the first.
        matches
            .min_by_key(|(rank, _)| Reverse(*rank))
            .map(|(_, route)| route)
    }

    /// The pool of a plain GET: its route's, or the listener's own. `None`: no one pool serves it.
    pub fn pool_for(&self, host: &str, path: &str) -> Option<&Name> {
        let request = RequestParts {
            host,
            path,
            query: "",
            method: "GET",
            fields: &[],
            client: IpAddr::from([0, 0, 0, 0]),
        };
        match self.route(&request) {
            Some(route) => match &route.action {
                Action::Pool(pool) => Some(pool),
                _ => None,
            },
            None => self.pool.as_ref(),
        }
    }
}

impl Route {
    /// A route with nothing but these.
    pub fn new(hosts: Vec<HostPattern>, path: PathMatch, action: Action) -> Self {
        Self {
            name: None,
            hosts,
            path,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            clients: Vec::new(),
            action,
            rewrite: Rewrite::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }

    /// How closely the route fits a request; `None` if it does not.
    fn rank(&self, request: &RequestParts<'_>) -> Option<Rank> {
        let host = match self.hosts.as_slice() {
            [] => HostFit::Any,
            hosts => hosts
                .iter()
                .filter_map(|pattern| pattern.fit(request.host))
                .max()?,
        };
        let path = self.path.fit(&canonical_text(request.path))?;
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method) {
            return None;
        }
        let fields_fit = self
            .headers
            .iter()
            .all(|condition| condition.test.fits(request.values(&condition.name)));
        let query_fits = self.query.iter().all(|condition| {
            condition
                .test
                .fits(query_values(request.query.as_bytes(), &condition.name))
        });
        let cookies_fit = self.cookies.iter().all(|condition| {
            let values = request
                .values("cookie")
                .flat_map(|field| cookie_values(field, &condition.name));
            condition.test.fits(values)
        });
        if !(fields_fit && query_fits && cookies_fit) {
            return None;
        }
        let client = match self.clients.as_slice() {
            [] => 0,
            ranges => {
                ranges
                    .iter()
                    .filter(|range| range.contains(request.client))
                    .map(IpPrefix::length)
                    .max()?
                    + 1
            }
        };
        Some(Rank {
            host,
            path,
            method: !self.methods.is_empty(),
            headers: self.headers.len(),
            query: self.query.len(),
            cookies: self.cookies.len(),
            client,
        })
    }
}

impl<'r> RequestParts<'r> {
    /// The values of a header field.
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'r [u8]> + 's {
        self.fields
            .iter()
            .filter(move |(field, _)| *field == name)
            .map(|(_, value)| *value)
    }
}

/// From the loosest to the closest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostFit {
    Any,
    /// With the length of the suffix.
    Wildcard(usize),
    Exact,
}

/// From the loosest to the closest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathFit {
    /// With the length of the prefix; 0 for all paths.
    Prefix(usize),
    Regex,
    Exact,
}

impl PathMatch {
    fn fit(&self, path: &str) -> Option<PathFit> {
        match self {
            Self::Any => Some(PathFit::Prefix(0)),
            Self::Exact(exact) => (path == exact).then_some(PathFit::Exact),
            Self::Regex(pattern) => pattern.is_match(path.as_bytes()).then_some(PathFit::Regex),
            Self::Prefix(prefix) => matched_prefix(prefix, path).map(PathFit::Prefix),
        }
    }
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
        // What is longer is no host; looking closer would only cost time.
        if host.len() > Self::MAX_LEN {
            return None;
        }
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

    /// Reads a path from `/`, in any of the ways to write it. `/` alone is every path; a `/` at the end makes no difference.
    pub fn parse(written: &str) -> Result<Self, PathError> {
        check_path(written)?;
        let prefix = written.trim_end_matches('/');
        Ok(Self((!prefix.is_empty()).then(|| canonical_text(prefix))))
    }

    /// The prefix, without the `/` at its end; `/` for all paths.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// As [`Route::path`] keeps it.
    pub fn into_match(self) -> PathMatch {
        self.0.map_or(PathMatch::Any, PathMatch::Prefix)
    }
}

/// What a path of a route, or what takes the place of one, may be: from `/`, as it is sent, without query and without
/// dot segments.
pub fn check_path(written: &str) -> Result<(), PathError> {
    if !written.starts_with('/') {
        return Err(PathError::Beginning);
    }
    if written.len() > PathPrefix::MAX_LEN {
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
    Ok(())
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
            Self::Beginning if written.is_empty() => Some("for all paths, leave it out".to_owned()),
            Self::Beginning => Some(format!("write `/{}`", written.escape_debug())),
            Self::Character('?') => {
                Some("write the path alone; `query` looks at parameters".to_owned())
            }
            Self::Character('#') => Some("a fragment is never sent".to_owned()),
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
    use crate::condition::ValueTest;
    use crate::listener::{Forward, HttpLimits, Protocol, Timeouts};
    use crate::tls::ListenerTls;

    type Line<'a> = (&'a [&'a str], Option<&'a str>, &'a str);

    fn listener(routes: &[Line<'_>]) -> Listener {
        let route = |(hosts, path, pool): &Line<'_>| {
            let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap());
            let path = path.map_or(PathMatch::Any, |path| PathMatch::Prefix(path.to_owned()));
            Route::new(hosts.collect(), path, Action::Pool(Name::new(pool)))
        };
        Listener {
            name: Name::new("web"),
            bind: "203.0.113.1:80".parse().unwrap(),
            protocol: Protocol::Http,
            forward: Forward::Proxy,
            pool: Some(Name::new("default")),
            routes: routes.iter().map(route).collect(),
            certificates: Vec::new(),
            idle_timeout: None,
            tunnel: crate::tunnel::Tunnel::default(),
            tls: ListenerTls::default(),
            proxy_protocol: None,
            http: crate::HttpPolicy::default(),
            connections: crate::ConnectionLimits::default(),
            timeouts: Timeouts::default(),
            limits: HttpLimits::default(),
            http2: crate::http2::Http2::default(),
            access_log: None,
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
    fn what_is_compared_first_decides() {
        let condition = |name: &str| Condition {
            name: name.to_owned(),
            test: ValueTest::Present(true),
        };
        let any = || Route::new(vec![], PathMatch::Any, Action::Pool(Name::new("any")));
        let range = |range| vec![IpPrefix::parse(range).unwrap()];
        // From the loosest to the closest; each of them fits the request.
        let in_order = [
            any(),
            Route {
                clients: range("192.0.2.0/24"),
                ..any()
            },
            Route {
                clients: vec![
                    IpPrefix::parse("198.51.100.0/30").unwrap(),
                    IpPrefix::parse("192.0.2.0/28").unwrap(),
                ],
                ..any()
            },
            Route {
                cookies: vec![condition("c")],
                ..any()
            },
            Route {
                query: vec![condition("q")],
                cookies: vec![condition("c"), condition("d")],
                ..any()
            },
            Route {
                headers: vec![condition("x")],
                ..any()
            },
            Route {
                headers: vec![condition("x"), condition("y")],
                ..any()
            },
            Route {
                methods: vec!["PUT".to_owned(), "GET".to_owned()],
                ..any()
            },
            Route {
                path: PathMatch::Prefix("/a".to_owned()),
                ..any()
            },
            Route {
                path: PathMatch::Prefix("/a/b".to_owned()),
                ..any()
            },
            Route {
                path: PathMatch::Regex(Pattern::parse("/.*").unwrap()),
                ..any()
            },
            Route {
                path: PathMatch::Exact("/a/b".to_owned()),
                ..any()
            },
            Route {
                hosts: vec![HostPattern::parse("*.example").unwrap()],
                ..any()
            },
            Route {
                hosts: vec![HostPattern::parse("a.example").unwrap()],
                ..any()
            },
        ];
        let request = RequestParts {
            host: "a.example",
            path: "/a/b",
            query: "q",
            method: "GET",
            fields: &[("x", b""), ("y", b""), ("cookie", b"c=1; d=2")],
            client: "192.0.2.1".parse().unwrap(),
        };
        let mut listener = listener(&[]);
        for pair in in_order.windows(2) {
            for routes in [[&pair[0], &pair[1]], [&pair[1], &pair[0]]] {
                listener.routes = routes.map(Clone::clone).to_vec();
                assert_eq!(listener.route(&request), Some(&pair[1]));
            }
        }
    }

    #[test]
    fn every_condition_has_to_hold() {
        let condition = |name: &str, value: &str| Condition {
            name: name.to_owned(),
            test: ValueTest::Exact(value.to_owned()),
        };
        let mut listener = listener(&[]);
        listener.routes = vec![Route {
            methods: vec!["GET".to_owned()],
            headers: vec![condition("x", "1"), condition("y", "2")],
            query: vec![condition("q", "1")],
            cookies: vec![condition("c", "1")],
            clients: vec![IpPrefix::parse("2001:db8::/32").unwrap()],
            path: PathMatch::Exact("/".to_owned()),
            ..Route::new(vec![], PathMatch::Any, Action::Pool(Name::new("a")))
        }];
        let fitting = RequestParts {
            host: "",
            path: "/",
            query: "p=2&q=1",
            method: "GET",
            fields: &[("x", b"0"), ("x", b"1"), ("y", b"2"), ("cookie", b"c=1")],
            client: "2001:db8::1".parse().unwrap(),
        };
        assert!(listener.route(&fitting).is_some());
        let others = [
            RequestParts {
                path: "/x",
                ..fitting
            },
            RequestParts {
                query: "q=2",
                ..fitting
            },
            RequestParts {
                method: "get",
                ..fitting
            },
            RequestParts {
                fields: &fitting.fields[1..3],
                ..fitting
            },
            RequestParts {
                fields: &fitting.fields[2..],
                ..fitting
            },
            RequestParts {
                client: "2001:db9::1".parse().unwrap(),
                ..fitting
            },
        ];
        for other in others {
            assert!(listener.route(&other).is_none(), "{other:?}");
        }
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
            let parsed = PathPrefix::parse(written).map(PathPrefix::into_match);
            let expected = expected
                .map(|path| path.map_or(PathMatch::Any, |path| PathMatch::Prefix(path.to_owned())));
            assert_eq!(parsed, expected, "{written}");
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
