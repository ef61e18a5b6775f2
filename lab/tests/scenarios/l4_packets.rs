//! Packets of real stacks that are not plain: fragments, errors of ICMP both ways, a narrow link in the middle, and what
//! `traceroute` makes of the load balancer.

use std::net::SocketAddr;
use std::process::Command;

use weir_lab::network::ROUTER;
use weir_lab::network6::ROUTER6;
use weir_lab::{Folder, Network, TcpEcho, Weir, eventually, ready};
use weir_netns::Namespace;

use crate::client::{
    Echo, TIMEOUT, ask_udp, bound, curl, ip, is_refused, narrow, noise, same_content,
};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, any, at, backend_list, names, vip_of};

/// Every mode, with a place of the load balancer that it works in.
const MODES: [(Arms, Mode); 4] = [
    (Arms::Two, Mode::Fullnat),
    (Arms::One, Mode::Nat),
    (Arms::One, Mode::Dr),
    (Arms::Two, Mode::Tunnel),
];

/// A port of the VIP that goes to the backends, where nobody listens.
const SILENT: u16 = 9;

/// Defines a scenario for each family.
macro_rules! in_both_families {
    ($scenario:ident, $v4:ident, $v6:ident, $programs:expr) => {
        #[test]
        fn $v4() {
            if ready(stringify!($v4), &$programs) {
                $scenario(4);
            }
        }

        #[test]
        fn $v6() {
            if ready(stringify!($v6), &$programs) {
                $scenario(6);
            }
        }
    };
}

/// The config of a scene, with a UDP listener on a port where nobody listens.
fn with_silent_port(network: &Network, family: u8, mode: Mode) -> String {
    let mut config = Config::of_family(family, network, mode);
    let backends = backend_list(network, family, mode.backend_port(SILENT));
    config.more = format!(
        "[[listener]]\nname = \"silent\"\nbind = \"{}\"\nprotocol = \"udp\"\n\
         forward = \"{mode}\"\npool = \"silent\"\n\
         [[pool]]\nname = \"silent\"\nbackend = [{backends}]\n",
        vip_of(family, SILENT)
    );
    config.text()
}

/// A scene of that config.
fn silent_scene(family: u8, arms: Arms, mode: Mode) -> Scene {
    let config = |network: &Network| with_silent_port(network, family, mode);
    Scene::of_family(family, arms, mode, config, None)
}

in_both_families!(
    fragments,
    fragmented_datagrams_arrive_whole_in_every_mode,
    fragmented_datagrams_of_ipv6_arrive_whole_in_every_mode,
    []
);

fn fragments(family: u8) {
    let words = noise(8000);
    for (arms, mode) in MODES {
        let config = |network: &Network| Config::of_family(family, network, mode).text();
        let scene = Scene::of_family(family, arms, mode, config, None);
        let mut reached = std::collections::BTreeSet::new();
        for len in [1473, 3000, 8000, 8000, 8000, 2960] {
            let answer = ask_udp(&scene.network.client, vip_of(family, ECHO), &words[..len]);
            let (name, echoed) = answer.split_at(2);
            assert_eq!(&echoed[1..], &words[..len], "{mode}");
            reached.insert(String::from_utf8_lossy(name).into_owned());
        }
        assert_eq!(reached, names().collect(), "{mode}");
    }
}

in_both_families!(
    backends_refusal,
    a_backends_refusal_reaches_the_client_in_every_mode,
    a_backends_refusal_over_ipv6_reaches_the_client_in_every_mode,
    []
);

fn backends_refusal(family: u8) {
    for (arms, mode) in MODES {
        let scene = silent_scene(family, arms, mode);
        let socket = bound(&scene.network.client, any(family, 0));
        socket.connect(vip_of(family, SILENT)).unwrap();
        is_refused(&socket);
    }
}

in_both_families!(
    clients_refusal,
    a_clients_refusal_reaches_the_backend_in_every_mode,
    a_clients_refusal_over_ipv6_reaches_the_backend_in_every_mode,
    []
);

fn clients_refusal(family: u8) {
    for (arms, mode) in MODES {
        let scene = silent_scene(family, arms, mode);
        let host = &scene.network.backends[0];
        let port = mode.backend_port(SILENT);
        let address = if mode.keeps_vip() {
            vip_of(family, port)
        } else {
            at(host, family, port)
        };
        let server = bound(&host.namespace, address);
        let client: SocketAddr = eventually("a datagram at the first backend", TIMEOUT, || {
            let client = bound(&scene.network.client, any(family, 0));
            client.send_to(b"hello", vip_of(family, SILENT)).unwrap();
            server.recv_from(&mut [0; 100]).map(|(_, from)| from)
        });
        // The client's socket is closed: whatever the backend answers is refused.
        server.connect(client).unwrap();
        is_refused(&server);
    }
}

in_both_families!(
    narrow_downloads,
    downloads_pass_a_narrow_link_in_every_mode,
    downloads_of_ipv6_pass_a_narrow_link_in_every_mode,
    ["nginx", "curl", "ip"]
);

/// A download of 20 MB where the way to the client is narrower than both ends know.
fn narrow_downloads(family: u8) {
    let content = noise(20_000_000);
    for (arms, mode) in MODES {
        let files = Folder::new();
        let original = files.write("file", &content);
        let config = |network: &Network| Config::of_family(family, network, mode).text();
        let scene = Scene::of_family(family, arms, mode, config, Some(&files));
        narrow(&scene.network.router, family);
        let here = Folder::new();
        let copy = here.path().join("copy");
        let url = format!("http://{}/files/file", vip_of(family, WEB));
        curl(
            &scene.network.client,
            &["--globoff", "--output", copy.to_str().unwrap(), &url],
        )
        .unwrap();
        assert!(same_content(&original, &copy), "{mode}");
    }
}

