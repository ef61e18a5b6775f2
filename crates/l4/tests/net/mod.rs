//! A client, the load balancer with two interfaces, and backends, each in a namespace of its own.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream,
    UdpSocket,
};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use weir_l4::Plane;
use weir_model::{BackendState, Config, Health, Snapshot};
use weir_netns::{Lan, Link, Namespace, check_available, veth};

pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 80);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// What FullNAT puts in place of the client.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);

pub(crate) const VIP6: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1), 80, 0, 0);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Net {
    pub(crate) client: Namespace,
    pub(crate) balancer: Namespace,
    client_link: Option<Link>,
    backend_links: Vec<Link>,
    backends: Vec<Namespace>,
    _lan: Lan,
}

impl Net {
    /// `None`, with a reason on standard error, where there is no right to make namespaces.
    pub(crate) fn new(label: &str) -> Option<Self> {
        if let Err(error) = check_available() {
            eprintln!("skipped: {error}");
            return None;
        }
        let client = Namespace::new(&format!("{label}-client")).unwrap();
        let balancer = Namespace::new(&format!("{label}-lb")).unwrap();
        let client_link = join(&client, &balancer);
        let lan = Lan::new(label).unwrap();
        let inside = lan.connect(&balancer, "eth1").unwrap();
        inside.add_address("10.2.0.1/24").unwrap();
        inside.add_address("10.2.0.10/24").unwrap();
        inside.add_address("fd00:2::1/64").unwrap();
        inside.add_address("fd00:2::10/64").unwrap();
        balancer.forward_packets().unwrap();
        let mut backends = Vec::new();
        let mut backend_links = Vec::new();
        for number in 1..=2 {
            let backend = Namespace::new(&format!("{label}-b{number}")).unwrap();
            let link = lan.connect(&backend, "eth0").unwrap();
            link.add_address(&format!("10.2.0.{}/24", 10 + number))
                .unwrap();
            link.add_address(&format!("fd00:2::1{number}/64")).unwrap();
            // With NAT replies must come back through us.
            backend
                .add_route("0.0.0.0/0", "10.2.0.1".parse().unwrap())
                .unwrap();
            backend
                .add_route("::/0", "fd00:2::1".parse().unwrap())
                .unwrap();
            serve(&backend, number, 8080);
            backends.push(backend);
            backend_links.push(link);
        }
        Some(Self {
            client,
            balancer,
            client_link: Some(client_link),
            backend_links,
            backends,
            _lan: lan,
        })
    }

    /// Starts the plane in the load balancer's namespace, with a snapshot.
    pub(crate) fn plane(&self, snapshot: &Arc<Snapshot>) -> Plane {
        let l4 = snapshot.config.l4.clone().unwrap();
        let plane = self.balancer.run(|| Plane::start(&l4)).unwrap();
        plane.commit(plane.prepare(snapshot).unwrap());
        plane
    }

    pub(crate) fn text(
        &self,
        forward: &str,
        protocol: &str,
        scheduler: &str,
        weights: &[u16],
    ) -> String {
        let backends: Vec<String> = weights
            .iter()
            .zip(11..)
            .map(|(weight, host)| {
                format!("{{ address = \"10.2.0.{host}:8080\", weight = {weight} }}")
            })
            .collect();
        format!(
            "{L4}\
             [[listener]]\nname = \"service\"\nbind = \"{VIP}\"\nprotocol = \"{protocol}\"\n\
             forward = \"{forward}\"\npool = \"pool\"\n\
             [[pool]]\nname = \"pool\"\nscheduler = \"{scheduler}\"\nbackend = [{}]\n",
            backends.join(", ")
        )
    }

    /// The first backend alone, on the listener's own port, as DR and tunnel want it.
    pub(crate) fn config_to_port(&self, port: u16, forward: &str, protocol: &str) -> Arc<Snapshot> {
        snapshot(
            &self
                .text(forward, protocol, "round_robin", &[1])
                .replace(":8080", &format!(":{port}")),
        )
    }

    pub(crate) fn backend(&self, index: usize) -> &Namespace {
        &self.backends[index]
    }

