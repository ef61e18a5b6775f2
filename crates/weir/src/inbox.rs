//! Where the owner of the node's state hears what it is told to do: signals, orders of operators, and news from the
//! health checks. What a peer orders will come in here as well.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use weir_api::order::Ask;
use weir_health::HealthEvent;

/// What the owner is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the config again and apply the difference.
    Reload,
    /// Open log files anew.
    ReopenLogs,
    /// The health of these backends has changed.
    Health(Vec<HealthEvent>),
    /// An operator sets something in place of the config.
    Order(Ask),
    /// Try again what a data plane could not follow, or give backends that start slowly more of the work.
    Retry,
    /// Take no new work, and end.
    Stop,
}

/// The signals that are commands. Heard from the moment this is made, so that none ends a node that is starting.
pub(crate) struct Signals {
    hangup: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        let signal = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Where commands come from.
pub(crate) struct Inbox {
    pub(crate) signals: Signals,
    pub(crate) health: mpsc::Receiver<HealthEvent>,
    pub(crate) orders: mpsc::Receiver<Ask>,
}

impl Inbox {
    /// The next command; `Retry` when `retry_at` comes first.
    pub(crate) async fn next(&mut self, retry_at: Option<Instant>) -> Command {
        let retry = async {
            match retry_at {
                Some(instant) => sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.signals.terminate.recv() => Command::Stop,
            _ = self.signals.interrupt.recv() => Command::Stop,
            _ = self.signals.hangup.recv() => Command::Reload,
            _ = self.signals.user1.recv() => Command::ReopenLogs,
            Some(ask) = self.orders.recv() => Command::Order(ask),
            Some(first) = self.health.recv() => Command::Health(self.with_waiting(first)),
            () = retry => Command::Retry,
        }
    }

    /// What has piled up is one change.
    fn with_waiting(&mut self, first: HealthEvent) -> Vec<HealthEvent> {
        let mut events = vec![first];
        while let Ok(event) = self.health.try_recv() {
            events.push(event);
        }
        events
    }
}