in_both_families!(
    narrow_uploads,
    uploads_pass_a_narrow_link_behind_weir,
    uploads_of_ipv6_pass_a_narrow_link_behind_weir,
    ["traceroute"]
);

/// Uploads through a link towards the backends that carries less than the client sends. Where the backend's answer to
/// the SYN comes through weir, the segments' size is agreed on; where not, weir says what is too big. `traceroute` hears
/// from weir how much that is, and uses it for the rest of its way.
fn narrow_uploads(family: u8) {
    let words = noise(3_000_000);
    let outer = if family == 6 { 40 } else { 20 };
    // Without the outer header of a tunnel a full packet would fit.
    for (mode, mtu, largest) in [
        (Mode::Fullnat, 1400, 1400),
        (Mode::Dr, 1400, 1400),
        (Mode::Tunnel, 1500, 1500 - outer),
    ] {
        let config = |network: &Network| {
            network.arms[1].set_mtu(mtu).unwrap();
            with_silent_port(network, family, mode)
        };
        let scene = Scene::of_family(family, Arms::Two, mode, config, None);
        let too_big = || {
            let reason = ["reason=\"too_big\""];
            scene.weir.metric("weir_drops_total", &reason)
        };
        for _ in 0..3 {
            let mut echo = Echo::connect(&scene.network.client, vip_of(family, ECHO)).unwrap();
            echo.say(&words).unwrap();
        }
        let packets = too_big();
        assert_eq!(packets > 0.0, mode.keeps_vip(), "{mode}: {packets} packets");

        let text = traceroute(
            &scene.network.client,
            family,
            &["--mtu", "-U", "-p", "9", "-m", "6"],
        );
        let last = text.split("F=").last().unwrap_or_default();
        let last = last.split_whitespace().next().unwrap_or_default();
        assert_eq!(last, largest.to_string(), "{mode}: {text}");
        assert!(too_big() > packets, "{mode}: {text}");
    }
}

in_both_families!(
    narrow_behind,
    a_router_behind_weir_tells_the_client_what_it_cannot_carry,
    a_router_behind_weir_tells_the_client_of_ipv6_what_it_cannot_carry,
    ["ip"]
);

/// An upload under FullNAT to a server behind a router behind weir, which carries less than weir knows. Under NAT the
/// router would send its error past weir: it is on the way to the client itself.
fn narrow_behind(family: u8) {
    let network = Network::two_arm(1);
    network.add_ipv6();
    let host = &network.backends[0];
    let port = Mode::Fullnat.backend_port(ECHO);
    let (flag, server, len, router) = match family {
        6 => ("-6", "2001:db8:b::1", 128, ROUTER6.into()),
        _ => ("-4", "10.2.0.1", 32, ROUTER.into()),
    };
    let prefix = format!("{server}/{len}");
    let loopback = host.namespace.loopback().unwrap();
    loopback.add_address(&prefix).unwrap();
    network.lb.add_route(&prefix, router).unwrap();
    let via = at(host, family, port).ip().to_string();
    let route = [flag, "route", "add", &prefix, "via", &via, "mtu", "1400"];
    ip(&network.router, &route);

    let server = SocketAddr::new(server.parse().unwrap(), port);
    let _echo = TcpEcho::start(&host.namespace, "b1", server);
    let config = format!(
        "{}max_sessions = 1024\n[[listener]]\nname = \"echo\"\nbind = \"{}\"\nprotocol = \"tcp\"\n\
         forward = \"fullnat\"\npool = \"echo\"\n\
         [[pool]]\nname = \"echo\"\nbackend = [{{ address = \"{server}\" }}]\n",
        network.l4_section_of_both(),
        vip_of(family, ECHO)
    );
    let _weir = Weir::start(&network.lb, &config);
    // What the client's kernel knows of the way to the VIP.
    let known = || {
        let vip = vip_of(family, ECHO).ip().to_string();
        ip(&network.client, &["route", "get", &vip])
    };
    assert!(!known().contains("mtu 1400"), "{}", known());
    let mut echo = Echo::connect(&network.client, vip_of(family, ECHO)).unwrap();
    echo.say(&noise(3_000_000)).unwrap();
    assert!(known().contains("mtu 1400"), "{}", known());
}

/// What traceroute prints of the way to the VIP.
fn traceroute(client: &Namespace, family: u8, probe: &[&str]) -> String {
    let mut command = Command::new("traceroute");
    command
        .args(["-n", "-q", "1", "-N", "1", "-w", "5"])
        .args(probe)
        .arg(vip_of(family, 0).ip().to_string());
    let output = client.output(&mut command).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

in_both_families!(
    hops,
    traceroute_sees_the_load_balancer_and_then_the_service,
    traceroute_of_ipv6_sees_the_load_balancer_and_then_the_service,
    ["traceroute"]
);

fn hops(family: u8) {
    let (router, vip) = match family {
        6 => ("2001:db8:c::fe", "2001:db8:ffff::10"),
        _ => ("198.51.100.254", "203.0.113.10"),
    };
    for (arms, mode) in MODES {
        let scene = silent_scene(family, arms, mode);
        for (method, port) in [("-T", "7"), ("-U", "9")] {
            let client = &scene.network.client;
            let text = traceroute(client, family, &[method, "-p", port, "-m", "6"]);
            // Router, weir, backend: both of the latter answer as the VIP.
            let hops: Vec<Vec<&str>> = text
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().take(2).collect())
                .collect();
            let expected = [["1", router], ["2", vip], ["3", vip]];
            assert_eq!(hops, expected, "{mode}: {text}");
        }
    }
}
