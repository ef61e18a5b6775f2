//! Spreading over cores: where an interface has one queue, all its packets come in on one core, which hands each on to the
//! core that its flow's hash names.

use crate::env::Env;
use crate::family::{Family, V4, V6};
use crate::frame::Frame;
use crate::hash::FlowKey;
use crate::packet::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, eth};
use crate::parse::Other;
use crate::vlan::{TAG_LEN, is_tag};
use crate::walk::{Walked, is_of};

/// Cores that packets are spread over, at most. Handing on a packet costs the receiving core about as much as sending it:
/// one core cannot feed more.
pub const CORES_MAX: usize = 256;

/// Elements of the map `SPREAD`, which counts on each core: packets that it has handed on…
pub const HANDED: u32 = 0;
/// …and packets that it was handed and has looked at. What is missing was lost, as a core's queue was full.
pub const TAKEN: u32 = 1;

/// The hash by which a packet is spread: the one that finds its session line, so that the core has the part of the table
/// that the line is in, and the local port puts the answers into the same part. Fragments, packets with options or
/// extension headers, ICMP, and frames with tags go by their addresses alone: those of one datagram all have these, and
/// stay in their order. `None`: what layer 4 does not look at.
#[inline(always)]
pub fn hash(env: impl Env) -> Option<u64> {
    let frame = env.frame();
    let seed = env.seed();
    match V4::parse(frame) {
        Ok(packet) => return Some(packet.key.hash(seed)),
        Err(Other::NotIpv4) => match V6::parse(frame) {
            Ok(packet) => return Some(packet.key.hash(seed)),
            Err(Other::Foreign) if is_of::<V6>(&frame) => return None,
            Err(_) => {}
        },
        Err(Other::Foreign) => return None,
        Err(Other::Icmp | Other::Unusual | Other::Malformed) => {}
    }
    let head = frame.head::<{ ETH_LEN + TAG_LEN }>()?;
    let ethertype = head.load::<{ eth::TYPE }, u16>();
    if !is_tag(ethertype) {
        return by_addresses::<0>(&frame, ethertype, seed);
    }
    let behind = head.load::<{ eth::TYPE + TAG_LEN }, u16>();
    if !is_tag(behind) {
        return by_addresses::<TAG_LEN>(&frame, behind, seed);
    }
    let head = frame.head::<{ ETH_LEN + 2 * TAG_LEN }>()?;
    let behind = head.load::<{ eth::TYPE + 2 * TAG_LEN }, u16>();
    by_addresses::<{ 2 * TAG_LEN }>(&frame, behind, seed)
}

/// The hash of the addresses in the IP header behind `TAGS` bytes of tags.
#[inline(always)]
fn by_addresses<const TAGS: usize>(frame: &Frame, ethertype: u16, seed: u64) -> Option<u64> {
    match ethertype {
        ETHERTYPE_IPV4 => of_addresses::<V4>(frame, ETH_LEN + TAGS, seed),
        ETHERTYPE_IPV6 => of_addresses::<V6>(frame, ETH_LEN + TAGS, seed),
        _ => None,
    }
}

#[inline(always)]
fn of_addresses<F: Walked>(frame: &Frame, at: usize, seed: u64) -> Option<u64> {
    let (src, dst) = F::addresses(&F::ip_at(frame, at)?);
    let key = FlowKey::<F> {
        src,
        dst,
        ports: 0,
        udp: false,
    };
    Some(key.hash(seed))
}
