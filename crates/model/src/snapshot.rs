//! The state that the control loop publishes and the data planes follow.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{Backend, BackendId, Share};
use crate::config::Config;
use crate::health::Health;

/// The config and the state of every backend at one moment. Immutable: a change is a new snapshot, and a data
/// plane acts on the difference to the one before.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// What the operator wants.
    pub config: Arc<Config>,
    /// What is known about backends; one that is missing is as by default.
    pub backends: HashMap<BackendId, BackendState>,
}

/// What is known about a backend beyond the config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// The health checks' verdict.
    pub health: Health,
    /// An operator drains it: no new work, what is established goes on.
    pub draining: bool,
    /// The part of its weight that counts.
    pub share: Share,
}

impl Snapshot {
    /// The first snapshot of a config: nothing is known about its backends yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            generation: 0,
            config,
            backends: HashMap::new(),
        }
    }

    /// What is known about a backend.
    pub fn state(&self, backend: &BackendId) -> BackendState {
        self.backends.get(backend).copied().unwrap_or_default()
    }

    /// Whether new work may go to a backend, its weight apart.
    pub fn takes_new_work(&self, backend: &BackendId) -> bool {
        let state = self.state(backend);
        state.health.takes_new_work() && !state.draining
    }

    /// What counts of a backend's weight now, in hundredths of its unit; 0: it takes no new work.
    pub fn weight(&self, id: &BackendId, backend: &Backend) -> u32 {
        if self.takes_new_work(id) {
            self.state(id).share.of(backend.weight)
        } else {
            0
        }
    }
}
