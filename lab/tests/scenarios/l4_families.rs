//! Every forwarding mode with every family and encapsulation, and FullNAT from one family to the other, with real stacks.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_lab::network::{LB, ROUTER};
use weir_lab::network6::LB6;
use weir_lab::{Decap, Folder, Network, Nginx, TcpEcho, UdpEcho, Weir, eventually, ready};

use crate::client::{Echo, TIMEOUT, ask_udp, bound, is_refused, narrow, noise};
use crate::scene::{Mode, any, at, vip_of};

/// A way that packets may go.
#[derive(Clone, Copy, Debug)]
struct Way {
    mode: Mode,
    /// The client's family, which is the VIP's, and the backend's, as 4 and 6.
    families: (u8, u8),
    /// Of tunnels.
    encapsulation: &'static str,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, backend) = self.families;
        match self.mode {
            Mode::Tunnel => write!(f, "tunnel {} {client}in{backend}", self.encapsulation),
            mode if client == backend => write!(f, "{mode} IPv{client}"),
            mode => write!(f, "{mode} IPv{client} to IPv{backend}"),
        }
    }
}

/// All of them.
fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    let mut add = |mode, families, encapsulation| {
        ways.push(Way {
            mode,
            families,
            encapsulation,
        });
    };
    for families in [(4, 4), (6, 6)] {
        for mode in [Mode::Fullnat, Mode::Nat, Mode::Dr] {
            add(mode, families, "");
        }
    }
    for families in [(6, 4), (4, 6)] {
        add(Mode::Fullnat, families, "");
    }
    for encapsulation in ["ipip", "gue", "gre"] {
        for families in [(4, 4), (4, 6), (6, 4), (6, 6)] {
            add(Mode::Tunnel, families, encapsulation);
        }
    }
    ways
}

/// The port of the VIP that leads a way, by the way's place in the list.
fn port(index: usize) -> u16 {
    8000 + index as u16
}

/// One load balancer, two servers and a listener for each way: fields are dropped in order.
struct Crossroads {
    network: Network,
    _weir: Weir,
    _decap: Decap,
    _nginxes: Vec<Nginx>,
}

impl Crossroads {
    fn new(ways: &[Way], files: &Folder) -> Self {
        let network = Network::two_arm(2);
        network.add_ipv6();
        // The second one sends everything through lb, as NAT wants it.
        let [direct, through_lb] = &network.backends[..] else {
            panic!("two backends");
        };
        direct.accept_vip();
        direct.accept_vip6();
        direct.route_through(ROUTER);
        through_lb.route_through(LB);
        through_lb.route_through6(LB6);
        let decap = Decap::start(direct);
        let ports: Vec<u16> = (0..ways.len()).map(port).collect();
        let nginxes = vec![
            Nginx::start(direct, "b1", &ports, Some(files)),
            Nginx::start(through_lb, "b2", &ports, Some(files)),
        ];
        let mut config = network.l4_section_of_both() + "max_sessions = 1024\n";
        for (index, way) in ways.iter().enumerate() {
            let (client, backend) = way.families;
            let host = if matches!(way.mode, Mode::Nat) {
                through_lb
            } else {
                direct
            };
            let (vip, backend) = (vip_of(client, port(index)), at(host, backend, port(index)));
            let tunnel = match way.encapsulation {
                "" => String::new(),
                encapsulation => format!("tunnel = {{ encapsulation = \"{encapsulation}\" }}\n"),
            };
            write!(
                config,
                "[[listener]]\nname = \"l{index}\"\nbind = \"{vip}\"\nprotocol = \"tcp\"\n\
                 forward = \"{}\"\n{tunnel}pool = \"p{index}\"\n\
                 [[pool]]\nname = \"p{index}\"\nbackend = [{{ address = \"{backend}\" }}]\n",
                way.mode
            )
            .unwrap();
        }
        let weir = Weir::start(&network.lb, &config);
        Self {
            network,
            _weir: weir,
            _decap: decap,
            _nginxes: nginxes,
        }
    }

    /// The checksum of what arrives of a file.
    fn download(&self, index: usize, way: Way, file: &str) -> String {
        let url = format!(
            "http://{}/files/{file}",
            vip_of(way.families.0, port(index))
        );
        let curl = format!(
            "set -o pipefail; curl --silent --show-error --fail --globoff --max-time 300 '{url}' | sha256sum"
        );
        sum(
            &way.to_string(),
            self.network
                .client
                .output(Command::new("bash").args(["-c", &curl])),
        )
    }
}

