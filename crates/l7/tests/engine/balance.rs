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

/// A pool of three that say who they are, with a hash.
fn hashed(scheduler: &str, hash: &str) -> Proxy {
    let origins = ["a", "b", "c"].map(|name| Origin::saying(name).address);
    let pool = pool(
        "main",
        &origins,
        &format!("scheduler = \"{scheduler}\"\nhash = {hash}"),
    );
    Proxy::start(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
    ))
}

fn ask(proxy: &Proxy, target: &str, field: &str) -> String {
    let mut client = proxy.client();
    client.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\n{field}\r\n"
    ));
    client.answer().unwrap().text().to_owned()
}

#[test]
fn a_part_of_the_request_chooses_the_backend() {
    type Request = fn(usize) -> (String, String);
    let cases: [(&str, Request); 3] = [
        ("\"uri\"", |user| (format!("/{user}?q"), String::new())),
        ("{ header = \"X-User\" }", |user| {
            ("/".to_owned(), format!("x-USER:  u{user} \r\n"))
        }),
        ("{ cookie = \"sid\" }", |user| {
            ("/".to_owned(), format!("Cookie: other=1; sid={user}\r\n"))
        }),
    ];
    for scheduler in ["source_hash", "maglev"] {
        for (hash, request) in &cases {
            let proxy = hashed(scheduler, hash);
            let mut seen = HashMap::new();
            for user in 0..24 {
                let (target, field) = request(user);
                let first = ask(&proxy, &target, &field);
                assert_eq!(ask(&proxy, &target, &field), first, "{scheduler} {hash}");
                *seen.entry(first).or_insert(0) += 1;
            }
            assert_eq!(seen.len(), 3, "{scheduler} {hash}: {seen:?}");
        }
    }
}

#[test]
fn requests_without_the_part_that_is_hashed_take_turns() {
    let proxy = hashed("maglev", "{ header = \"x-user\" }");
    let counts = count((0..6).map(|_| ask(&proxy, "/", "")));
    assert!(counts.values().all(|count| *count == 2), "{counts:?}");
}

#[test]
fn clients_of_a_hash_whose_backend_fails_spread_and_come_back() {
    let (a, b, c) = (
        Origin::saying("a"),
        Origin::saying("b"),
        Origin::saying("c"),
    );
    let config = |third| {
        let pool = pool(
            "main",
            &[a.address, b.address, third],
            "scheduler = \"maglev\"\nhash = \"uri\"",
        );
        format!(
            "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
        )
    };
    let dead = dead_address();
    let proxy = Proxy::start(&config(dead));
    let answers = |proxy: &Proxy| -> Vec<String> {
        (0..40)
            .map(|user| ask(proxy, &format!("/{user}"), ""))
            .collect()
    };
    let before = answers(&proxy);
    assert_eq!(answers(&proxy), before);
    assert_eq!(count(before.into_iter()).len(), 2);
    assert!(
        proxy
            .backend_stats(dead)
            .failures(weir_l7::Reason::ConnectFailed)
            >= 10
    );
    proxy.apply(&config(c.address));
    assert_eq!(count(answers(&proxy).into_iter()).len(), 3);
}

#[test]
fn p2c_leaves_a_slow_backend_alone() {
    let quick = Origin::saying("quick");
    let slow = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(100));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let proxy = Proxy::start(&config("p2c", &[(&quick, 1), (&slow, 1)]));
    let mut clients: Vec<Peer> = (0..4).map(|_| proxy.client()).collect();
    let answers = (0..200).map(|number: usize| {
        let client = &mut clients[number % 4];
        client.get("/").unwrap().text().to_owned()
    });
    let counts = count(answers);
    // It is asked once, while nothing is known of it.
    assert!(counts["quick"] >= 190, "{counts:?}");
    assert_eq!(counts["quick"] + counts["slow"], 200);
}

#[test]
fn p2c_spreads_work_that_does_not_end_by_weight() {
    let silent = || {
        Origin::start(|_, mut peer| {
            peer.request();
            peer.rest();
        })
    };
    let (light, heavy) = (silent(), silent());
    let proxy = Proxy::start(&config("p2c", &[(&light, 1), (&heavy, 3)]));
    let mut clients = Vec::new();
    for number in 1..=40 {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        clients.push(client);
        proxy.until("the request is given to someone", |proxy| {
            let active = |origin: &Origin| proxy.backend_stats(origin.address).requests_active;
            active(&light) + active(&heavy) == number
        });
    }
    let heavy = proxy.backend_stats(heavy.address).requests_active;
    assert!((28..=32).contains(&heavy), "{heavy} of 40");
}
