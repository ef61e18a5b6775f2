//! Changes while layer 4 forwards.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use weir_lab::network::VIP;
use weir_lab::{ready, until};

use crate::client::{Echo, noise};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, vip};

const RELOADS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// One more listener for the echo backends.
fn with_listener(scene: &Scene, port: u16, scheduler: &'static str) -> String {
    let mut config = Config::of(&scene.network, scene.mode);
    config.scheduler = scheduler;
    config.more = format!(
        "[[listener]]\nname = \"more\"\nbind = \"{VIP}:{port}\"\nprotocol = \"tcp\"\nforward = \"{}\"\n\
         pool = \"echo\"\n",
        scene.mode
    );
    config.text()
}

#[test]
fn reloads_under_load_lose_no_session_and_refuse_no_connection() {
    if !ready(
        "reloads_under_load_lose_no_session_and_refuse_no_connection",
        &[],
    ) {
        return;
    }
    let scene = Scene::new(Arms::Two, Mode::Fullnat);
    let client = &scene.network.client;
    let mut held: Vec<Echo> = (0..12)
        .map(|_| Echo::connect(client, vip(ECHO)).unwrap())
        .collect();
    let (done, connected) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Echo::connect(client, vip(ECHO))
                    .unwrap()
                    .say(&noise(10_000))
                    .unwrap();
                connected.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 1..=RELOADS {
            let port = 1000 + u16::try_from(round).unwrap();
            scene.weir.reload(&with_listener(
                &scene,
                port,
                ["maglev", "round_robin"][round % 2],
            ));
            let added = SocketAddr::from((VIP, port));
            until("the new listener", Duration::from_secs(10), || {
                let listeners = scene.weir.api("listeners");
                let items = listeners["items"].as_array().unwrap();
                items.iter().any(|item| item["bind"] == added.to_string())
            });
            Echo::connect(client, added).unwrap().say(b"hello").unwrap();
            for echo in &mut held {
                echo.say(b"still here").unwrap();
            }
            assert!(!load.is_finished(), "a connection failed");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(connected.load(Ordering::Relaxed) >= RELOADS);
    // What a reload does not touch is not counted anew.
    let connections = scene
        .weir
        .metric("weir_listener_connections_total", &["listener=\"echo\""]);
    assert!(
        connections as usize >= held.len() + connected.load(Ordering::Relaxed),
        "{connections}"
    );
}

#[test]
fn a_config_with_a_mistake_changes_nothing() {
    if !ready("a_config_with_a_mistake_changes_nothing", &[]) {
        return;
    }
    let scene = Scene::new(Arms::One, Mode::Dr);
    let client = &scene.network.client;
    let mut held = Echo::connect(client, vip(ECHO)).unwrap();
    let wrong = with_listener(&scene, 1001, "maglev").replace("pool = \"echo\"", "pool = \"eco\"");
    scene.weir.reload(&wrong);
    until(
        "the failed reload is counted",
        Duration::from_secs(10),
        || {
            scene
                .weir
                .metric("weir_config_reloads_total", &["result=\"failed\""])
                == 1.0
        },
    );
    assert!(
        scene.weir.log().contains("did you mean"),
        "the log says what is wrong"
    );
    held.say(b"still here").unwrap();
    Echo::connect(client, vip(ECHO))
        .unwrap()
        .say(b"hello")
        .unwrap();
    assert!(
        scene
            .weir
            .metrics()
            .contains("weir_config_last_reload_success 0")
    );
}

/// A scene whose daemon, told to end, waits a second for what runs.
fn soon_drained() -> Scene {
    let config = |network: &_| {
        let mut config = Config::of(network, Mode::Nat);
        config.l4_more = "on_stop = \"drain\"\n".to_owned();
        config.more = "[node]\ndrain_timeout = \"1s\"\n".to_owned();
        config.text()
    };
    Scene::with(Arms::Two, Mode::Nat, config, None)
}

fn assert_no_program_is_left(scene: &Scene) {
    for arm in &scene.network.arms {
        assert!(!arm.has_xdp().unwrap(), "{} has a program", arm.name());
    }
}

#[test]
fn told_to_end_the_daemon_ends_and_leaves_no_program_behind() {
    if !ready(
        "told_to_end_the_daemon_ends_and_leaves_no_program_behind",
        &[],
    ) {
        return;
    }
    let mut scene = soon_drained();
    Echo::connect(&scene.network.client, vip(ECHO))
        .unwrap()
        .say(b"hello")
        .unwrap();
    scene.weir.terminate();
    assert!(scene.weir.wait(PATIENCE).success());
    assert_no_program_is_left(&scene);
}

#[test]
fn told_to_end_the_daemon_waits_for_sessions_until_the_time_to_drain_is_over() {
    if !ready(
        "told_to_end_the_daemon_waits_for_sessions_until_the_time_to_drain_is_over",
        &[],
    ) {
        return;
    }
    let mut scene = soon_drained();
    let mut held = Echo::connect(&scene.network.client, vip(ECHO)).unwrap();
    scene.weir.terminate();
    held.say(b"still here").unwrap();
    // The exit code for work that was cut off.
    assert_eq!(scene.weir.wait(PATIENCE).code(), Some(3));
    assert_no_program_is_left(&scene);
}
