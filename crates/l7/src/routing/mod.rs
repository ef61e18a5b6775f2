//! Routes, compiled: what becomes of a request of a listener. Hosts and whole paths by hash, wildcards and prefixes by
//! a tree of their segments, expressions of a host as one automaton: a request costs the same among ten thousand
//! routes as among ten. [`Listener::route`] says what is right; a property test holds the two together.

mod request;
mod rewrite;
mod split;
mod trie;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_automata::{Input, PatternSet};
use weir_model::condition::{cookie_values, query_values};
use weir_model::path::canonical;
use weir_model::{
    Action, HostPattern, IpPrefix, Listener, Name, PathMatch, Pattern, Protocol, Redirect, Route,
    Scheme,
};

pub use request::{Bare, RequestView, path_and_query};
pub use split::Split;
use trie::Trie;

/// The routes of a listener. Pools are numbers, in the caller's order.
#[derive(Clone, Debug)]
pub struct Routes {
    listener: Arc<Listener>,
    /// What each route does, in the order of the file.
    plans: Vec<RoutePlan>,
    exact: HashMap<Box<[u8]>, Paths>,
    /// By labels from the right, without `*`.
    wildcard: Trie<Paths>,
    any: Option<Paths>,
    candidates: Vec<Candidate>,
    /// Where nothing matches.
    default_pool: Option<usize>,
}

/// What a route does, compiled.
#[derive(Clone, Debug)]
struct RoutePlan {
    target: Target,
    /// The expression of its rewrite or redirect.
    groups: Option<Regex>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a pool.
    Pool(usize),
    /// To one of several.
    Split(Split),
    /// To no backend: the client is told something by ourselves.
    Here,
}

/// What was found for a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'r> {
    /// A route, by its place in the file.
    Route(usize, &'r Target),
    /// The listener's own pool.
    Default(usize),
    /// Nothing, and the listener has no pool.
    Nothing,
}

/// The routes of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Candidates>,
    regex: Option<Box<Expressions>>,
    prefix: Prefixes,
}

/// The path prefixes of a host.
#[derive(Clone, Debug)]
enum Prefixes {
    /// Few, the longest first: looking at each touches less memory than a tree, and most hosts have few.
    Few(Vec<(Box<[u8]>, Candidates)>),
    Many(Box<Trie<Candidates>>),
}

/// Prefixes of a host that are looked at one by one.
const FEW_PREFIXES: usize = 8;

impl Default for Prefixes {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// Routes with an expression, the one that wins first.
#[derive(Clone, Debug, Default)]
struct Expressions {
    /// Each with the number of its expression in the set.
    routes: Vec<(usize, Candidate)>,
    patterns: Vec<Pattern>,
    /// None of a single expression, which is its own automaton.
    set: Option<Regex>,
}

/// Routes that hosts and paths do not tell apart, the one that wins first.
#[derive(Clone, Debug, Default)]
struct Candidates {
    /// While the routes are compiled.
    list: Vec<Candidate>,
    /// In [`Routes::candidates`].
    range: Range<u32>,
}

/// A route, for clients in ranges of one length.
#[derive(Clone, Debug)]
struct Candidate {
    route: u32,
    /// Nothing else is asked of the request.
    is_plain: bool,
    /// None: the client may be anywhere.
    clients: Option<Box<Ranges>>,
}

/// Ranges of addresses of one length, in order.
#[derive(Clone, Debug)]
struct Ranges {
    length: u8,
    sorted: Vec<IpPrefix>,
}

impl Routes {
    /// Compiles the routes of a listener; `number` gives a pool's number.
    pub fn new(listener: &Arc<Listener>, mut number: impl FnMut(&Name) -> usize) -> Self {
        let mut compiled = Self {
            default_pool: listener.pool.as_ref().map(&mut number),
            listener: Arc::clone(listener),
            plans: Vec::with_capacity(listener.routes.len()),
            exact: HashMap::new(),
            wildcard: Trie::default(),
            any: None,
            candidates: Vec::new(),
        };
        for (index, route) in listener.routes.iter().enumerate() {
            let target = match &route.action {
                Action::Pool(pool) => Target::Pool(number(pool)),
                Action::Split(pools) => Target::Split(Split::new(
                    pools.iter().map(|side| (number(&side.pool), side.weight)),
                )),
                Action::Redirect(_) | Action::Answer(_) => Target::Here,
            };
            compiled.plans.push(RoutePlan {
                target,
                groups: rewrite::groups_of(route),
            });
            compiled.add(index as u32, route);
        }
        compiled.finish();
        compiled
    }

