//! Programs of the benchmark. The generator writes the headers of one flow after the other into the buffer of a test
//! run and tail-calls the program under test: ours, an empty one (the generator's own cost), or a reference that
//! keeps sessions in the kernel's LRU hash map, as most load balancers do.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_map_update_elem, bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use weir_l4_common::checksum;
use weir_l4_common::frame::{Frame, Head};
use weir_l4_common::packet::{
    ETH_LEN, ETHERTYPE_IPV6, IPV6_LEN, TCP_HEAD, TCP_LEN, at, eth, ip6, l4,
};

/// What the generator writes of a flow. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// Source address, destination address, ports, as in the packet.
    pub src: u32,
    pub dst: u32,
    pub ports: u32,
    /// Checksums of IP and of TCP or UDP.
    pub ip_checksum: u16,
    pub l4_checksum: u16,
    /// IP protocol and TCP flags.
    pub proto: u8,
    pub flags: u8,
    pub length: u16,
    pub reserved: [u32; 3],
}

/// The same of IPv6, which has no checksum of its own. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow6 {
    /// Source address, destination address, ports, as in the packet.
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub ports: u32,
    pub l4_checksum: u16,
    /// Next header and TCP flags.
    pub proto: u8,
    pub flags: u8,
    pub length: u16,
    pub reserved: [u16; 3],
}

/// Where the generator is. It takes the flows in the order of the map, which the loader shuffles.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Index of the next flow.
    pub at: u32,
    /// Number of flows; after the last comes the first.
    pub count: u32,
    /// Bytes of a frame: what is longer is cut at the front before it is written again.
    pub frame_len: u32,
    /// Kernel's index of the interface that `bench_send` sends by, and the MAC address that it sends to.
    pub out: u32,
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}

/// Flows; sized by the loader.
#[map]
pub static FLOWS: Array<Flow> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Flows of IPv6; sized by the loader.
#[map]
pub static FLOWS6: Array<Flow6> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// One element.
#[map]
pub static PLAN: Array<Plan> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The program under test at 0.
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Key of the reference's session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReferenceKey {
    src: u32,
    dst: u32,
    ports: u32,
    proto: u32,
}

/// The reference's session: what FullNAT needs to rewrite a packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReferenceSession {
    new_src: u32,
    new_dst: u32,
    new_ports: u32,
    proto: u32,
    ip_delta: u16,
    l4_delta: u16,
    dst_mac: [u8; 6],
    src_mac: [u8; 6],
    last_seen: u64,
    packets: u64,
    bytes: u64,
}

/// The reference's sessions; sized by the loader.
#[map]
pub static REFERENCE: LruHashMap<ReferenceKey, ReferenceSession> =
    LruHashMap::with_max_entries(1, 0);

#[inline(always)]
fn frame(ctx: &XdpContext) -> Frame {
    // SAFETY: the verifier proves that every access is inside.
    unsafe { Frame::new(ctx.data() as *mut u8, ctx.data_end() as *mut u8) }
}

/// The index of the next flow; what a tunnel has put in front of the frame is taken off.
#[inline(always)]
fn next(ctx: &XdpContext) -> Option<u32> {
    let plan = PLAN.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the map, and one core uses it.
    unsafe {
        let at = (*plan).at;
        (*plan).at = if at + 1 >= (*plan).count { 0 } else { at + 1 };
        let length = frame(ctx).len() as u32;
        if length > (*plan).frame_len {
            bpf_xdp_adjust_head(ctx.ctx, (length - (*plan).frame_len) as i32);
        }
        Some(at)
    }
}

