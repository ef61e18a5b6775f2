//! Changes and the end of the daemon while layer 7 serves.

use std::thread;
use std::time::Duration;

use weir_lab::network::VIP;
use weir_lab::{Folder, Network, Weir, ready, until};

use crate::client::{curl, noise, same_content, wrk};
use crate::l7_proxying::{http_config, web};

#[test]
fn reloads_under_load_fail_no_request() {
    if !ready(
        "reloads_under_load_fail_no_request",
        &["nginx", "wrk", "curl"],
    ) {
        return;
    }
    let network = Network::two_arm(3);
    let _web = web(&network, None);
    let plain = http_config(&network);
    let weir = Weir::start(&network.lb, &plain);
    let url = format!("http://{VIP}/");
    let closing = ["--header", "Connection: close"];
    thread::scope(|scope| {
        // Half of the load keeps its connections, half opens one for each request.
        let keeping = scope.spawn(|| wrk(&network.client, &url, 16, Duration::from_secs(8), &[]));
        let closing =
            scope.spawn(|| wrk(&network.client, &url, 16, Duration::from_secs(8), &closing));
        let mut rounds = 0;
        while !keeping.is_finished() {
            rounds += 1;
            let port = 8000 + rounds;
            let more = format!(
                "[[listener]]\nname = \"more\"\nbind = \"{VIP}:{port}\"\nprotocol = \"http\"\npool = \"web\"\n"
            );
            // The backends of the loaded listener change too: one of three leaves and comes back.
            let backends = if rounds % 2 == 0 {
                plain.clone()
            } else {
                without_last_backend(&plain)
            };
            weir.reload(&(backends + &more));
            until("the reload", Duration::from_secs(10), || {
                weir.metric("weir_config_reloads_total", &["result=\"succeeded\""])
                    == f64::from(rounds)
            });
            let answer = curl(&network.client, &[&format!("http://{VIP}:{port}/")]);
            assert!(answer.is_ok(), "{answer:?}");
        }
        assert!(rounds >= 3, "{rounds} reloads");
        for report in [keeping.join().unwrap(), closing.join().unwrap()] {
            assert!(report.requests > 100, "{}", report.text);
            assert_eq!(
                (report.bad_answers, report.socket_errors),
                (0, 0),
                "{}",
                report.text
            );
        }
    });
}

fn without_last_backend(config: &str) -> String {
    let (start, _) = config.rsplit_once(", { address").expect("several backends");
    format!("{start}]\n")
}

#[test]
fn told_to_end_the_daemon_finishes_what_runs_and_takes_nothing_new() {
    if !ready(
        "told_to_end_the_daemon_finishes_what_runs_and_takes_nothing_new",
        &["nginx", "curl"],
    ) {
        return;
    }
    let network = Network::one_arm(2);
    let files = Folder::new();
    let original = files.write("file", noise(12_000_000));
    let _web = web(&network, Some(&files));
    let mut weir = Weir::start(&network.lb, &http_config(&network));
    let here = Folder::new();
    let copy = here.path().join("copy");
    // Slow enough to be under way for seconds: neither side buffers most of it.
    let file = format!("http://{VIP}/files/file");
    let slowly = [
        "--limit-rate",
        "4M",
        "--output",
        copy.to_str().unwrap(),
        &file,
    ];
    thread::scope(|scope| {
        let download = scope.spawn(|| curl(&network.client, &slowly));
        until("the download runs", Duration::from_secs(10), || {
            copy.metadata()
                .is_ok_and(|metadata| metadata.len() > 100_000)
        });
        weir.terminate();
        until(
            "new connections are refused",
            Duration::from_secs(10),
            || curl(&network.client, &[&format!("http://{VIP}/")]).is_err(),
        );
        assert!(!download.is_finished());
        download.join().unwrap().unwrap();
    });
    assert!(same_content(&original, &copy));
    assert!(weir.wait(Duration::from_secs(30)).success());
}
