//! Counters that the program keeps per core.

use std::ops::Add;

use aya::Pod;
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use weir_l4_common::drop::Drop as DropReason;
use weir_l4_common::service::{BackendCounters, ListenerCounters};
use weir_l4_common::spread::{HANDED, TAKEN};

use crate::error::Error;
use crate::stats::CoreStats;

/// [`ListenerCounters`] as words: sessions, drops, turn.
type ListenerWords = [u64; size_of::<ListenerCounters>() / 8];
/// [`BackendCounters`] as words: sessions.
type BackendWords = [u64; size_of::<BackendCounters>() / 8];

/// The per-core maps.
pub(crate) struct CounterMaps {
    pub(crate) listeners: PerCpuArray<MapData, ListenerWords>,
    pub(crate) backends: PerCpuArray<MapData, BackendWords>,
    pub(crate) drops: PerCpuArray<MapData, u64>,
    pub(crate) spread: PerCpuArray<MapData, u64>,
}

/// What the program counted for a listener, on all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenerSum {
    pub(crate) sessions: u64,
    pub(crate) drops: u64,
}

impl CounterMaps {
    /// A listener's counters.
    pub(crate) fn listener(&self, number: u16) -> ListenerSum {
        let [sessions, drops, ..] = sum(&self.listeners, number, ZipAdd::zip_add);
        ListenerSum { sessions, drops }
    }

    /// Sessions opened to a backend.
    pub(crate) fn backend_sessions(&self, number: u16) -> u64 {
        let [sessions, ..] = sum(&self.backends, number, ZipAdd::zip_add);
        sessions
    }

    /// Packets dropped for a reason.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        sum(&self.drops, reason as u16, Add::add)
    }

    /// What these cores have handed on and taken.
    pub(crate) fn cores(&self, cores: &[u32]) -> Vec<CoreStats> {
        if cores.is_empty() {
            return Vec::new();
        }
        let by_core = |element| self.spread.get(&element, 0).ok();
        let (handed, taken) = (by_core(HANDED), by_core(TAKEN));
        let of = |values: &Option<PerCpuValues<u64>>, core: u32| {
            let values = values.as_ref().map(|values| &**values);
            values
                .and_then(|values| values.get(core as usize).copied())
                .unwrap_or(0)
        };
        let stats = |core: &u32| CoreStats {
            core: *core,
            handed: of(&handed, *core),
            taken: of(&taken, *core),
        };
        cores.iter().map(stats).collect()
    }

    /// Sets a listener's counters to zero: its number is about to be given to another one.
    pub(crate) fn clear_listener(&mut self, number: u16) -> Result<(), Error> {
        clear(&mut self.listeners, "LISTENER_COUNTERS", number)
    }

    /// Sets a backend's counters to zero.
    pub(crate) fn clear_backend(&mut self, number: u16) -> Result<(), Error> {
        clear(&mut self.backends, "BACKEND_COUNTERS", number)
    }
}

trait ZipAdd {
    fn zip_add(self, other: Self) -> Self;
}

impl<const N: usize> ZipAdd for [u64; N] {
    fn zip_add(mut self, other: Self) -> Self {
        for (sum, word) in self.iter_mut().zip(other) {
            *sum = sum.wrapping_add(word);
        }
        self
    }
}

/// A counter that cannot be read counts as zero: the index is inside the map, so that cannot be.
fn sum<V: Pod + Default>(map: &PerCpuArray<MapData, V>, index: u16, add: impl Fn(V, V) -> V) -> V {
    match map.get(&u32::from(index), 0) {
        Ok(values) => values
            .iter()
            .fold(V::default(), |sum, value| add(sum, *value)),
        Err(error) => {
            tracing::error!(%error, index, "read a counter");
            V::default()
        }
    }
}

fn clear<V: Pod + Default>(
    map: &mut PerCpuArray<MapData, V>,
    name: &'static str,
    number: u16,
) -> Result<(), Error> {
    let cores = aya::util::nr_cpus().map_err(|(_, source)| Error::System {
        what: "count the cores",
        source,
    })?;
    let zeros =
        PerCpuValues::try_from(vec![V::default(); cores]).map_err(|source| Error::System {
            what: "make values for all cores",
            source,
        })?;
    map.set(u32::from(number), zeros, 0)
        .map_err(Error::map(name))
}