    /// As DR and tunnel want it: the VIP on the loopback, unknown to ARP, and a service on its port.
    pub(crate) fn give_backends_the_vip(&self) {
        for (backend, number) in self.backends.iter().zip(1..) {
            for key in [
                "all/arp_ignore",
                "all/rp_filter",
                "default/rp_filter",
                "eth0/rp_filter",
            ] {
                let value = if key.ends_with("arp_ignore") {
                    "1"
                } else {
                    "0"
                };
                backend
                    .set_sysctl(&format!("net/ipv4/conf/{key}"), value)
                    .unwrap();
            }
            backend
                .loopback()
                .unwrap()
                .add_address(&format!("{}/32", VIP.ip()))
                .unwrap();
            backend
                .loopback()
                .unwrap()
                .add_address(&format!("{}/128", VIP6.ip()))
                .unwrap();
            serve(backend, number, VIP.port());
        }
    }

    /// The same with everything of the second family: VIP, local address, backends.
    pub(crate) fn config6(&self, forward: &str, protocol: &str, port: u16) -> Arc<Snapshot> {
        let text = self
            .text(forward, protocol, "round_robin", &[1])
            .replace(&VIP.to_string(), &VIP6.to_string())
            .replace("\"10.2.0.10\"", "\"fd00:2::10\"")
            .replace("10.2.0.11:8080", &format!("[fd00:2::11]:{port}"));
        snapshot(&text)
    }

    /// The first backend behind a tunnel, VIP and backend of either family.
    pub(crate) fn config_of_tunnel(
        &self,
        encapsulation: &str,
        vip6: bool,
        backend6: bool,
    ) -> Arc<Snapshot> {
        let mut text = self
            .text("tunnel", "tcp", "round_robin", &[1])
            .replace("\"10.2.0.10\"", "\"10.2.0.10\", \"fd00:2::10\"")
            .replace(":8080", ":80")
            .replace(
                "forward = \"tunnel\"\n",
                &format!(
                    "forward = \"tunnel\"\ntunnel = {{ encapsulation = \"{encapsulation}\" }}\n"
                ),
            );
        if vip6 {
            text = text.replace(&VIP.to_string(), &VIP6.to_string());
        }
        if backend6 {
            text = text.replace("10.2.0.11:80", "[fd00:2::11]:80");
        }
        snapshot(&text)
    }

    /// One listener, `service`, with one pool.
    pub(crate) fn config(
        &self,
        forward: &str,
        protocol: &str,
        scheduler: &str,
        weights: &[u16],
    ) -> Arc<Snapshot> {
        snapshot(&self.text(forward, protocol, scheduler, weights))
    }

    /// No listener at layer 4.
    pub(crate) fn empty_config(&self) -> Arc<Snapshot> {
        snapshot(&format!(
            "{L4}\
             [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:1\"\nprotocol = \"tcp\"\npool = \"other\"\n\
             [[pool]]\nname = \"other\"\nbackend = [{{ address = \"127.0.0.1:2\" }}]\n"
        ))
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        self.connect_to(VIP.into())
    }

