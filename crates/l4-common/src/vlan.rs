//! VLAN tags, one or two (IEEE 802.1Q, clause 9): a tagged frame loses its tags, goes the way of packets that are not plain,
//! and leaves with those of the link that it leaves by.
//!
//! Which frames are whose is the kernel's to say: a frame belongs to the VLAN device that the kernel has for its
//! interface and tags, and is not ours if there is none. The device is what routes and links name; while a frame of it is
//! worked on, it stands in a cell of the core's, since little of the way asks where a frame came in by.

use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Family, V4, V6};
use crate::forward::{UNUSUAL4, UNUSUAL6};
use crate::frame::Frame;
use crate::packet::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, eth};
use crate::parse::Other;
use crate::ping;

/// Tag protocol identifiers: of the only or inner tag, and of the outer one of two (802.1ad).
pub const TPID_CUSTOMER: u16 = 0x8100u16.to_be();
/// As above.
pub const TPID_SERVICE: u16 = 0x88a8u16.to_be();
/// A single tag that names no VLAN, but only a priority (IEEE 802.1Q, clause 9.6): the frame is the interface's own.
const NO_VLAN: Tags = [u32::from_ne_bytes([0x81, 0, 0, 0]), 0];
/// VLAN devices that a node can have: all that one interface can have with one tag.
pub const VLANS_MAX: u32 = 4096;
/// Bytes of a tag.
pub const TAG_LEN: usize = 4;
/// The bits of a tag that name the VLAN; the others are priority and eligibility to be dropped.
const VLAN_ID: u32 = u32::from_ne_bytes([0xff, 0xff, 0x0f, 0xff]);

/// The tags of a frame or a link, the outer one first, each as it lies in the frame; 0: there is none.
pub type Tags = [u32; 2];

/// What a VLAN device is looked up by in the map `VLANS`. 12 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanKey {
    /// Kernel's index of the interface that tagged frames come in by.
    pub ifindex: u32,
    /// The tags, without priorities.
    pub tags: Tags,
}

/// The tagged frame that a core is working on: the element of the per-core map `TAGGED`. 12 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// Kernel's index of the VLAN device; 0: the frame has no tags.
    pub device: u32,
    /// The frame's tags.
    pub tags: Tags,
}

/// Whether an EtherType, as it lies in the frame, announces a tag.
#[inline(always)]
pub(crate) fn is_tag(ethertype: u16) -> bool {
    ethertype == TPID_CUSTOMER || ethertype == TPID_SERVICE
}

