//! The life of layer 4 beyond that of the daemon: killed, stopped, started again, replaced, detached.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use weir_l4_common::record::{Layout, VERSION};
use weir_lab::{Folder, Network, Weir, ready, until};
use weir_netns::Namespace;

use crate::client::{Echo, curl, noise, same_content};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, vip};

const PATIENCE: Duration = Duration::from_secs(30);
/// Of the file that is downloaded again and again.
const FILE_BYTES: usize = 4 << 20;
/// So fast is it downloaded: slowly enough for something to happen to the daemon meanwhile.
const RATE: &str = "4M";
/// Connections and downloads that have to succeed before the next thing happens to the daemon.
const ROUNDS: usize = 5;

/// Clients that go on whatever becomes of the daemon, and that nothing may happen to.
struct Load {
    client: Namespace,
    file: PathBuf,
    done: AtomicBool,
    connected: AtomicUsize,
    downloaded: AtomicUsize,
}

impl Load {
    fn new(client: &Namespace, file: PathBuf) -> Self {
        Self {
            client: client.clone(),
            file,
            done: AtomicBool::new(false),
            connected: AtomicUsize::new(0),
            downloaded: AtomicUsize::new(0),
        }
    }

    /// New connections, one after the other.
    fn connect(&self) {
        while !self.done.load(Ordering::Relaxed) {
            let mut echo = Echo::connect(&self.client, vip(ECHO)).expect("a new connection");
            echo.say(&noise(1000)).expect("an echo");
            self.connected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Downloads, one after the other.
    fn download(&self) {
        let folder = Folder::new();
        let path = folder.path().join("copy");
        let url = format!("http://{}/files/file", vip(WEB));
        while !self.done.load(Ordering::Relaxed) {
            let args = [
                "--limit-rate",
                RATE,
                "--output",
                path.to_str().unwrap(),
                &url,
            ];
            curl(&self.client, &args).expect("a download");
            assert!(same_content(&path, &self.file), "the file is not the same");
            self.downloaded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for some more of both.
    fn wait(&self) {
        let now = || {
            (
                self.connected.load(Ordering::Relaxed),
                self.downloaded.load(Ordering::Relaxed),
            )
        };
        let before = now();
        until("connections and downloads", PATIENCE, || {
            let now = now();
            now.0 >= before.0 + ROUNDS && now.1 > before.1
        });
    }
}

/// Ends clients when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The scene, and the file that nginx serves.
fn scene(arms: Arms, mode: Mode, folder: &Folder) -> (Scene, PathBuf) {
    let file = folder.path().join("file");
    fs::write(&file, noise(FILE_BYTES)).unwrap();
    (Scene::with_nginx(arms, mode, folder), file)
}

fn killed_and_started_again(scenario: &str, arms: Arms, mode: Mode) {
    if !ready(scenario, &["nginx", "curl"]) {
        return;
    }
    let files = Folder::new();
    let (mut scene, file) = scene(arms, mode, &files);
    let weir = &mut scene.weir;
    let mut held: Vec<Echo> = (0..6)
        .map(|_| Echo::connect(&scene.network.client, vip(ECHO)).unwrap())
        .collect();
    let mut check = |what: &str| {
        for echo in &mut held {
            echo.say(&noise(5000))
                .unwrap_or_else(|error| panic!("{what}: a held connection: {error}"));
        }
    };
    let load = Load::new(&scene.network.client, file);
    let opened =
        |weir: &Weir| weir.metric("weir_listener_connections_total", &["listener=\"echo\""]);
    thread::scope(|scope| {
        let clients = [
            scope.spawn(|| load.connect()),
            scope.spawn(|| load.download()),
        ];
        // A failure ends the clients, too.
        let _end = End(&load.done);
        load.wait();
        let before = opened(weir);
        assert!(before > 0.0);
        for round in 0..2 {
            weir.kill();
            load.wait();
            check("while no daemon runs");
            weir.start_again();
            load.wait();
            check("after the start");
            assert!(
                weir.log().contains("XDP program replaced"),
                "round {round}: {}",
                weir.log()
            );
        }
        assert!(opened(weir) > before + 2.0 * ROUNDS as f64);
        // Sessions from before have their names still.
        let sessions = weir.api("sessions?listener=echo&limit=1000");
        let sessions = sessions["items"].as_array().unwrap();
        assert!(sessions.len() >= 6);
        assert!(
            sessions
                .iter()
                .all(|session| session["backend"].is_string()),
            "{sessions:?}"
        );
        assert!(clients.iter().all(|client| !client.is_finished()));
    });
}

#[test]
fn fullnat_goes_on_while_the_daemon_is_killed_and_started_again() {
    killed_and_started_again(
        "fullnat_goes_on_while_the_daemon_is_killed_and_started_again",
        Arms::Two,
        Mode::Fullnat,
    );
}

#[test]
fn nat_goes_on_while_the_daemon_is_killed_and_started_again() {
    killed_and_started_again(
        "nat_goes_on_while_the_daemon_is_killed_and_started_again",
        Arms::Two,
        Mode::Nat,
    );
}

#[test]
fn dr_goes_on_while_the_daemon_is_killed_and_started_again() {
    killed_and_started_again(
        "dr_goes_on_while_the_daemon_is_killed_and_started_again",
        Arms::One,
        Mode::Dr,
    );
}

#[test]
fn tunnels_go_on_while_the_daemon_is_killed_and_started_again() {
    killed_and_started_again(
        "tunnels_go_on_while_the_daemon_is_killed_and_started_again",
        Arms::One,
        Mode::Tunnel,
    );
}

/// Whether a program is at each of the load balancer's interfaces.
fn attached(network: &Network) -> Vec<bool> {
    network
        .arms
        .iter()
        .map(|arm| arm.has_xdp().unwrap())
        .collect()
}

#[test]
fn a_stopped_daemon_leaves_forwarding_and_detach_leaves_nothing() {
    if !ready(
        "a_stopped_daemon_leaves_forwarding_and_detach_leaves_nothing",
        &[],
    ) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = scene.network.client.clone();
    let mut held = Echo::connect(&client, vip(ECHO)).unwrap();
    let (done, said) = scene.weir.detach();
    assert!(!done && said.contains("runs already"), "{said}");
    scene.weir.terminate();
    assert!(scene.weir.wait(PATIENCE).success());
    assert_eq!(attached(&scene.network), [true, true]);
    held.say(b"still here").unwrap();
    Echo::connect(&client, vip(ECHO)).unwrap();
    let (done, said) = scene.weir.detach();
    assert!(
        done && said.contains("detached from 2 interfaces"),
        "{said}"
    );
    assert_eq!(attached(&scene.network), [false, false]);
    let (done, said) = scene.weir.detach();
    assert!(done && said.contains("nothing is attached"), "{said}");
    // Whoever begins anew begins empty.
    scene.weir.start_again();
    Echo::connect(&client, vip(ECHO)).unwrap();
    let total = scene
        .weir
        .metric("weir_listener_connections_total", &["listener=\"echo\""]);
    assert!((1.0..=2.0).contains(&total), "{total}");
}

#[test]
fn what_cannot_go_on_is_refused_and_forwarding_goes_on() {
    if !ready("what_cannot_go_on_is_refused_and_forwarding_goes_on", &[]) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Nat);
    let client = scene.network.client.clone();
    let mut held = Echo::connect(&client, vip(ECHO)).unwrap();
    let mut config = Config::of(&scene.network, scene.mode);
    let right = config.text();
    let said = scene.weir.start_refused();
    let own = format!("process {}", scene.weir.id());
    assert!(
        said.contains("[api] listen") || said.contains(&own),
        "{said}"
    );
    config.more = "[api]\nlisten = \"127.0.0.1:9901\"\n".to_owned();
    scene.weir.configure(&config.text());
    let said = scene.weir.start_refused();
    assert!(
        said.contains("a node of this name runs already") && said.contains(&own),
        "{said}"
    );
    scene.weir.kill();
    config.l4_more = "max_sessions = 2_000_000\n".to_owned();
    scene.weir.configure(&config.text());
    let said = scene.weir.start_refused();
    assert!(
        said.contains("max_sessions = 2000000") && said.contains("was made for 1048576"),
        "{said}"
    );
    scene.weir.configure(&right.replace("\"eth0\"", "\"eth7\""));
    let said = scene.weir.start_refused();
    assert!(said.contains("eth7: there is no such interface"), "{said}");
    held.say(b"still here").unwrap();
    Echo::connect(&client, vip(ECHO)).unwrap();
    assert_eq!(attached(&scene.network), [true, true]);
    scene.weir.configure(&right);
    scene.weir.start_again();
    held.say(b"still here").unwrap();
}

/// Names of what is pinned in the only folder below `root`, and the folder.
fn pinned(root: &Path) -> (PathBuf, Vec<PathBuf>) {
    let entries = |dir: &Path| {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        entries
    };
    let folders = entries(root);
    assert_eq!(folders.len(), 1, "{folders:?}");
    let pins = entries(&folders[0]);
    (folders[0].clone(), pins)
}

#[test]
fn maps_of_another_version_are_refused_and_not_touched() {
    if !ready("maps_of_another_version_are_refused_and_not_touched", &[]) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = scene.network.client.clone();
    scene.weir.kill();
    let (done, said) = scene.weir.detach();
    assert!(done, "{said}");
    let root = PathBuf::from(format!("/sys/fs/bpf/weir-{}", std::process::id()));
    let mut config = Config::of(&scene.network, scene.mode);
    config.l4_more = format!("pin_dir = {root:?}\n");
    scene.weir.configure(&config.text());
    scene.weir.start_again();
    let mut held = Echo::connect(&client, vip(ECHO)).unwrap();
    scene.weir.kill();

    let (folder, pins) = pinned(&root);
    let data = MapData::from_pin(folder.join("LAYOUT")).unwrap();
    let map = Map::from_map_data(data).unwrap();
    let mut layout: Array<MapData, Layout> = map.try_into().unwrap();
    let ours = layout.get(&0, 0).unwrap();
    let mut other = ours;
    other[VERSION] += 1;
    layout.set(0, other, 0).unwrap();
    let said = scene.weir.start_refused();
    let expected = format!(
        "its maps have layout {}, those of this one {}",
        other[VERSION], ours[VERSION]
    );
    assert!(
        said.contains(&expected) && said.contains("weir detach"),
        "{said}"
    );
    // Not a pin is another one, and what is in them goes on.
    assert_eq!(pinned(&root), (folder.clone(), pins));
    assert_eq!(layout.get(&0, 0).unwrap(), other);
    assert_eq!(attached(&scene.network), [true, true]);
    held.say(b"still here").unwrap();
    Echo::connect(&client, vip(ECHO)).unwrap();
    // The version that left them takes them over.
    layout.set(0, ours, 0).unwrap();
    scene.weir.start_again();
    held.say(b"still here").unwrap();
    let sessions = scene.weir.api("sessions?listener=echo&state=established");
    assert!(sessions["total"].as_u64() >= Some(1), "{sessions}");
    scene.weir.kill();
    let (done, said) = scene.weir.detach();
    assert!(done && !folder.exists(), "{said}");
    fs::remove_dir(&root).unwrap();
}

#[test]
fn what_changed_in_the_file_while_no_daemon_ran_is_in_force_after_the_start() {
    if !ready(
        "what_changed_in_the_file_while_no_daemon_ran_is_in_force_after_the_start",
        &[],
    ) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = scene.network.client.clone();
    let mut held: Vec<Echo> = (0..6)
        .map(|_| Echo::connect(&client, vip(ECHO)).unwrap())
        .collect();
    scene.weir.kill();
    let config = Config::of(&scene.network, scene.mode).text();
    // The port moves, and the first backend goes.
    let first = format!("{{ address = \"{}\" }}, ", scene.echo_address("b1"));
    assert!(config.contains(&first));
    let config = config.replace(&first, "").replace(
        &format!("{}\"\nprotocol = \"tcp\"", vip(ECHO)),
        "203.0.113.10:77\"\nprotocol = \"tcp\"",
    );
    scene.weir.configure(&config);
    scene.weir.start_again();
    assert!(Echo::connect(&client, vip(ECHO)).is_err());
    for _ in 0..6 {
        let echo = Echo::connect(&client, vip(77)).unwrap();
        assert_ne!(echo.name, "b1");
    }
    for echo in &mut held {
        echo.say(b"still here").unwrap();
    }
    // Whose those sessions are is still known.
    let gone = scene.echo_address("b1");
    let sessions = scene.weir.api("sessions?limit=1000");
    let to_gone = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|session| session["backend"] == gone.as_str());
    let held_there = held.iter().filter(|echo| echo.name == "b1").count();
    assert!(held_there > 0);
    assert_eq!(to_gone.count(), held_there, "{sessions}");
}

#[test]
fn a_backend_that_was_down_takes_no_sessions_after_a_start_either() {
    if !ready(
        "a_backend_that_was_down_takes_no_sessions_after_a_start_either",
        &[],
    ) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = scene.network.client.clone();
    scene.stop_echo("b1");
    let address = scene.echo_address("b1");
    until("b1 is down", PATIENCE, || {
        scene.weir.health_of("echo", &address) == "down"
    });
    scene.weir.kill();
    let done = AtomicBool::new(false);
    let weir = &mut scene.weir;
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let echo = Echo::connect(&client, vip(ECHO)).expect("a new connection");
                assert_ne!(echo.name, "b1");
            }
        });
        let _end = End(&done);
        weir.start_again();
        until("b1 has been checked", PATIENCE, || {
            weir.health_of("echo", &address) == "down"
                && weir.metric("weir_backend_checks_total", &[&address, "failed"]) > 0.0
        });
        assert!(!load.is_finished());
    });
}

