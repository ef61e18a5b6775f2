//! Packets of an interface with one queue, spread over all cores.

use std::time::Duration;

use weir_lab::network::VIP;
use weir_lab::{Folder, eventually, ready};

use crate::client::{Echo, answers, ask_udp, curl, noise, same_content};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, names, vip};

/// Connections, datagrams, a download and an upload arrive whole, and every core has taken packets of the cables, which
/// have one queue. Nothing that was handed on is missing.
fn spreads(scenario: &str, arms: Arms, mode: Mode) {
    if !ready(scenario, &["nginx", "curl"]) {
        return;
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        println!("skipped: {scenario}: there is one core");
        return;
    }
    let files = Folder::new();
    let content = noise(20_000_000);
    let original = files.write("file", &content);
    let config = |network: &_| {
        let mut config = Config::of(network, mode);
        config.l4_more = "spread = \"cpus\"\n".to_owned();
        config.text()
    };
    let scene = Scene::with(arms, mode, config, Some(&files));
    let client = &scene.network.client;

    // Each core has turns of its own, so that few connections are not shared out evenly.
    let by_name = answers(client, &format!("http://{VIP}:{WEB}/"), 24);
    assert_eq!(
        by_name.keys().cloned().collect::<Vec<_>>(),
        names().collect::<Vec<_>>()
    );
    let here = Folder::new();
    let copy = here.path().join("copy");
    let url = format!("http://{VIP}:{WEB}/files/file");
    for _ in 0..3 {
        curl(client, &["--output", copy.to_str().unwrap(), &url]).unwrap();
        assert!(same_content(&original, &copy));
        let words = noise(500_000);
        let mut echo = Echo::connect(client, vip(ECHO)).unwrap();
        echo.say(&words).unwrap();
        ask_udp(client, vip(ECHO), &words[..1000]);
    }

    let step = |core: usize, step: &str| {
        let labels = [format!("core=\"{core}\""), format!("step=\"{step}\"")];
        let labels = labels.each_ref().map(String::as_str);
        scene.weir.metric("weir_core_packets_total", &labels)
    };
    let all = |name: &str| (0..cores).map(|core| step(core, name)).sum::<f64>();
    eventually(
        "all is taken that was handed on",
        Duration::from_secs(10),
        || {
            // Read first, it is not the larger one of two that are the same.
            let (handed, taken) = (all("handed"), all("taken"));
            if handed > 1000.0 && taken >= handed {
                Ok(())
            } else {
                Err((handed, taken))
            }
        },
    );
    for core in 0..cores.min(8) {
        assert!(step(core, "taken") > 0.0, "core {core} took nothing");
    }
}

#[test]
fn one_queue_is_spread_over_all_cores_with_fullnat() {
    spreads(
        "one_queue_is_spread_over_all_cores_with_fullnat",
        Arms::Two,
        Mode::Fullnat,
    );
}

#[test]
fn one_queue_is_spread_over_all_cores_with_a_tunnel() {
    spreads(
        "one_queue_is_spread_over_all_cores_with_a_tunnel",
        Arms::One,
        Mode::Tunnel,
    );
}