    fn add(&mut self, index: u32, route: &Route) {
        let candidates = Candidate::of(index, route);
        if route.hosts.is_empty() {
            self.any
                .get_or_insert_default()
                .add(&route.path, &candidates);
        }
        for host in &route.hosts {
            let paths = match host {
                HostPattern::Exact(host) => self.exact.entry(host.as_bytes().into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    self.wildcard.entry(suffix.as_bytes().rsplit(is_dot))
                }
            };
            paths.add(&route.path, &candidates);
        }
    }

    fn finish(&mut self) {
        self.wildcard.finish();
        let Self {
            listener,
            exact,
            wildcard,
            any,
            candidates,
            ..
        } = self;
        let all = exact
            .values_mut()
            .chain(wildcard.values_mut())
            .chain(any.iter_mut());
        for paths in all {
            paths.finish(&listener.routes, candidates);
        }
    }

    /// What becomes of a request.
    pub fn find(&self, request: &impl RequestView) -> Found<'_> {
        if !self.plans.is_empty()
            && let Some(route) = self.find_route(request)
        {
            return Found::Route(route, &self.plans[route].target);
        }
        match self.default_pool {
            Some(pool) => Found::Default(pool),
            None => Found::Nothing,
        }
    }

    fn find_route(&self, request: &impl RequestView) -> Option<usize> {
        let (path, query) = path_and_query(request.target());
        let path = canonical(path);
        let search = Search {
            routes: self,
            request,
            path: &path,
            query,
        };
        let host = host_of(request.authority());
        // What is longer is no host: looking closer would only cost time.
        if host.len() <= HostPattern::MAX_LEN {
            if let Some(route) = self
                .exact
                .get(&*host)
                .and_then(|paths| search.in_paths(paths))
            {
                return Some(route);
            }
            if !self.wildcard.is_empty() {
                let found = self.wildcard.find(labels_below(&host));
                if let Some(route) = found.filter_map(|paths| search.in_paths(paths)).next() {
                    return Some(route);
                }
            }
        }
        self.any.as_ref().and_then(|paths| search.in_paths(paths))
    }

    /// Where goes what no route matches.
    pub fn default_pool(&self) -> Option<usize> {
        self.default_pool
    }

    /// A route by its place in the file.
    pub fn route(&self, index: usize) -> &Route {
        &self.listener.routes[index]
    }

    /// Writes the target that a backend is asked for, by the route's rewrite.
    pub fn write_target(&self, index: usize, target: &[u8], out: &mut Vec<u8>) {
        let route = self.route(index);
        let groups = self.plans[index].groups.as_ref();
        rewrite::write_path(&route.rewrite.path, groups, &route.path, target, out);
        rewrite::write_query(target, out);
    }

    /// Writes where the route's redirect leads; `local` is the address that the client has connected to.
    pub fn write_location(
        &self,
        (index, redirect): (usize, &Redirect),
        request: &impl RequestView,
        local: SocketAddr,
        out: &mut Vec<u8>,
    ) {
        let own = match self.listener.protocol {
            Protocol::Https => Scheme::Https,
            _ => Scheme::Http,
        };
        let target = request.target();
        let groups = self.plans[index].groups.as_ref();
        let matched = &self.route(index).path;
        let path =
            |out: &mut Vec<u8>| rewrite::write_path(&redirect.path, groups, matched, target, out);
        rewrite::write_location(redirect, own, request.authority(), local, path, target, out);
    }
}

/// A request that is being routed.
struct Search<'s, R> {
    routes: &'s Routes,
    request: &'s R,
    path: &'s [u8],
    query: &'s [u8],
}

