//! `weir demo`: what a stranger sees first.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use weir_lab::{Folder, Process, eventually, ready, weir};
use weir_netns::Namespace;

use crate::client::{answers, curl, is_even};
use crate::scene::Mode;

#[test]
fn the_demo_answers_over_http_and_https_from_each_backend() {
    if !ready(
        "the_demo_answers_over_http_and_https_from_each_backend",
        &["curl"],
    ) {
        return;
    }
    // Its ports are fixed: a namespace keeps them apart from whatever runs on the machine.
    let namespace = Namespace::new("demo").unwrap();
    let folder = Folder::new();
    let mut demo = Process::start(
        "demo",
        &namespace,
        &folder,
        Command::new(weir::binary()).arg("demo"),
    );
    eventually("the demo answers", Duration::from_secs(20), || {
        curl(&namespace, &["http://127.0.0.1:8080/"])
    });
    for url in ["http://127.0.0.1:8080/", "https://127.0.0.1:8443/"] {
        let by_answer = answers(&namespace, url, 9);
        assert_eq!(by_answer.len(), 3, "{url}: {by_answer:?}");
    }
    assert!(curl(&namespace, &["http://127.0.0.1:9900/healthz"]).is_ok());
    demo.signal(Signal::SIGINT);
    assert!(demo.wait(Duration::from_secs(20)).success());
}

#[test]
fn the_layer_4_demo_sends_connections_through_every_mode() {
    if !ready("the_layer_4_demo_sends_connections_through_every_mode", &[]) {
        return;
    }
    let output = Command::new(weir::binary())
        .args(["demo", "--l4"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}\n{errors}");
    for mode in [Mode::Fullnat, Mode::Nat, Mode::Dr, Mode::Tunnel] {
        let row = text
            .lines()
            .find(|line| line.starts_with(&mode.to_string()));
        let row = row.unwrap_or_else(|| panic!("no row for {mode}:\n{text}"));
        // mode, connections, then name and count of each backend
        let counts = row
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .skip(2);
        let words: Vec<&str> = counts.take(6).collect();
        let by_name = words
            .chunks(2)
            .map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()));
        assert!(is_even(&by_name.collect()), "{row}");
    }
}
