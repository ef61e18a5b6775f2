//! An interface inside a namespace, and the virtual cable between two of them.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::ethtool;
use crate::namespace::Namespace;
use crate::netlink::{Request, find_attribute};
use crate::pass_program;

/// First attribute of a veth's link data: the other end (include/uapi/linux/veth.h).
const VETH_INFO_PEER: u16 = 1;
/// Inside `IFLA_XDP` (include/uapi/linux/if_link.h).
const XDP_FD: u16 = 1;
const XDP_ATTACHED: u16 = 2;
const XDP_FLAGS: u16 = 3;
const XDP_NATIVE: u32 = 1 << 2;
const NESTED: u16 = 1 << 15;
/// `struct ifinfomsg`.
const IFINFO_LEN: usize = 16;
/// `IFLA_OPERSTATE` of an interface that carries packets (RFC 2863, ifOperStatus).
const OPERATIONAL: u8 = 6;
/// The kernel notices a new carrier within a second at most (net/core/link_watch.c).
const OPERATIONAL_TIMEOUT: Duration = Duration::from_secs(5);

/// An interface inside a namespace. A handle, which keeps the namespace alive; the interface lives as long as that.
#[derive(Clone)]
pub struct Link {
    namespace: Namespace,
    name: String,
    index: u32,
}

/// Joins two namespaces by a veth pair, given each end's namespace and name. Both ends are up and carry packets, and
/// are fit for XDP as [`Link::prepare_for_xdp`] makes them.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(Link, Link), Error> {
    let what = || {
        format!(
            "make veth {} in {} and {} in {}",
            a.1,
            a.0.name(),
            b.1,
            b.0.name()
        )
    };
    let mut request = Request::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &ifinfo(new_index(), 0, 0),
    );
    request.text(libc::IFLA_IFNAME, a.1);
    request.nest(libc::IFLA_LINKINFO, &[], |info| {
        info.text(libc::IFLA_INFO_KIND, "veth");
        info.nest(libc::IFLA_INFO_DATA, &[], |data| {
            data.nest(VETH_INFO_PEER, &ifinfo(new_index(), 0, 0), |peer| {
                peer.text(libc::IFLA_IFNAME, b.1);
                peer.number(
                    libc::IFLA_NET_NS_FD,
                    b.0.handle().as_raw_fd().cast_unsigned(),
                );
            });
        });
    });
    a.0.ask(request)
        .map_err(|source| Error::new(what(), source))?;
    let ends = (a.0.link(a.1)?, b.0.link(b.1)?);
    for end in [&ends.0, &ends.1] {
        end.prepare_for_xdp()?;
        end.up()?;
    }
    // Until then packets are dropped (net/sched/sch_generic.c, dev_activate).
    ends.0.wait_operational()?;
    ends.1.wait_operational()?;
    Ok(ends)
}

impl Link {
    /// Finds an interface by its name.
    pub(crate) fn find(namespace: &Namespace, name: &str) -> Result<Self, Error> {
        let index = ask_about(namespace, name).and_then(|answer| {
            let bytes = answer.get(4..8).and_then(|bytes| bytes.try_into().ok());
            bytes
                .map(u32::from_ne_bytes)
                .ok_or_else(|| io::ErrorKind::InvalidData.into())
        });
        match index {
            Ok(index) => Ok(Self {
                namespace: namespace.clone(),
                name: name.to_owned(),
                index,
            }),
            Err(source) => Err(Error::new(
                format!("find interface {name} in {}", namespace.name()),
                source,
            )),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index in the namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The namespace it is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its MAC address.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let mac = ask_about(&self.namespace, &self.name).and_then(|answer| {
            let value = find_attribute(&answer, IFINFO_LEN, libc::IFLA_ADDRESS);
            value
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| io::ErrorKind::InvalidData.into())
        });
        mac.map_err(|source| self.error("read the MAC address", source))
    }