impl<R: RequestView> Search<'_, R> {
    fn in_paths(&self, paths: &Paths) -> Option<usize> {
        if !paths.exact.is_empty()
            && let Some(route) = paths
                .exact
                .get(self.path)
                .and_then(|candidates| self.in_candidates(candidates))
        {
            return Some(route);
        }
        if let Some(expressions) = &paths.regex
            && let Some(route) = self.in_expressions(expressions)
        {
            return Some(route);
        }
        match &paths.prefix {
            Prefixes::Few(prefixes) => prefixes
                .iter()
                .filter(|(prefix, _)| begins_with(self.path, prefix))
                .find_map(|(_, candidates)| self.in_candidates(candidates)),
            Prefixes::Many(trie) => trie
                .find(segments(self.path))
                .find_map(|candidates| self.in_candidates(candidates)),
        }
    }

    fn in_candidates(&self, candidates: &Candidates) -> Option<usize> {
        let range = candidates.range.start as usize..candidates.range.end as usize;
        self.routes.candidates[range]
            .iter()
            .find(|candidate| self.fits(candidate))
            .map(|candidate| candidate.route as usize)
    }

    fn in_expressions(&self, expressions: &Expressions) -> Option<usize> {
        let matched = match &expressions.set {
            None => {
                if !expressions.patterns[0].is_match(self.path) {
                    return None;
                }
                None
            }
            Some(set) => {
                let mut matched = PatternSet::new(set.pattern_len());
                set.which_overlapping_matches(&Input::new(self.path), &mut matched);
                if matched.is_empty() {
                    return None;
                }
                Some(matched)
            }
        };
        let path_fits = |number: usize| {
            matched.as_ref().is_none_or(|matched| {
                regex_automata::PatternID::new(number).is_ok_and(|id| matched.contains(id))
            })
        };
        expressions
            .routes
            .iter()
            .find(|(number, candidate)| path_fits(*number) && self.fits(candidate))
            .map(|(_, candidate)| candidate.route as usize)
    }

    fn fits(&self, candidate: &Candidate) -> bool {
        candidate.is_plain || self.conditions_hold(candidate)
    }

    fn conditions_hold(&self, candidate: &Candidate) -> bool {
        let Self { request, query, .. } = *self;
        let route = self.routes.route(candidate.route as usize);
        let method = || request.method();
        (route.methods.is_empty()
            || route
                .methods
                .iter()
                .any(|wanted| wanted.as_bytes() == method()))
            && candidate
                .clients
                .as_ref()
                .is_none_or(|ranges| ranges.contain(request.client()))
            && route
                .headers
                .iter()
                .all(|condition| condition.test.fits(request.values(&condition.name)))
            && route
                .query
                .iter()
                .all(|condition| condition.test.fits(query_values(query, &condition.name)))
            && route.cookies.iter().all(|condition| {
                let values = request
                    .values("cookie")
                    .flat_map(|field| cookie_values(field, &condition.name));
                condition.test.fits(values)
            })
    }
}

impl Paths {
    fn add(&mut self, path: &PathMatch, candidates: &[Candidate]) {
        let list = match path {
            PathMatch::Exact(path) => {
                &mut self.exact.entry(path.as_bytes().into()).or_default().list
            }
            PathMatch::Any => self.prefix.entry(b""),
            PathMatch::Prefix(prefix) => self.prefix.entry(prefix.trim_end_matches('/').as_bytes()),
            PathMatch::Regex(pattern) => {
                self.regex.get_or_insert_default().add(pattern, candidates);
                return;
            }
        };
        list.extend_from_slice(candidates);
    }

    fn finish(&mut self, routes: &[Route], all: &mut Vec<Candidate>) {
        let prefixes: Box<dyn Iterator<Item = &mut Candidates>> = match &mut self.prefix {
            Prefixes::Few(prefixes) => {
                prefixes.sort_by_key(|(prefix, _)| Reverse(prefix.len()));
                Box::new(prefixes.iter_mut().map(|(_, candidates)| candidates))
            }
            Prefixes::Many(trie) => {
                trie.finish();
                Box::new(trie.values_mut())
            }
        };
        for candidates in self.exact.values_mut().chain(prefixes) {
            candidates
                .list
                .sort_by_key(|candidate| candidate.order(routes));
            let start = all.len() as u32;
            all.append(&mut candidates.list);
            candidates.list = Vec::new();
            candidates.range = start..all.len() as u32;
        }
        if let Some(expressions) = &mut self.regex {
            expressions
                .routes
                .sort_by_key(|(_, candidate)| candidate.order(routes));
            if expressions.patterns.len() > 1 {
                // Each was compiled when the config was read, and the set may take what all of them did.
                expressions.set = Pattern::set(&expressions.patterns).ok();
            }
        }
    }
}

