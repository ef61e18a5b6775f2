//! Forwarding, and what health does to it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fixture::{FALL, INTERVAL, TIMEOUT, names, two_backends};
use crate::support::{get, text, until, weir_output};

#[test]
fn backends_answer_in_turn_and_everything_is_counted() {
    let (node, listen, backends) = two_backends();
    let seen = names(listen, 10);
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    assert_eq!((backends[0].requests(), backends[1].requests()), (5, 5));

    assert_eq!(
        node.metric(r#"weir_listener_requests_total{listener="web"}"#),
        10.0
    );
    until("answers are counted", || {
        node.metric(r#"weir_listener_answers_total{listener="web",class="2xx"}"#) == 10.0
    });
    for backend in &backends {
        let labels = format!(r#"pool="web",backend="{}""#, backend.address);
        assert_eq!(
            node.metric(&format!("weir_backend_requests_total{{{labels}}}")),
            5.0
        );
        assert!(
            node.metric(&format!(
                r#"weir_backend_checks_total{{{labels},result="passed"}}"#
            )) >= 1.0
        );
    }
    let listeners = node.list("listeners");
    assert_eq!(listeners["items"][0]["bind"], listen.to_string());
    assert_eq!(listeners["items"][0]["traffic"]["requests"], 10);
    assert_eq!(node.list("pools")["items"][0]["available"], 2);
    assert_eq!(node.list("sessions")["total"], 0);
    let shown = weir_output(&[
        "get",
        "backends",
        "--api",
        &node.api.to_string(),
        "--pool",
        "web",
    ]);
    assert_eq!(shown.status.code(), Some(0));
    assert_eq!(
        text(&shown.stdout)
            .lines()
            .filter(|line| line.contains(" up "))
            .count(),
        2
    );
}

#[test]
fn failing_backend_leaves_the_rotation_in_time_and_comes_back() {
    let (node, listen, [mut a, b]) = two_backends();
    a.go_away();
    let gone = Instant::now();
    node.wait_for_health(a.address, "down");
    // The API is asked every few milliseconds; the rest is for a loaded machine.
    let bound = INTERVAL * FALL + TIMEOUT + Duration::from_millis(1500);
    assert!(gone.elapsed() <= bound, "{:?}", gone.elapsed());
    node.process.wait_for_log("connection refused");
    assert_eq!(names(listen, 6), ["b"; 6]);
    assert_eq!(
        node.metric(r#"weir_pool_backends_available{pool="web"}"#),
        1.0
    );
    a.come_back();
    node.wait_for_health(a.address, "up");
    assert_eq!(
        names(listen, 6).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["a".into(), "b".into()])
    );
    drop(b);
}

#[test]
fn no_backend_left_is_answered_503_and_told() {
    let (node, listen, [mut a, mut b]) = two_backends();
    a.go_away();
    b.go_away();
    node.wait_for_health(a.address, "down");
    node.wait_for_health(b.address, "down");
    assert_eq!(get(listen, "/").unwrap().status, 503);
    node.process
        .wait_for_log("no backend of the pool takes new work");
    b.come_back();
    node.wait_for_health(b.address, "up");
    assert_eq!(names(listen, 1), ["b"]);
}