    /// Gives it another MAC address. What neighbours remember is not told to them.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        self.change("set the MAC address", |request| {
            request.attribute(libc::IFLA_ADDRESS, &mac);
        })
    }

    /// The longest packet it carries, link header apart. XDP on a veth wants it within a page, about 3,500.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        self.change(&format!("set MTU {mtu}"), |request| {
            request.number(libc::IFLA_MTU, mtu);
        })
    }

    /// Takes it into service.
    pub fn up(&self) -> Result<(), Error> {
        self.switch("take up", libc::IFF_UP)
    }

    /// Takes it out of service; its routes are lost.
    pub fn down(&self) -> Result<(), Error> {
        self.switch("take down", 0)
    }

    /// Adds an address with its prefix length, such as `192.0.2.1/24` or `2001:db8::1/64`.
    pub fn add_address(&self, address: &str) -> Result<(), Error> {
        let what = format!("add address {address}");
        let (ip, prefix_len) = parse_prefix(address).map_err(|source| self.error(&what, source))?;
        // struct ifaddrmsg, include/uapi/linux/if_addr.h; no duplicate address detection for IPv6
        let flags = if ip.is_ipv6() { 0x02 } else { 0 };
        let mut header = vec![family(ip), prefix_len, flags, libc::RT_SCOPE_UNIVERSE];
        header.extend_from_slice(&self.index.to_ne_bytes());
        let mut request = Request::new(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            &header,
        );
        request.attribute(libc::IFA_LOCAL, &octets(ip));
        request.attribute(libc::IFA_ADDRESS, &octets(ip));
        self.namespace
            .ask(request)
            .map_err(|source| self.error(&what, source))?;
        Ok(())
    }

    /// Tells it the MAC address of a neighbour for good, so that nothing has to be asked on the wire.
    pub fn add_neighbour(&self, address: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        // struct ndmsg, include/uapi/linux/neighbour.h
        let mut header = vec![family(address), 0, 0, 0];
        header.extend_from_slice(&self.index.to_ne_bytes());
        header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        let mut request = Request::new(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            &header,
        );
        request.attribute(libc::NDA_DST, &octets(address));
        request.attribute(libc::NDA_LLADDR, &mac);
        let asked = self.namespace.ask(request);
        asked.map_err(|source| self.error(&format!("add neighbour {address}"), source))?;
        Ok(())
    }

    /// Whether an XDP program is attached to it, in whatever mode.
    pub fn has_xdp(&self) -> Result<bool, Error> {
        let answer = ask_about(&self.namespace, &self.name)
            .map_err(|source| self.error("read the state", source))?;
        let xdp = find_attribute(&answer, IFINFO_LEN, libc::IFLA_XDP);
        // 0: XDP_ATTACHED_NONE
        Ok(xdp
            .and_then(|xdp| find_attribute(xdp, 0, XDP_ATTACHED))
            .is_some_and(|mode| mode != [0]))
    }

    /// Makes frames that an XDP program redirects reach this end, and gives the program at the other end whole packets:
    /// - generic receive offload on: `veth_xdp_xmit` drops frames unless the receiving end runs NAPI, which a veth
    ///   does with a program of its own or with this (drivers/net/veth.c, since Linux 5.13);
    /// - transmit checksums off: the kernel leaves a checksum for the hardware to finish, and a veth has none; this
    ///   also stops segments longer than the MTU.
    ///
    /// Both ends of a pair want it, whichever has the program.
    pub fn prepare_for_xdp(&self) -> Result<(), Error> {
        let features = [("rx-gro", true), ("tx-checksum-ip-generic", false)];
        let set = self
            .namespace
            .run(|| ethtool::set_features(self.index, &features));
        set.map_err(|source| self.error("prepare for XDP", source))
    }

    /// Makes frames that the XDP program at the other end sends back where they came from (`XDP_TX`) arrive here, by a
    /// program that passes everything. Offload alone, as in [`Link::prepare_for_xdp`], does for redirected frames only:
    /// `veth_xdp_flush` wakes the receiver of others only if it has a program, and they would wait in its ring until
    /// something else wakes it (drivers/net/veth.c).
    pub fn accept_xdp_tx(&self) -> Result<(), Error> {
        let program =
            pass_program::load().map_err(|source| self.error("load an XDP program", source))?;
        self.change("attach an XDP program", |request| {
            request.nest(libc::IFLA_XDP | NESTED, &[], |xdp| {
                xdp.attribute(XDP_FD, &program.as_raw_fd().to_ne_bytes());
                xdp.number(XDP_FLAGS, XDP_NATIVE);
            });
        })
    }

    /// Makes it a port of a bridge in the same namespace.
    pub(crate) fn join(&self, bridge: &Self) -> Result<(), Error> {
        self.change("join the bridge", |request| {
            request.number(libc::IFLA_MASTER, bridge.index);
        })
    }

    fn wait_operational(&self) -> Result<(), Error> {
        let deadline = Instant::now() + OPERATIONAL_TIMEOUT;
        loop {
            let answer = ask_about(&self.namespace, &self.name);
            let answer = answer.map_err(|source| self.error("read the state", source))?;
            if find_attribute(&answer, IFINFO_LEN, libc::IFLA_OPERSTATE) == Some(&[OPERATIONAL]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.error("wait for the carrier", io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn switch(&self, what: &str, flags: i32) -> Result<(), Error> {
        let request = Request::new(
            libc::RTM_NEWLINK,
            0,
            &ifinfo(self.index, flags, libc::IFF_UP),
        );
        self.namespace
            .ask(request)
            .map_err(|source| self.error(what, source))?;
        Ok(())
    }

    fn change(&self, what: &str, fill: impl FnOnce(&mut Request)) -> Result<(), Error> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(self.index, 0, 0));
        fill(&mut request);
        self.namespace
            .ask(request)
            .map_err(|source| self.error(what, source))?;
        Ok(())
    }

    fn error(&self, what: &str, source: io::Error) -> Error {
        Error::new(
            format!("{what}: {} in {}", self.name, self.namespace.name()),
            source,
        )
    }
}

/// Makes a bridge.
pub(crate) fn bridge(namespace: &Namespace, name: &str) -> Result<Link, Error> {
    let mut request = Request::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &ifinfo(0, 0, 0),
    );
    request.text(libc::IFLA_IFNAME, name);
    request.nest(libc::IFLA_LINKINFO, &[], |info| {
        info.text(libc::IFLA_INFO_KIND, "bridge");
    });
    let what = || format!("make bridge {name} in {}", namespace.name());
    namespace
        .ask(request)
        .map_err(|source| Error::new(what(), source))?;
    let bridge = namespace.link(name)?;
    bridge.up()?;
    Ok(bridge)
}

