//! Routes, compiled: which pool a request of a listener goes to. Hosts by hash, prefixes longest first.

use std::borrow::Cow;
use std::collections::HashMap;

use weir_model::{HostPattern, Route};

/// The routes of a listener. Pools are numbers, in the caller's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    exact: HashMap<Box<[u8]>, Prefixes>,
    /// Suffixes without `*.`.
    wildcard: HashMap<Box<[u8]>, Prefixes>,
    any: Prefixes,
    /// Where nothing matches.
    default_pool: Option<usize>,
}

/// Path prefixes and their pools, the longest first, `/` at the end taken off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Prefixes(Vec<(Box<[u8]>, usize)>);

impl Prefixes {
    fn add(&mut self, prefix: Option<&str>, pool: usize) {
        let prefix = prefix.unwrap_or("/").as_bytes();
        let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
        // A stable sort would do as well; the first of equals in the file stays first.
        let at = self
            .0
            .partition_point(|(other, _)| other.len() >= prefix.len());
        self.0.insert(at, (prefix.into(), pool));
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let matches = |prefix: &[u8]| {
            path.starts_with(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
        };
        self.0
            .iter()
            .find(|(prefix, _)| prefix.is_empty() || matches(prefix))
            .map(|(_, pool)| *pool)
    }
}

impl Routes {
    /// Compiles routes; `number` gives a pool's number.
    pub fn new<E>(
        routes: &[Route],
        default_pool: Option<usize>,
        mut number: impl FnMut(&weir_model::Name) -> Result<usize, E>,
    ) -> Result<Self, E> {
        let mut compiled = Self {
            default_pool,
            ..Self::default()
        };
        for route in routes {
            let pool = number(&route.pool)?;
            let prefix = route.path_prefix.as_deref();
            if route.hosts.is_empty() {
                compiled.any.add(prefix, pool);
            }
            for host in &route.hosts {
                let prefixes = match host {
                    HostPattern::Exact(host) => {
                        compiled.exact.entry(host.as_bytes().into()).or_default()
                    }
                    HostPattern::Wildcard(suffix) => compiled
                        .wildcard
                        .entry(suffix.as_bytes().into())
                        .or_default(),
                };
                prefixes.add(prefix, pool);
            }
        }
        Ok(compiled)
    }

    /// The pool of a request for `target` at `authority`, which may have a port.
    pub fn find(&self, authority: &[u8], target: &[u8]) -> Option<usize> {
        if self.exact.is_empty() && self.wildcard.is_empty() && self.any.0.is_empty() {
            return self.default_pool;
        }
        let path = &target[..target
            .iter()
            .position(|byte| *byte == b'?')
            .unwrap_or(target.len())];
        let path = if path.is_empty() { b"/" } else { path };
        let host = host_of(authority);
        if let Some(pool) = self
            .exact
            .get(&*host)
            .and_then(|prefixes| prefixes.find(path))
        {
            return Some(pool);
        }
        if !self.wildcard.is_empty() {
            let mut rest = &*host;
            while let Some(dot) = memchr::memchr(b'.', rest) {
                rest = &rest[dot + 1..];
                if dot > 0
                    && let Some(pool) = self
                        .wildcard
                        .get(rest)
                        .and_then(|prefixes| prefixes.find(path))
                {
                    return Some(pool);
                }
            }
        }
        self.any.find(path).or(self.default_pool)
    }
}

/// The host of an authority, in lower case, without port and without the dot that ends a full name.
pub(crate) fn host_of(authority: &[u8]) -> Cow<'_, [u8]> {
    let host = match authority.first() {
        Some(b'[') => {
            &authority[..authority
                .iter()
                .position(|byte| *byte == b']')
                .map_or(authority.len(), |end| end + 1)]
        }
        _ => &authority[..memchr::memchr(b':', authority).unwrap_or(authority.len())],
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.iter().any(u8::is_ascii_uppercase) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::Name;

    fn routes() -> Routes {
        let exact = |host: &str| HostPattern::Exact(host.to_owned());
        let wildcard = |suffix: &str| HostPattern::Wildcard(suffix.to_owned());
        let route = |hosts: Vec<HostPattern>, prefix: Option<&str>, pool: &str| Route {
            hosts,
            path_prefix: prefix.map(str::to_owned),
            pool: Name::new(pool),
        };
        let list = [
            route(vec![wildcard("example.com")], None, "1"),
            route(vec![wildcard("deep.example.com")], None, "2"),
            route(vec![exact("api.example.com")], Some("/v1/"), "3"),
            route(vec![exact("api.example.com")], Some("/v1/users"), "4"),
            route(vec![], Some("/static"), "5"),
            route(vec![exact("api.example.com")], Some("/v1"), "6"),
            route(vec![exact("[2001:db8::1]")], None, "7"),
        ];
        Routes::new(&list, Some(0), |name| name.as_str().parse::<usize>()).unwrap()
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = routes();
        for (authority, target, pool) in [
            ("api.example.com", "/v1/x", 3),
            ("API.Example.COM.:8080", "/v1/x", 3),
            ("api.example.com", "/v1", 3),
            ("api.example.com", "/v1?x=/v1/users", 3),
            ("api.example.com", "/v1/users/7", 4),
            ("api.example.com", "/v1/usersx", 3),
            ("api.example.com", "/v1x", 1),
            ("www.example.com", "/", 1),
            ("a.b.example.com", "/static", 1),
            ("a.deep.example.com", "/", 2),
            ("deep.example.com", "/", 1),
            ("example.com", "/", 0),
            ("example.com", "/static/x", 5),
            ("example.com", "/staticx", 0),
            (".example.com", "/", 0),
            ("", "", 0),
            ("[2001:DB8::1]:443", "/", 7),
            ("other", "*", 0),
        ] {
            assert_eq!(
                routes.find(authority.as_bytes(), target.as_bytes()),
                Some(pool),
                "{authority}{target}"
            );
        }
    }

    #[test]
    fn nothing_matches_without_a_default() {
        let none = Routes::new(&[], None, |_| Ok::<_, ()>(0)).unwrap();
        assert_eq!(none.find(b"example.com", b"/"), None);
    }
}
