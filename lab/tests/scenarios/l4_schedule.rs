//! Who gets the new sessions.

use std::time::Duration;

use weir_lab::network::Network;
use weir_lab::{ready, until};

use crate::client::is_even;
use crate::l4_failure::{connect_all, one_to_each, wait_for_health};
use crate::scene::{Arms, Config, ECHO, Mode, Scene};

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