/// Writes the next flow's packet and calls the program under test.
///
/// What the program reads as one word is written as one: a processor hands a word on from its last store, but waits for
/// one that consists of several.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(flow) = next(&ctx).and_then(|at| FLOWS.get_ptr(at)) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(head) = frame(&ctx).head::<TCP_HEAD>() else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: as above.
    let flow = unsafe { &*flow };
    head.store::<{ at::ETHERTYPE }, u16>(0x0800u16.to_be());
    head.store::<{ at::IP_VERSION }, u16>(0x0045);
    head.store::<{ at::IP_LEN }, u16>(flow.length);
    head.store::<{ at::IP_ID }, u32>(0x0040_0000);
    head.store::<{ at::IP_TTL }, u16>(64 | u16::from(flow.proto) << 8);
    head.store::<{ at::IP_CHECKSUM }, u16>(flow.ip_checksum);
    // SAFETY: as above; both addresses are eight bytes in a row.
    let addresses = unsafe { (&raw const flow.src).cast::<u64>().read() };
    head.store::<{ at::IP_SRC }, u64>(addresses);
    head.store::<{ at::PORTS }, u32>(flow.ports);
    if flow.proto == 6 {
        head.store::<{ at::TCP_FLAGS - 1 }, u16>(0x50 | u16::from(flow.flags) << 8);
        head.store::<{ at::TCP_CHECKSUM }, u16>(flow.l4_checksum);
    } else {
        head.store::<{ at::UDP_CHECKSUM }, u16>(flow.l4_checksum);
    }
    // SAFETY: on success it does not return.
    unsafe { NEXT.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// The same for IPv6.
#[xdp]
pub fn bench_generate6(ctx: XdpContext) -> u32 {
    let Some(flow) = next(&ctx).and_then(|at| FLOWS6.get_ptr(at)) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(head) = frame(&ctx).head::<{ ETH_LEN + IPV6_LEN + TCP_LEN }>() else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the element lives as long as the map.
    let flow = unsafe { &*flow };
    head.store::<{ eth::TYPE }, u16>(ETHERTYPE_IPV6);
    let ip = head.part::<ETH_LEN, IPV6_LEN>();
    ip.store::<{ ip6::VERSION }, u32>(0x60);
    ip.store::<{ ip6::LEN }, u16>(flow.length);
    ip.store::<{ ip6::NEXT }, u8>(flow.proto);
    ip.store::<{ ip6::HOPS }, u8>(64);
    ip.store::<{ ip6::SRC }, u64>(flow.src[0]);
    ip.store::<{ ip6::SRC + 8 }, u64>(flow.src[1]);
    ip.store::<{ ip6::DST }, u64>(flow.dst[0]);
    ip.store::<{ ip6::DST + 8 }, u64>(flow.dst[1]);
    let tcp = head.part::<{ ETH_LEN + IPV6_LEN }, TCP_LEN>();
    tcp.store::<{ l4::PORTS }, u32>(flow.ports);
    tcp.store::<{ l4::TCP_FLAGS - 1 }, u16>(0x50 | u16::from(flow.flags) << 8);
    tcp.store::<{ l4::TCP_CHECKSUM }, u16>(flow.l4_checksum);
    // SAFETY: on success it does not return.
    unsafe { NEXT.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Packets that arrived at `bench_sink`.
#[map]
pub static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Sends the generator's packet by an interface.
#[xdp]
pub fn bench_send(ctx: XdpContext) -> u32 {
    let (Some(plan), Some(head)) = (PLAN.get_ptr(0), frame(&ctx).head::<14>()) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: as in the generator; the helper takes any index.
    unsafe {
        head.store_mac::<{ at::ETH_DST }>((*plan).mac);
        bpf_redirect((*plan).out, 0) as u32
    }
}

/// Counts a packet and drops it.
#[xdp]
pub fn bench_sink(_: XdpContext) -> u32 {
    if let Some(count) = SUNK.get_ptr_mut(0) {
        // SAFETY: this core's element; nobody else writes it.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

/// Answers a SYN as a server would, back the way it came; anything else is dropped.
#[xdp]
pub fn bench_answer(ctx: XdpContext) -> u32 {
    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    let Some(head) = frame(&ctx).head::<TCP_HEAD>() else {
        return xdp_action::XDP_DROP;
    };
    if head.load::<{ at::IP_VERSION }, u8>() != 0x45
        || head.load::<{ at::IP_PROTO }, u8>() != 6
        || head.load::<{ at::TCP_FLAGS }, u8>() != SYN
    {
        return xdp_action::XDP_DROP;
    }
    let (src, dst) = (
        head.load_mac::<{ at::ETH_SRC }>(),
        head.load_mac::<{ at::ETH_DST }>(),
    );
    head.store_mac::<{ at::ETH_SRC }>(dst);
    head.store_mac::<{ at::ETH_DST }>(src);
    // Turned round, the sums of the addresses and ports stay; the checksum is left wrong by the one flag more.
    let (src, dst) = (
        head.load::<{ at::IP_SRC }, u32>(),
        head.load::<{ at::IP_DST }, u32>(),
    );
    head.store::<{ at::IP_SRC }, u32>(dst);
    head.store::<{ at::IP_DST }, u32>(src);
    let ports = head.load::<{ at::PORTS }, u32>();
    head.store::<{ at::PORTS }, u32>(ports.rotate_left(16));
    head.store::<{ at::TCP_FLAGS }, u8>(SYN_ACK);
    xdp_action::XDP_TX
}

/// The empty program: what is left is the generator's own cost.
#[xdp]
pub fn bench_nothing(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

#[inline(always)]
fn reference_key(head: &Head<TCP_HEAD>) -> ReferenceKey {
    ReferenceKey {
        src: head.load::<{ at::IP_SRC }, u32>(),
        dst: head.load::<{ at::IP_DST }, u32>(),
        ports: head.load::<{ at::PORTS }, u32>(),
        proto: u32::from(head.load::<{ at::IP_PROTO }, u8>()),
    }
}

/// The reference: one lookup in an LRU hash map and the FullNAT rewrite that it holds; no services, no TCP states.
#[xdp]
pub fn bench_lru(ctx: XdpContext) -> u32 {
    let frame = frame(&ctx);
    let Some(head) = frame.head::<TCP_HEAD>() else {
        return xdp_action::XDP_PASS;
    };
    if head.load::<{ at::ETHERTYPE }, u16>() != 0x0800u16.to_be()
        || head.load::<{ at::IP_VERSION }, u8>() != 0x45
    {
        return xdp_action::XDP_PASS;
    }
    let Some(session) = REFERENCE.get_ptr_mut(reference_key(&head)) else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: the value stays valid while the program runs.
    unsafe {
        (*session).last_seen = bpf_jiffies64();
        (*session).packets += 1;
        (*session).bytes += frame.len() as u64;
        let ttl = head.load::<{ at::IP_TTL }, u8>();
        head.store::<{ at::IP_TTL }, u8>(ttl - 1);
        let old = head.load::<{ at::IP_CHECKSUM }, u16>();
        head.store::<{ at::IP_CHECKSUM }, u16>(checksum::apply(old, (*session).ip_delta));
        head.store::<{ at::IP_SRC }, u32>((*session).new_src);
        head.store::<{ at::IP_DST }, u32>((*session).new_dst);
        head.store::<{ at::PORTS }, u32>((*session).new_ports);
        let old = head.load::<{ at::TCP_CHECKSUM }, u16>();
        head.store::<{ at::TCP_CHECKSUM }, u16>(checksum::apply(old, (*session).l4_delta));
        head.store_mac::<{ at::ETH_DST }>((*session).dst_mac);
        head.store_mac::<{ at::ETH_SRC }>((*session).src_mac);
    }
    xdp_action::XDP_TX
}

/// One insertion into the reference's map: what a new session of one direction costs there.
#[xdp]
pub fn bench_lru_insert(ctx: XdpContext) -> u32 {
    let Some(head) = frame(&ctx).head::<TCP_HEAD>() else {
        return xdp_action::XDP_PASS;
    };
    let key = reference_key(&head);
    let session = ReferenceSession {
        new_src: key.dst,
        new_dst: key.src,
        new_ports: key.ports,
        proto: key.proto,
        ip_delta: key.dst as u16,
        l4_delta: key.src as u16,
        dst_mac: head.load_mac::<{ at::ETH_SRC }>(),
        src_mac: head.load_mac::<{ at::ETH_DST }>(),
        // SAFETY: no arguments.
        last_seen: unsafe { bpf_jiffies64() },
        packets: 1,
        bytes: u64::from(head.load::<{ at::IP_LEN }, u16>()),
    };
    // SAFETY: key and value are valid for the map's sizes.
    let answer = unsafe {
        bpf_map_update_elem(
            (&raw const REFERENCE).cast_mut().cast(),
            (&raw const key).cast(),
            (&raw const session).cast(),
            u64::from(BPF_ANY),
        )
    };
    if answer == 0 {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_ABORTED
    }
}
