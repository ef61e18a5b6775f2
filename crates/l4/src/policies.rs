//! What the config says about sessions that are there already, for the sweep.

use std::collections::HashMap;
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

    /// How long sessions may be idle.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts::new(self.timeouts.clone(), Arc::clone(&self.idle_timeouts))
    }
}