fn sum(what: &str, output: io::Result<std::process::Output>) -> String {
    let output = output.unwrap();
    assert!(output.status.success(), "{what}: {output:?}");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

/// A file of noise, megabyte after megabyte; its checksum.
fn write_file(path: &Path, megabytes: usize) -> String {
    let mut file = File::create(path).unwrap();
    let mut block = noise(1_000_000);
    for number in 0..megabytes {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    sum("sha256sum", Command::new("sha256sum").arg(path).output())
}

/// Files of so many megabytes by every way, then by a narrow link; says how fast.
fn downloads(megabytes: usize, narrow_megabytes: usize) {
    let files = Folder::new();
    let whole = write_file(&files.path().join("whole"), megabytes);
    let part = write_file(&files.path().join("part"), narrow_megabytes);
    let ways = ways();
    let crossroads = Crossroads::new(&ways, &files);
    let run = |what: &str, file: &str, megabytes: usize, expected: &str| {
        for (index, way) in ways.iter().enumerate() {
            let begun = Instant::now();
            assert_eq!(crossroads.download(index, *way, file), expected, "{way}");
            let seconds = begun.elapsed().as_secs_f64();
            eprintln!(
                "| {way} | {what} | {megabytes} | {seconds:.1} | {:.0} |",
                megabytes as f64 / seconds
            );
        }
    };
    eprintln!("| way | link to the client | MB | s | MB/s |\n|---|---|---|---|---|");
    run("MTU 1500", "whole", megabytes, &whole);
    for family in [4, 6] {
        narrow(&crossroads.network.router, family);
    }
    run("MTU 1400 in the middle", "part", narrow_megabytes, &part);
}

#[test]
fn every_mode_family_and_encapsulation_keeps_every_byte() {
    let scenario = "every_mode_family_and_encapsulation_keeps_every_byte";
    if ready(scenario, &["nginx", "curl", "bash", "sha256sum", "ip"]) {
        downloads(64, 10);
    }
}

#[test]
#[ignore = "takes minutes: cargo xtask soak l4"]
fn a_gigabyte_by_every_mode_family_and_encapsulation_keeps_every_byte() {
    let scenario = "a_gigabyte_by_every_mode_family_and_encapsulation_keeps_every_byte";
    if ready(scenario, &["nginx", "curl", "bash", "sha256sum", "ip"]) {
        downloads(1000, 250);
    }
}

/// Echo over TCP and UDP, datagrams in fragments, and refusals of both sides.
#[test]
fn fullnat_leads_to_the_other_family_and_back() {
    if !ready("fullnat_leads_to_the_other_family_and_back", &[]) {
        return;
    }
    let network = Network::two_arm(1);
    network.add_ipv6();
    let host = &network.backends[0];
    let (tcp, udp, silent) = (7, 8, 9);
    let mut config = network.l4_section_of_both() + "max_sessions = 1024\n";
    let mut servers = Vec::new();
    for (client, backend) in [(6, 4), (4, 6)] {
        for (name, port, protocol) in [
            ("tcp", tcp, "tcp"),
            ("udp", udp, "udp"),
            ("silent", silent, "udp"),
        ] {
            write!(
                config,
                "[[listener]]\nname = \"{name}{client}\"\nbind = \"{}\"\nprotocol = \"{protocol}\"\n\
                 forward = \"fullnat\"\npool = \"{name}{client}\"\n\
                 [[pool]]\nname = \"{name}{client}\"\nbackend = [{{ address = \"{}\" }}]\n",
                vip_of(client, port),
                at(host, backend, port + 8000)
            )
            .unwrap();
        }
        let name = format!("b{backend}");
        servers.push((
            TcpEcho::start(&host.namespace, &name, at(host, backend, tcp + 8000)),
            UdpEcho::start(&host.namespace, &name, at(host, backend, udp + 8000)),
        ));
    }
    let weir = Weir::start(&network.lb, &config);
    let words = noise(1_000_000);
    for (client, backend) in [(6, 4), (4, 6)] {
        let from = &network.client;
        let mut echo = Echo::connect(from, vip_of(client, tcp)).unwrap();
        assert_eq!(echo.name, format!("b{backend}"));
        echo.say(&words).unwrap();

        let sessions = weir.api(&format!("sessions?listener=tcp{client}"));
        let session = &sessions["items"][0];
        assert_eq!(sessions["items"].as_array().unwrap().len(), 1, "{sessions}");
        assert_eq!(session["state"], "established");
        let address = |key: &str| {
            session[key]
                .as_str()
                .unwrap()
                .parse::<SocketAddr>()
                .unwrap()
        };
        assert_eq!(address("client").is_ipv6(), client == 6);
        assert_eq!(address("local").is_ipv6(), backend == 6);
        for direction in ["bytes_in", "bytes_out"] {
            let bytes = session[direction].as_u64().unwrap();
            assert!(bytes > words.len() as u64, "{direction}: {session}");
        }

        for len in [0, 1, 2, 3, 1000, 1400, 1472, 3000, 8000] {
            let answer = ask_udp(from, vip_of(client, udp), &words[..len]);
            assert_eq!(&answer[3..], &words[..len], "{len} bytes");
        }

        let socket = bound(from, any(client, 0));
        socket.connect(vip_of(client, silent)).unwrap();
        is_refused(&socket);

        // A client that is gone before the answer comes.
        let server = bound(&host.namespace, at(host, backend, silent + 8000));
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let local: SocketAddr = eventually("a datagram at the backend", TIMEOUT, || {
            let socket = bound(from, any(client, 0));
            socket.send_to(b"hello", vip_of(client, silent)).unwrap();
            server.recv_from(&mut [0; 100]).map(|(_, from)| from)
        });
        server.connect(local).unwrap();
        is_refused(&server);
    }
}
