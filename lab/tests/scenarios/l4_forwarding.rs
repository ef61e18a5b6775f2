//! Every forwarding mode, with one arm and two: connections, datagrams, files and streams arrive whole.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use weir_lab::network::{CLIENT, LOCAL, VIP};
use weir_lab::{Folder, Process, eventually, ready, until};

use crate::client::{Echo, answers, ask_udp, curl, is_even, noise, same_content, wrk};
use crate::scene::{Arms, ECHO, Mode, Scene, WEB, names, vip};

const FILE_LEN: usize = 100_000_000;

/// HTTP by curl and nginx, an echo of a megabyte over TCP, and datagrams; each backend takes its share, and sees who
/// it should see.
fn carries_tcp_and_udp(scenario: &str, arms: Arms, mode: Mode) {
    if !ready(scenario, &["nginx", "curl"]) {
        return;
    }
    let files = Folder::new();
    let scene = Scene::with_nginx(arms, mode, &files);
    let client = &scene.network.client;

    let by_name = answers(client, &format!("http://{VIP}:{WEB}/"), 12);
    assert!(is_even(&by_name), "{by_name:?}");

    let seen = curl(client, &[&format!("http://{VIP}:{WEB}/seen")]).unwrap();
    let seen: Vec<&str> = seen.split(' ').collect();
    let allowed = if mode.keeps_client() {
        vec![CLIENT]
    } else {
        LOCAL.to_vec()
    };
    assert!(
        allowed.iter().any(|address| address.to_string() == seen[1]),
        "{seen:?}"
    );

    let words = noise(1_000_000);
    let mut reached = BTreeSet::new();
    for _ in 0..6 {
        let mut echo = Echo::connect(client, vip(ECHO)).unwrap();
        echo.say(&words).unwrap();
        reached.insert(echo.name);
    }
    assert_eq!(reached, names().collect());

    let mut reached = BTreeSet::new();
    for len in [0, 1, 2, 3, 100, 1000, 1400] {
        let answer = ask_udp(client, vip(ECHO), &words[..len]);
        let (name, echoed) = answer.split_at(2);
        assert_eq!(&echoed[1..], &words[..len]);
        reached.insert(String::from_utf8_lossy(name).into_owned());
    }
    assert_eq!(reached, names().collect());
}

#[test]
fn fullnat_carries_tcp_and_udp_with_one_arm() {
    carries_tcp_and_udp(
        "fullnat_carries_tcp_and_udp_with_one_arm",
        Arms::One,
        Mode::Fullnat,
    );
}

#[test]
fn fullnat_carries_tcp_and_udp_with_two_arms() {
    carries_tcp_and_udp(
        "fullnat_carries_tcp_and_udp_with_two_arms",
        Arms::Two,
        Mode::Fullnat,
    );
}

#[test]
fn nat_carries_tcp_and_udp_with_one_arm() {
    carries_tcp_and_udp("nat_carries_tcp_and_udp_with_one_arm", Arms::One, Mode::Nat);
}

#[test]
fn nat_carries_tcp_and_udp_with_two_arms() {
    carries_tcp_and_udp(
        "nat_carries_tcp_and_udp_with_two_arms",
        Arms::Two,
        Mode::Nat,
    );
}

#[test]
fn dr_carries_tcp_and_udp_with_one_arm() {
    carries_tcp_and_udp("dr_carries_tcp_and_udp_with_one_arm", Arms::One, Mode::Dr);
}

#[test]
fn dr_carries_tcp_and_udp_with_two_arms() {
    carries_tcp_and_udp("dr_carries_tcp_and_udp_with_two_arms", Arms::Two, Mode::Dr);
}

#[test]
fn tunnel_carries_tcp_and_udp_with_one_arm() {
    carries_tcp_and_udp(
        "tunnel_carries_tcp_and_udp_with_one_arm",
        Arms::One,
        Mode::Tunnel,
    );
}

#[test]
fn tunnel_carries_tcp_and_udp_with_two_arms() {
    carries_tcp_and_udp(
        "tunnel_carries_tcp_and_udp_with_two_arms",
        Arms::Two,
        Mode::Tunnel,
    );
}

