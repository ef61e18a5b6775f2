//! IPv6 beside IPv4 in the networks of the scenarios, at the same places.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::network::{Host, Network};

/// The VIP.
pub const VIP6: Ipv6Addr = address(0xffff, 0x10);
/// The client.
pub const CLIENT6: Ipv6Addr = address(0xc, 1);
/// What FullNAT puts in the client's place.
pub const LOCAL6: [Ipv6Addr; 2] = [address(1, 0x100), address(1, 0x101)];
/// lb in the backends' segment.
pub const LB6: Ipv6Addr = address(1, 0x10);
/// The router in the backends' segment.
pub const ROUTER6: Ipv6Addr = address(1, 0xfe);

/// An address of documentation (RFC 3849) in a subnet.
const fn address(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host)
}

impl Network {
    /// Gives everyone in the network an address of IPv6 as well, and the routes that there are for IPv4.
    ///
    /// # Panics
    /// Where the system refuses.
    pub fn add_ipv6(&self) {
        let add = |link: &weir_netns::Link, address: Ipv6Addr, len: u8| {
            link.add_address(&format!("{address}/{len}"))
                .expect("add an address");
        };
        let of_router = |name: &str| self.router.link(name).expect("the router has the link");
        let (near, far) = (self.client.link("eth0"), of_router("eth0"));
        add(&near.expect("the client has a link"), CLIENT6, 64);
        add(&far, address(0xc, 0xfe), 64);
        let route = |namespace: &weir_netns::Namespace, prefix: &str, via: Ipv6Addr| {
            namespace
                .add_route(prefix, IpAddr::V6(via))
                .expect("add a route");
        };
        route(&self.client, "::/0", address(0xc, 0xfe));
        let towards_backends = self.arms.last().expect("lb has an interface");
        add(towards_backends, LB6, 64);
        let (lb, router) = if let [outside, _] = &self.arms[..] {
            let (lb, router) = (address(2, 0x10), address(2, 0xfe));
            add(outside, lb, 64);
            add(&of_router("eth1"), router, 64);
            add(&of_router("eth2"), ROUTER6, 64);
            (lb, router)
        } else {
            add(&of_router("eth1"), ROUTER6, 64);
            (LB6, ROUTER6)
        };
        route(&self.router, &format!("{VIP6}/128"), lb);
        route(&self.lb, "::/0", router);
        for local in LOCAL6 {
            add(towards_backends, local, 64);
        }
        add(&self.lb.loopback().expect("lb has a loopback"), VIP6, 128);
        for host in &self.backends {
            add(&host.link, host.address6(), 64);
        }
    }

    /// The `[l4]` section for both families.
    pub fn l4_section_of_both(&self) -> String {
        let locals = crate::network::LOCAL.map(IpAddr::V4);
        let locals = locals.into_iter().chain(LOCAL6.map(IpAddr::V6));
        let locals: Vec<String> = locals.map(|local| format!("\"{local}\"")).collect();
        format!(
            "[l4]\ninterfaces = [{}]\nlocal_addresses = [{}]\n",
            self.interfaces(),
            locals.join(", ")
        )
    }
}

impl Host {
    /// The host's address of IPv6: its number is that of the other one.
    pub fn address6(&self) -> Ipv6Addr {
        address(1, u16::from(self.address.octets()[3]))
    }

    /// A port of that address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address6(), port))
    }

    /// [`Host::route_through`] for IPv6.
    ///
    /// # Panics
    /// Where the system refuses.
    pub fn route_through6(&self, router: Ipv6Addr) {
        self.namespace
            .add_route("::/0", IpAddr::V6(router))
            .expect("add a route");
    }

    /// [`Host::accept_vip`] for IPv6, which asks and tells nobody of an address on the loopback by itself.
    ///
    /// # Panics
    /// As [`Host::route_through6`].
    pub fn accept_vip6(&self) {
        self.namespace
            .loopback()
            .and_then(|loopback| loopback.add_address(&format!("{VIP6}/128")))
            .expect("add the VIP");
        self.route_through6(ROUTER6);
    }
}
