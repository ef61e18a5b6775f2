//! What the node tells about itself: written by the owner of its state, read by the API.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use weir_api::order::Override;
use weir_api::view::ReloadsView;
use weir_health::Reports;
use weir_model::{BackendId, Snapshot};

use crate::planes::Planes;

/// The node as others see it.
#[derive(Debug)]
pub(crate) struct Node {
    /// The data planes, for their counters.
    pub(crate) planes: Arc<Planes>,
    /// What the health checks have shown.
    pub(crate) health: Reports,
    /// When the process started.
    pub(crate) started: SystemTime,
    host_name: String,
    snapshot: ArcSwap<Snapshot>,
    overrides: ArcSwap<BTreeMap<BackendId, Override>>,
    draining: AtomicBool,
    reloads: Mutex<ReloadsView>,
}

impl Node {
    /// A node that has just started.
    pub(crate) fn new(planes: Arc<Planes>, health: Reports, snapshot: Arc<Snapshot>) -> Self {
        let started = SystemTime::now();
        Self {
            planes,
            health,
            started,
            host_name: host_name(),
            snapshot: ArcSwap::new(snapshot),
            overrides: ArcSwap::default(),
            draining: AtomicBool::new(false),
            reloads: Mutex::new(ReloadsView {
                succeeded: 0,
                failed: 0,
                last_succeeded: true,
                last: started,
            }),
        }
    }

    /// The name in the config, or else the host's.
    pub(crate) fn name(&self) -> String {
        let snapshot = self.snapshot();
        let name = snapshot.config.node.name.as_ref();
        name.map_or_else(|| self.host_name.clone(), ToString::to_string)
    }

    /// What is in force.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// This is in force now.
    pub(crate) fn published(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    /// What operators have set.
    pub(crate) fn overrides(&self) -> Arc<BTreeMap<BackendId, Override>> {
        self.overrides.load_full()
    }

    /// This is set now.
    pub(crate) fn overridden(&self, overrides: BTreeMap<BackendId, Override>) {
        self.overrides.store(Arc::new(overrides));
    }

    /// Whether new work is refused because the end is near.
    pub(crate) fn drains_now(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// New work is refused from now on.
    pub(crate) fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What became of reloads.
    pub(crate) fn reloads(&self) -> ReloadsView {
        *self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reload has ended.
    pub(crate) fn reloaded(&self, succeeded: bool) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        *(if succeeded {
            &mut reloads.succeeded
        } else {
            &mut reloads.failed
        }) += 1;
        reloads.last_succeeded = succeeded;
        reloads.last = SystemTime::now();
    }
}

/// The name of a node in its config, or else the host's.
pub(crate) fn name(node: &weir_model::Node) -> String {
    node.name
        .as_ref()
        .map_or_else(host_name, ToString::to_string)
}

/// The host's name as the kernel has it (proc(5), /proc/sys/kernel/hostname).
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "weir".to_owned()
    } else {
        name.to_owned()
    }
}
