//! Backends that fail and come back.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weir_lab::{ready, until};

use crate::client::{Echo, noise};
use crate::scene::{Arms, ECHO, Mode, Scene, names, vip};

/// Checks run every 200 ms and two of them decide; the rest is for a busy machine.
const VERDICT: Duration = Duration::from_secs(10);

pub(crate) fn wait_for_health(scene: &Scene, name: &str, health: &str) {
    let address = scene.echo_address(name);
    until(&format!("{name} is {health}"), VERDICT, || {
        scene.weir.health_of("echo", &address) == health
    });
}

/// Connections to the VIP, counted by who answered; none may fail.
pub(crate) fn connect_all(scene: &Scene, count: usize) -> BTreeMap<String, usize> {
    let mut by_name = BTreeMap::new();
    for _ in 0..count {
        let echo = Echo::connect(&scene.network.client, vip(ECHO)).unwrap();
        *by_name.entry(echo.name).or_default() += 1;
    }
    by_name
}

/// One open connection to each of so many backends.
pub(crate) fn one_to_each(scene: &Scene, count: usize) -> BTreeMap<String, Echo> {
    let mut held = BTreeMap::new();
    while held.len() < count {
        let echo = Echo::connect(&scene.network.client, vip(ECHO)).unwrap();
        held.entry(echo.name.clone()).or_insert(echo);
    }
    held
}

fn a_dead_backend_leaves_and_returns(scenario: &str, mode: Mode) {
    if !ready(scenario, &[]) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, mode);
    for name in names() {
        wait_for_health(&scene, &name, "up");
    }
    let mut held = one_to_each(&scene, names().count());
    let load = Load::start(&scene);

    scene.stop_echo("b1");
    wait_for_health(&scene, "b1", "down");
    // Until now a new connection may have met the dead backend; from now on none does.
    let failed = load.failed();
    let by_name = connect_all(&scene, 20);
    assert!(!by_name.contains_key("b1"), "{by_name:?}");
    held.remove("b1");
    for echo in held.values_mut() {
        echo.say(b"still here").unwrap();
    }

    scene.start_echo("b1");
    wait_for_health(&scene, "b1", "up");
    let by_name = connect_all(&scene, 21);
    assert_eq!(by_name.len(), 3, "{by_name:?}");
    for echo in held.values_mut() {
        echo.say(&noise(10_000)).unwrap();
    }
    assert!(load.succeeded() > 20);
    // One may have been under way when the verdict came.
    assert!(
        load.failed() <= failed + 1,
        "{} and then {} failed",
        failed,
        load.failed()
    );
}

/// A client that opens one connection after the other.
struct Load {
    counts: Arc<[AtomicUsize; 2]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(scene: &Scene) -> Self {
        let (counts, stop) = (
            Arc::<[AtomicUsize; 2]>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (counter, told, client) = (
            Arc::clone(&counts),
            Arc::clone(&stop),
            scene.network.client.clone(),
        );
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let said =
                    Echo::connect(&client, vip(ECHO)).and_then(|mut echo| echo.say(b"hello"));
                counter[usize::from(said.is_ok())].fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            counts,
            stop,
            thread: Some(thread),
        }
    }

    fn failed(&self) -> usize {
        self.counts[0].load(Ordering::Relaxed)
    }

    fn succeeded(&self) -> usize {
        self.counts[1].load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the client has been printed, and its counts stand still.
            let _ = thread.join();
        }
    }
}

#[test]
fn fullnat_leaves_a_dead_backend_out_until_it_is_back() {
    a_dead_backend_leaves_and_returns(
        "fullnat_leaves_a_dead_backend_out_until_it_is_back",
        Mode::Fullnat,
    );
}

#[test]
fn dr_leaves_a_dead_backend_out_until_it_is_back() {
    a_dead_backend_leaves_and_returns("dr_leaves_a_dead_backend_out_until_it_is_back", Mode::Dr);
}

#[test]
fn established_sessions_go_on_when_their_backend_fails_its_checks() {
    if !ready(
        "established_sessions_go_on_when_their_backend_fails_its_checks",
        &[],
    ) {
        return;
    }
    let scene = Scene::new(Arms::Two, Mode::Fullnat);
    let mut held = one_to_each(&scene, names().count());
    scene.echoes[0].refuse();
    wait_for_health(&scene, "b1", "down");
    let by_name = connect_all(&scene, 10);
    assert!(!by_name.contains_key("b1"), "{by_name:?}");
    held.get_mut("b1").unwrap().say(&noise(100_000)).unwrap();
}

#[test]
fn without_a_backend_new_connections_are_dropped_and_counted() {
    if !ready(
        "without_a_backend_new_connections_are_dropped_and_counted",
        &[],
    ) {
        return;
    }
    let mut scene = Scene::new(Arms::One, Mode::Fullnat);
    assert_eq!(connect_all(&scene, 6).len(), 3);
    for name in names() {
        scene.stop_echo(&name);
    }
    for name in names() {
        wait_for_health(&scene, &name, "down");
    }
    let dropped = || {
        let of_listener = scene
            .weir
            .metric("weir_listener_drops_total", &["listener=\"echo\""]);
        of_listener.min(
            scene
                .weir
                .metric("weir_drops_total", &["reason=\"no_backend\""]),
        )
    };
    let before = dropped();
    let refused = scene
        .network
        .client
        .run(|| TcpStream::connect_timeout(&vip(ECHO), Duration::from_millis(1500)));
    assert!(refused.is_err());
    until("the drop is counted", Duration::from_secs(5), || {
        dropped() > before
    });

    for name in names() {
        scene.start_echo(&name);
    }
    for name in names() {
        wait_for_health(&scene, &name, "up");
    }
    assert_eq!(connect_all(&scene, 6).len(), 3);
}
