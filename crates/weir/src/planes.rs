//! The data planes, as one: what is prepared in all of them is committed in all of them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weir_l4::{Filter, Pins, Plane, State};
use weir_l7::Engine;
use weir_model::{BackendId, Config, L4, OnStop, Snapshot};

use crate::control::Ended;
use crate::{node, procfs};

/// How often layer 4 is asked, while it drains, whether its sessions have ended. A question goes through the whole
/// session table.
const DRAIN_TICK: Duration = Duration::from_millis(250);

/// The data planes that run.
#[derive(Debug)]
pub(crate) struct Planes {
    /// None where `[l4]` is absent, and after the end.
    l4: RwLock<Option<Layer4>>,
    l7: Engine,
}

struct Layer4(Plane);

impl std::fmt::Debug for Layer4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer4")
    }
}

/// A snapshot that every data plane can follow.
#[must_use = "what is prepared is in force only when it is committed"]
pub(crate) struct Prepared {
    l4: Option<weir_l4::Prepared>,
    l7: weir_l7::Prepared,
}

impl Planes {
    /// Starts what the config asks for; nothing is served yet.
    pub(crate) fn start(config: &Config) -> Result<Self> {
        let start = |l4| start_layer4(l4, &node::name(&config.node));
        let l4 = config.l4.as_ref().map(start).transpose()?;
        let l7 = Engine::start(&config.l7).context("start layer 7")?;
        Ok(Self {
            l4: RwLock::new(l4),
            l7,
        })
    }

    /// Does everything that can fail. Nothing changes until the commit.
    pub(crate) fn prepare(&self, snapshot: &Arc<Snapshot>) -> Result<Prepared> {
        let l7 = self.l7.prepare(Arc::clone(snapshot))?;
        let l4 = self
            .with_l4(|plane| plane.prepare(snapshot))
            .transpose()
            .context("layer 4")?;
        Ok(Prepared { l4, l7 })
    }

    /// Puts the first one in force. Layer 4 begins to forward by it, or goes on by it where a former daemon forwards.
    pub(crate) fn begin(&self, prepared: Prepared) -> Result<()> {
        if let Some(prepared) = prepared.l4 {
            let attached = self.with_l4(|plane| {
                plane.commit(prepared);
                plane.attach()
            });
            attached.transpose().context("layer 4")?;
        }
        self.l7.commit(prepared.l7);
        Ok(())
    }

    /// Backends that took no new sessions when the former daemon ended.
    pub(crate) fn idle_before(&self) -> Vec<BackendId> {
        self.with_l4(|plane| plane.idle_before().to_vec())
            .unwrap_or_default()
    }

    /// Puts it in force.
    pub(crate) fn commit(&self, prepared: Prepared) {
        self.l7.commit(prepared.l7);
        if let Some(prepared) = prepared.l4 {
            self.with_l4(|plane| plane.commit(prepared));
        }
    }

    /// Puts a snapshot in force at layer 4 alone, as the last one before the end.
    pub(crate) fn publish_to_layer4(&self, snapshot: &Arc<Snapshot>) -> Result<()> {
        let publish = |plane: &Plane| {
            plane
                .prepare(snapshot)
                .map(|prepared| plane.commit(prepared))
        };
        Ok(self.with_l4(publish).transpose().map(drop)?)
    }

    /// Opens the files of access logs anew.
    pub(crate) fn reopen_access_logs(&self) {
        self.l7.reopen_access_logs();
    }

    /// What layer 7 has counted.
    pub(crate) fn l7_stats(&self) -> weir_l7::Stats {
        self.l7.stats()
    }

    /// What layer 4 has counted; none where it does not run.
    pub(crate) fn l4_stats(&self) -> Option<weir_l4::Stats> {
        self.with_l4(Plane::stats)
    }

    /// Does something with layer 4, where it runs.
    pub(crate) fn with_l4<T>(&self, work: impl FnOnce(&Plane) -> T) -> Option<T> {
        self.l4
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|Layer4(plane)| work(plane))
    }

    /// Takes no new work, and waits for the end of the work under way. For layer 4, that only if it ends as well; a
    /// snapshot that gives no new work to any backend has to be in force then.
    pub(crate) async fn drain(self: Arc<Self>, timeout: Duration, on_stop: OnStop) -> Ended {
        let deadline = Instant::now() + timeout;
        let drained = tokio::task::spawn_blocking(move || {
            let connections = self.l7.drain(timeout).connections_left;
            let sessions = match on_stop {
                OnStop::Keep => 0,
                OnStop::Drain => self.drain_layer4(deadline),
            };
            (connections, sessions)
        });
        match drained.await {
            Ok((0, 0)) => Ended::Done,
            Ok((connections, sessions)) => {
                tracing::warn!(connections, sessions, "the time to drain is over");
                Ended::CutOff
            }
            Err(error) => {
                tracing::error!(%error, "draining failed");
                Ended::CutOff
            }
        }
    }

    /// Ends layer 4, where it runs: nothing stays in the kernel, or everything does and forwards on.
    pub(crate) fn stop(&self, on_stop: OnStop) {
        if let Some(Layer4(plane)) = self
            .l4
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            match on_stop {
                OnStop::Keep => {
                    drop(plane);
                    tracing::info!("layer 4 forwards on in the kernel; `weir detach` ends that");
                }
                OnStop::Drain => plane.stop(),
            }
        }
    }

    /// Waits for the end of TCP sessions that carry data; the sessions that are left. UDP has no end to wait for.
    fn drain_layer4(&self, deadline: Instant) -> u64 {
        loop {
            let left = self.with_l4(carrying_data).unwrap_or(0);
            let remaining = deadline.saturating_duration_since(Instant::now());
            if left == 0 || remaining.is_zero() {
                return left;
            }
            std::thread::sleep(DRAIN_TICK.min(remaining));
        }
    }
}

fn start_layer4(l4: &L4, node: &str) -> Result<Layer4> {
    procfs::require_capabilities().context("[l4]")?;
    let start = || {
        let pins = Pins::take(&l4.pin_dir, node)?;
        Plane::load(l4, Some(pins))
    };
    start().map(Layer4).context("start layer 4")
}

fn carrying_data(plane: &Plane) -> u64 {
    let count = |state| {
        plane.session_count(&Filter {
            state: Some(state),
            udp: Some(false),
            ..Filter::default()
        })
    };
    [State::SynRecv, State::Established, State::CloseWait]
        .map(count)
        .iter()
        .sum()
}