/// A file of 100 MB down through nginx, and a tenth of it up and back.
fn keeps_every_byte(scenario: &str, arms: Arms, mode: Mode) {
    if !ready(scenario, &["nginx", "curl"]) {
        return;
    }
    let files = Folder::new();
    let content = noise(FILE_LEN);
    let original = files.write("file", &content);
    let scene = Scene::with_nginx(arms, mode, &files);
    let here = Folder::new();
    let copy = here.path().join("copy");
    let url = format!("http://{VIP}:{WEB}/files/file");
    curl(
        &scene.network.client,
        &["--output", copy.to_str().unwrap(), &url],
    )
    .unwrap();
    assert!(same_content(&original, &copy));

    let mut echo = Echo::connect(&scene.network.client, vip(ECHO)).unwrap();
    echo.say(&content[..FILE_LEN / 10]).unwrap();
}

#[test]
fn fullnat_keeps_every_byte_of_a_file() {
    keeps_every_byte(
        "fullnat_keeps_every_byte_of_a_file",
        Arms::Two,
        Mode::Fullnat,
    );
}

#[test]
fn nat_keeps_every_byte_of_a_file() {
    keeps_every_byte("nat_keeps_every_byte_of_a_file", Arms::One, Mode::Nat);
}

#[test]
fn dr_keeps_every_byte_of_a_file() {
    keeps_every_byte("dr_keeps_every_byte_of_a_file", Arms::Two, Mode::Dr);
}

#[test]
fn tunnel_keeps_every_byte_of_a_file() {
    keeps_every_byte("tunnel_keeps_every_byte_of_a_file", Arms::One, Mode::Tunnel);
}

/// iperf3 for a few seconds each way; it fails by itself where its control connection breaks.
fn carries_iperf3(scenario: &str, mode: Mode) {
    if !ready(scenario, &["iperf3"]) {
        return;
    }
    let port = 5201;
    // iperf3 opens several connections that belong together: one backend.
    let scene = Scene::with(
        Arms::Two,
        mode,
        |network| {
            let mut config = crate::scene::Config::of(network, mode);
            let address = network.backends[0].at(port);
            config.more = format!(
                "[[listener]]\nname = \"iperf\"\nbind = \"{VIP}:{port}\"\nprotocol = \"tcp\"\n\
                 forward = \"{mode}\"\npool = \"iperf\"\n\
                 [[pool]]\nname = \"iperf\"\nbackend = [{{ address = \"{address}\" }}]\n"
            );
            config.text()
        },
        None,
    );
    let folder = Folder::new();
    let mut command = Command::new("iperf3");
    command.args(["--server", "--forceflush"]);
    let server = Process::start(
        "iperf3",
        &scene.network.backends[0].namespace,
        &folder,
        &mut command,
    );
    eventually("iperf3 to listen", Duration::from_secs(5), || {
        if server.log().contains("listening") {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    for direction in [&[][..], &["--reverse"]] {
        let mut command = Command::new("iperf3");
        command
            .args([
                "--client",
                &VIP.to_string(),
                "--time",
                "2",
                "--parallel",
                "4",
                "--json",
            ])
            .args(direction);
        let output = scene.network.client.output(&mut command).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(
            received.is_some_and(|bytes| bytes > 10_000_000),
            "{direction:?}: {received:?} bytes arrived"
        );
    }
}

#[test]
fn fullnat_carries_iperf3() {
    carries_iperf3("fullnat_carries_iperf3", Mode::Fullnat);
}

#[test]
fn dr_carries_iperf3() {
    carries_iperf3("dr_carries_iperf3", Mode::Dr);
}

/// A connection for each request, so that sessions come and go all the time.
fn carries_wrk(scenario: &str, mode: Mode) {
    if !ready(scenario, &["nginx", "wrk"]) {
        return;
    }
    let files = Folder::new();
    let scene = Scene::with_nginx(Arms::Two, mode, &files);
    let url = format!("http://{VIP}:{WEB}/");
    let each_anew = ["--header", "Connection: close"];
    let report = wrk(
        &scene.network.client,
        &url,
        16,
        Duration::from_secs(3),
        &each_anew,
    );
    assert!(report.requests > 100, "{}", report.text);
    assert_eq!(
        (report.bad_answers, report.socket_errors),
        (0, 0),
        "{}",
        report.text
    );
    let sessions = || {
        scene
            .weir
            .metric("weir_listener_connections_total", &["listener=\"web\""])
    };
    until(
        "every request had a session",
        Duration::from_secs(5),
        || sessions() >= report.requests as f64,
    );
}

#[test]
fn fullnat_carries_a_session_for_each_request_of_wrk() {
    carries_wrk(
        "fullnat_carries_a_session_for_each_request_of_wrk",
        Mode::Fullnat,
    );
}

#[test]
fn tunnel_carries_a_session_for_each_request_of_wrk() {
    carries_wrk(
        "tunnel_carries_a_session_for_each_request_of_wrk",
        Mode::Tunnel,
    );
}
