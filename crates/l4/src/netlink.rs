//! What we ask of, and hear from, the kernel's routing: links, neighbours, routes (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use weir_l4_common::vlan::tag;

/// What a monitor hears of: links, neighbours, and addresses, routes and rules of IPv4 and IPv6 (`RTMGRP_*`,
/// `RTNLGRP_IPV6_RULE`).
const MONITOR_GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
/// Room for events that come faster than we read; beyond it the kernel says so and everything is asked for anew.
const MONITOR_BUFFER_BYTES: usize = 4 << 20;
/// The kernel answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel never writes more at once (net/netlink/af_netlink.c, `netlink_dump`).
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`, `struct ifaddrmsg`, `struct ndmsg`, `struct rtmsg`.
const LINK_LEN: usize = 16;
const ADDRESS_LEN: usize = 8;
const NEIGHBOUR_LEN: usize = 12;
const ROUTE_LEN: usize = 12;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_FLAGS_EXT: u16 = 15;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A gateway of another family (`struct rtvia`).
const RTA_VIA: u16 = 18;

/// `NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT`: the MAC address is good.
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | NUD_FIXED;
/// `NUD_NOARP | NUD_PERMANENT`: the kernel never asks for it.
const NUD_FIXED: u16 = 0x40 | 0x80;
/// `NTF_USE`: as if a packet were sent to the neighbour.
const NTF_USE: u8 = 0x01;
/// `NTF_EXT_MANAGED`, since Linux 5.16: the kernel keeps the neighbour's MAC address fresh by itself.
const NTF_EXT_MANAGED: u32 = 0x01;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    /// Zeros where it has none.
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// Whether an XDP program is attached.
    pub(crate) has_xdp: bool,
    /// Whether it is in service.
    pub(crate) is_up: bool,
    /// What a VLAN device is one of.
    pub(crate) vlan: Option<Vlan>,
}

impl LinkInfo {
    /// An interface of which nothing is known but its number.
    pub(crate) fn new(ifindex: u32) -> Self {
        Self {
            ifindex,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            has_xdp: false,
            is_up: true,
            vlan: None,
        }
    }
}

/// What a VLAN device adds to frames of another interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// Kernel's index of the interface; `None` if it is in another network namespace.
    pub(crate) parent: Option<u32>,
    /// The tag, as it lies in a frame.
    pub(crate) tag: u32,
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) ifindex: u32,
    pub(crate) addr: IpAddr,
    /// `None`: not known, or no longer.
    pub(crate) mac: Option<[u8; 6]>,
    /// The kernel never asks for it: set by hand, or an interface without ARP.
    pub(crate) fixed: bool,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) ifindex: u32,
    /// The neighbour that packets are handed to: the gateway, which may be of the other family, or the address itself.
    pub(crate) via: IpAddr,
}

/// A message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// An interface is there, or has changed.
    Link(LinkInfo),
    /// An interface is gone.
    LinkGone(u32),
    /// A neighbour is there, or has changed.
    Neighbour(Neighbour),
    /// A neighbour is forgotten.
    NeighbourGone(Neighbour),
    /// This machine has an address.
    Address(IpAddr),
    /// Routes or rules have changed, or an address is gone: every way may be another one.
    RoutesChanged,
    /// The answer to a question for a route; `None`: not a way that leads out of this machine.
    Route(Option<Route>),
    /// The answer to a request: the kernel's error number, 0 for none.
    Ack(i32),
    /// The end of a list.
    Done,
}

/// What neighbours a request is for, beyond asking once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The kernel keeps it fresh.
    Managed,
    /// The kernel may forget it.
    Unmanaged,
}

/// A socket that hears of every change.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Hears of changes in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open(MONITOR_GROUPS, SockFlag::SOCK_NONBLOCK)?;
        // Beyond the limit for everybody (net.core.rmem_max) only with CAP_NET_ADMIN, which XDP needs, too.
        setsockopt(&socket, sockopt::RcvBufForce, &MONITOR_BUFFER_BYTES)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &MONITOR_BUFFER_BYTES))?;
        Ok(Self {
            socket,
            buffer: vec![0; MESSAGE_BYTES_MAX],
        })
    }

    /// Takes what has come. `Err` of kind `StorageFull`: something was lost.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(Message)) -> io::Result<()> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => messages(&self.buffer[..len], &mut each),
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ENOBUFS) => return Err(io::ErrorKind::StorageFull.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket for questions, each answered before the next one.
#[derive(Debug)]
pub(crate) struct Questions {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Questions {
    /// Asks about the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = open(0, SockFlag::empty())?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(ANSWER_TIMEOUT.as_millis() as i64),
        )?;
        Ok(Self {
            socket,
            buffer: vec![0; MESSAGE_BYTES_MAX],
            sequence: 0,
        })
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> io::Result<Vec<LinkInfo>> {
        let mut links = Vec::new();
        self.ask(
            libc::RTM_GETLINK,
            libc::NLM_F_DUMP,
            &[0; LINK_LEN],
            |message| {
                if let Message::Link(link) = message {
                    links.push(link);
                }
            },
        )?;
        Ok(links)
    }

    /// All neighbours.
    pub(crate) fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let mut neighbours = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0; NEIGHBOUR_LEN];
            body[0] = family as u8;
            self.ask(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &body, |message| {
                if let Message::Neighbour(neighbour) = message {
                    neighbours.push(neighbour);
                }
            })?;
        }
        Ok(neighbours)
    }

    /// This machine's addresses.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<IpAddr>> {
        let body = [0; ADDRESS_LEN];
        let mut addresses = Vec::new();
        self.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body, |message| {
            if let Message::Address(address) = message {
                addresses.push(address);
            }
        })?;
        Ok(addresses)
    }

    /// The way to an address; `None` where there is none, or it ends in this machine.
    pub(crate) fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
        let mut body = vec![0; ROUTE_LEN];
        let octets = octets(&to);
        body[0] = family(&to);
        body[1] = octets.len() as u8 * 8;
        attribute(&mut body, RTA_DST, &octets);
        let mut route = None;
        let answer = self.ask(libc::RTM_GETROUTE, 0, &body, |message| {
            if let Message::Route(found) = message {
                route = found;
            }
        });
        match answer {
            // A route without a gateway leads to the address itself.
            Ok(()) => Ok(route.map(|route| Route {
                via: if route.via.is_unspecified() {
                    to
                } else {
                    route.via
                },
                ..route
            })),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Has the kernel find out a neighbour's MAC address, which a monitor will then hear of.
    pub(crate) fn ask_neighbour(
        &mut self,
        ifindex: u32,
        addr: IpAddr,
        keep: Keep,
    ) -> io::Result<()> {
        let mut body = vec![0; NEIGHBOUR_LEN];
        body[0] = family(&addr);
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        body[10] = NTF_USE;
        attribute(&mut body, NDA_DST, &octets(&addr));
        if keep == Keep::Managed {
            attribute(&mut body, NDA_FLAGS_EXT, &NTF_EXT_MANAGED.to_ne_bytes());
        }
        self.ask(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE | libc::NLM_F_ACK,
            &body,
            |_| {},
        )
    }

    /// Sends a request and takes its answers.
    fn ask(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        mut each: impl FnMut(Message),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let len = HEADER_LEN + body.len();
        let mut request = Vec::with_capacity(len);
        request.extend((len as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend(body);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        // A question without a list and without an acknowledgement has one answer.
        let one = flags & (libc::NLM_F_DUMP | libc::NLM_F_ACK) == 0;
        let mut end = None;
        while end.is_none() {
            let len = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => len,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for_each_message(&self.buffer[..len], |header, body| {
                if header.sequence != sequence {
                    return;
                }
                match parse_answer(header.kind, body) {
                    Some(Message::Ack(error)) => end = Some(error),
                    Some(Message::Done) => end = Some(0),
                    Some(message) => {
                        each(message);
                        if one {
                            end = Some(0);
                        }
                    }
                    None => {}
                }
            });
        }
        match end {
            Some(0) | None => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn open(groups: u32, flags: SockFlag) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Appends an attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn messages(bytes: &[u8], each: &mut impl FnMut(Message)) {
    for_each_message(bytes, |header, body| {
        if let Some(message) = parse(header.kind, body) {
            each(message);
        }
    });
}

/// Splits what was received into messages; what is cut off at the end is left out.
fn for_each_message(mut bytes: &[u8], mut each: impl FnMut(&Header, &[u8])) {
    while let (Some(len), Some(kind), Some(sequence)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8))
    {
        let Some(body) = bytes.get(HEADER_LEN..len as usize) else {
            return;
        };
        each(&Header { kind, sequence }, body);
        bytes = bytes
            .get((len as usize).next_multiple_of(4)..)
            .unwrap_or(&[]);
    }
}

/// The same for an answer to our question: there a route is the way to the address asked for.
fn parse_answer(kind: u16, body: &[u8]) -> Option<Message> {
    match kind {
        libc::RTM_NEWROUTE => Some(Message::Route(route(body))),
        _ => parse(kind, body),
    }
}

/// The message, if it is one that we want.
fn parse(kind: u16, body: &[u8]) -> Option<Message> {
    match kind {
        // Messages of another family tell of bridges' ports and the like: the interface itself stays.
        libc::RTM_NEWLINK | libc::RTM_DELLINK if body.first() != Some(&(libc::AF_UNSPEC as u8)) => {
            None
        }
        libc::RTM_NEWLINK => link(body).map(Message::Link),
        libc::RTM_DELLINK => u32_at(body, 4).map(Message::LinkGone),
        libc::RTM_NEWNEIGH => neighbour(body).map(Message::Neighbour),
        libc::RTM_DELNEIGH => neighbour(body).map(Message::NeighbourGone),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
            Some(Message::RoutesChanged)
        }
        libc::RTM_NEWADDR => address(body).map(Message::Address),
        libc::RTM_DELADDR => Some(Message::RoutesChanged),
        NLMSG_ERROR => u32_at(body, 0).map(|error| Message::Ack((error as i32).wrapping_neg())),
        NLMSG_DONE => Some(Message::Done),
        _ => None,
    }
}

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

fn link(body: &[u8]) -> Option<LinkInfo> {
    let mut link = LinkInfo {
        is_up: u32_at(body, 8)? & libc::IFF_UP as u32 != 0,
        ..LinkInfo::new(u32_at(body, 4)?)
    };
    let (mut parent, mut elsewhere, mut tag) = (None, false, None);
    for (kind, value) in attributes(body.get(LINK_LEN..)?) {
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or(&[]);
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or([0; 6]),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_XDP => {
                link.has_xdp = attributes(value)
                    .any(|(kind, value)| kind == IFLA_XDP_ATTACHED && value.first() != Some(&0));
            }
            IFLA_LINK => parent = u32_at(value, 0),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => tag = vlan_tag(value),
            _ => {}
        }
    }
    link.vlan = tag.map(|tag| Vlan {
        parent: parent.filter(|_| !elsewhere),
        tag,
    });
    // Wireless drivers send events without a name: they are about something else.
    if link.name.is_empty() {
        None
    } else {
        Some(link)
    }
}

/// The tag of a VLAN device, from what is told of its kind; `None` for every other kind.
fn vlan_tag(info: &[u8]) -> Option<u32> {
    let find = |kind| attributes(info).find(|(found, _)| *found == kind);
    let (_, kind) = find(IFLA_INFO_KIND)?;
    if kind.split(|byte| *byte == 0).next() != Some(b"vlan") {
        return None;
    }
    let (_, data) = find(IFLA_INFO_DATA)?;
    let (mut id, mut protocol) = (None, None);
    for (kind, value) in attributes(data) {
        match kind {
            IFLA_VLAN_ID => id = u16_at(value, 0),
            IFLA_VLAN_PROTOCOL => protocol = u16_at(value, 0),
            _ => {}
        }
    }
    Some(tag(protocol?, id?))
}

fn address(body: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for (kind, value) in attributes(body.get(ADDRESS_LEN..)?) {
        match kind {
            // With both, this is the machine's own, the other its peer's.
            IFA_LOCAL => return ip(value),
            IFA_ADDRESS => found = ip(value),
            _ => {}
        }
    }
    found
}

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    if !matches!(i32::from(*body.first()?), libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    let state = u16_at(body, 8)?;
    let mut addr = None;
    let mut mac = None;
    for (kind, value) in attributes(body.get(NEIGHBOUR_LEN..)?) {
        match kind {
            NDA_DST => addr = ip(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        ifindex: u32_at(body, 4)?,
        addr: addr?,
        mac: mac.filter(|_| state & NUD_VALID != 0),
        fixed: state & NUD_FIXED != 0,
    })
}

/// The answer's route; without a gateway its `via` is unspecified.
fn route(body: &[u8]) -> Option<Route> {
    const RTN_UNICAST: u8 = 1;
    if body.get(7) != Some(&RTN_UNICAST) {
        return None;
    }
    let mut ifindex = None;
    let mut via = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    for (kind, value) in attributes(body.get(ROUTE_LEN..)?) {
        match kind {
            RTA_OIF => ifindex = u32_at(value, 0),
            RTA_GATEWAY => via = ip(value)?,
            RTA_VIA => via = ip(value.get(2..)?)?,
            _ => {}
        }
    }
    Some(Route {
        ifindex: ifindex?,
        via,
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !(libc::NLA_F_NESTED | libc::NLA_F_NET_BYTEORDER) as u16;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

fn family(addr: &IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address as attributes have it.
fn octets(addr: &IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn parsed(bytes: &[u8]) -> Vec<Message> {
        let mut all = Vec::new();
        messages(bytes, &mut |message| all.push(message));
        all
    }

    fn neighbour_body(state: u16, mac: Option<[u8; 6]>) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0, 7, 0, 0, 0];
        body.extend(state.to_ne_bytes());
        body.extend([0, 0]);
        attribute(&mut body, NDA_DST, &[192, 0, 2, 1]);
        if let Some(mac) = mac {
            attribute(&mut body, NDA_LLADDR, &mac);
        }
        body
    }

    #[test]
    fn a_mac_address_counts_only_while_the_neighbour_is_valid() {
        let check = |state: u16, mac: Option<[u8; 6]>, expected: Option<[u8; 6]>, fixed: bool| {
            let bytes = message(libc::RTM_NEWNEIGH, &neighbour_body(state, mac));
            let addr = IpAddr::from([192, 0, 2, 1]);
            assert_eq!(
                parsed(&bytes),
                [Message::Neighbour(Neighbour {
                    ifindex: 7,
                    addr,
                    mac: expected,
                    fixed
                })]
            );
        };
        let mac = [2, 0, 0, 0, 0, 1];
        check(0x02, Some(mac), Some(mac), false);
        check(0x04, Some(mac), Some(mac), false);
        check(0x20, Some(mac), None, false);
        check(0x01, None, None, false);
        check(0x80, Some(mac), Some(mac), true);
    }

    #[test]
    fn a_way_may_lead_through_a_gateway_of_either_family() {
        let check = |family: i32, kind: u16, gateway: &[u8], via: &str| {
            let mut body = vec![family as u8, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
            attribute(&mut body, RTA_OIF, &3u32.to_ne_bytes());
            attribute(&mut body, kind, gateway);
            let via = via.parse().unwrap();
            assert_eq!(
                parse_answer(libc::RTM_NEWROUTE, &body),
                Some(Message::Route(Some(Route { ifindex: 3, via })))
            );
            let change = message(libc::RTM_NEWROUTE, &body);
            assert_eq!(parsed(&change), [Message::RoutesChanged]);
        };
        let v6 = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        check(libc::AF_INET, RTA_GATEWAY, &[192, 0, 2, 254], "192.0.2.254");
        check(libc::AF_INET6, RTA_GATEWAY, &v6, "fe80::1");
        let rtvia = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &v6].concat();
        check(libc::AF_INET, RTA_VIA, &rtvia, "fe80::1");
        check(libc::AF_INET, RTA_DST, &[192, 0, 2, 9], "0.0.0.0");
    }

    #[test]
    fn a_port_that_leaves_a_bridge_is_no_interface_that_goes() {
        let mut body = [0; LINK_LEN];
        body[4] = 9;
        assert_eq!(
            parsed(&message(libc::RTM_DELLINK, &body)),
            [Message::LinkGone(9)]
        );
        body[0] = libc::AF_BRIDGE as u8;
        assert_eq!(parsed(&message(libc::RTM_DELLINK, &body)), []);
    }

    #[test]
    fn a_vlan_device_says_what_it_adds_to_whose_frames() {
        let device = |kind: &[u8], protocol: u16, more: &[(u16, u32)]| {
            let mut data = Vec::new();
            attribute(&mut data, IFLA_VLAN_ID, &100u16.to_ne_bytes());
            attribute(&mut data, IFLA_VLAN_PROTOCOL, &protocol.to_be_bytes());
            let mut info = Vec::new();
            attribute(&mut info, IFLA_INFO_KIND, kind);
            attribute(&mut info, IFLA_INFO_DATA, &data);
            let mut body = vec![0; LINK_LEN];
            (body[4], body[8]) = (9, 1);
            attribute(&mut body, IFLA_IFNAME, b"eth0.100\0");
            for (kind, value) in more {
                attribute(&mut body, *kind, &value.to_ne_bytes());
            }
            attribute(&mut body, IFLA_LINKINFO, &info);
            match &parsed(&message(libc::RTM_NEWLINK, &body))[..] {
                [Message::Link(link)] => (link.is_up, link.vlan),
                other => panic!("{other:?}"),
            }
        };
        let vlan = |parent, tag: [u8; 4]| {
            let tag = u32::from_ne_bytes(tag);
            (true, Some(Vlan { parent, tag }))
        };
        let parent = (IFLA_LINK, 2);
        let (customer, service) = ([0x81, 0, 0, 100], [0x88, 0xa8, 0, 100]);
        let kind = b"vlan\0";
        assert_eq!(device(kind, 0x8100, &[parent]), vlan(Some(2), customer));
        assert_eq!(device(kind, 0x88a8, &[parent]), vlan(Some(2), service));
        let elsewhere = [parent, (IFLA_LINK_NETNSID, 0)];
        assert_eq!(device(kind, 0x8100, &elsewhere), vlan(None, customer));
        assert_eq!(device(b"macvlan\0", 0x8100, &[parent]), (true, None));
    }

    #[test]
    fn several_messages_come_at_once() {
        let mut bytes = message(libc::RTM_DELADDR, &[0; 8]);
        bytes.extend(message(NLMSG_ERROR, &(-libc::ENETUNREACH).to_ne_bytes()));
        bytes.extend(message(NLMSG_DONE, &[]));
        assert_eq!(
            parsed(&bytes),
            [
                Message::RoutesChanged,
                Message::Ack(libc::ENETUNREACH),
                Message::Done
            ]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 16u16..40) {
            parsed(&bytes);
            parsed(&message(kind, &bytes));
        }
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let links = Questions::open().unwrap().links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(loopback.mac, [0; 6]);
        assert!(!loopback.has_xdp);
        assert!(
            Questions::open()
                .unwrap()
                .addresses()
                .unwrap()
                .contains(&IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
    }
}
