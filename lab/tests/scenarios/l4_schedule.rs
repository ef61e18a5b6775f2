//! Who gets the new sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_lab::network::Network;
use weir_lab::{ready, until};

use crate::client::{Echo, is_even};
use crate::l4_failure::{connect_all, one_to_each, wait_for_health};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, names, vip};

const PATIENCE: Duration = Duration::from_secs(20);

/// The echo backends with these places, as the config lists them.
fn echo_backends(network: &Network, mode: Mode, places: &[usize]) -> String {
    let port = mode.backend_port(ECHO);
    let entry =
        |place: &usize| format!("{{ address = \"{}\" }}", network.backends[*place].at(port));
    places.iter().map(entry).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_backup_pool_takes_new_sessions_while_the_first_is_down() {
    if !ready(
        "a_backup_pool_takes_new_sessions_while_the_first_is_down",
        &[],
    ) {
        return;
    }
    let mode = Mode::Fullnat;
    let config = |network: &Network| {
        let mut config = Config::of(network, mode);
        config.echo = echo_backends(network, mode, &[0, 1]);
        config.echo_more = "backup_pool = \"spare\"".to_owned();
        let spare = echo_backends(network, mode, &[2]);
        config.more = format!("[[pool]]\nname = \"spare\"\nbackend = [{spare}]\n");
        config.text()
    };
    let mut scene = Scene::with(Arms::Two, mode, config, None);
    let mut held = one_to_each(&scene, 2);
    assert!(!connect_all(&scene, 10).contains_key("b3"));
    scene.echoes[0].refuse();
    scene.echoes[1].refuse();
    for name in ["b1", "b2"] {
        wait_for_health(&scene, name, "down");
    }
    let by_name = connect_all(&scene, 10);
    assert_eq!(by_name.get("b3"), Some(&10), "{by_name:?}");
    for echo in held.values_mut() {
        echo.say(b"established ones stay").unwrap();
    }
    scene.stop_echo("b1");
    scene.start_echo("b1");
    wait_for_health(&scene, "b1", "up");
    let by_name = connect_all(&scene, 10);
    assert_eq!(by_name.get("b1"), Some(&10), "{by_name:?}");
}

#[test]
fn a_backend_that_comes_back_starts_slowly() {
    if !ready("a_backend_that_comes_back_starts_slowly", &[]) {
        return;
    }
    let config = |network: &Network| {
        let mut config = Config::of(network, Mode::Fullnat);
        config.echo_more = "slow_start = \"1h\"".to_owned();
        config.text()
    };
    let mut scene = Scene::with(Arms::One, Mode::Fullnat, config, None);
    let by_name = connect_all(&scene, 30);
    assert!(is_even(&by_name), "{by_name:?}");
    scene.stop_echo("b1");
    wait_for_health(&scene, "b1", "down");
    scene.start_echo("b1");
    wait_for_health(&scene, "b1", "up");
    // One hundredth of its weight: one turn in 201 of each core.
    let by_name = connect_all(&scene, 100);
    let slow = by_name.get("b1").copied().unwrap_or(0);
    assert!(slow <= 2, "{by_name:?}");

    // With a reload that takes the setting away it counts at once.
    let text = config(&scene.network).replace("slow_start = \"1h\"", "");
    scene.weir.reload(&text);
    until("b1 has its whole share", Duration::from_secs(10), || {
        is_even(&connect_all(&scene, 30))
    });
}

/// Opens connections one after the other and keeps them; how many each backend has.
fn open(scene: &Scene, port: u16, count: usize) -> (Vec<Echo>, BTreeMap<String, usize>) {
    let mut by_name = BTreeMap::new();
    let connect = || Echo::connect(&scene.network.client, vip(port)).unwrap();
    let echoes: Vec<Echo> = (0..count).map(|_| connect()).collect();
    for echo in &echoes {
        *by_name.entry(echo.name.clone()).or_default() += 1;
    }
    (echoes, by_name)
}

fn new_sessions_fill_up_who_has_few(scenario: &str, scheduler: &'static str, slack: usize) {
    if !ready(scenario, &[]) {
        return;
    }
    let config = |network: &Network| {
        let mut config = Config::of(network, Mode::Fullnat);
        config.scheduler = scheduler;
        config.text()
    };
    let scene = Scene::with(Arms::Two, Mode::Fullnat, config, None);
    let (mut held, by_name) = open(&scene, ECHO, 30);
    let even = |by_name: &BTreeMap<String, usize>| {
        by_name.len() == 3 && by_name.values().all(|count| count.abs_diff(10) <= slack)
    };
    assert!(even(&by_name), "{by_name:?}");
    // What ends is taken off, and its places are filled first. Those that look are taken off again before the next look.
    held.retain(|echo| echo.name != "b1");
    until("the closed sessions are noticed", PATIENCE, || {
        let (more, by_name) = open(&scene, ECHO, 3);
        drop(more);
        by_name.get("b1") == Some(&3)
    });
}

#[test]
fn least_conn_gives_new_sessions_to_who_has_fewest() {
    new_sessions_fill_up_who_has_few(
        "least_conn_gives_new_sessions_to_who_has_fewest",
        "least_conn",
        1,
    );
}

#[test]
fn persistence_keeps_a_client_with_its_backend_until_that_fails() {
    if !ready(
        "persistence_keeps_a_client_with_its_backend_until_that_fails",
        &[],
    ) {
        return;
    }
    for mode in [Mode::Fullnat, Mode::Dr] {
        let config = |network: &Network| {
            let mut config = Config::of(network, mode);
            config.echo_more = "persistence = { timeout = \"5s\", prefix_v4 = 24 }".to_owned();
            config.text()
        };
        let scene = Scene::with(Arms::Two, mode, config, None);
        let by_name = connect_all(&scene, 10);
        assert_eq!(by_name.len(), 1, "{by_name:?}");
        let first = by_name.keys().next().unwrap().clone();
        let index = names().position(|name| name == first).unwrap();
        scene.echoes[index].refuse();
        wait_for_health(&scene, &first, "down");
        let by_name = connect_all(&scene, 10);
        assert!(
            by_name.len() == 1 && !by_name.contains_key(&first),
            "{by_name:?}"
        );
    }
}

#[test]
fn loads_and_persistence_outlive_the_daemon() {
    if !ready("loads_and_persistence_outlive_the_daemon", &[]) {
        return;
    }
    const LOADS: u16 = 77;
    /// A listener and its pool, which go by the sessions under way.
    fn by_load(network: &Network, name: &str, port: u16) -> String {
        let backends = network.backend_list(Mode::Fullnat.backend_port(ECHO));
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"{}\"\nprotocol = \"tcp\"\nforward = \"fullnat\"\n\
             pool = \"{name}\"\n\n[[pool]]\nname = \"{name}\"\nscheduler = \"least_conn\"\n\
             backend = [{backends}]\n\n",
            vip(port)
        )
    }
    let config = |network: &Network| {
        let mut config = Config::of(network, Mode::Fullnat);
        config.echo_more = "persistence = { timeout = \"1h\" }".to_owned();
        config.more = by_load(network, "loads", LOADS);
        config.text()
    };
    let mut scene = Scene::with(Arms::Two, Mode::Fullnat, config, None);
    let first = connect_all(&scene, 1);
    let (mut held, _) = open(&scene, LOADS, 12);
    held.retain(|echo| echo.name != "b1");
    let fills_up = |scene: &Scene| {
        until("b1 has fewest", PATIENCE, || {
            open(scene, LOADS, 3).1.get("b1") == Some(&3)
        });
    };
    fills_up(&scene);
    scene.weir.kill();
    // One more pool in front, so that the others' numbers change.
    let text = config(&scene.network);
    let at = text.find("[[listener]]").unwrap();
    let (l4, services) = text.split_at(at);
    let text = [l4, &by_load(&scene.network, "first", 78), services].concat();
    scene.weir.configure(&text);
    scene.weir.start_again();
    let again = connect_all(&scene, 10);
    assert!(
        again.keys().eq(first.keys()),
        "{first:?} and then {again:?}"
    );
    fills_up(&scene);
    assert_eq!(held.len(), 8);
}
