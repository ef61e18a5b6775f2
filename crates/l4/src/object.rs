//! The forwarding program's object: how large its maps are, and how they are taken out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::maps::{Map, MapError};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};
use weir_l4_common::client::{ClientSet, Pool};
use weir_l4_common::fragment::FRAGMENT_TIMEOUT_SECONDS;
use weir_l4_common::link::LINKS_MAX;
use weir_l4_common::listeners::{ENTRIES, Entry, SLOTS};
use weir_l4_common::load::Load;
use weir_l4_common::record::{BackendRecord, Layout, LinkRecord, ListenerRecord};
use weir_l4_common::service::{
    BACKENDS_MAX, BackendCounters, LISTENERS_MAX, ListenerCounters, POOLS_MAX,
};
use weir_l4_common::session::{LINES, Set4, Set6};
use weir_l4_common::spread::CORES_MAX;
use weir_model::L4;

use crate::available::available;
use crate::clock::tick;
use crate::error::{Error, chain};
use crate::former::Former;
use crate::memory::{Mapped, Shared};
use crate::pin::{Pins, failed, unpin};
use crate::program;
use crate::schedulers::client_sets;

/// Elements of the map of scheduling tables, 8 bytes each: room for 256 Maglev tables, or for the round robin of far
/// more pools than a node can have listeners.
pub(crate) const SCHEDULE_ELEMENTS: u32 = 4 << 20;
/// Part of the lines that are in use when as many sessions are there as the config says, each with two lines. Beyond
/// it too many flows find their sets full.
const LOAD_PERCENT: u64 = 64;

/// Sets of a table for so many sessions, with two lines each.
pub(crate) fn table_sets(max_sessions: u32) -> u32 {
    let lines = u64::from(max_sessions.max(1)) * 2;
    let sets = (lines * 100).div_ceil(LINES as u64 * LOAD_PERCENT);
    u32::try_from(sets).unwrap_or(u32::MAX).max(2)
}

/// Sessions that a table of so many sets was made for.
pub(crate) fn table_sessions(sets: u32) -> u32 {
    let lines = u64::from(sets) * LINES as u64 * LOAD_PERCENT / 100;
    u32::try_from(lines / 2).unwrap_or(u32::MAX)
}

/// How large the session tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableSizes {
    /// Sets of IPv4.
    pub(crate) sets4: u32,
    /// Sets of IPv6.
    pub(crate) sets6: u32,
    /// Sets of the table of clients.
    pub(crate) client_sets: u32,
}

impl TableSizes {
    /// What the config asks for.
    pub(crate) fn of(l4: &L4) -> Self {
        Self {
            sets4: table_sets(l4.max_sessions),
            sets6: table_sets(l4.max_sessions_ipv6),
            client_sets: client_sets(l4.persistent_clients),
        }
    }

    /// Bytes of both session tables.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.sets4) * size_of::<Set4>() as u64
            + u64::from(self.sets6) * size_of::<Set6>() as u64
    }
}

/// Bytes of a map with values for each core: the kernel rounds each up to 8 bytes (`array_map_alloc`,
/// kernel/bpf/arraymap.c).
fn per_core_bytes(value: usize, elements: u32, cores: usize) -> u64 {
    value.next_multiple_of(8) as u64 * u64::from(elements) * cores as u64
}

/// Bytes of the tables and of the other large maps, for so many possible cores.
fn needed_bytes(sizes: TableSizes, cores: usize) -> u64 {
    sizes.bytes()
        + u64::from(sizes.client_sets) * size_of::<ClientSet>() as u64
        + u64::from(BACKENDS_MAX + 1) * size_of::<Load>() as u64
        + u64::from(POOLS_MAX + 1) * size_of::<Pool>() as u64
        + u64::from(SCHEDULE_ELEMENTS) * size_of::<u64>() as u64
        + u64::from(SLOTS) * size_of::<u32>() as u64
        + u64::from(ENTRIES) * size_of::<Entry>() as u64
        + per_core_bytes(size_of::<ListenerCounters>(), LISTENERS_MAX + 1, cores)
        + per_core_bytes(size_of::<BackendCounters>(), BACKENDS_MAX + 1, cores)
        + u64::from(LISTENERS_MAX + 1) * size_of::<ListenerRecord>() as u64
        + u64::from(BACKENDS_MAX + 1) * size_of::<BackendRecord>() as u64
}

/// Cores that the kernel can have.
fn possible_cores() -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(_, source)| Error::System {
        what: "count the cores",
        source,
    })
}

