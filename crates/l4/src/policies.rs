//! What the config says about sessions that are there already, for the sweep.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use weir_model::SessionTimeouts;

use crate::state::Timeouts;

/// Written by commits, read by the sweep at the start of a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    timeouts: SessionTimeouts,
    /// By the listener's number. A listener that has gone keeps it as long as its number.
    idle_timeouts: Arc<HashMap<u16, Duration>>,
    ending: Arc<Ending>,
}

/// Whose sessions are not to go on: numbers of listeners and backends that were removed from pools that say so. They are in
/// here as long as they have the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    listeners: HashSet<u16>,
    backends: HashSet<u16>,
}

impl Ending {
    /// Whether a session of this listener and this backend is to end.
    pub(crate) fn has(&self, listener: u16, backend: u16) -> bool {
        self.backends.contains(&backend) || self.listeners.contains(&listener)
    }
}

impl Policies {
    pub(crate) fn set_timeouts(&mut self, timeouts: &SessionTimeouts) {
        if self.timeouts != *timeouts {
            self.timeouts = timeouts.clone();
        }
    }

    /// The listener with this number is in the config.
    pub(crate) fn set_idle_timeout(&mut self, listener: u16, timeout: Option<Duration>) {
        if self.idle_timeouts.get(&listener).copied() == timeout {
            return;
        }
        let idle_timeouts = Arc::make_mut(&mut self.idle_timeouts);
        match timeout {
            Some(timeout) => idle_timeouts.insert(listener, timeout),
            None => idle_timeouts.remove(&listener),
        };
    }

    /// Sessions of a listener are to end, or may go on again.
    pub(crate) fn end_listener(&mut self, listener: u16, end: bool) {
        if self.ending.listeners.contains(&listener) != end {
            toggle(&mut Arc::make_mut(&mut self.ending).listeners, listener);
        }
    }

    /// Sessions of a backend are to end, or may go on again.
    pub(crate) fn end_backend(&mut self, backend: u16, end: bool) {
        if self.ending.backends.contains(&backend) != end {
            toggle(&mut Arc::make_mut(&mut self.ending).backends, backend);
        }
    }

    /// Whose sessions are to end.
    pub(crate) fn ending(&self) -> Arc<Ending> {
        Arc::clone(&self.ending)
    }

    /// How long sessions may be idle.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts::new(self.timeouts.clone(), Arc::clone(&self.idle_timeouts))
    }
}

fn toggle(numbers: &mut HashSet<u16>, number: u16) {
    if !numbers.remove(&number) {
        numbers.insert(number);
    }
}