/// The tag of a VLAN, as it lies in the frame.
pub fn tag(tpid_be: u16, vlan_id: u16) -> u32 {
    let [a, b] = tpid_be.to_ne_bytes();
    let [c, d] = (vlan_id & 0xfff).to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Whether a frame has tags.
#[inline(always)]
pub(crate) fn has_tags(frame: &Frame) -> bool {
    let head = frame.head::<{ ETH_LEN + TAG_LEN }>();
    head.is_some_and(|head| is_tag(head.load::<{ eth::TYPE }, u16>()))
}

/// The tags of a frame, if it has some, and an EtherType behind them.
#[inline(always)]
fn read(env: impl Env) -> Option<Tags> {
    let frame = env.frame();
    let head = frame.head::<{ ETH_LEN + TAG_LEN }>()?;
    if !is_tag(head.load::<{ eth::TYPE }, u16>()) {
        return None;
    }
    let outer = head.load::<{ eth::TYPE }, u32>();
    if !is_tag(head.load::<16, u16>()) {
        return Some([outer, 0]);
    }
    let head = frame.head::<{ ETH_LEN + 2 * TAG_LEN }>()?;
    // Three tags are nobody's.
    (!is_tag(head.load::<20, u16>())).then(|| [outer, head.load::<16, u32>()])
}

/// Takes the tags off a frame of a VLAN device, and notes whose it is. What is next, as bits: a verdict, or
/// [`UNUSUAL4`] or [`UNUSUAL6`], after which [`finish`] is called.
#[inline(always)]
pub fn take_off(env: impl Env) -> u64 {
    let (Some(tags), Some(cell)) = (read(env), env.tagged()) else {
        return Verdict::Pass.bits();
    };
    let ifindex = env.port_ifindex();
    let named = [tags[0] & VLAN_ID, tags[1] & VLAN_ID];
    let device = if named == NO_VLAN {
        Some(ifindex)
    } else {
        env.vlan(&VlanKey {
            ifindex,
            tags: named,
        })
    };
    let Some(device) = device else {
        return Verdict::Pass.bits();
    };
    let Some(head) = env.frame().head::<{ eth::TYPE }>() else {
        return Verdict::Pass.bits();
    };
    let macs = (
        head.load_mac::<{ eth::DST }>(),
        head.load_mac::<{ eth::SRC }>(),
    );
    let taken = if tags[1] == 0 {
        env.move_start(TAG_LEN as i32)
    } else {
        env.move_start(2 * TAG_LEN as i32)
    };
    if !taken {
        return Verdict::Pass.bits();
    }
    let Some(head) = env.frame().head::<ETH_LEN>() else {
        return Verdict::Drop.bits();
    };
    head.store_mac::<{ eth::DST }>(macs.0);
    head.store_mac::<{ eth::SRC }>(macs.1);
    // SAFETY: the environment gave this core's element, which nobody else writes.
    unsafe { *cell = Tagged { device, tags } };
    let bits = match head.load::<{ eth::TYPE }, u16>() {
        ETHERTYPE_IPV4 => match V4::parse(env.frame()) {
            Err(Other::Icmp) => ping::answer4(env),
            _ => UNUSUAL4,
        },
        ETHERTYPE_IPV6 => match V6::parse(env.frame()) {
            Err(Other::Icmp) => ping::answer6(env),
            _ => UNUSUAL6,
        },
        _ => Verdict::Pass.bits(),
    };
    if bits == UNUSUAL4 || bits == UNUSUAL6 {
        return bits;
    }
    let verdict = match Verdict::from_bits(bits) {
        Verdict::Transmit => send_back(env),
        verdict => verdict,
    };
    finish(env, verdict).bits()
}

/// Puts tags on a frame, the outer one first; false if there is no room.
#[inline(always)]
pub fn put_on(env: impl Env, tags: Tags) -> bool {
    let Some(head) = env.frame().head::<12>() else {
        return false;
    };
    let macs = (head.load_mac::<0>(), head.load_mac::<6>());
    let two = tags[1] != 0;
    let moved = if two {
        env.move_start(-2 * TAG_LEN as i32)
    } else {
        env.move_start(-(TAG_LEN as i32))
    };
    if !moved {
        return false;
    }
    let Some(head) = env.frame().head::<{ 12 + TAG_LEN }>() else {
        return false;
    };
    head.store_mac::<0>(macs.0);
    head.store_mac::<6>(macs.1);
    head.store::<12, u32>(tags[0]);
    if !two {
        return true;
    }
    let Some(head) = env.frame().head::<{ 12 + 2 * TAG_LEN }>() else {
        return false;
    };
    head.store::<16, u32>(tags[1]);
    true
}

/// Ends the work on a frame that may have had tags: one that goes to the kernel is as it came.
#[inline(always)]
pub fn finish(env: impl Env, verdict: Verdict) -> Verdict {
    let Some(cell) = env.tagged() else {
        return verdict;
    };
    // SAFETY: the environment gave this core's element, which nobody else writes.
    let Tagged { device, tags } = unsafe { cell.replace(Tagged::default()) };
    match verdict {
        Verdict::Pass if device != 0 && !put_on(env, tags) => {
            env.count_drop(Drop::NoHeadroom);
            Verdict::Drop
        }
        verdict => verdict,
    }
}

/// Sends a frame by the interface under a VLAN device, with the device's tags.
#[inline(always)]
pub fn send(env: impl Env, ifindex: u32, tags: Tags) -> Verdict {
    if !put_on(env, tags) {
        env.count_drop(Drop::NoHeadroom);
        return Verdict::Drop;
    }
    if ifindex == env.port_ifindex() {
        Verdict::Transmit
    } else {
        Verdict::Redirect(ifindex)
    }
}

/// Sends a frame back the way that it came, with the tags that it came with.
#[inline(always)]
pub(crate) fn send_back(env: impl Env) -> Verdict {
    if let Some(cell) = env.tagged() {
        // SAFETY: as above.
        let Tagged { device, tags } = unsafe { *cell };
        if device != 0 && !put_on(env, tags) {
            env.count_drop(Drop::NoHeadroom);
            return Verdict::Drop;
        }
    }
    Verdict::Transmit
}