/// What the kernel knows of an interface.
fn ask_about(namespace: &Namespace, name: &str) -> io::Result<Vec<u8>> {
    let mut request = Request::new(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0));
    request.text(libc::IFLA_IFNAME, name);
    let answers = namespace.ask(request)?;
    answers
        .into_iter()
        .next()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// An index that no other interface of this process has. Where both ends of a veth had the same number, the kernel
/// would take the pair for one device and be a second late to notice the carrier (net/core/link_watch.c,
/// `linkwatch_urgent_event`).
fn new_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(10);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// `struct ifinfomsg`: family, type, index, flags, and which flags change.
fn ifinfo(index: u32, flags: i32, change: i32) -> [u8; IFINFO_LEN] {
    let mut header = [0; IFINFO_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

pub(crate) fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).expect("address families are small numbers")
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address and a prefix length that fits it.
pub(crate) fn parse_prefix(text: &str) -> io::Result<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, len)| {
        let address: IpAddr = address.parse().ok()?;
        let len: u8 = len.parse().ok()?;
        (usize::from(len) <= octets(address).len() * 8).then_some((address, len))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "expected address/length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_parsed() {
        for (text, good) in [
            ("192.0.2.1/24", true),
            ("0.0.0.0/0", true),
            ("2001:db8::1/64", true),
            ("192.0.2.1/33", false),
            ("192.0.2.1", false),
            ("192.0.2/24", false),
            ("2001:db8::1/129", false),
        ] {
            assert_eq!(parse_prefix(text).is_ok(), good, "{text}");
        }
    }
}
