//! What a daemon leaves for the next one beside sessions and counters: whose the numbers are that session lines carry,
//! and what was counted in lines that are gone. The program reads none of it.
//!
//! All records consist of words, so that user space can write them while others read. A record's first word is written
//! last, and is zero while the record is free: a daemon that is killed leaves whole records or free ones.

/// Version of everything that outlives a daemon: session lines, counters, records. To be raised by every change of their
/// bytes or of what these mean: a daemon takes over maps of its own version only.
pub const LAYOUT_VERSION: u64 = 6;

/// The element of `LAYOUT`, the same in all versions.
pub type Layout = [u64; 8];
/// [`Layout`]: the [`LAYOUT_VERSION`] of the maps; 0 while they are being made.
pub const VERSION: usize = 0;
/// [`Layout`]: the seed of the flow hash.
pub const SEED: usize = 1;
/// [`Layout`]: the generation of routes that session lines were written with last.
pub const GENERATION: usize = 2;
/// [`Layout`]: the kernel's cookie of the network namespace.
pub const NAMESPACE: usize = 3;
/// [`Layout`]: sessions that ended because they were idle.
pub const EXPIRED: usize = 4;
/// [`Layout`]: lines that were removed because their peer was gone.
pub const ORPHANS: usize = 5;

/// An element of `LISTENER_RECORDS`, at the listener's number: eight words with the length of its name and the name,
/// byte after byte; then [`TRAFFIC`] words.
pub type ListenerRecord = [u64; 12];
/// An element of `BACKEND_RECORDS`, at the backend's number. First word: length of the pool's name, 4 or 6 for the
/// address's family, two bytes of port in network byte order. Two words of address, eight of the pool's name,
/// [`TRAFFIC`] words, and one that is 1 while the backend takes new sessions.
pub type BackendRecord = [u64; 16];
/// An element of `LINK_RECORDS`, at the index into `LINKS`: length of the interface's name, and the name.
pub type LinkRecord = [u64; 2];

/// Words of what was counted in lines that are gone: packets and bytes from clients, packets and bytes from backends.
pub const TRAFFIC: usize = 4;