    fn connect_to(&self, vip: SocketAddr) -> io::Result<TcpStream> {
        let stream = self
            .client
            .run(|| TcpStream::connect_timeout(&vip, Duration::from_secs(1)))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// Which backend answers a new connection.
    pub(crate) fn ask(&self) -> String {
        self.try_ask().unwrap()
    }

    pub(crate) fn try_ask(&self) -> io::Result<String> {
        Self::talk(self.connect()?)
    }

    /// Which backend answers a new connection of IPv6.
    pub(crate) fn ask6(&self) -> String {
        Self::talk(self.connect_to(VIP6.into()).unwrap()).unwrap()
    }

    fn talk(mut stream: TcpStream) -> io::Result<String> {
        stream.write_all(b"?")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn ask_udp(&self) -> String {
        self.ask_udp_from(0, 1)
    }

    /// Which backend answers datagrams, one after the other, from this port, 0 being any.
    pub(crate) fn ask_udp_from(&self, port: u16, times: u32) -> String {
        self.ask_udp_at(SocketAddr::from((CLIENT, port)), VIP.into(), times)
    }

    /// Which backend answers a datagram of IPv6.
    pub(crate) fn ask_udp6(&self) -> String {
        self.ask_udp_at(SocketAddr::from((CLIENT6, 0)), VIP6.into(), 1)
    }

    fn ask_udp_at(&self, client: SocketAddr, vip: SocketAddr, times: u32) -> String {
        let socket = self.client.run(|| UdpSocket::bind(client)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut last = String::new();
        for _ in 0..times {
            socket.send_to(b"?", vip).unwrap();
            let mut answer = [0; 100];
            let (len, from) = socket.recv_from(&mut answer).unwrap();
            assert_eq!(from, vip);
            last = String::from_utf8_lossy(&answer[..len]).into_owned();
        }
        last
    }

    /// A datagram to the service, and no look at an answer.
    pub(crate) fn send_udp(&self) {
        let socket = self.client.run(|| UdpSocket::bind((CLIENT, 0))).unwrap();
        socket.send_to(b"?", SocketAddr::V4(VIP)).unwrap();
    }

    /// The client knows the load balancer's MAC address for good, and so has no reason to say its own.
    pub(crate) fn introduce_balancer_to_client(&self) {
        let mac = self.balancer.link("eth0").unwrap().mac().unwrap();
        let link = self.client_link.as_ref().unwrap();
        link.add_neighbour(IpAddr::from([10, 1, 0, 1]), mac)
            .unwrap();
    }

    /// Gives the first backend another MAC address, and lets it say so.
    pub(crate) fn move_backend(&self, mac: [u8; 6]) {
        let link = &self.backend_links[0];
        link.set_mac(mac).unwrap();
        // Any ARP packet of the new address will do: this asks for the load balancer.
        link.namespace().run(|| {
            let socket = UdpSocket::bind("10.2.0.11:0").unwrap();
            socket.send_to(b"", "10.2.0.99:9").unwrap();
        });
        self.balancer
            .link("eth1")
            .unwrap()
            .add_neighbour(IpAddr::from([10, 2, 0, 11]), mac)
            .unwrap();
    }

    /// Sends packets for the first backend to a gateway; `None`: to itself again.
    pub(crate) fn route_first_backend(&self, gateway: Option<&str>) {
        match gateway {
            Some(gateway) => self
                .balancer
                .add_route("10.2.0.11/32", gateway.parse().unwrap())
                .unwrap(),
            None => drop(self.ip(&["route", "delete", "10.2.0.11/32"])),
        }
    }

    /// The load balancer's neighbours, in the words of iproute2.
    pub(crate) fn neighbours(&self) -> String {
        self.ip(&["neigh", "show"])
    }

    fn ip(&self, arguments: &[&str]) -> String {
        let output = self
            .balancer
            .output(Command::new("ip").args(arguments))
            .unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Takes the link to the client away and makes a new one of the same name.
    pub(crate) fn replace_client_link(&mut self) {
        drop(self.client_link.take());
        let removed = self
            .client
            .output(Command::new("ip").args(["link", "delete", "eth0"]))
            .unwrap();
        assert!(removed.status.success(), "{removed:?}");
        self.client_link = Some(join(&self.client, &self.balancer));
    }
}

const L4: &str = "[l4]\ninterfaces = [\"eth0\", \"eth1\"]\nlocal_addresses = [\"10.2.0.10\"]\nmax_sessions = 4096\n";

pub(crate) fn snapshot(text: &str) -> Arc<Snapshot> {
    let config = Config::parse(text, Path::new("test.toml")).unwrap();
    Arc::new(Snapshot::new(Arc::new(config)))
}

/// The same with every backend down.
pub(crate) fn all_down(snapshot: &Snapshot) -> Arc<Snapshot> {
    let mut down = snapshot.clone();
    down.generation += 1;
    let state = BackendState {
        health: Health::Down,
        ..BackendState::default()
    };
    down.backends = snapshot
        .config
        .backends()
        .map(|(id, ..)| (id, state))
        .collect();
    Arc::new(down)
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn join(client: &Namespace, balancer: &Namespace) -> Link {
    let (near, far) = veth((client, "eth0"), (balancer, "eth0")).unwrap();
    near.add_address("10.1.0.2/24").unwrap();
    far.add_address("10.1.0.1/24").unwrap();
    near.add_address(&format!("{CLIENT6}/64")).unwrap();
    far.add_address("fd00:1::1/64").unwrap();
    client
        .add_route("::/0", "fd00:1::1".parse().unwrap())
        .unwrap();
    client
        .add_route("0.0.0.0/0", "10.1.0.1".parse().unwrap())
        .unwrap();
    near
}

/// A backend that says who it is: to `?` over TCP and then closes; any other byte it sends back and goes on.
fn serve(backend: &Namespace, number: u32, port: u16) {
    let tcp = backend.run(|| TcpListener::bind(("::", port))).unwrap();
    let udp = backend.run(|| UdpSocket::bind(("::", port))).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).is_ok() {
                    if byte == *b"?" {
                        // The client may be gone.
                        let _ = stream.write_all(format!("backend {number}").as_bytes());
                        return;
                    }
                    if stream.write_all(&byte).is_err() {
                        return;
                    }
                }
            });
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            // The client may be gone.
            let _ = udp.send_to(format!("backend {number}").as_bytes(), from);
        }
    });
}