impl Prefixes {
    /// The routes of a prefix, which has no `/` at its end.
    fn entry(&mut self, prefix: &[u8]) -> &mut Vec<Candidate> {
        if let Self::Few(few) = self
            && few.len() == FEW_PREFIXES
            && few.iter().all(|(other, _)| **other != *prefix)
        {
            let mut trie = Trie::default();
            for (prefix, candidates) in few.drain(..) {
                *trie.entry(segments(&prefix)) = candidates;
            }
            *self = Self::Many(Box::new(trie));
        }
        match self {
            Self::Few(few) => {
                let known = few.iter().position(|(other, _)| **other == *prefix);
                let at = known.unwrap_or_else(|| {
                    few.push((prefix.into(), Candidates::default()));
                    few.len() - 1
                });
                &mut few[at].1.list
            }
            Self::Many(trie) => &mut trie.entry(segments(prefix)).list,
        }
    }
}

impl Expressions {
    fn add(&mut self, pattern: &Pattern, candidates: &[Candidate]) {
        let known = self.patterns.iter().position(|other| other == pattern);
        let number = known.unwrap_or_else(|| {
            self.patterns.push(pattern.clone());
            self.patterns.len() - 1
        });
        self.routes.extend(
            candidates
                .iter()
                .map(|candidate| (number, candidate.clone())),
        );
    }
}

impl Candidate {
    /// A route; once for each length of the ranges that its clients are in, as the longer one ranks higher.
    fn of(index: u32, route: &Route) -> Vec<Self> {
        let is_plain = route.methods.is_empty()
            && route.headers.is_empty()
            && route.query.is_empty()
            && route.cookies.is_empty()
            && route.clients.is_empty();
        let with = |clients| Self {
            route: index,
            is_plain,
            clients,
        };
        if route.clients.is_empty() {
            return vec![with(None)];
        }
        let mut sorted = route.clients.clone();
        sorted.sort_unstable_by_key(|range| (Reverse(range.length()), *range));
        sorted
            .chunk_by(|a, b| a.length() == b.length())
            .map(|ranges| {
                with(Some(Box::new(Ranges {
                    length: ranges[0].length(),
                    sorted: ranges.to_vec(),
                })))
            })
            .collect()
    }

    /// The one that wins is the least: what [`weir_model::route::Rank`] compares behind the path, then the order of the
    /// file.
    fn order(&self, routes: &[Route]) -> impl Ord + use<> {
        let route = &routes[self.route as usize];
        let rank = (
            !route.methods.is_empty(),
            route.headers.len(),
            route.query.len(),
            route.cookies.len(),
            self.clients
                .as_ref()
                .map_or(0, |ranges| u16::from(ranges.length) + 1),
        );
        (Reverse(rank), self.route)
    }
}

impl Ranges {
    fn contain(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        // Ranges of one length do not overlap: the last that begins before the client is the only one that can have it.
        let behind = self
            .sorted
            .partition_point(|range| range.address() <= client);
        self.sorted[..behind]
            .last()
            .is_some_and(|range| range.contains(client))
    }
}

/// Whether a path begins with the whole segments of a prefix.
fn begins_with(path: &[u8], prefix: &[u8]) -> bool {
    path.starts_with(prefix)
        && (prefix.is_empty() || matches!(path.get(prefix.len()), None | Some(b'/')))
}

/// The segments of a path from `/`; of anything else none.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let segments = path.strip_prefix(b"/").map(|rest| rest.split(is_slash));
    segments.into_iter().flatten()
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

fn is_dot(byte: &u8) -> bool {
    *byte == b'.'
}

/// The labels of a host from the right, but for what `*` has to stand for: at least one character before a dot.
fn labels_below(host: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut end = host.len();
    host.rsplit(is_dot).take_while(move |label| {
        let start = end - label.len();
        end = start.saturating_sub(1);
        start >= 2
    })
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
mod tests;
