//! Changes and the end of the daemon while layer 7 serves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use weir_lab::network::VIP;
use weir_lab::{Folder, Network, Weir, ready, until};

use crate::client::{curl, noise, wrk};
use crate::l7_proxying::{http_config, web};
use crate::scene::vip;

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
    // More than all the buffers on the way take: the backend is not done before the client reads.
    let content = noise(64_000_000);
    files.write("file", &content);
    let _web = web(&network, Some(&files));
    let mut weir = Weir::start(&network.lb, &http_config(&network));

    let mut download = network.client.run(|| TcpStream::connect(vip(80))).unwrap();
    download
        .write_all(b"GET /files/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut head = [0; 1000];
    download.read_exact(&mut head).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 "));

    weir.terminate();
    until(
        "new connections are refused",
        Duration::from_secs(10),
        || curl(&network.client, &[&format!("http://{VIP}/")]).is_err(),
    );
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).unwrap();
    let got = [head.as_slice(), &rest].concat();
    assert!(got.ends_with(&content), "{} bytes arrived", got.len());
    assert!(weir.wait(Duration::from_secs(30)).success());
}
