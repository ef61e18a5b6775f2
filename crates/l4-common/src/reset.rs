//! The end of a TCP session that is not to go on: its client's packets are answered with a reset.

use crate::checksum::fold;
use crate::env::{Env, Verdict};
use crate::family::{V4, V6};
use crate::packet::{ETH_LEN, IPV4_LEN, IPV6_LEN, PROTO_TCP, TCP_LEN, eth, l4};
use crate::refusal::Refused;
use crate::session::{ACK, RST};

/// Length of the header, no options, and the flag of a reset; window and urgent pointer are zero.
const HEADER: u16 = u16::from_ne_bytes([(TCP_LEN as u8 / 4) << 4, RST]);

/// Turns a packet into the reset that answers it, sent back the way that it came: it has the sequence number that the
/// packet acknowledges, which is the one that the sender waits for (RFC 9293, section 3.10.7.1; RFC 5961, section 3.2). What
/// acknowledges nothing, and resets, are dropped. `HEAD` is the length of the headers of Ethernet and IP.
#[inline(always)]
pub fn answer<F: Refused, const HEAD: usize>(env: impl Env) -> Verdict {
    const { assert!(HEAD == ETH_LEN + F::IP_LEN) };
    let frame = env.frame();
    let Ok(packet) = F::parse(frame) else {
        return Verdict::Drop;
    };
    let Some(tcp) = packet.tcp() else {
        return Verdict::Drop;
    };
    if packet.flags & (ACK | RST) != ACK {
        return Verdict::Drop;
    }
    let (from, to) = (packet.key.dst, packet.key.src);
    let ports = packet.key.ports.rotate_left(16);
    let sequence = tcp.load::<{ l4::TCP_ACK }, u32>();
    let (here, there) = (
        packet.eth.load_mac::<{ eth::DST }>(),
        packet.eth.load_mac::<{ eth::SRC }>(),
    );
    let surplus = frame.len().wrapping_sub(HEAD + TCP_LEN);
    if surplus > 0xffff || surplus != 0 && !env.shorten(surplus as u32) {
        return Verdict::Drop;
    }
    let frame = env.frame();
    let (Some(head), Some(ip), Some(tcp)) = (
        frame.head::<HEAD>(),
        F::ip_at(&frame, ETH_LEN),
        frame.part::<TCP_LEN>(HEAD),
    ) else {
        return Verdict::Drop;
    };
    head.store_mac::<{ eth::DST }>(there);
    head.store_mac::<{ eth::SRC }>(here);
    F::write(&ip, from, to, PROTO_TCP, TCP_LEN);
    let fixed = u64::from(ports) + u64::from(sequence) + u64::from(HEADER);
    tcp.store::<{ l4::PORTS }, u32>(ports);
    tcp.store::<{ l4::TCP_SEQUENCE }, u32>(sequence);
    tcp.store::<{ l4::TCP_ACK }, u32>(0);
    tcp.store::<{ l4::TCP_OFFSET }, u16>(HEADER);
    tcp.store::<{ l4::TCP_WINDOW }, u16>(0);
    tcp.store::<{ l4::TCP_URGENT }, u16>(0);
    let checksum = !fold(F::sum_beside(from, to, PROTO_TCP, TCP_LEN) + fixed);
    tcp.store::<{ l4::TCP_CHECKSUM }, u16>(checksum);
    Verdict::Transmit
}

/// [`answer`] for IPv4.
#[inline(always)]
pub fn answer4(env: impl Env) -> Verdict {
    answer::<V4, { ETH_LEN + IPV4_LEN }>(env)
}

/// [`answer`] for IPv6.
#[inline(always)]
pub fn answer6(env: impl Env) -> Verdict {
    answer::<V6, { ETH_LEN + IPV6_LEN }>(env)
}
