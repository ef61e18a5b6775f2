//! Which backend takes a request.

use std::collections::HashMap;
use std::sync::Arc;

use crate::harness::*;

fn config(scheduler: &str, backends: &[(&Origin, u32)]) -> String {
    let list: Vec<String> = backends
        .iter()
        .map(|(o, weight)| format!("{{ address = \"{}\", weight = {weight} }}", o.address))
        .collect();
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n\
         [[pool]]\nname = \"main\"\nscheduler = \"{scheduler}\"\nbackend = [{}]\n",
        list.join(", ")
    )
}

fn count(answers: impl Iterator<Item = String>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns_over_connections_and_within_them() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start(&config("round_robin", &[(&a, 1), (&b, 1)]));
    let single: Vec<String> = (0..10)
        .map(|_| proxy.client().get("/").unwrap().text().to_owned())
        .collect();
    assert!(
        single.windows(2).all(|pair| pair[0] != pair[1]),
        "{single:?}"
    );
    let mut client = proxy.client();
    client.get("/");
    let kept: Vec<String> = (0..10)
        .map(|_| client.get("/").unwrap().text().to_owned())
        .collect();
    assert!(kept.windows(2).all(|pair| pair[0] != pair[1]), "{kept:?}");
}

#[test]
fn weights_count() {
    let (a, b, c) = (
        Origin::saying("a"),
        Origin::saying("b"),
        Origin::saying("c"),
    );
    let proxy = Proxy::start(&config("round_robin", &[(&a, 3), (&b, 1), (&c, 0)]));
    let mut client = proxy.client();
    client.get("/");
    let counts = count((0..40).map(|_| client.get("/").unwrap().text().to_owned()));
    assert_eq!((counts["a"], counts["b"], counts.len()), (30, 10, 2));
}

#[test]
fn hashes_keep_a_client_with_a_backend() {
    for scheduler in ["source_hash", "maglev"] {
        let origins = [
            Origin::saying("a"),
            Origin::saying("b"),
            Origin::saying("c"),
        ];
        let backends: Vec<(&Origin, u32)> = origins.iter().map(|origin| (origin, 1)).collect();
        let proxy = Proxy::start(&config(scheduler, &backends));
        let counts = count((0..10).map(|_| proxy.client().get("/").unwrap().text().to_owned()));
        assert_eq!(counts.len(), 1, "{scheduler}: {counts:?}");
    }
}

#[test]
fn least_conn_counts_over_all_workers() {
    // Nobody answers before all requests are out, so that their number is known.
    let barrier = Arc::new(std::sync::Barrier::new(13));
    let waiting = || {
        let barrier = Arc::clone(&barrier);
        Origin::start(move |_, mut peer| {
            peer.request();
            barrier.wait();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        })
    };
    let (light, heavy) = (waiting(), waiting());
    let proxy = Proxy::start(&config("least_conn", &[(&light, 1), (&heavy, 3)]));
    let mut clients = Vec::new();
    for number in 1..=12 {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        clients.push(client);
        let active =
            |origin: &Origin, proxy: &Proxy| proxy.backend_stats(origin.address).requests_active;
        proxy.until("the request is given to someone", |proxy| {
            active(&light, proxy) + active(&heavy, proxy) == number
        });
    }
    assert_eq!(proxy.backend_stats(light.address).requests_active, 3);
    assert_eq!(proxy.backend_stats(heavy.address).requests_active, 9);
    barrier.wait();
    for mut client in clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
}
