//! What is counted for listeners, routes and pools.

use std::time::Duration;

use weir_l7::{PoolStats, RouteStats};

use crate::harness::*;

fn pool_stats(proxy: &Proxy, name: &str) -> PoolStats {
    let mut pools = proxy.engine.stats().pools.into_iter();
    pools.find(|pool| pool.name.as_str() == name).unwrap()
}

/// A listener with these routes, and two pools.
fn routed(routes: &str, a: &Origin, b: &Origin) -> String {
    let (a, b) = (pool("a", &[a.address], ""), pool("b", &[b.address], ""));
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"a\"\n{routes}\n{a}\n{b}"
    )
}

#[test]
fn requests_are_counted_at_their_route_and_their_pool() {
    let (a, b) = (Origin::mirror(), Origin::mirror());
    let routes = |named: &str| {
        format!(
            "[[listener.route]]\nname = \"{named}\"\npath_prefix = \"/b/\"\npool = \"b\"\n\
             [[listener.route]]\npath_prefix = \"/gone/\"\nanswer = {{ status = 410 }}\n"
        )
    };
    let proxy = Proxy::start(&routed(&routes("to_b"), &a, &b));
    // Each client may meet another worker.
    for _ in 0..4 {
        let mut client = proxy.client();
        for (target, status) in [("/b/1", 200), ("/b/2", 200), ("/gone/", 410), ("/", 200)] {
            assert_eq!(client.get(target).unwrap().status, status);
        }
    }
    proxy.until("all requests have ended", |proxy| {
        proxy.listener_stats().latency.count() == 16
    });
    let named = |name: &str, requests| RouteStats {
        name: name.into(),
        requests,
    };
    let stats = proxy.listener_stats();
    assert_eq!(stats.routes, [named("to_b", 8), named("#2", 4)]);
    for (name, requests) in [("a", 4), ("b", 8)] {
        let stats = pool_stats(&proxy, name);
        assert_eq!((stats.requests, stats.answers[2]), (requests, requests));
        assert_eq!((stats.latency.count(), stats.retries), (requests, 0));
        assert!(!stats.latency.sum.is_zero());
    }

    // A route with its name goes on counting where it stands now; another name begins.
    let moved = format!(
        "[[listener.route]]\nname = \"new\"\npath_prefix = \"/new/\"\npool = \"b\"\n{}",
        routes("to_b")
    );
    proxy.apply(&routed(&moved, &a, &b));
    assert_eq!(proxy.client().get("/b/3").unwrap().status, 200);
    let stats = proxy.listener_stats();
    assert_eq!(
        stats.routes,
        [named("new", 0), named("to_b", 9), named("#3", 0)]
    );
}

#[test]
fn retries_and_failures_are_counted_at_the_pool() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[dead_address(), origin.address], "");
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").unwrap().status, 200);
    }
    proxy.until("all requests have ended", |proxy| {
        pool_stats(proxy, "main").latency.count() == 4
    });
    let stats = pool_stats(&proxy, "main");
    assert_eq!((stats.requests, stats.answers[2]), (4, 4));
    assert_eq!(stats.retries, proxy.backend_stats(origin.address).retries);
    assert!(stats.retries > 0);

    let proxy = Proxy::http(&[dead_address()], "");
    assert_eq!(proxy.client().get("/").unwrap().status, 502);
    proxy.until("the request has ended", |proxy| {
        pool_stats(proxy, "main").latency.count() == 1
    });
    assert_eq!(pool_stats(&proxy, "main").answers[5], 1);
}

#[test]
fn a_request_is_in_the_bucket_of_its_duration() {
    const SLOW: Duration = Duration::from_millis(300);
    let origin = Origin::start(|_, mut peer| {
        while let Some(head) = peer.request() {
            if head.contains("/slow") {
                std::thread::sleep(SLOW);
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    assert_eq!(proxy.client().get("/slow").unwrap().status, 200);
    proxy.until("the request has ended", |proxy| {
        proxy.listener_stats().latency.count() == 1
    });
    for latency in [
        proxy.listener_stats().latency,
        pool_stats(&proxy, "main").latency,
    ] {
        assert_eq!(latency.count(), 1);
        assert!(latency.sum >= SLOW);
        let (bound, _) = latency.buckets().find(|(_, count)| *count > 0).unwrap();
        assert!(bound.is_none_or(|bound| bound >= latency.sum && latency.sum > bound / 2));
    }
}
