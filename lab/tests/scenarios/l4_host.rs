//! The load balancer's host: what is not ours, ping, ways to attach, and what the kernel learns about neighbours.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use weir_lab::network::{LB, VIP};
use weir_lab::{TcpEcho, UdpEcho, eventually, ready, until};

use crate::client::{Echo, ask_udp, noise};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, names, vip};

#[test]
fn what_is_not_ours_reaches_the_host() {
    if !ready("what_is_not_ours_reaches_the_host", &["ping"]) {
        return;
    }
    let scene = Scene::new(Arms::One, Mode::Fullnat);
    let client = &scene.network.client;
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let _ssh = TcpEcho::start(&scene.network.lb, "host", any(22));
    let _dns = UdpEcho::start(&scene.network.lb, "host", SocketAddr::from((LB, 53)));
    let _other = UdpEcho::start(&scene.network.lb, "host", vip(53));

    // Another address; the VIP with another port; the listener's port at another address.
    for address in [SocketAddr::from((LB, 22)), vip(22)] {
        let mut echo = Echo::connect(client, address).unwrap();
        assert_eq!(echo.name, "host");
        echo.say(&noise(1_000_000)).unwrap();
    }
    for address in [SocketAddr::from((LB, 53)), vip(53)] {
        assert_eq!(ask_udp(client, address, b"who?"), b"host who?");
    }
    let refused = Echo::connect(client, SocketAddr::from((LB, ECHO)))
        .err()
        .unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // And what the host asks itself comes back to it.
    let host = &scene.network.backends[0];
    let _service = TcpEcho::start(&host.namespace, "service", host.at(99));
    assert_eq!(
        Echo::connect(&scene.network.lb, host.at(99)).unwrap().name,
        "service"
    );
    let ping = client
        .output(Command::new("ping").args(["-c2", "-i0.2", "-W5", &LB.to_string()]))
        .unwrap();
    assert!(
        ping.status.success(),
        "{}",
        String::from_utf8_lossy(&ping.stdout)
    );
}

#[test]
fn the_vip_answers_ping() {
    if !ready("the_vip_answers_ping", &["ping"]) {
        return;
    }
    for (arms, mode) in [(Arms::One, Mode::Dr), (Arms::Two, Mode::Fullnat)] {
        let scene = Scene::new(arms, mode);
        // Not the kernel's answer: it does not listen to pings.
        scene
            .network
            .lb
            .set_sysctl("net/ipv4/icmp_echo_ignore_all", "1")
            .unwrap();
        for size in ["0", "56", "1400"] {
            let mut command = Command::new("ping");
            command.args(["-c3", "-i0.2", "-W5", "-s", size, &VIP.to_string()]);
            let output = scene.network.client.output(&mut command).unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains(" 0% packet loss"),
                "{arms:?} {size}: {text}"
            );
        }
    }
}

#[test]
fn generic_xdp_forwards_too() {
    if !ready("generic_xdp_forwards_too", &[]) {
        return;
    }
    for mode in [Mode::Fullnat, Mode::Tunnel] {
        let config = |network: &_| {
            let mut config = Config::of(network, mode);
            config.l4_more = "xdp_mode = \"generic\"\n".to_owned();
            config.text()
        };
        let scene = Scene::with(Arms::Two, mode, config, None);
        for _ in 0..3 {
            Echo::connect(&scene.network.client, vip(ECHO))
                .unwrap()
                .say(&noise(1_000_000))
                .unwrap();
        }
        assert!(ask_udp(&scene.network.client, vip(ECHO), b"who?").ends_with(b" who?"));
    }
}

fn a_new_mac_is_learned(scenario: &str, arms: Arms, mode: Mode) {
    if !ready(scenario, &[]) {
        return;
    }
    let scene = Scene::new(arms, mode);
    let client = &scene.network.client;
    let mut held = loop {
        let echo = Echo::connect(client, vip(ECHO)).unwrap();
        if echo.name == "b1" {
            break echo;
        }
    };
    let host = &scene.network.backends[0];
    // As a machine does that takes over an address: it tells its segment.
    host.namespace
        .set_sysctl("net/ipv4/conf/eth0/arp_notify", "1")
        .unwrap();
    host.link.set_mac([2, 0, 0, 0, 0, 0x42]).unwrap();
    held.say(&noise(10_000)).unwrap();
    eventually(
        "a new session to the backend",
        Duration::from_secs(10),
        || {
            let mut echo = Echo::connect(client, vip(ECHO)).map_err(|error| error.to_string())?;
            echo.say(b"hello").map_err(|error| error.to_string())?;
            if echo.name == "b1" {
                Ok(())
            } else {
                Err(echo.name)
            }
        },
    );
}

#[test]
fn fullnat_follows_a_backend_to_its_new_mac_address() {
    a_new_mac_is_learned(
        "fullnat_follows_a_backend_to_its_new_mac_address",
        Arms::Two,
        Mode::Fullnat,
    );
}

#[test]
fn dr_follows_a_backend_to_its_new_mac_address() {
    a_new_mac_is_learned(
        "dr_follows_a_backend_to_its_new_mac_address",
        Arms::One,
        Mode::Dr,
    );
}

#[test]
fn listeners_and_backends_are_counted_in_the_api_and_in_metrics() {
    if !ready(
        "listeners_and_backends_are_counted_in_the_api_and_in_metrics",
        &[],
    ) {
        return;
    }
    let scene = Scene::new(Arms::Two, Mode::Fullnat);
    let (connections, len) = (6, 50_000);
    for _ in 0..connections {
        Echo::connect(&scene.network.client, vip(ECHO))
            .unwrap()
            .say(&noise(len))
            .unwrap();
    }
    let weir = &scene.weir;
    let listener = "listener=\"echo\"";
    until("the listener's counters", Duration::from_secs(5), || {
        weir.metric("weir_listener_connections_total", &[listener]) == f64::from(connections)
    });
    // Both ways, and more than the words themselves: frames are counted.
    let bytes = f64::from(connections) * len as f64;
    for direction in ["direction=\"in\"", "direction=\"out\""] {
        until("the bytes", Duration::from_secs(5), || {
            weir.metric(
                "weir_listener_transferred_bytes_total",
                &[listener, direction],
            ) > bytes
                && weir.metric(
                    "weir_backend_transferred_bytes_total",
                    &["pool=\"echo\"", direction],
                ) > bytes
        });
        assert!(
            weir.metric("weir_listener_packets_total", &[listener, direction]) > bytes / 1500.0
        );
    }
    let of = |name: String| {
        let backend = format!("backend=\"{}\"", scene.echo_address(&name));
        weir.metric(
            "weir_backend_connections_total",
            &["pool=\"echo\"", &backend],
        )
    };
    let counted: Vec<f64> = names().map(of).collect();
    assert!(
        (counted.iter().sum::<f64>() - f64::from(connections)).abs() < f64::EPSILON,
        "{counted:?}"
    );
    assert!(counted.iter().all(|count| *count >= 1.0), "{counted:?}");
    let listeners = weir.api("listeners");
    let echo = listeners["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["name"] == "echo")
        .unwrap();
    assert_eq!(echo["traffic"]["connections"], connections, "{echo}");
    assert_eq!(echo["forward"], "fullnat");
}
