//! Reloads of a running node: all or nothing, as a difference, without a failed request.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::fixture::{config, two_backends};
use crate::support::{Backend, Client, Folder, Node, certificate, free_address, get, until, weir};

/// Clients that ask without pause, half of them on one connection each, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(listen: SocketAddr) -> Self {
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let threads = (0..4).map(|at| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            thread::spawn(move || {
                let mut failures = Vec::new();
                let mut kept = Client::connect(listen).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match if at % 2 == 0 {
                        kept.get("/")
                    } else {
                        get(listen, "/")
                    } {
                        Ok(answer) if answer.status == 200 => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    if failures.len() > 10 {
                        break;
                    }
                }
                failures
            })
        });
        Self {
            threads: threads.collect(),
            stop,
            asked,
        }
    }

    /// Waits until so many more requests are answered.
    fn go_on_for(&self, requests: u64) {
        let enough = self.asked.load(Ordering::Relaxed) + requests;
        until("requests go on", || {
            self.asked.load(Ordering::Relaxed) >= enough
        });
    }

    /// The requests that failed.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    }
}

#[test]
fn reload_during_load_fails_no_request() {
    let (node, listen, [a, b]) = two_backends();
    let c = Backend::start("c");
    let load = Load::start(listen);
    for _ in 0..5 {
        for backends in [&[&a, &c][..], &[&b], &[&a, &b]] {
            node.reload(&config(listen, backends));
            load.go_on_for(50);
        }
    }
    assert_eq!(load.end(), [""; 0]);
    assert_eq!(
        node.metric(r#"weir_config_reloads_total{result="succeeded"}"#),
        15.0
    );
    assert_eq!(
        node.metric(r#"weir_config_reloads_total{result="failed"}"#),
        0.0
    );
    assert!(a.requests() > 0 && b.requests() > 0 && c.requests() > 0);
}

#[test]
fn bad_file_changes_nothing_and_shows() {
    let (node, listen, [a, b]) = two_backends();
    let load = Load::start(listen);
    let good = config(listen, &[&a]);
    node.reload(&good.replace("protocol = \"http\"", "protocol = \"htpt\""));
    load.go_on_for(100);
    assert_eq!(node.metric("weir_config_last_reload_success"), 0.0);
    assert_eq!(node.list("backends")["total"], 2);
    assert!(node.process.log().contains("did you mean `http`?"));
    // All or nothing: one listener that cannot be bound holds back the change of the pool as well.
    let taken = TcpListener::bind(free_address()).unwrap();
    let other = format!(
        "{good}\n[[listener]]\nname = \"other\"\nbind = \"{}\"\nprotocol = \"http\"\npool = \"web\"\n",
        taken.local_addr().unwrap()
    );
    node.reload(&other);
    assert_eq!(node.metric("weir_config_last_reload_success"), 0.0);
    assert_eq!(node.list("backends")["total"], 2);
    assert!(
        node.process
            .log()
            .contains(&taken.local_addr().unwrap().to_string())
    );
    drop(taken);
    node.reload(&other);
    assert_eq!(node.metric("weir_config_last_reload_success"), 1.0);
    assert_eq!(node.list("backends")["total"], 1);
    load.go_on_for(100);
    assert_eq!(load.end(), [""; 0]);
    assert_eq!(node.list("listeners")["total"], 2);
    drop(b);
}

#[test]
fn renewed_certificate_is_served_after_a_reload_and_a_broken_one_is_refused() {
    let (a, listen, folder) = (Backend::start("a"), free_address(), Folder::new());
    let renew = |folder: &Folder| {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        folder.write("cert.pem", &certified.cert.pem());
        folder.write("key.pem", &certified.signing_key.serialize_pem());
        certified.cert.der().to_vec()
    };
    let first = renew(&folder);
    let config = config(listen, &[&a]).replace(
        "protocol = \"http\"",
        "protocol = \"https\"\ncertificates = [{ cert_file = \"cert.pem\", key_file = \"key.pem\" }]",
    );
    let node = Node::start_with(folder, weir(), "", &config);
    assert_eq!(certificate(listen).unwrap(), first);
    let second = renew(node.folder());
    assert_eq!(certificate(listen).unwrap(), first, "not before the reload");
    node.reload(&config);
    assert_eq!(certificate(listen).unwrap(), second);
    node.folder().write("key.pem", "no key");
    node.reload(&config);
    assert_eq!(node.metric("weir_config_last_reload_success"), 0.0);
    assert!(node.process.log().contains("key.pem"));
    assert_eq!(certificate(listen).unwrap(), second);
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let (node, listen, [a, b]) = two_backends();
    node.reload(&config(listen, &[&a]).replace("workers = 1", "workers = 2"));
    node.process
        .wait_for_log("a restart is needed to change [l7] workers");
    assert_eq!(
        node.list("backends")["total"],
        2,
        "nothing else is taken either"
    );
    drop(b);
}

#[test]
fn health_of_what_a_reload_leaves_alone_goes_on() {
    let (node, listen, [mut a, b]) = two_backends();
    let checks = |node: &Node, backend: &Backend| {
        node.metric(&format!(
            r#"weir_backend_checks_total{{pool="web",backend="{}",result="passed"}}"#,
            backend.address
        ))
    };
    a.go_away();
    node.wait_for_health(a.address, "down");
    until("some checks", || checks(&node, &b) >= 5.0);
    let c = Backend::start("c");
    node.reload(&config(listen, &[&a, &b, &c]));
    assert_eq!(node.health(a.address), "down");
    assert!(checks(&node, &b) >= 5.0, "counters go on");
    node.wait_for_health(c.address, "up");
}