/// The kernel takes the memory of the maps at once, and would kill somebody to get it. Tables that are there already need
/// none.
pub(crate) fn check_memory(
    l4: &L4,
    sizes: TableSizes,
    former: Option<&Former>,
) -> Result<(), Error> {
    let available = available().map_err(Error::system("read /proc/meminfo"))?;
    let cores = possible_cores()?;
    let has = former.map_or(0, Former::bytes);
    let needed = needed_bytes(sizes, cores) - has.min(sizes.bytes());
    if needed > available.bytes {
        Err(Error::Memory {
            sessions: l4.max_sessions,
            sessions_ipv6: l4.max_sessions_ipv6,
            needed,
            available: available.bytes,
            within: available.within,
        })
    } else {
        Ok(())
    }
}

/// A map that outlives the daemon: pinned, and taken over by the next one, which makes all others anew and fills them
/// before its program takes the place of the former one's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) name: &'static str,
    pub(crate) value_bytes: usize,
    entries: Entries,
}

/// How many values a kept map has.
#[derive(Clone, Copy, Debug)]
enum Entries {
    /// As many as the session table of IPv4 has sets.
    Sets4,
    /// As many as the session table of IPv6 has sets.
    Sets6,
    /// As many as the table of clients has sets.
    Clients,
    /// Always as many.
    Fixed(u32),
}

/// What session lines refer to by numbers, what counts, and which clients come back to which backends. Nothing else needs to be here: what follows from the config
/// and from the kernel's routes is made anew.
pub(crate) const KEPT: [Kept; 11] = [
    Kept::new::<Set4>(SESSIONS4, Entries::Sets4),
    Kept::new::<Set6>(SESSIONS6, Entries::Sets6),
    Kept::new::<u64>("DROPS", Entries::Fixed(DROPS_MAX)),
    Kept::new::<ListenerCounters>("LISTENER_COUNTERS", Entries::Fixed(LISTENERS_MAX + 1)),
    Kept::new::<BackendCounters>("BACKEND_COUNTERS", Entries::Fixed(BACKENDS_MAX + 1)),
    Kept::new::<Load>("LOADS", Entries::Fixed(BACKENDS_MAX + 1)),
    Kept::new::<ClientSet>(CLIENTS, Entries::Clients),
    Kept::new::<ListenerRecord>("LISTENER_RECORDS", Entries::Fixed(LISTENERS_MAX + 1)),
    Kept::new::<BackendRecord>("BACKEND_RECORDS", Entries::Fixed(BACKENDS_MAX + 1)),
    Kept::new::<LinkRecord>("LINK_RECORDS", Entries::Fixed(LINKS_MAX)),
    // Pinned last: where it is, the others are.
    Kept::new::<Layout>(LAYOUT, Entries::Fixed(1)),
];
/// The session table of IPv4.
pub(crate) const SESSIONS4: &str = "SESSIONS4";
/// The session table of IPv6.
pub(crate) const SESSIONS6: &str = "SESSIONS6";
/// The table of clients that pools remember.
pub(crate) const CLIENTS: &str = "CLIENTS";
/// The map that says what the others are.
pub(crate) const LAYOUT: &str = "LAYOUT";
/// Elements of `DROPS`.
const DROPS_MAX: u32 = 64;

impl Kept {
    const fn new<Value>(name: &'static str, entries: Entries) -> Self {
        Self {
            name,
            value_bytes: size_of::<Value>(),
            entries,
        }
    }

    /// Values that the map has, with tables of these sizes.
    pub(crate) fn entries(&self, sizes: TableSizes) -> u32 {
        match self.entries {
            Entries::Sets4 => sizes.sets4,
            Entries::Sets6 => sizes.sets6,
            Entries::Clients => sizes.client_sets,
            Entries::Fixed(entries) => entries,
        }
    }
}

/// Makes the maps, of these sizes, but for those that a former daemon left in a folder; programs are not given to the
/// kernel yet.
pub(crate) fn load(
    sizes: TableSizes,
    seed: u64,
    cores: &[u32],
    former: Option<(&Pins, &Former)>,
) -> Result<Ebpf, Error> {
    let possible_cores = possible_cores()?;
    let spread_cores = cores.len() as u32;
    let mut spread_to = [0u32; CORES_MAX];
    spread_to[..cores.len()].copy_from_slice(cores);
    let fragment_timeout = Duration::from_secs(FRAGMENT_TIMEOUT_SECONDS.into());
    let fragment_timeout = fragment_timeout.div_duration_f64(tick()?) as u32;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(SESSIONS4, sizes.sets4)
        .map_max_entries(SESSIONS6, sizes.sets6)
        .map_max_entries(CLIENTS, sizes.client_sets)
        .map_max_entries("SCHEDULE", SCHEDULE_ELEMENTS)
        .override_global("SETS", &sizes.sets4, true)
        .override_global("SETS6", &sizes.sets6, true)
        .override_global("CLIENT_SETS", &sizes.client_sets, true)
        .override_global("SEED", &seed, true)
        .override_global("SPREAD_CORES", &spread_cores, true)
        .override_global("SPREAD_TO", &spread_to, true)
        .map_max_entries("CORES", possible_cores as u32)
        .override_global("FRAGMENT_TIMEOUT", &fragment_timeout, true);
    if let Some((pins, former)) = former {
        for map in KEPT.iter().filter(|map| former.has(map.name)) {
            loader.map_pin_path(map.name, pins.map(map.name));
        }
    }
    loader.load(program::FORWARD).map_err(Error::Load)
}

