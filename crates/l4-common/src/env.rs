//! What the packet logic asks of the machine that it runs on: maps, clock, routes.

use crate::client::{ClientSet, Pool};
use crate::drop::Drop;
use crate::event::Event;
use crate::family::{Addr6, V4, V6};
use crate::fragment::FragmentSet;
use crate::frame::Frame;
use crate::hash::{FlowKey4, FlowKey6};
use crate::link::Link;
use crate::load::Load;
use crate::open::Opening;
use crate::quic::{QuicConfig, QuicServerKey, QuicWork};
use crate::refusal::{Budget, Refusal};
use crate::service::{Backend, BackendCounters, Listener, ListenerCounters, ListenerKey, Settings};
use crate::session::{Set4, Set6};
use crate::vlan::{Tagged, Tags, VlanKey};

/// The machine: the kernel behind the XDP program, or memory in tests and fuzzers. A handle, passed by value.
pub trait Env: Copy {
    /// The packet as it is now.
    fn frame(&self) -> Frame;
    /// Puts `bytes` new bytes in front of the packet, or takes `-bytes` away; false if there is no room.
    fn move_start(&self, bytes: i32) -> bool;
    /// Takes `bytes` bytes off the packet's end; false if it is shorter.
    fn shorten(&self, bytes: u32) -> bool;
    /// Kernel's index of the interface that the packet came in by: of the VLAN device, where it came with tags. Knows of
    /// tags only as [`Env::tag_aware`].
    fn ingress_ifindex(&self) -> u32;
    /// The same, where tags do not count.
    fn port_ifindex(&self) -> u32;
    /// This environment, for packets that may have come with tags.
    fn tag_aware(&self) -> impl Env;
    /// The VLAN device of an interface and tags.
    fn vlan(&self, key: &VlanKey) -> Option<u32>;
    /// This core's cell for the tagged frame that it works on.
    fn tagged(&self) -> Option<*mut Tagged>;
    /// Takes the tags off the frame, and says what is next: [`crate::vlan::take_off`].
    fn take_tags_off(&self) -> u64;
    /// Ends the work on a frame that may have had tags: [`crate::vlan::finish`].
    fn finish_tagged(&self, verdict: Verdict) -> Verdict;
    /// Sends the frame with tags by the interface with this index: [`crate::vlan::send`].
    fn send_tagged(&self, ifindex: u32, tags: Tags) -> Verdict;
    /// The clock of session lines, in jiffies.
    fn jiffies(&self) -> u32;
    /// Seed of the flow hash.
    fn seed(&self) -> u64;
    /// Number of sets in the session table of IPv4.
    fn sets4(&self) -> u32;
    /// Number of sets in the session table of IPv6.
    fn sets6(&self) -> u32;
    /// The set of IPv4 with this index; it stays valid for the packet's time.
    fn set4(&self, index: u32) -> Option<*mut Set4>;
    /// The set of IPv6 with this index.
    fn set6(&self, index: u32) -> Option<*mut Set6>;
    /// The number of the line of the flow with this hash: [`crate::table::number`].
    fn find4(&self, key: &FlowKey4, hash: u64) -> u32;
    /// The same for IPv6.
    fn find6(&self, key: &FlowKey6, hash: u64) -> u32;
    /// This core's memory for a session of IPv4 that is being opened.
    fn opening4(&self) -> Option<*mut Opening<V4>>;
    /// The same for IPv6.
    fn opening6(&self) -> Option<*mut Opening<V6>>;
    /// The verdict on an IPv4 packet that is not plain, as bits: [`crate::unusual::packet`].
    fn unusual4(&self) -> u64;
    /// The same for IPv6.
    fn unusual6(&self) -> u64;
    /// Makes an IPv4 packet of a session that leads across one of IPv6: [`crate::across::translate`].
    fn across4(&self) -> u64;
    /// The other way round.
    fn across6(&self) -> u64;
    /// The same with an error of ICMP: [`crate::across::error`].
    fn across_error4(&self) -> u64;
    /// The other way round.
    fn across_error6(&self) -> u64;
    /// Opens a session of an IPv4 client that leads across: [`crate::open::across`].
    fn across_open4(&self) -> u64;
    /// The same for an IPv6 client.
    fn across_open6(&self) -> u64;
    /// The headers of IPv6 at an offset: [`crate::walk::headers6`].
    fn walk6(&self, offset: u32) -> u64;
    /// The folded sum of the frame from one offset up to another one: [`crate::checksum::range`].
    fn sum(&self, from: u32, to: u32) -> u32;
    /// Lowers the maximum segment size in the TCP header at an offset: [`crate::mss::clamp`].
    fn clamp(&self, tcp: u32, max: u16);
    /// Sends an error about the IPv4 packet, and gives the verdict as bits: [`crate::refusal::send`].
    fn refuse4(&self, source: u32, refusal: Refusal) -> u64;
    /// The same for IPv6.
    fn refuse6(&self, source: Addr6, refusal: Refusal) -> u64;
    /// Answers the IPv4 packet with a reset, and gives the verdict as bits: [`crate::reset::answer`].
    fn reset4(&self) -> u64;
    /// The same for IPv6.
    fn reset6(&self) -> u64;
    /// A set of the table of fragments.
    fn fragments(&self, index: u32) -> Option<*mut FragmentSet>;
    /// Jiffies for which the first fragment of a datagram is remembered.
    fn fragment_timeout(&self) -> u32;
    /// This core's count of errors sent.
    fn refusals(&self) -> Option<*mut Budget>;
    /// What may change while the program runs.
    fn settings(&self) -> Settings;
    /// An interface that packets leave by; its entry stays for the packet's time.
    fn link(&self, index: u32) -> Option<&'static Link>;
    /// The index of the link with this interface.
    fn link_of(&self, ifindex: u32) -> Option<u8>;
    /// The listener at this address, port and protocol; it stays as it is for the packet's time.
    fn listener(&self, key: &ListenerKey) -> Option<&'static Listener>;
    /// Whether the address, in network byte order and IPv4 as [`crate::service::mapped`], is that of a listener.
    fn is_vip(&self, addr: &[u32; 4]) -> bool;
    /// The backend number in this slot of the scheduling tables.
    fn slot(&self, index: u32) -> Option<u16>;
    /// The backend with this number.
    fn backend(&self, number: u16) -> Option<Backend>;
    /// What schedulers know of a backend.
    fn load(&self, number: u16) -> Option<*mut Load>;
    /// [`crate::load::least`].
    fn least(&self, base: u32, len: u32, start: u32) -> u16;
    /// [`crate::load::lighter_of_two`].
    fn lighter_of_two(&self, base: u32, len: u32, random: u64) -> u16;
    /// How a pool remembers clients.
    fn pool(&self, number: u32) -> Option<*const Pool>;
    /// Number of sets in the table of clients.
    fn client_sets(&self) -> u32;
    /// A set of the table of clients.
    fn clients(&self, set: u32) -> Option<*mut ClientSet>;
    /// [`crate::client::known`].
    fn known_client(&self, tag: u64, pool: u64, now: u32) -> u16;
    /// [`crate::client::remember`].
    fn remember_client(&self, tag: u64, word: u64, now: u32);
    /// A local address of IPv4, in network byte order.
    fn local4(&self, index: u32) -> Option<u32>;
    /// A local address of IPv6.
    fn local6(&self, index: u32) -> Option<Addr6>;
    /// The addresses that a listener's outer sources of IPv6 are taken from.
    fn tunnel_source(&self, listener: u16) -> Option<[u32; 4]>;
    /// How connection ids of QUIC are read, by [`crate::quic::config_key`].
    fn quic_config(&self, key: u32) -> Option<*const QuicConfig>;
    /// This core's memory for reading an id.
    fn quic_work(&self) -> Option<*mut QuicWork>;
    /// Decrypts the id that is there; `key` is that of its configuration. [`crate::quic::decrypt_id`].
    fn quic_decrypt(&self, key: u32);
    /// The number of the backend that a server's id in connection ids stands for.
    fn quic_server(&self, key: &QuicServerKey) -> Option<u16>;
    /// The number of the backend that the connection id of the datagram names, whose UDP header is at this offset; 0: none.
    /// [`crate::quic::backend`].
    fn quic_backend(&self, pool: u16, udp: u32) -> u32;
    /// This core's counters of a listener.
    fn listener_counters(&self, number: u16) -> Option<*mut ListenerCounters>;
    /// This core's counters of a backend.
    fn backend_counters(&self, number: u16) -> Option<*mut BackendCounters>;
    /// Counts a dropped packet.
    fn count_drop(&self, reason: Drop);
    /// Tells user space, if it can hear.
    fn tell(&self, event: Event);
    /// The kernel's next hop for a packet from `src` to `dst`, both in network byte order.
    fn next_hop4(&self, src: u32, dst: u32) -> NextHop;
    /// The same for IPv6.
    fn next_hop6(&self, src: Addr6, dst: Addr6) -> NextHop;
}

