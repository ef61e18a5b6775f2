//! The kernel as the packet logic's [`Env`].

use core::ffi::c_void;
use core::mem;

use aya_ebpf::bindings::{bpf_fib_lookup, xdp_action, xdp_md};
use aya_ebpf::helpers::{
    bpf_fib_lookup as fib_lookup, bpf_jiffies64, bpf_redirect, bpf_xdp_adjust_head,
    bpf_xdp_adjust_tail,
};
use aya_ebpf::programs::XdpContext;
use weir_l4_common::client::{self, ClientSet, Pool};
use weir_l4_common::drop::Drop;
use weir_l4_common::env::{Env, NextHop, Verdict};
use weir_l4_common::event::Event;
use weir_l4_common::family::{Addr6, V4, V6};
use weir_l4_common::fragment::FragmentSet;
use weir_l4_common::frame::Frame;
use weir_l4_common::hash::{FlowKey4, FlowKey6};
use weir_l4_common::link::Link;
use weir_l4_common::listeners::{self, Entry};
use weir_l4_common::load::{self, Load};
use weir_l4_common::open::Opening;
use weir_l4_common::quic::{self, QuicConfig, QuicServerKey, QuicWork};
use weir_l4_common::refusal::{self, Budget, Refusal};
use weir_l4_common::reset;
use weir_l4_common::service::{
    Backend, BackendCounters, Listener, ListenerCounters, ListenerKey, Settings, mapped,
};
use weir_l4_common::session::{Set4, Set6};
use weir_l4_common::vlan::{Tagged, Tags, VlanKey};
use weir_l4_common::{across, checksum, mss, open, table, unusual, vlan, walk};

use crate::maps;

