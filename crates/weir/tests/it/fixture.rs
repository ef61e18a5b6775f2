//! A small node: one `http` listener, two backends.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Answer, Backend, Node, free_address, get};

pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
pub(crate) const TIMEOUT: Duration = Duration::from_millis(100);
pub(crate) const FALL: u32 = 2;

/// An `http` listener in front of these backends, checked often.
pub(crate) fn config(listen: SocketAddr, backends: &[&Backend]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|backend| format!("{{ address = \"{}\" }}", backend.address))
        .collect();
    format!(
        r#"
        [node]
        drain_timeout = "10s"
        [l7]
        workers = 1
        [[listener]]
        name = "web"
        bind = "{listen}"
        protocol = "http"
        pool = "web"
        [[pool]]
        name = "web"
        health = {{ type = "http", path = "/healthz", interval = "100ms", timeout = "100ms", rise = 1, fall = {FALL} }}
        backend = [{}]
        "#,
        backends.join(", ")
    )
}

/// A node with two backends that are up.
pub(crate) fn two_backends() -> (Node, SocketAddr, [Backend; 2]) {
    let (listen, backends) = (free_address(), [Backend::start("a"), Backend::start("b")]);
    let node = Node::start(&config(listen, &[&backends[0], &backends[1]]));
    for backend in &backends {
        node.wait_for_health(backend.address, "up");
    }
    (node, listen, backends)
}

pub(crate) fn names(listen: SocketAddr, count: usize) -> Vec<String> {
    (0..count).map(|_| ok(get(listen, "/"))).collect()
}

pub(crate) fn ok(answer: std::io::Result<Answer>) -> String {
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}
