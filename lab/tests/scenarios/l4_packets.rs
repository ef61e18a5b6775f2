//! Packets of real stacks that are not plain: fragments, errors of ICMP both ways, a narrow link in the middle, and what
//! `traceroute` makes of the load balancer.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use weir_lab::network::{CLIENT, VIP};
use weir_lab::{Folder, Network, eventually, ready};
use weir_netns::Namespace;

use crate::client::{Echo, TIMEOUT, ask_udp, curl, noise, same_content};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, names, vip};

const MODES: [(Arms, Mode); 4] = [
    (Arms::Two, Mode::Fullnat),
    (Arms::One, Mode::Nat),
    (Arms::One, Mode::Dr),
    (Arms::Two, Mode::Tunnel),
];

/// A port of the VIP that goes to the backends, where nobody listens.
const SILENT: u16 = 9;

/// The config of a scene, with a UDP listener on a port where nobody listens.
fn with_silent_port(arms: Arms, mode: Mode) -> Scene {
    Scene::with(
        arms,
        mode,
        |network| {
            let mut config = Config::of(network, mode);
            let backends = network.backend_list(mode.backend_port(SILENT));
            config.more = format!(
                "[[listener]]\nname = \"silent\"\nbind = \"{VIP}:{SILENT}\"\nprotocol = \"udp\"\n\
                 forward = \"{mode}\"\npool = \"silent\"\n\
                 [[pool]]\nname = \"silent\"\nbackend = [{backends}]\n"
            );
            config.text()
        },
        None,
    )
}

fn ip(namespace: &Namespace, arguments: &[&str]) {
    let output = namespace
        .output(Command::new("ip").args(arguments))
        .unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

#[test]
fn fragmented_datagrams_arrive_whole_in_every_mode() {
    if !ready("fragmented_datagrams_arrive_whole_in_every_mode", &[]) {
        return;
    }
    let words = noise(8000);
    for (arms, mode) in MODES {
        let scene = Scene::new(arms, mode);
        let mut reached = std::collections::BTreeSet::new();
        for len in [1473, 3000, 8000, 8000, 8000, 2960] {
            let answer = ask_udp(&scene.network.client, vip(ECHO), &words[..len]);
            let (name, echoed) = answer.split_at(2);
            assert_eq!(&echoed[1..], &words[..len], "{mode}");
            reached.insert(String::from_utf8_lossy(name).into_owned());
        }
        assert_eq!(reached, names().collect(), "{mode}");
    }
}

/// Sends datagrams until one is refused by an error of ICMP.
fn is_refused(socket: &UdpSocket) {
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    eventually("the datagram to be refused", TIMEOUT, || {
        let sent = socket.send(b"is anybody there?");
        match sent.and_then(|_| socket.recv(&mut [0; 100])) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_backends_refusal_reaches_the_client_in_every_mode() {
    if !ready("a_backends_refusal_reaches_the_client_in_every_mode", &[]) {
        return;
    }
    for (arms, mode) in MODES {
        let scene = with_silent_port(arms, mode);
        let client = &scene.network.client;
        let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(vip(SILENT)).unwrap();
        is_refused(&socket);
    }
}

#[test]
fn a_clients_refusal_reaches_the_backend_in_every_mode() {
    if !ready("a_clients_refusal_reaches_the_backend_in_every_mode", &[]) {
        return;
    }
    for (arms, mode) in MODES {
        let scene = with_silent_port(arms, mode);
        let host = &scene.network.backends[0];
        let port = mode.backend_port(SILENT);
        let address = if mode.keeps_vip() {
            vip(port)
        } else {
            host.at(port)
        };
        let server = host.namespace.run(|| UdpSocket::bind(address)).unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let client: SocketAddr = eventually("a datagram at the first backend", TIMEOUT, || {
            let client = scene.network.client.run(|| UdpSocket::bind("0.0.0.0:0"));
            client.unwrap().send_to(b"hello", vip(SILENT)).unwrap();
            server.recv_from(&mut [0; 100]).map(|(_, from)| from)
        });
        // The client's socket is closed: whatever the backend answers is refused.
        server.connect(client).unwrap();
        is_refused(&server);
    }
}

/// A download of 20 MB where the way to the client is narrower than both ends know.
#[test]
fn downloads_pass_a_narrow_link_in_every_mode() {
    let scenario = "downloads_pass_a_narrow_link_in_every_mode";
    if !ready(scenario, &["nginx", "curl"]) {
        return;
    }
    let content = noise(20_000_000);
    for (arms, mode) in MODES {
        let files = Folder::new();
        let original = files.write("file", &content);
        let scene = Scene::with_nginx(arms, mode, &files);
        let link = [
            "route",
            "replace",
            "198.51.100.0/24",
            "dev",
            "eth0",
            "mtu",
            "1400",
        ];
        ip(&scene.network.router, &link);
        let here = Folder::new();
        let copy = here.path().join("copy");
        let url = format!("http://{VIP}:{WEB}/files/file");
        curl(
            &scene.network.client,
            &["--output", copy.to_str().unwrap(), &url],
        )
        .unwrap();
        assert!(same_content(&original, &copy), "{mode}");
    }
}

/// Uploads through a link towards the backends that carries less than the client sends. Where the backend's answer to
/// the SYN comes through weir, the segments' size is agreed on; where not, weir says what is too big.
#[test]
fn uploads_pass_a_narrow_link_behind_weir() {
    if !ready("uploads_pass_a_narrow_link_behind_weir", &[]) {
        return;
    }
    let words = noise(3_000_000);
    // Without the outer header of a tunnel a full packet would fit.
    for (mode, mtu) in [
        (Mode::Fullnat, 1400),
        (Mode::Dr, 1400),
        (Mode::Tunnel, 1500),
    ] {
        let narrow = |network: &Network| {
            network.arms[1].set_mtu(mtu).unwrap();
            Config::of(network, mode).text()
        };
        let scene = Scene::with(Arms::Two, mode, narrow, None);
        for _ in 0..3 {
            let mut echo = Echo::connect(&scene.network.client, vip(ECHO)).unwrap();
            echo.say(&words).unwrap();
        }
        let reason = ["reason=\"too_big\""];
        let too_big = scene.weir.metric("weir_drops_total", &reason);
        assert_eq!(too_big > 0.0, mode.keeps_vip(), "{mode}: {too_big} packets");
    }
}

#[test]
fn traceroute_sees_the_load_balancer_and_then_the_service() {
    let scenario = "traceroute_sees_the_load_balancer_and_then_the_service";
    if !ready(scenario, &["traceroute"]) {
        return;
    }
    for (arms, mode) in MODES {
        let scene = with_silent_port(arms, mode);
        for probe in [vec!["-T", "-p", "7"], vec!["-U", "-p", "9"]] {
            let mut command = Command::new("traceroute");
            command
                .args(["-n", "-q", "1", "-N", "1", "-w", "5", "-m", "6"])
                .args(&probe);
            let output = scene
                .network
                .client
                .output(command.arg(VIP.to_string()))
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // Router, weir, backend: both of the latter answer as the VIP.
            let hops: Vec<Vec<&str>> = text
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().take(2).collect())
                .collect();
            let expected = [
                ["1", "198.51.100.254"],
                ["2", "203.0.113.10"],
                ["3", "203.0.113.10"],
            ];
            assert_eq!(hops, expected, "{mode} from {CLIENT}: {text}");
        }
    }
}
