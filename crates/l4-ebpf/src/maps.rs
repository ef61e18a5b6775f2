//! The maps. Sizes given as 1 are set by the loader.

use core::cell::UnsafeCell;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, CpuMap, HashMap, PerCpuArray, RingBuf};
use weir_l4_common::client::{ClientSet, Pool};
use weir_l4_common::family::{Addr6, V4, V6};
use weir_l4_common::fragment::{FRAGMENT_SETS, FragmentSet};
use weir_l4_common::link::{IFINDEX_MAX, LINKS_MAX, Link, Links};
use weir_l4_common::listeners::{self, Entry};
use weir_l4_common::load::Load;
use weir_l4_common::open::Opening;
use weir_l4_common::quic::{
    QUIC_CONFIGS_MAX, QUIC_SERVERS_MAX, QuicConfig, QuicServerKey, QuicWork,
};
use weir_l4_common::record::{BackendRecord, Layout, LinkRecord, ListenerRecord};
use weir_l4_common::refusal::Budget;
use weir_l4_common::service::{
    BACKENDS_MAX, Backend, BackendCounters, LISTENERS_MAX, LOCALS_MAX, ListenerCounters, POOLS_MAX,
    ScheduleElement, Settings,
};
use weir_l4_common::session::{Set4, Set6};
use weir_l4_common::spread::CORES_MAX;
use weir_l4_common::vlan::{Tagged, VLANS_MAX, VlanKey};

/// A variable that user space writes while the program runs.
#[repr(transparent)]
pub struct Written<T>(pub UnsafeCell<T>);

// SAFETY: the program reads it alone, word by word, and every word is valid whatever its neighbours are.
unsafe impl<T> Sync for Written<T> {}

const _: () = assert!(weir_l4_common::link::LINKS_MAP.len() == ".data.links".len());

/// The session table of IPv4.
#[map]
pub static SESSIONS4: Array<Set4> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The session table of IPv6.
#[map]
pub static SESSIONS6: Array<Set6> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Scheduling tables, one behind the other.
#[map]
pub static SCHEDULE: Array<ScheduleElement> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Backends by number.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(BACKENDS_MAX + 1, BPF_F_MMAPABLE);
/// What schedulers know of backends, by number.
#[map]
pub static LOADS: Array<Load> = Array::with_max_entries(BACKENDS_MAX + 1, BPF_F_MMAPABLE);
/// How pools remember clients, by number.
#[map]
pub static POOLS: Array<Pool> = Array::with_max_entries(POOLS_MAX + 1, 0);
/// Clients that pools remember.
#[map]
pub static CLIENTS: Array<ClientSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What may change while the program runs: one element.
#[map]
pub static CONFIG: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Interfaces that packets leave by.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.links")]
pub static LINKS: Written<Links> = Written(UnsafeCell::new(
    [Link {
        ifindex: 0,
        route_generation: 0,
        mac: [0; 6],
        mtu: 0,
        tags: [0; 2],
        zero: [0; 2],
    }; LINKS_MAX as usize],
));
/// Index into `LINKS`, plus one, by the kernel's index of the interface; 0: none.
#[map]
pub static LINK_OF: Array<u32> = Array::with_max_entries(IFINDEX_MAX + 1, 0);
/// Local addresses of IPv4, network byte order.
#[map]
pub static LOCALS: Array<u32> = Array::with_max_entries(LOCALS_MAX, 0);
/// Local addresses of IPv6.
#[map]
pub static LOCALS6: Array<Addr6> = Array::with_max_entries(LOCALS_MAX, 0);
/// Where entries of `LISTENERS` are, by the key's hash: two slots in an element, as the kernel makes each a multiple of
/// eight bytes.
#[map]
pub static LISTENER_SLOTS: Array<[u32; 2]> =
    Array::with_max_entries(listeners::SLOTS / 2, BPF_F_MMAPABLE);
/// Listeners: two entries for each number.
#[map]
pub static LISTENERS: Array<Entry> = Array::with_max_entries(listeners::ENTRIES, BPF_F_MMAPABLE);
/// Addresses of listeners, network byte order; IPv4 as mapped addresses.
#[map]
pub static VIPS: HashMap<[u32; 4], u32> = HashMap::with_max_entries(LISTENERS_MAX + 1, 0);
/// Datagrams of which the first fragment was seen.
#[map]
pub static FRAGMENTS: Array<FragmentSet> = Array::with_max_entries(FRAGMENT_SETS, 0);
/// How connection ids of QUIC are read, by pool and configuration. Memory is taken for those that there are.
#[map]
pub static QUIC_CONFIGS: HashMap<u32, QuicConfig> =
    HashMap::with_max_entries(QUIC_CONFIGS_MAX, BPF_F_NO_PREALLOC);
