//! `weir run`: forwarding, health, reload, drain, API.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Answer, Backend, Client, Folder, Node, Process, SLOW, certificate, free_address, get, text,
    until, weir, weir_output,
};

const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(100);
const FALL: u32 = 2;

/// An `http` listener in front of these backends, checked often.
fn config(listen: SocketAddr, backends: &[&Backend]) -> String {
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
fn two_backends() -> (Node, SocketAddr, [Backend; 2]) {
    let (listen, backends) = (free_address(), [Backend::start("a"), Backend::start("b")]);
    let node = Node::start(&config(listen, &[&backends[0], &backends[1]]));
    for backend in &backends {
        node.wait_for_health(backend.address, "up");
    }
    (node, listen, backends)
}

fn names(listen: SocketAddr, count: usize) -> Vec<String> {
    (0..count).map(|_| ok(get(listen, "/"))).collect()
}

fn ok(answer: std::io::Result<Answer>) -> String {
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[test]
fn backends_answer_in_turn_and_everything_is_counted() {
    let (node, listen, backends) = two_backends();
    let seen = names(listen, 10);
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    assert_eq!((backends[0].requests(), backends[1].requests()), (5, 5));

    assert_eq!(
        node.metric(r#"weir_listener_requests_total{listener="web"}"#),
        10.0
    );
    until("answers are counted", || {
        node.metric(r#"weir_listener_answers_total{listener="web",class="2xx"}"#) == 10.0
    });
    for backend in &backends {
        let labels = format!(r#"pool="web",backend="{}""#, backend.address);
        assert_eq!(
            node.metric(&format!("weir_backend_requests_total{{{labels}}}")),
            5.0
        );
        assert!(
            node.metric(&format!(
                r#"weir_backend_checks_total{{{labels},result="passed"}}"#
            )) >= 1.0
        );
    }
    let listeners = node.list("listeners");
    assert_eq!(listeners["items"][0]["bind"], listen.to_string());
    assert_eq!(listeners["items"][0]["traffic"]["requests"], 10);
    assert_eq!(node.list("pools")["items"][0]["available"], 2);
    assert_eq!(node.list("sessions")["total"], 0);
    let shown = weir_output(&[
        "get",
        "backends",
        "--api",
        &node.api.to_string(),
        "--pool",
        "web",
    ]);
    assert_eq!(shown.status.code(), Some(0));
    assert_eq!(
        text(&shown.stdout)
            .lines()
            .filter(|line| line.contains(" up "))
            .count(),
        2
    );
}

#[test]
fn failing_backend_leaves_the_rotation_in_time_and_comes_back() {
    let (node, listen, [mut a, b]) = two_backends();
    a.go_away();
    let gone = Instant::now();
    node.wait_for_health(a.address, "down");
    // The API is asked every few milliseconds; the rest is for a loaded machine.
    let bound = INTERVAL * FALL + TIMEOUT + Duration::from_millis(400);
    assert!(gone.elapsed() <= bound, "{:?}", gone.elapsed());
    node.process.wait_for_log("connection refused");
    assert_eq!(names(listen, 6), ["b"; 6]);
    assert_eq!(
        node.metric(r#"weir_pool_backends_available{pool="web"}"#),
        1.0
    );
    a.come_back();
    node.wait_for_health(a.address, "up");
    assert_eq!(
        names(listen, 6).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["a".into(), "b".into()])
    );
    drop(b);
}

#[test]
fn no_backend_left_is_answered_503_and_told() {
    let (node, listen, [mut a, mut b]) = two_backends();
    a.go_away();
    b.go_away();
    node.wait_for_health(a.address, "down");
    node.wait_for_health(b.address, "down");
    assert_eq!(get(listen, "/").unwrap().status, 503);
    node.process
        .wait_for_log("no backend of the pool takes new work");
    b.come_back();
    node.wait_for_health(b.address, "up");
    assert_eq!(names(listen, 1), ["b"]);
}

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

#[test]
fn token_guards_the_api_and_is_exchanged_by_a_reload() {
    let (a, listen, folder) = (Backend::start("a"), free_address(), Folder::new());
    folder.write("token", "first-token-of-16\n");
    let node = Node::start_with(
        folder,
        weir(),
        "token_file = \"token\"",
        &config(listen, &[&a]),
    );
    let api = node.api.to_string();
    let ask = |token: &str| {
        let file = node.folder().write("given", token);
        weir_output(&[
            "get",
            "pools",
            "--api",
            &api,
            "--token-file",
            file.to_str().unwrap(),
        ])
    };
    assert_eq!(get(node.api, "/api/v1/pools").unwrap().status, 401);
    let refused = ask("another-token-of-16");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("a bearer token is needed (status 401)"));
    assert_eq!(ask("first-token-of-16").status.code(), Some(0));
    node.folder().write("token", "second-token-of-16\n");
    node.process.signal(Signal::SIGHUP);
    node.process.wait_for_log("reloaded: ");
    assert_eq!(ask("first-token-of-16").status.code(), Some(1));
    assert_eq!(ask("second-token-of-16").status.code(), Some(0));
}

#[test]
fn address_in_use_is_named() {
    let (a, folder) = (Backend::start("a"), Folder::new());
    let taken = TcpListener::bind(free_address())
        .unwrap()
        .local_addr()
        .unwrap();
    let _owner = TcpListener::bind(taken).unwrap();
    let (listen, api) = (free_address(), free_address());
    for (api, listen) in [(taken, listen), (api, taken)] {
        let file = folder.write(
            "weir.toml",
            &format!("[api]\nlisten = \"{api}\"\n{}", config(listen, &[&a])),
        );
        let output = weir_output(&["run", "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let err = text(&output.stderr);
        assert!(
            err.contains(&taken.to_string()) && err.contains("in use"),
            "{err}"
        );
    }
}

#[test]
fn layer_4_without_rights_names_what_is_missing() {
    let folder = Folder::new();
    let file = folder.write(
        "weir.toml",
        &format!(
            r#"
            [api]
            listen = "{}"
            [l4]
            interfaces = ["lo"]
            local_addresses = ["192.0.2.10"]
            [[listener]]
            name = "db"
            bind = "203.0.113.10:3306"
            protocol = "tcp"
            forward = "fullnat"
            pool = "db"
            [[pool]]
            name = "db"
            backend = [{{ address = "192.0.2.20:3306" }}]
            "#,
            free_address()
        ),
    );
    // Root loses its rights for the test; who is not root has none to lose.
    let without = "-net_admin,-sys_admin,-bpf,-perfmon";
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set={without}"))
            .arg(env!("CARGO_BIN_EXE_weir"));
        command
    } else {
        weir()
    };
    let output = command
        .args(["run", "--config"])
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(
        err.contains(
            "[l4]: this process lacks CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON: run it as root"
        ),
        "{err}"
    );
}

#[test]
fn logs_are_json_when_asked_for() {
    let (a, folder, listen, api) = (
        Backend::start("a"),
        Folder::new(),
        free_address(),
        free_address(),
    );
    let file = folder.write(
        "weir.toml",
        &format!("[api]\nlisten = \"{api}\"\n{}", config(listen, &[&a])),
    );
    let mut command = weir();
    command
        .args(["run", "--log-format", "json", "--config"])
        .arg(file);
    let mut process = Process::start(&mut command, &folder);
    process.wait_for_log("backend is up");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code(), Some(0));
    let lines: Vec<Value> = process
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let up = lines
        .iter()
        .find(|line| line["message"] == "backend is up")
        .unwrap();
    assert_eq!(
        (&up["level"], &up["backend"]),
        (&"INFO".into(), &a.address.to_string().into())
    );
}

#[test]
fn log_filter_is_checked() {
    let output = weir()
        .args(["run", "--config", "x", "--log-level", "loud=="])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--log-level: `loud==` is no log filter"));
    let output = weir()
        .args(["run", "--config", "x"])
        .env("WEIR_LOG", "loud==")
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("WEIR_LOG: `loud==` is no log filter"));
}

#[test]
fn service_manager_is_told() {
    let (a, listen, folder) = (Backend::start("a"), free_address(), Folder::new());
    let path = folder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        text(&buffer[..length]).to_owned()
    };
    let mut command = weir();
    command.env("NOTIFY_SOCKET", &path);
    let mut node = Node::start_with(folder, command, "", &config(listen, &[&a]));
    assert_eq!(told(), "READY=1");
    node.process.signal(Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(node.process.code(), Some(0));
}

#[test]
fn limit_of_file_descriptors_is_raised() {
    let (a, listen) = (Backend::start("a"), free_address());
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -Sn 300 && ulimit -Hn 4000 && exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_weir"),
    ]);
    let node = Node::start_with(Folder::new(), command, "", &config(listen, &[&a]));
    assert_eq!(node.metric("process_max_fds"), 4000.0);
    assert!(node.process.log().contains("few file descriptors"));
    assert!(node.config().exists());
}