/// Pins the maps that outlive the daemon, but for those that a former one has pinned.
pub(crate) fn keep(ebpf: &Ebpf, pins: &Pins, former: Option<&Former>) -> Result<(), Error> {
    let is_new = |map: &&Kept| former.is_none_or(|former| !former.has(map.name));
    for Kept { name, .. } in KEPT.iter().filter(is_new) {
        let path = pins.map(name);
        if path.exists() {
            unpin(&path)?;
        }
        map(ebpf, name)?
            .pin(&path)
            .map_err(|error| failed("pin", &path, io::Error::other(chain(&error))))?;
    }
    Ok(())
}

fn map<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Map, Error> {
    ebpf.map(name).ok_or(Error::Missing(name))
}

/// The descriptor of an array map.
fn fd(map: &Map) -> Result<BorrowedFd<'_>, Error> {
    match map {
        Map::Array(data) => Ok(data.fd().as_fd()),
        _ => Err(Error::Missing("array map of this name")),
    }
}

/// The first `count` values of a map, as memory.
pub(crate) fn mapped<T: Shared>(
    ebpf: &Ebpf,
    name: &'static str,
    count: usize,
) -> Result<Mapped<T>, Error> {
    Mapped::new(fd(map(ebpf, name)?)?, count).map_err(in_memory(name))
}

fn in_memory(map: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |io_error| Error::Map {
        map,
        source: SyscallError {
            call: "mmap",
            io_error,
        }
        .into(),
    }
}

/// A map, out of the object.
pub(crate) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(Error::map(name))
}

#[cfg(test)]
mod tests {
    use weir_model::{SessionTimeouts, XdpMode};

    use weir_model::{OnStop, Spread};

    use super::*;

    fn l4(max_sessions: u32, max_sessions_ipv6: u32) -> L4 {
        L4 {
            interfaces: Vec::new(),
            xdp_mode: XdpMode::Auto,
            local_addresses: Vec::new(),
            max_sessions,
            max_sessions_ipv6,
            persistent_clients: 1024,
            timeouts: SessionTimeouts::default(),
            pin_dir: L4::DEFAULT_PIN_DIR.into(),
            on_stop: OnStop::Keep,
            spread: Spread::Queues,
        }
    }

    #[test]
    fn a_table_has_room_for_two_lines_of_every_session() {
        assert_eq!(table_sets(1_048_576), 819_200);
        let bytes = |v4, v6| TableSizes::of(&l4(v4, v6)).bytes();
        assert_eq!(bytes(10_000_000, 0) / 10_000_000, 200);
        assert_eq!(bytes(0, 10_000_000) / 10_000_000, 400);
        assert!(table_sets(0) >= 2);
        for sessions in [1024, 5000, 1_048_576, 10_000_000] {
            assert_eq!(table_sessions(table_sets(sessions)), sessions);
        }
        assert!(
            u64::from(table_sets(u32::MAX)) * 4 * LOAD_PERCENT / 100 >= u64::from(u32::MAX) * 2
        );
    }

    #[test]
    fn all_large_maps_count() {
        assert_eq!(per_core_bytes(12, 10, 4), 16 * 10 * 4);
        let sizes = TableSizes {
            sets4: 2,
            sets6: 2,
            client_sets: 2,
        };
        let (one, many) = (needed_bytes(sizes, 1), needed_bytes(sizes, 65));
        assert!(one > sizes.bytes() + (32 << 20));
        let per_core = size_of::<BackendCounters>() as u64 * u64::from(BACKENDS_MAX + 1);
        assert!(many - one > 64 * per_core);
    }

    #[test]
    fn tables_that_do_not_fit_into_memory_are_refused_with_their_size() {
        let check = |v4: u32, v6: u32| {
            let l4 = l4(v4, v6);
            let sizes = TableSizes::of(&l4);
            let error = check_memory(&l4, sizes, None).unwrap_err().to_string();
            let needed = needed_bytes(sizes, aya::util::nr_cpus().unwrap()) >> 20;
            assert!(
                error.starts_with(&format!(
                    "max_sessions = {v4} and max_sessions_ipv6 = {v6} need {needed} MiB for the session tables and other \
                     maps, and "
                )),
                "{error}"
            );
        };
        check(u32::MAX, 1024);
        check(1024, u32::MAX);
        let small = l4(1, 1);
        assert!(check_memory(&small, TableSizes::of(&small), None).is_ok());
    }
}
