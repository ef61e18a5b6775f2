//! Networks built and taken down for real. Without root each test says that it is skipped.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use weir_netns::{Lan, Namespace, check_available, veth};

fn may_run() -> bool {
    let available = check_available();
    if let Err(error) = &available {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "skipped: {error}");
    }
    available.is_ok()
}

/// Says `word` from one namespace to a server in another, which says it back.
fn talk(client: &Namespace, server: &Namespace, address: &str, word: &[u8]) {
    let listener = server.run(|| TcpListener::bind(address)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
        });
        let mut stream = client.run(|| TcpStream::connect(address)).unwrap();
        stream.write_all(word).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, word);
    });
}

#[test]
fn a_veth_pair_carries_ipv4_and_ipv6() {
    if !may_run() {
        return;
    }
    let (client, server) = (
        Namespace::new("client").unwrap(),
        Namespace::new("server").unwrap(),
    );
    let (near, far) = veth((&client, "eth0"), (&server, "eth0")).unwrap();
    near.add_address("192.0.2.1/24").unwrap();
    far.add_address("192.0.2.2/24").unwrap();
    near.add_address("2001:db8::1/64").unwrap();
    far.add_address("2001:db8::2/64").unwrap();
    let long = vec![7; 1_000_000];
    talk(&client, &server, "192.0.2.2:8000", &long);
    talk(&client, &server, "[2001:db8::2]:8000", &long);
}

#[test]
fn a_switch_and_a_router_join_networks() {
    if !may_run() {
        return;
    }
    let lan = Lan::new("lan").unwrap();
    let (client, router, server) = (
        Namespace::new("client").unwrap(),
        Namespace::new("router").unwrap(),
        Namespace::new("server").unwrap(),
    );
    lan.connect(&client, "eth0")
        .unwrap()
        .add_address("192.0.2.1/24")
        .unwrap();
    lan.connect(&router, "eth0")
        .unwrap()
        .add_address("192.0.2.254/24")
        .unwrap();
    let (inner, far) = veth((&router, "eth1"), (&server, "eth0")).unwrap();
    inner.add_address("198.51.100.254/24").unwrap();
    far.add_address("198.51.100.1/24").unwrap();
    router.forward_packets().unwrap();
    client
        .add_route("0.0.0.0/0", "192.0.2.254".parse().unwrap())
        .unwrap();
    server
        .add_route("192.0.2.0/24", "198.51.100.254".parse().unwrap())
        .unwrap();
    talk(&client, &server, "198.51.100.1:8000", &vec![9; 100_000]);
}

#[test]
fn interfaces_change_as_told() {
    if !may_run() {
        return;
    }
    let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
    let (link, _) = veth((&a, "left"), (&b, "right")).unwrap();
    let mac = [2, 0, 0, 0, 0, 42];
    assert_ne!(link.mac().unwrap(), mac);
    link.set_mac(mac).unwrap();
    assert_eq!(link.mac().unwrap(), mac);
    assert_eq!(a.link("left").unwrap().index(), link.index());
    let error = a.link("right").err().unwrap().to_string();
    assert!(
        error.contains("right") && error.contains(a.name()),
        "{error}"
    );
    assert!(link.add_address("192.0.2.1").is_err());
    link.add_address("192.0.2.1/24").unwrap();
    link.add_neighbour("192.0.2.9".parse().unwrap(), mac)
        .unwrap();
    let neighbours = a
        .run(|| std::fs::read_to_string("/proc/thread-self/net/arp"))
        .unwrap();
    assert!(neighbours.contains("02:00:00:00:00:2a"), "{neighbours}");
}

#[test]
fn an_end_accepts_what_a_program_sends_back() {
    if !may_run() {
        return;
    }
    let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
    let (near, far) = veth((&a, "eth0"), (&b, "eth0")).unwrap();
    assert!(!far.has_xdp().unwrap());
    far.accept_xdp_tx().unwrap();
    assert!(far.has_xdp().unwrap() && !near.has_xdp().unwrap());
    near.add_address("192.0.2.1/24").unwrap();
    far.add_address("192.0.2.2/24").unwrap();
    talk(&a, &b, "192.0.2.2:8000", &vec![5; 1_000_000]);
}

#[test]
fn a_panic_removes_the_namespace_and_kills_its_processes() {
    if !may_run() {
        return;
    }
    let mut left = None;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let namespace = Namespace::new("short").unwrap();
        let child = namespace
            .spawn(Command::new("sleep").arg("600").stdout(Stdio::null()))
            .unwrap();
        left = Some((namespace.path(), child));
        namespace.run(|| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    let (path, mut child) = left.unwrap();
    assert!(!path.exists());
    assert!(!child.wait().unwrap().success());
}

#[test]
fn what_a_dead_process_left_is_swept() {
    if !may_run() {
        return;
    }
    // A test of this file run in a process of its own is killed while its namespace exists.
    if std::env::var_os("WEIR_NETNS_LEAVE").is_some() {
        let namespace = Namespace::new("left").unwrap();
        println!("made {}", namespace.path().display());
        thread::park();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_a_dead_process_left_is_swept",
            "--nocapture",
        ])
        .env("WEIR_NETNS_LEAVE", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let path = lines
        .find_map(|line| Some(line.unwrap().split_once("made ")?.1.to_owned()))
        .unwrap();
    assert!(Path::new(&path).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Path::new(&path).exists());
    // The sweep happens once in a process, before its first namespace.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "interfaces_change_as_told"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(!Path::new(&path).exists());
}
