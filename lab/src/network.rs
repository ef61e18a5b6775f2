//! The networks of the scenarios.
//!
//! ```text
//! client ── router ──┬── lb           one arm: lb and backends share a segment
//!                    └── backends
//!
//! client ── router ──── lb            two arms: the backends are behind lb, in a segment
//!              └──────┬─┴── backends  that the router is on too
//! ```
//! The router sends the VIP to lb. Backends know no way to the client until [`Host::route_through`] or
//! [`Host::accept_vip`] gives them one: under FullNAT they need none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weir_netns::{Lan, Link, Namespace, veth};

/// The address that clients use.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// What FullNAT puts in the client's place: addresses of lb in the backends' segment.
pub const LOCAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 100), Ipv4Addr::new(10, 1, 0, 101)];
/// lb in the backends' segment.
pub const LB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
/// The router in the backends' segment.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

/// Segments behind the router carry a client's full packet (1500) with a tunnel's outer header.
const INNER_MTU: u32 = 1600;

/// A client, a router, the load balancer's host, and backends.
pub struct Network {
    /// Where clients run.
    pub client: Namespace,
    /// Between the client and everything else.
    pub router: Namespace,
    /// Where weir runs.
    pub lb: Namespace,
    /// lb's interfaces: `eth0`, and with two arms `eth1` towards the backends.
    pub arms: Vec<Link>,
    /// The servers.
    pub backends: Vec<Host>,
    segments: Vec<Lan>,
}

/// A server's host.
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its interface, `eth0`.
    pub link: Link,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Network {
    /// lb has one interface, in the backends' segment.
    ///
    /// # Panics
    /// Where the system refuses; so do the other functions here.
    pub fn one_arm(backends: u8) -> Self {
        let inner = Lan::with_mtu("inner", INNER_MTU).expect("make a segment");
        let (client, router) = client_and_router();
        connect(&inner, &router, "eth1", ROUTER);
        let lb = namespace("lb");
        let arm = connect(&inner, &lb, "eth0", LB);
        let network = Self {
            client,
            router,
            lb,
            arms: vec![arm],
            backends: servers(&inner, backends),
            segments: vec![inner],
        };
        network.finish(LB, ROUTER);
        network
    }

    /// lb has an interface towards the router and one towards the backends.
    ///
    /// # Panics
    /// As [`Network::one_arm`].
    pub fn two_arm(backends: u8) -> Self {
        let (outside, outside_router) =
            (Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 254));
        let outer = Lan::with_mtu("outer", INNER_MTU).expect("make a segment");
        let inner = Lan::with_mtu("inner", INNER_MTU).expect("make a segment");
        let (client, router) = client_and_router();
        connect(&outer, &router, "eth1", outside_router);
        connect(&inner, &router, "eth2", ROUTER);
        let lb = namespace("lb");
        let arms = vec![
            connect(&outer, &lb, "eth0", outside),
            connect(&inner, &lb, "eth1", LB),
        ];
        let backends = servers(&inner, backends);
        let network = Self {
            client,
            router,
            lb,
            arms,
            backends,
            segments: vec![outer, inner],
        };
        network.finish(outside, outside_router);
        network
    }

    fn finish(&self, lb: Ipv4Addr, router: Ipv4Addr) {
        self.router
            .add_route(&format!("{VIP}/32"), IpAddr::V4(lb))
            .expect("route the VIP to lb");
        self.lb
            .add_route("0.0.0.0/0", IpAddr::V4(router))
            .expect("route to the client");
        // bpf_fib_lookup answers only on interfaces that forward (net/core/filter.c, bpf_ipv4_fib_lookup).
        self.lb.forward_packets().expect("forward on lb");
        let towards_backends = self.arms.last().expect("lb has an interface");
        for local in LOCAL {
            towards_backends
                .add_address(&format!("{local}/24"))
                .expect("add a local address");
        }
        // User space listens on the VIP, and it answers ARP and ping.
        self.lb
            .loopback()
            .and_then(|lo| lo.add_address(&format!("{VIP}/32")))
            .expect("add the VIP to lb");
    }

    /// The names of lb's interfaces, as in the config.
    pub fn interfaces(&self) -> String {
        let names: Vec<String> = self
            .arms
            .iter()
            .map(|arm| format!("{:?}", arm.name()))
            .collect();
        names.join(", ")
    }

    /// The `[l4]` section for this network.
    pub fn l4_section(&self) -> String {
        let [a, b] = LOCAL;
        format!(
            "[l4]\ninterfaces = [{}]\nlocal_addresses = [\"{a}\", \"{b}\"]\n",
            self.interfaces()
        )
    }

    /// The inner list of a pool's `backend`: every host, with this port.
    pub fn backend_list(&self, port: u16) -> String {
        let backends = self
            .backends
            .iter()
            .map(|host| format!("{{ address = \"{}:{port}\" }}", host.address));
        backends.collect::<Vec<_>>().join(", ")
    }

    /// The segments, the backends' last: where a capture sees what passes.
    pub fn segments(&self) -> &[Lan] {
        &self.segments
    }
}

impl Host {
    /// An address of this host.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Sends what leaves its segment through a router: lb for NAT.
    ///
    /// # Panics
    /// As [`Network::one_arm`].
    pub fn route_through(&self, router: Ipv4Addr) {
        self.namespace
            .add_route("0.0.0.0/0", IpAddr::V4(router))
            .expect("add a route");
    }

    /// Takes packets to the VIP without telling the segment that it has it, and answers clients directly: for DR and
    /// tunnels.
    ///
    /// # Panics
    /// As [`Network::one_arm`].
    pub fn accept_vip(&self) {
        // Documentation/networking/ip-sysctl.rst: answer ARP, and ask it, only with addresses of the interface itself.
        for (key, value) in [
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/all/arp_announce", "2"),
        ] {
            self.namespace.set_sysctl(key, value).expect("set a sysctl");
        }
        let loopback = self
            .namespace
            .loopback()
            .expect("every namespace has a loopback");
        loopback
            .add_address(&format!("{VIP}/32"))
            .expect("add the VIP");
        self.route_through(ROUTER);
    }
}

fn client_and_router() -> (Namespace, Namespace) {
    let (client, router) = (namespace("client"), namespace("router"));
    let (near, far) = veth((&client, "eth0"), (&router, "eth0")).expect("join client and router");
    let gateway = Ipv4Addr::new(198, 51, 100, 254);
    near.add_address(&format!("{CLIENT}/24"))
        .expect("add an address");
    far.add_address(&format!("{gateway}/24"))
        .expect("add an address");
    client
        .add_route("0.0.0.0/0", IpAddr::V4(gateway))
        .expect("add a route");
    router.forward_packets().expect("forward on the router");
    (client, router)
}

fn servers(segment: &Lan, count: u8) -> Vec<Host> {
    let server = |number: u8| {
        let namespace = namespace(&format!("backend{number}"));
        let address = Ipv4Addr::new(10, 1, 0, 20 + number);
        let link = connect(segment, &namespace, "eth0", address);
        Host {
            namespace,
            link,
            address,
        }
    };
    (1..=count).map(server).collect()
}

fn namespace(label: &str) -> Namespace {
    Namespace::new(label).expect("make a namespace")
}

fn connect(segment: &Lan, namespace: &Namespace, name: &str, address: Ipv4Addr) -> Link {
    let link = segment
        .connect(namespace, name)
        .expect("plug into a segment");
    link.add_address(&format!("{address}/24"))
        .expect("add an address");
    link
}
