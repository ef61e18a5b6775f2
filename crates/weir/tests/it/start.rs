//! How a node starts: what it needs, what it tells whom.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::config;
use crate::support::{
    Backend, Folder, Node, PATIENCE, Process, free_address, get, text, weir, weir_output,
};

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
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
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
