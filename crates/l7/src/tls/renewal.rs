//! Certificates, keys and authorities that are replaced on disk are taken over without being told: a thread looks at the
//! files of everything that is served.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_tls::Look;

use crate::worker::Shared;

/// From one look to the next. A change that has rested that long is whole.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Ten thousand files take some 20 ms to look at: a look pauses a hundred times as long as it took, if that is longer.
const PAUSE_FACTOR: u32 = 100;

/// How often files were taken over, and how often not.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    pub(crate) renewed: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// The thread that looks; ends when dropped.
#[derive(Debug)]
pub(crate) struct Renewal {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Renewal {
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let stop = Arc::<(Mutex<bool>, Condvar)>::default();
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("weir-l7-files".to_owned())
            .spawn(move || {
                let (stopped, changed) = &*told;
                let mut pause = LOOK_EVERY;
                let mut stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                while !*stopped {
                    let (guard, waited) = changed
                        .wait_timeout(stopped, pause)
                        .unwrap_or_else(PoisonError::into_inner);
                    stopped = guard;
                    if waited.timed_out() {
                        let start = Instant::now();
                        look(&shared);
                        pause = LOOK_EVERY.max(start.elapsed() * PAUSE_FACTOR);
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        let (stopped, changed) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks at certificates panicked");
        }
    }
}

fn look(shared: &Shared) {
    let plan = shared.plan.load_full();
    let note = |look: Look, kind: &str, name: &weir_model::Name| match look {
        Look::Same | Look::Changing => {}
        Look::Renewed => {
            shared.renewals.renewed.fetch_add(1, Relaxed);
            tracing::info!("TLS files of {kind} `{name}` have changed and are in force");
        }
        Look::Refused(error) => {
            shared.renewals.refused.fetch_add(1, Relaxed);
            tracing::error!(
                "TLS files of {kind} `{name}` have changed and cannot be used, those before stay in force: {error}"
            );
        }
    };
    for listener in plan.listeners.iter().flatten() {
        if let Some(tls) = &listener.tls {
            note(tls.look(), "listener", &listener.listener.name);
        }
    }
    for pool in plan.pools.iter().flatten() {
        if let Some(tls) = &pool.tls {
            note(tls.look(), "pool", &pool.pool.name);
        }
    }
}
