//! The whole configuration of a node.

mod access_log;
mod address;
mod diagnostic;
mod duration;
mod file;
mod health;
mod http2;
mod http_policy;
mod near;
mod policy;
mod proxy_protocol;
mod quic;
mod resolve;
mod route;
mod section;
mod session;
mod source;
mod sticky;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::backend::{Backend, BackendId};
use crate::listener::Listener;
use crate::name::Name;
use crate::node::{Api, L4, L7, Node};
use crate::pool::Pool;

use diagnostic::{Complaint, Findings};
pub use diagnostic::{ConfigErrors, Diagnostic, Kind, Note, Position, Severity};
use source::{Source, Span};

/// A valid configuration. Listeners and pools are shared, so that snapshots compare them by pointer first.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node]`.
    pub node: Node,
    /// `[l4]`; absent: nothing is attached, `tcp` and `udp` listeners are proxied in user space.
    pub l4: Option<L4>,
    /// `[l7]`.
    pub l7: L7,
    /// `[api]`.
    pub api: Api,
    /// In the order of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// In the order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// What is allowed but probably not meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    listener_index: HashMap<Name, usize>,
    pool_index: HashMap<Name, usize>,
}

impl Config {
    /// Reads a config file's text. `file` is its name: paths in the text are relative to its folder, and errors show
    /// it. Nothing is read from disk.
    ///
    /// The errors are all mistakes of the text at once; where it is not TOML, only what makes it so.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigErrors> {
        let mut out = Findings::new(Source::new(text, file));
        let (root, syntax) = DeTable::parse_recoverable(text);
        // What follows on a line is mostly the consequence of its first mistake.
        let mut lines = HashSet::new();
        for error in &syntax {
            let span = error.span().map_or(Span { start: 0, end: 0 }, Span::from);
            if lines.insert(out.source().place(span).line) {
                out.error(span, syntax_complaint(error));
            }
        }
        let config = if syntax.is_empty() {
            let file = file::read_file(root.get_ref(), root.span().into(), &mut out);
            resolve::resolve(&file, &mut out)
        } else {
            None
        };
        let warnings = out.into_result()?;
        let config = config.expect("what is missing has been reported as an error");
        Ok(Self { warnings, ..config })
    }

    /// Puts a config together from parts that are valid.
    fn new(
        node: Node,
        l4: Option<L4>,
        l7: L7,
        api: Api,
        listeners: Vec<Arc<Listener>>,
        pools: Vec<Arc<Pool>>,
    ) -> Self {
        let listener_index = listeners
            .iter()
            .enumerate()
            .map(|(at, listener)| (listener.name.clone(), at))
            .collect();
        let pool_index = pools
            .iter()
            .enumerate()
            .map(|(at, pool)| (pool.name.clone(), at))
            .collect();
        Self {
            node,
            l4,
            l7,
            api,
            listeners,
            pools,
            warnings: Vec::new(),
            listener_index,
            pool_index,
        }
    }

    /// The pool of this name, in constant time.
    pub fn pool(&self, name: &Name) -> Option<&Arc<Pool>> {
        self.pool_index.get(name).and_then(|at| self.pools.get(*at))
    }

    /// The listener of this name, in constant time.
    pub fn listener(&self, name: &Name) -> Option<&Arc<Listener>> {
        self.listener_index
            .get(name)
            .and_then(|at| self.listeners.get(*at))
    }

    /// The listeners that the proxy engine serves.
    pub fn proxied(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners
            .iter()
            .filter(|listener| !listener.forward.is_xdp())
    }

    /// The listeners that the XDP program serves; none without `[l4]`.
    pub fn xdp(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners
            .iter()
            .filter(|listener| listener.forward.is_xdp())
    }

    /// The pools that a listener sends to, each once: its own, then those of its routes.
    pub fn pools_of<'c>(&'c self, listener: &'c Listener) -> impl Iterator<Item = &'c Arc<Pool>> {
        let mut seen = HashSet::new();
        listener
            .pool_names()
            .filter(move |name| seen.insert(*name))
            .filter_map(|name| self.pool(name))
    }

    /// Every backend of every pool, in the order of the file.
    pub fn backends(&self) -> impl Iterator<Item = (BackendId, &Backend, &Arc<Pool>)> {
        self.pools.iter().flat_map(|pool| {
            pool.backends.iter().map(move |backend| {
                (
                    BackendId {
                        pool: pool.name.clone(),
                        address: backend.address,
                    },
                    backend,
                    pool,
                )
            })
        })
    }
}

/// Two configs are equal if they ask for the same; where in the file it stands, and warnings, do not count.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
            && self.l4 == other.l4
            && self.l7 == other.l7
            && self.api == other.api
            && self.listeners == other.listeners
            && self.pools == other.pools
    }
}

impl Eq for Config {}

fn syntax_complaint(error: &toml::de::Error) -> Complaint {
    let mut lines = error.message().lines();
    let message = format!("not TOML: {}", lines.next().unwrap_or_default());
    Complaint::new(Kind::Syntax, message, lines.collect::<Vec<_>>().join("; "))
}
