//! The data planes, as one: what is prepared in all of them is committed in all of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weir_l7::Engine;
use weir_model::{Config, Snapshot};

use crate::control::Ended;
use crate::procfs;

/// The data planes that run.
#[derive(Debug)]
pub(crate) struct Planes {
    l7: Engine,
}

/// A snapshot that every data plane can follow.
#[must_use = "what is prepared is in force only when it is committed"]
pub(crate) struct Prepared {
    l7: weir_l7::Prepared,
}

impl Planes {
    /// Starts what the config asks for; nothing is served yet.
    pub(crate) fn start(config: &Config) -> Result<Self> {
        if config.l4.is_some() {
            let missing = procfs::missing_capabilities();
            if !missing.is_empty() {
                bail!(
                    "[l4] needs rights that this process lacks: {}; run it as root or grant them",
                    missing.join(", ")
                );
            }
        }
        Ok(Self {
            l7: Engine::start(&config.l7).context("start layer 7")?,
        })
    }

    /// Does everything that can fail. Nothing changes until the commit.
    pub(crate) fn prepare(&self, snapshot: &Arc<Snapshot>) -> Result<Prepared> {
        Ok(Prepared {
            l7: self.l7.prepare(Arc::clone(snapshot))?,
        })
    }

    /// Puts it in force.
    pub(crate) fn commit(&self, prepared: Prepared) {
        self.l7.commit(prepared.l7);
    }

    /// What layer 7 has counted.
    pub(crate) fn l7_stats(&self) -> weir_l7::Stats {
        self.l7.stats()
    }

    /// Takes no new work, and waits for the end of the work under way.
    pub(crate) async fn drain(self: Arc<Self>, timeout: Duration) -> Ended {
        let drained = tokio::task::spawn_blocking(move || self.l7.drain(timeout)).await;
        match drained {
            Ok(drained) if drained.connections_left == 0 => Ended::Done,
            Ok(drained) => {
                tracing::warn!(
                    connections = drained.connections_left,
                    "the time to drain is over"
                );
                Ended::CutOff
            }
            Err(error) => {
                tracing::error!(%error, "draining failed");
                Ended::CutOff
            }
        }
    }
}