/// The kernel's answer to where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Through this interface, to this MAC address.
    Found {
        /// Kernel's index of the interface.
        ifindex: u32,
        /// The neighbour's MAC address.
        mac: [u8; 6],
    },
    /// Through this interface to this neighbour, whose MAC address the kernel does not know.
    NoNeighbour {
        /// Kernel's index of the interface.
        ifindex: u32,
        /// The neighbour's address, network byte order, IPv4 as [`crate::service::mapped`]: a route of IPv4 may lead
        /// through a neighbour of IPv6.
        addr: [u32; 4],
    },
    /// There is no route, or forwarding is off.
    None,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel gets it, untouched.
    Pass,
    /// It ends here; a counter says why.
    Drop,
    /// It leaves by the interface that it came in by.
    Transmit,
    /// It leaves by the interface with this index.
    Redirect(u32),
    /// Not decided: its session leads to the other family, or is to be opened so.
    Across {
        /// There is no session yet; it has been prepared.
        opens: bool,
    },
}

impl Verdict {
    /// As one word: BPF functions return no more.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        match self {
            Self::Pass => 0,
            Self::Drop => 1,
            Self::Transmit => 2,
            Self::Redirect(ifindex) => 3 | u64::from(ifindex) << 32,
            Self::Across { opens } => 4 | u64::from(opens) << 32,
        }
    }

    /// From [`Verdict::bits`].
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        match bits as u32 {
            0 => Self::Pass,
            1 => Self::Drop,
            2 => Self::Transmit,
            3 => Self::Redirect((bits >> 32) as u32),
            _ => Self::Across {
                opens: bits >> 32 != 0,
            },
        }
    }
}