/// `AF_INET` of the kernel's socket interface.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS` (include/uapi/linux/bpf.h).
const FIB_SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`.
const FIB_NO_NEIGHBOUR: i64 = 7;

/// One packet in the kernel. With `TAGS` it may have come with tags; what plain packets do does not look.
#[derive(Clone, Copy)]
pub struct Kernel<const TAGS: bool = false> {
    ctx: *mut xdp_md,
}

impl Kernel {
    /// For what looks at maps alone.
    const WITHOUT_PACKET: Self = Self {
        ctx: core::ptr::null_mut(),
    };

    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }
}

impl<const TAGS: bool> Kernel<TAGS> {
    #[inline(always)]
    pub fn frame(&self) -> Frame {
        // SAFETY: the context is the kernel's, and its driver owns the packet's memory while the program runs; the
        // verifier proves that every access is inside. Volatile: else the fields would be passed to functions in place
        // of the context, as integers, and the verifier would no longer know that they are addresses.
        unsafe {
            let start = (&raw const (*self.ctx).data).read_volatile() as usize;
            let end = (&raw const (*self.ctx).data_end).read_volatile() as usize;
            Frame::new(start as *mut u8, end as *mut u8)
        }
    }

    #[inline(always)]
    pub fn move_start(&self, bytes: i32) -> bool {
        // SAFETY: the helper checks room; pointers into the old packet are not used after it, or the verifier refuses.
        unsafe { bpf_xdp_adjust_head(self.ctx, bytes) == 0 }
    }
}

/// The action for a verdict.
#[inline(always)]
pub fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        // Nothing is left undecided.
        Verdict::Drop | Verdict::Across { .. } => xdp_action::XDP_DROP,
        Verdict::Transmit => xdp_action::XDP_TX,
        // SAFETY: the helper takes any interface index; one that is gone drops the packet.
        Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// The number of a flow's line. A global function: the verifier looks at it once, and not wherever a flow is looked for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_find4(addresses: u64, ports: u64, hash: u64) -> u32 {
    let key = FlowKey4 {
        src: addresses as u32,
        dst: (addresses >> 32) as u32,
        ports: ports as u32,
        udp: ports >> 32 != 0,
    };
    let kernel: Kernel = Kernel {
        ctx: core::ptr::null_mut(),
    };
    table::number(kernel, &key, hash)
}

/// The same for IPv6. The hash is worked out again: a BPF function takes five arguments.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_find6(
    src_high: u64,
    src_low: u64,
    dst_high: u64,
    dst_low: u64,
    ports: u64,
) -> u32 {
    let key = FlowKey6 {
        src: Addr6 {
            high: src_high,
            low: src_low,
        },
        dst: Addr6 {
            high: dst_high,
            low: dst_low,
        },
        ports: ports as u32,
        udp: ports >> 32 != 0,
    };
    let kernel: Kernel = Kernel {
        ctx: core::ptr::null_mut(),
    };
    table::number(kernel, &key, key.hash(kernel.seed()))
}

/// [`load::least`]. A global function, as above; so are those that follow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_least(base: u32, len: u32, start: u32) -> u32 {
    u32::from(load::least(Kernel::WITHOUT_PACKET, base, len, start))
}

/// [`load::lighter_of_two`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_lighter_of_two(base: u32, len: u32, random: u64) -> u32 {
    u32::from(load::lighter_of_two(
        Kernel::WITHOUT_PACKET,
        base,
        len,
        random,
    ))
}

/// [`client::known`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_known_client(tag: u64, pool: u64, now: u32) -> u32 {
    u32::from(client::known(Kernel::WITHOUT_PACKET, tag, pool, now))
}

/// [`client::remember`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_remember_client(tag: u64, word: u64, now: u32) -> u32 {
    client::remember(Kernel::WITHOUT_PACKET, tag, word, now);
    0
}

/// Where the entry of a listener is; 0: there is no such listener. A global function, as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_listener(upper: u64, lower: u64, service: u64) -> u32 {
    let key = ListenerKey {
        addr: [
            upper as u32,
            (upper >> 32) as u32,
            lower as u32,
            (lower >> 32) as u32,
        ],
        port: service as u16,
        proto: (service >> 16) as u8,
        zero: 0,
    };
    let kernel: Kernel = Kernel {
        ctx: core::ptr::null_mut(),
    };
    listeners::find(kernel, &key)
}

/// Decides on IPv4 packets that are not plain. A global function: the verifier looks at it once, apart from the plain
/// ones' way.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_unusual4(ctx: *mut xdp_md) -> u64 {
    unusual::packet::<V4>(Kernel::<true> { ctx })
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_unusual6(ctx: *mut xdp_md) -> u64 {
    unusual::packet::<V6>(Kernel::<true> { ctx })
}

/// Walks the headers of IPv6. A global function, as those above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_walk6(ctx: *mut xdp_md, offset: u32) -> u64 {
    walk::headers6(&Kernel::<true> { ctx }.frame(), offset as usize & 0xff)
}

/// Sums a part of the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_sum(ctx: *mut xdp_md, from: u32, to: u32) -> u32 {
    checksum::range(&Kernel::<true> { ctx }.frame(), from, to)
}

/// Lowers a maximum segment size.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_clamp(ctx: *mut xdp_md, tcp: u32, max: u32) -> u64 {
    mss::clamp(
        Kernel::<true> { ctx }.frame(),
        tcp as usize & 0xff,
        max as u16,
    );
    0
}

/// Makes an IPv4 packet one of IPv6. Global functions, as those above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across4(ctx: *mut xdp_md) -> u64 {
    across::translate::<V4>(Kernel::<true> { ctx })
}

/// The other way round.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across6(ctx: *mut xdp_md) -> u64 {
    across::translate::<V6>(Kernel::<true> { ctx })
}

/// Makes an error of IPv4's ICMP one of IPv6's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across_error4(ctx: *mut xdp_md) -> u64 {
    across::error::<V4>(Kernel::<true> { ctx })
}

/// The other way round.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across_error6(ctx: *mut xdp_md) -> u64 {
    across::error::<V6>(Kernel::<true> { ctx })
}

/// Opens a session of an IPv4 client with a backend of IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across_open4(ctx: *mut xdp_md) -> u64 {
    open::across::session::<V4>(Kernel::<true> { ctx })
}

/// The other way round.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_across_open6(ctx: *mut xdp_md) -> u64 {
    open::across::session::<V6>(Kernel::<true> { ctx })
}

/// Sends an error about an IPv4 packet. A global function, too.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_refuse4(ctx: *mut xdp_md, source: u32, refusal: u32) -> u64 {
    refusal::send4(Kernel::<true> { ctx }, source, Refusal::from_bits(refusal)).bits()
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_refuse6(ctx: *mut xdp_md, high: u64, low: u64, refusal: u32) -> u64 {
    let source = Addr6 { high, low };
    refusal::send6(Kernel::<true> { ctx }, source, Refusal::from_bits(refusal)).bits()
}

/// The number of the backend that a datagram's connection id names; 0: none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_quic_backend(ctx: *mut xdp_md, pool: u32, udp: u32) -> u32 {
    quic::backend(Kernel::<true> { ctx }, pool as u16, udp as usize).map_or(0, u32::from)
}

/// Decrypts the connection id that is worked on. A function of its own, as the stack has no room for both.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_quic_decrypt(key: u32) -> u32 {
    let kernel: Kernel = Kernel {
        ctx: core::ptr::null_mut(),
    };
    quic::decrypt_id(kernel, key);
    0
}

/// Takes the tags off a frame of a VLAN device; what is next, as bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_take_tags_off(ctx: *mut xdp_md) -> u64 {
    vlan::take_off(Kernel::<true> { ctx })
}

/// Ends the work on a frame that may have had tags; the verdict, as bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_finish_tagged(ctx: *mut xdp_md, verdict: u64) -> u64 {
    vlan::finish(Kernel::<true> { ctx }, Verdict::from_bits(verdict)).bits()
}

/// Sends a frame with tags; the verdict, as bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_send_tagged(ctx: *mut xdp_md, ifindex: u32, outer: u32, inner: u32) -> u64 {
    vlan::send(Kernel::<true> { ctx }, ifindex, [outer, inner]).bits()
}

/// Answers an IPv4 packet with a reset. A global function, too.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_reset4(ctx: *mut xdp_md) -> u64 {
    reset::answer4(Kernel::<true> { ctx }).bits()
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_reset6(ctx: *mut xdp_md) -> u64 {
    reset::answer6(Kernel::<true> { ctx }).bits()
}

impl<const TAGS: bool> Env for Kernel<TAGS> {
    #[inline(always)]
    fn frame(&self) -> Frame {
        self.frame()
    }

    #[inline(always)]
    fn move_start(&self, bytes: i32) -> bool {
        self.move_start(bytes)
    }

    #[inline(always)]
    fn shorten(&self, bytes: u32) -> bool {
        // SAFETY: the helper checks the length; pointers into the old packet are not used after it.
        unsafe { bpf_xdp_adjust_tail(self.ctx, (bytes as i32).wrapping_neg()) == 0 }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        if TAGS && let Some(cell) = maps::TAGGED.get_ptr(0) {
            // SAFETY: this core's element; nobody else writes it.
            let device = unsafe { (*cell).device };
            if device != 0 {
                return device;
            }
        }
        self.port_ifindex()
    }

    #[inline(always)]
    fn tag_aware(&self) -> impl Env {
        Kernel::<true> { ctx: self.ctx }
    }

    #[inline(always)]
    fn vlan(&self, key: &VlanKey) -> Option<u32> {
        // SAFETY: the value is copied at once.
        unsafe { maps::VLANS.get(key).copied() }
    }

    #[inline(always)]
    fn tagged(&self) -> Option<*mut Tagged> {
        maps::TAGGED.get_ptr_mut(0)
    }

    #[inline(always)]
    fn take_tags_off(&self) -> u64 {
        weir_take_tags_off(self.ctx)
    }

    #[inline(always)]
    fn finish_tagged(&self, verdict: Verdict) -> Verdict {
        Verdict::from_bits(weir_finish_tagged(self.ctx, verdict.bits()))
    }

    #[inline(always)]
    fn send_tagged(&self, ifindex: u32, [outer, inner]: Tags) -> Verdict {
        Verdict::from_bits(weir_send_tagged(self.ctx, ifindex, outer, inner))
    }

    #[inline(always)]
    fn port_ifindex(&self) -> u32 {
        let md: *const xdp_md = self.ctx;
        // SAFETY: the context is the kernel's; the verifier turns this load into the right one.
        unsafe { (&raw const (*md).ingress_ifindex).read_volatile() }
    }

    #[inline(always)]
    fn jiffies(&self) -> u32 {
        // SAFETY: no arguments; inlined by the verifier into a load (kernel/bpf/verifier.c, do_misc_fixups).
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn seed(&self) -> u64 {
        // SAFETY: a read-only map of the program; volatile, as the loader sets the value after it was compiled.
        unsafe { (&raw const maps::SEED).read_volatile() }
    }

    #[inline(always)]
    fn sets4(&self) -> u32 {
        // SAFETY: as for the seed.
        unsafe { (&raw const maps::SETS).read_volatile() }
    }

    #[inline(always)]
    fn sets6(&self) -> u32 {
        // SAFETY: as for the seed.
        unsafe { (&raw const maps::SETS6).read_volatile() }
    }

    #[inline(always)]
    fn set4(&self, index: u32) -> Option<*mut Set4> {
        maps::SESSIONS4.get_ptr_mut(index)
    }

    #[inline(always)]
    fn set6(&self, index: u32) -> Option<*mut Set6> {
        maps::SESSIONS6.get_ptr_mut(index)
    }

    #[inline(always)]
    fn find4(&self, key: &FlowKey4, hash: u64) -> u32 {
        weir_find4(
            key.addresses(),
            u64::from(key.ports) | u64::from(key.udp) << 32,
            hash,
        )
    }

    #[inline(always)]
    fn find6(&self, key: &FlowKey6, _: u64) -> u32 {
        let (src, dst) = (key.src, key.dst);
        let ports = u64::from(key.ports) | u64::from(key.udp) << 32;
        weir_find6(src.high, src.low, dst.high, dst.low, ports)
    }

    #[inline(always)]
    fn opening4(&self) -> Option<*mut Opening<V4>> {
        maps::OPENING4.get_ptr_mut(0)
    }

    #[inline(always)]
    fn opening6(&self) -> Option<*mut Opening<V6>> {
        maps::OPENING6.get_ptr_mut(0)
    }

    #[inline(always)]
    fn unusual4(&self) -> u64 {
        weir_unusual4(self.ctx)
    }

    #[inline(always)]
    fn unusual6(&self) -> u64 {
        weir_unusual6(self.ctx)
    }

    #[inline(always)]
    fn walk6(&self, offset: u32) -> u64 {
        weir_walk6(self.ctx, offset)
    }

    #[inline(always)]
    fn sum(&self, from: u32, to: u32) -> u32 {
        weir_sum(self.ctx, from, to)
    }

    #[inline(always)]
    fn clamp(&self, tcp: u32, max: u16) {
        weir_clamp(self.ctx, tcp, u32::from(max));
    }

    #[inline(always)]
    fn across4(&self) -> u64 {
        weir_across4(self.ctx)
    }

    #[inline(always)]
    fn across6(&self) -> u64 {
        weir_across6(self.ctx)
    }

    #[inline(always)]
    fn across_error4(&self) -> u64 {
        weir_across_error4(self.ctx)
    }

    #[inline(always)]
    fn across_error6(&self) -> u64 {
        weir_across_error6(self.ctx)
    }

    #[inline(always)]
    fn across_open4(&self) -> u64 {
        weir_across_open4(self.ctx)
    }

    #[inline(always)]
    fn across_open6(&self) -> u64 {
        weir_across_open6(self.ctx)
    }

    #[inline(always)]
    fn refuse4(&self, source: u32, refusal: Refusal) -> u64 {
        weir_refuse4(self.ctx, source, refusal.bits())
    }

    #[inline(always)]
    fn refuse6(&self, source: Addr6, refusal: Refusal) -> u64 {
        weir_refuse6(self.ctx, source.high, source.low, refusal.bits())
    }

    #[inline(always)]
    fn reset4(&self) -> u64 {
        weir_reset4(self.ctx)
    }

    #[inline(always)]
    fn reset6(&self) -> u64 {
        weir_reset6(self.ctx)
    }

    #[inline(always)]
    fn fragments(&self, index: u32) -> Option<*mut FragmentSet> {
        maps::FRAGMENTS.get_ptr_mut(index)
    }

    #[inline(always)]
    fn fragment_timeout(&self) -> u32 {
        // SAFETY: as for the seed.
        unsafe { (&raw const maps::FRAGMENT_TIMEOUT).read_volatile() }
    }

    #[inline(always)]
    fn refusals(&self) -> Option<*mut Budget> {
        maps::REFUSALS.get_ptr_mut(0)
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        // SAFETY: an array element lives as long as the map.
        maps::CONFIG
            .get_ptr(0)
            .map_or(Settings::default(), |settings| unsafe {
                settings.read_volatile()
            })
    }

    #[inline(always)]
    fn link(&self, index: u32) -> Option<&'static Link> {
        // SAFETY: inside the variable, as the index has six bits; user space replaces a link while it is read at worst, and
        // every value of it is a link.
        Some(unsafe { &*maps::LINKS.0.get().cast::<Link>().add(index as usize & 63) })
    }

    #[inline(always)]
    fn link_of(&self, ifindex: u32) -> Option<u8> {
        // SAFETY: as for the settings.
        let link = maps::LINK_OF
            .get_ptr(ifindex)
            .map(|link| unsafe { *link })?;
        (link as u8).checked_sub(1)
    }

    #[inline(always)]
    fn listener(&self, key: &ListenerKey) -> Option<&'static Listener> {
        let [a, b, c, d] = key.addr;
        let upper = u64::from(a) | u64::from(b) << 32;
        let lower = u64::from(c) | u64::from(d) << 32;
        let place = weir_listener(
            upper,
            lower,
            u64::from(key.port) | u64::from(key.proto) << 16,
        );
        if place == 0 {
            return None;
        }
        // SAFETY: an array element lives as long as the map. It is not written while a slot leads to it, nor for far
        // longer than a packet takes after that.
        maps::LISTENERS
            .get_ptr(place)
            .map(|entry| unsafe { &(*entry).listener })
    }

    #[inline(always)]
    fn is_vip(&self, addr: &[u32; 4]) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { maps::VIPS.get(addr).is_some() }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u16> {
        let element = maps::SCHEDULE.get_ptr(index >> 2)?;
        // SAFETY: an array element lives as long as the map; the lane is inside it.
        Some(unsafe {
            element
                .cast::<u16>()
                .add(index as usize & 3)
                .read_volatile()
        })
    }

    #[inline(always)]
    fn backend(&self, number: u16) -> Option<Backend> {
        let backend = maps::BACKENDS.get_ptr(u32::from(number))?.cast::<u64>();
        // SAFETY: an array element lives as long as the map; the words are read as they are written, whole.
        let words = unsafe {
            [
                backend.read_volatile(),
                backend.add(1).read_volatile(),
                backend.add(2).read_volatile(),
                backend.add(3).read_volatile(),
            ]
        };
        // SAFETY: the same 32 bytes; every bit pattern is a backend.
        Some(unsafe { mem::transmute::<[u64; 4], Backend>(words) })
    }

    #[inline(always)]
    fn load(&self, number: u16) -> Option<*mut Load> {
        maps::LOADS.get_ptr_mut(u32::from(number))
    }

    #[inline(always)]
    fn least(&self, base: u32, len: u32, start: u32) -> u16 {
        weir_least(base, len, start) as u16
    }

    #[inline(always)]
    fn lighter_of_two(&self, base: u32, len: u32, random: u64) -> u16 {
        weir_lighter_of_two(base, len, random) as u16
    }

    #[inline(always)]
    fn pool(&self, number: u32) -> Option<*const Pool> {
        maps::POOLS.get_ptr(number)
    }

    #[inline(always)]
    fn client_sets(&self) -> u32 {
        // SAFETY: as for the seed.
        unsafe { (&raw const maps::CLIENT_SETS).read_volatile() }
    }

    #[inline(always)]
    fn clients(&self, set: u32) -> Option<*mut ClientSet> {
        maps::CLIENTS.get_ptr_mut(set)
    }

    #[inline(always)]
    fn known_client(&self, tag: u64, pool: u64, now: u32) -> u16 {
        weir_known_client(tag, pool, now) as u16
    }

    #[inline(always)]
    fn remember_client(&self, tag: u64, word: u64, now: u32) {
        weir_remember_client(tag, word, now);
    }

    #[inline(always)]
    fn local4(&self, index: u32) -> Option<u32> {
        // SAFETY: as for the settings.
        maps::LOCALS.get_ptr(index).map(|local| unsafe { *local })
    }

    #[inline(always)]
    fn local6(&self, index: u32) -> Option<Addr6> {
        // SAFETY: as for the settings.
        maps::LOCALS6.get_ptr(index).map(|local| unsafe { *local })
    }

    #[inline(always)]
    fn tunnel_source(&self, listener: u16) -> Option<[u32; 4]> {
        // SAFETY: as for the settings.
        maps::TUNNEL_SOURCES
            .get_ptr(u32::from(listener))
            .map(|source| unsafe { *source })
    }

    #[inline(always)]
    fn quic_config(&self, key: u32) -> Option<*const QuicConfig> {
        maps::QUIC_CONFIGS.get_ptr(key)
    }

    #[inline(always)]
    fn quic_work(&self) -> Option<*mut QuicWork> {
        maps::QUIC_WORK.get_ptr_mut(0)
    }

    #[inline(always)]
    fn quic_decrypt(&self, key: u32) {
        weir_quic_decrypt(key);
    }

    #[inline(always)]
    fn quic_server(&self, key: &QuicServerKey) -> Option<u16> {
        // SAFETY: the value is copied at once.
        unsafe { maps::QUIC_SERVERS.get(key).map(|number| *number as u16) }
    }

    #[inline(always)]
    fn quic_backend(&self, pool: u16, udp: u32) -> u32 {
        weir_quic_backend(self.ctx, pool.into(), udp)
    }

    #[inline(always)]
    fn listener_counters(&self, number: u16) -> Option<*mut ListenerCounters> {
        maps::LISTENER_COUNTERS.get_ptr_mut(u32::from(number))
    }

    #[inline(always)]
    fn backend_counters(&self, number: u16) -> Option<*mut BackendCounters> {
        maps::BACKEND_COUNTERS.get_ptr_mut(u32::from(number))
    }

    #[inline(always)]
    fn count_drop(&self, reason: Drop) {
        if let Some(count) = maps::DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: this core's element; nobody else writes it.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn tell(&self, event: Event) {
        // A full ring loses the event: what it asks for will be asked again.
        let _ = maps::EVENTS.output::<Event>(event, 0);
    }

    #[inline(always)]
    fn next_hop4(&self, src: u32, dst: u32) -> NextHop {
        self.next_hop(|params| {
            params.family = AF_INET;
            params.__bindgen_anon_3.ipv4_src = src;
            params.__bindgen_anon_4.ipv4_dst = dst;
        })
    }

    #[inline(always)]
    fn next_hop6(&self, src: Addr6, dst: Addr6) -> NextHop {
        self.next_hop(|params| {
            params.family = AF_INET6;
            params.__bindgen_anon_3.ipv6_src = src.words();
            params.__bindgen_anon_4.ipv6_dst = dst.words();
        })
    }
}

impl<const TAGS: bool> Kernel<TAGS> {
    /// The kernel's next hop for what `ask` writes into the question.
    #[inline(always)]
    fn next_hop(&self, ask: impl FnOnce(&mut bpf_fib_lookup)) -> NextHop {
        // SAFETY: all fields are integers; zero is right for those that are not set.
        let mut params: bpf_fib_lookup = unsafe { mem::zeroed() };
        params.ifindex = self.ingress_ifindex();
        ask(&mut params);
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: context and parameters are valid, and the size is theirs.
        let answer = unsafe { fib_lookup(self.ctx.cast::<c_void>(), &raw mut params, size, 0) };
        match answer {
            FIB_SUCCESS => NextHop::Found {
                ifindex: params.ifindex,
                mac: params.dmac,
            },
            // A route of IPv4 may lead through a neighbour of IPv6; the kernel sets the family then.
            FIB_NO_NEIGHBOUR => {
                // SAFETY: with this answer the kernel has put the next hop's address here, of the family that it says.
                let addr = unsafe {
                    if params.family == AF_INET {
                        mapped(params.__bindgen_anon_4.ipv4_dst)
                    } else {
                        params.__bindgen_anon_4.ipv6_dst
                    }
                };
                NextHop::NoNeighbour {
                    ifindex: params.ifindex,
                    addr,
                }
            }
            _ => NextHop::None,
        }
    }
}

impl<const TAGS: bool> listeners::Table for Kernel<TAGS> {
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        let element = maps::LISTENER_SLOTS.get_ptr(index >> 1)?.cast::<u32>();
        // SAFETY: an array element lives as long as the map; the lane is inside it.
        Some(unsafe { element.add(index as usize & 1).read_volatile() })
    }

    #[inline(always)]
    fn entry(&self, place: u32) -> Option<*const Entry> {
        maps::LISTENERS.get_ptr(place)
    }
}
