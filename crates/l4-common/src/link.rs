//! Where packets leave: one entry per interface that packets may be sent through.

use crate::vlan::Tags;

/// Entries of `LINKS`; a session line has six bits for the index.
pub const LINKS_MAX: u32 = 64;
/// The map that has `LINKS`, a variable of the program, as its one element: what is at a fixed address is read without a
/// lookup. It is a section of its own, so that nothing else is in the element.
pub const LINKS_MAP: &str = ".data.links";
/// The element.
pub type Links = [Link; LINKS_MAX as usize];
/// The largest index of an interface that the data plane can use: `LINK_OF` is an array over them.
pub const IFINDEX_MAX: u32 = 65_535;
/// The index that means "not known".
pub const LINK_NONE: u8 = 0xff;

/// The last entry of `LINKS` has no interface: packets of sessions that lead there go no further.
pub const LINK_NOWHERE: u8 = LINKS_MAX as u8 - 1;

/// In [`Link::ifindex`]: the entry is a VLAN device's, and has tags. No interface that a packet came in by has this bit, so
/// that what goes back through it need not ask.
pub const TAGGED: u32 = 1 << 31;

/// An entry of `LINKS`. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index of the interface, or, with [`TAGGED`], of the one under a VLAN device; 0: the entry is free.
    pub ifindex: u32,
    /// Generation of routes and neighbours, the same in every entry; the low 8 bits count. A session line that carries
    /// another one asks for its next hop again at its next packet.
    pub route_generation: u32,
    /// The interface's MAC address: the source of what we send.
    pub mac: [u8; 6],
    /// Largest IP packet that the interface carries, bytes.
    pub mtu: u16,
    /// The tags of a VLAN device; zeros for every other interface.
    pub tags: Tags,
    /// So that what is read for every packet is in one cache line.
    pub zero: [u32; 2],
}
