//! `weir demo`.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Folder, Process, free_address, get, text, until, weir};

/// Arguments for a demo on ports of our own: HTTP, HTTPS, TCP, API.
fn ports() -> ([SocketAddr; 4], Vec<String>) {
    let addresses = [
        free_address(),
        free_address(),
        free_address(),
        free_address(),
    ];
    let args = ["--http", "--https", "--tcp", "--api"]
        .iter()
        .zip(addresses);
    (
        addresses,
        args.flat_map(|(flag, address)| [(*flag).to_owned(), address.to_string()])
            .collect(),
    )
}

/// A demo that puts its files into the test's folder.
fn start(folder: &Folder, args: Vec<String>) -> Process {
    Process::start(
        weir().env("TMPDIR", folder.path("")).arg("demo").args(args),
        folder,
    )
}

#[test]
fn shows_a_load_balancer_at_work() {
    let folder = Folder::new();
    let ([http, _, tcp, api], args) = ports();
    let mut demo = start(&folder, args);
    until("the demo's text", || {
        assert!(demo.ended().is_none(), "the demo ended");
        demo.out().contains("Ctrl-C ends it.")
    });

    let names = |address: SocketAddr| {
        let name = |_| {
            get(address, "/hello")
                .unwrap()
                .body
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        (0..3).map(name).collect::<BTreeSet<String>>()
    };
    let all = ["blue", "green", "red"].map(str::to_owned);
    assert_eq!(names(http), BTreeSet::from(all.clone()), "in turn");
    assert!(names(tcp).iter().all(|name| all.contains(name)));
    let told = get(http, "/hello").unwrap().body;
    assert!(told.contains("GET /hello HTTP/1.1\n"), "{told}");
    assert!(
        told.to_lowercase()
            .contains("\nx-forwarded-for: 127.0.0.1\n"),
        "{told}"
    );
    assert_eq!(get(http, "/bytes/100000").unwrap().body.len(), 100_000);
    assert_eq!(get(api, "/api/v1/backends").unwrap().status, 200);

    let out = demo.out();
    let config = out
        .lines()
        .find_map(|line| line.trim().strip_prefix("edit ")?.split(',').next())
        .unwrap();
    let config = Path::new(config);
    assert!(config.exists());
    demo.signal(Signal::SIGINT);
    assert_eq!(demo.code(), Some(0));
    assert!(!config.parent().unwrap().exists(), "its folder is gone");
}

#[test]
fn backend_that_is_taken_down_is_replaced_by_the_others() {
    let folder = Folder::new();
    let ([http, _, _, api], args) = ports();
    let demo = start(&folder, args);
    until("the demo's text", || demo.out().contains("Ctrl-C ends it."));
    let out = demo.out();
    let down = out
        .lines()
        .find_map(|line| line.trim().strip_prefix("curl -X POST http://"))
        .unwrap();
    let backend: SocketAddr = down.strip_suffix("/down").unwrap().parse().unwrap();

    let mut stream = std::net::TcpStream::connect(backend).unwrap();
    std::io::Write::write_all(
        &mut stream,
        b"POST /down HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .unwrap();
    until("the backend is down", || {
        get(api, "/api/v1/backends")
            .unwrap()
            .body
            .contains(r#""health":"down""#)
    });
    for _ in 0..6 {
        let answer = get(http, "/").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(
            !answer.body.contains(&backend.to_string()),
            "{}",
            answer.body
        );
    }
}

#[test]
fn port_in_use_is_named_with_its_owner() {
    let ([_, https, _, _], args) = ports();
    let _owner = TcpListener::bind(https).unwrap();
    let output = weir().arg("demo").args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    let expected = format!("weir: {https} is in use by ");
    assert!(
        err.starts_with(&expected) && err.contains(&format!("(pid {})", std::process::id())),
        "{err}"
    );
}
