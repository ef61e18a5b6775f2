//! The whole configuration of a node.

use std::sync::Arc;

use crate::listener::Listener;
use crate::name::Name;
use crate::node::{Api, L4, L7, Node};
use crate::pool::Pool;

/// A valid configuration. Listeners and pools are shared, so that snapshots compare them by pointer first.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Config {
    /// The pool of this name.
    pub fn pool(&self, name: &Name) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.name == *name)
    }

    /// The listener of this name.
    pub fn listener(&self, name: &Name) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.name == *name)
    }
}