/// Backends by the ids that they put into connection ids.
#[map]
pub static QUIC_SERVERS: HashMap<QuicServerKey, u32> =
    HashMap::with_max_entries(QUIC_SERVERS_MAX, BPF_F_NO_PREALLOC);
/// The connection id that a core reads: one element.
#[map]
pub static QUIC_WORK: PerCpuArray<QuicWork> = PerCpuArray::with_max_entries(1, 0);
/// VLAN devices, by interface and tags.
#[map]
pub static VLANS: HashMap<VlanKey, u32> = HashMap::with_max_entries(VLANS_MAX, 0);
/// The tagged frame that a core works on: one element.
#[map]
pub static TAGGED: PerCpuArray<Tagged> = PerCpuArray::with_max_entries(1, 0);
/// Errors of ICMP that a core has sent: one element.
#[map]
pub static REFUSALS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);
/// Packets dropped, by reason.
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);
/// Counters of listeners by number.
#[map]
pub static LISTENER_COUNTERS: PerCpuArray<ListenerCounters> =
    PerCpuArray::with_max_entries(LISTENERS_MAX + 1, 0);
/// Counters of backends by number.
#[map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters> =
    PerCpuArray::with_max_entries(BACKENDS_MAX + 1, 0);
/// Each core's memory for a session of IPv4 that is being opened: one element.
#[map]
pub static OPENING4: PerCpuArray<Opening<V4>> = PerCpuArray::with_max_entries(1, 0);
/// The same for IPv6.
#[map]
pub static OPENING6: PerCpuArray<Opening<V6>> = PerCpuArray::with_max_entries(1, 0);
/// Events for user space.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
/// Jiffies and nanoseconds since boot, written by `weir_clock`.
#[map]
pub static CLOCK: Array<[u64; 2]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Cores that packets are handed to, by the kernel's number; sized by the loader, as the kernel takes no more than it has.
#[map]
pub static CORES: CpuMap = CpuMap::with_max_entries(1, 0);
/// Packets that a core has handed on, and those that it was handed.
#[map]
pub static SPREAD: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// What user space leaves for the next daemon: one element.
#[map]
pub static LAYOUT: Array<Layout> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Whose the numbers of listeners are.
#[map]
pub static LISTENER_RECORDS: Array<ListenerRecord> =
    Array::with_max_entries(LISTENERS_MAX + 1, BPF_F_MMAPABLE);
/// Whose the numbers of backends are.
#[map]
pub static BACKEND_RECORDS: Array<BackendRecord> =
    Array::with_max_entries(BACKENDS_MAX + 1, BPF_F_MMAPABLE);
/// Whose the indices into `LINKS` are.
#[map]
pub static LINK_RECORDS: Array<LinkRecord> = Array::with_max_entries(LINKS_MAX, BPF_F_MMAPABLE);

/// Where outer sources of IPv6 are taken from, by the listener's number.
#[map]
pub static TUNNEL_SOURCES: Array<[u32; 4]> = Array::with_max_entries(LISTENERS_MAX + 1, 0);

/// Addresses, network byte order and IPv4 as mapped, where tunnels end on a backend's machine.
#[map]
pub static TUNNEL_ENDS: HashMap<[u32; 4], u32> = HashMap::with_max_entries(1024, 0);
/// Packets taken out of tunnels: one element.
#[map]
pub static DECAPSULATED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Number of sets in `SESSIONS4`; set by the loader.
#[unsafe(no_mangle)]
pub static SETS: u32 = 0;
/// Number of sets in `SESSIONS6`; set by the loader.
#[unsafe(no_mangle)]
pub static SETS6: u32 = 0;
/// Jiffies for which the first fragment of a datagram is remembered; set by the loader.
#[unsafe(no_mangle)]
pub static FRAGMENT_TIMEOUT: u32 = 0;
/// Number of sets in `CLIENTS`; set by the loader.
#[unsafe(no_mangle)]
pub static CLIENT_SETS: u32 = 0;
/// Seed of the flow hash; set by the loader.
#[unsafe(no_mangle)]
pub static SEED: u64 = 0;
/// The port of GUE on a backend's machine, network byte order; set by the loader.
#[unsafe(no_mangle)]
pub static GUE_PORT: u16 = 0;
/// Cores that packets are spread over; set by the loader.
#[unsafe(no_mangle)]
pub static SPREAD_CORES: u32 = 1;
/// Their numbers; set by the loader.
#[unsafe(no_mangle)]
pub static SPREAD_TO: [u32; CORES_MAX] = [0; CORES_MAX];
