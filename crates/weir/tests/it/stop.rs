//! How a node ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fixture::{config, ok, two_backends};
use crate::support::{Backend, Client, Node, SLOW, free_address, get, until};

#[test]
fn termination_drains() {
    let (mut node, listen, _backends) = two_backends();
    let mut slow = Client::connect(listen).unwrap();
    slow.send("/slow").unwrap();
    until("the slow request is under way", || {
        node.list("listeners")["items"][0]["traffic"]["requests"] == 1
    });
    let start = Instant::now();
    node.process.signal(Signal::SIGTERM);
    until("/healthz says so", || {
        get(node.api, "/healthz").is_ok_and(|answer| answer.status == 503)
    });
    until("no new connection", || get(listen, "/").is_err());
    assert!(["a", "b"].contains(&ok(slow.answer()).as_str()));
    assert!(start.elapsed() <= SLOW + Duration::from_secs(5));
    assert_eq!(node.process.code(), Some(0));
    assert!(node.process.log().contains("all work done"));
}

#[test]
fn second_signal_ends_at_once() {
    let (mut node, listen, _backends) = two_backends();
    let mut slow = Client::connect(listen).unwrap();
    slow.send("/slow").unwrap();
    until("the slow request is under way", || {
        node.list("listeners")["items"][0]["traffic"]["requests"] == 1
    });
    node.process.signal(Signal::SIGTERM);
    node.process.wait_for_log("draining");
    node.process.signal(Signal::SIGINT);
    assert_eq!(node.process.code(), Some(3));
    slow.answer().unwrap_err();
}

#[test]
fn drain_has_a_deadline() {
    let (a, listen) = (Backend::start("a"), free_address());
    let mut node = Node::start(&config(listen, &[&a]).replace("\"10s\"", "\"100ms\""));
    let mut slow = Client::connect(listen).unwrap();
    slow.send("/slow").unwrap();
    until("the slow request is under way", || {
        node.list("listeners")["items"][0]["traffic"]["requests"] == 1
    });
    node.process.signal(Signal::SIGTERM);
    assert_eq!(node.process.code(), Some(3));
    assert!(node.process.log().contains("work cut off"));
}