#[test]
fn interfaces_come_and_go_with_a_reload() {
    if !ready("interfaces_come_and_go_with_a_reload", &[]) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = scene.network.client.clone();
    let mut held = Echo::connect(&client, vip(ECHO)).unwrap();
    let both = Config::of(&scene.network, scene.mode).text();
    let one = both.replace("\"eth0\", \"eth1\"", "\"eth0\"");
    assert_ne!(one, both);
    scene.weir.reload(&one);
    until("eth1 has no program", PATIENCE, || {
        attached(&scene.network) == [true, false]
    });
    scene.weir.reload(&both.replace("eth1", "eth7"));
    until("the reload is refused", PATIENCE, || {
        scene
            .weir
            .log()
            .contains("eth7: there is no such interface")
    });
    assert_eq!(attached(&scene.network), [true, false]);
    scene.weir.reload(&both);
    until("eth1 has a program", PATIENCE, || {
        attached(&scene.network) == [true, true]
    });
    held.say(b"still here").unwrap();
    // What a killed daemon had attached, and the file has no more, is detached by the next one.
    scene.weir.kill();
    scene.weir.configure(&one);
    scene.weir.start_again();
    assert_eq!(attached(&scene.network), [true, false]);
    assert!(Path::new("/sys/fs/bpf/weir").exists());
}
