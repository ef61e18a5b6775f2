//! HTTP backends that fail and come back.

use std::time::Duration;

use nix::sys::signal::Signal;
use weir_lab::network::VIP;
use weir_lab::{Network, Nginx, Weir, eventually, http, ready, until};

use crate::client::{answers, wrk};
use crate::l7_proxying::{http_config, web};
use crate::scene::vip;

const VERDICT: Duration = Duration::from_secs(10);

fn wait_for_health(weir: &Weir, network: &Network, index: usize, health: &str) {
    let address = network.backends[index].at(8080).to_string();
    until(&format!("{address} is {health}"), VERDICT, || {
        weir.health_of("web", &address) == health
    });
}

#[test]
fn a_killed_backend_costs_no_request_once_it_is_out_and_takes_its_share_when_it_is_back() {
    if !ready(
        "a_killed_backend_costs_no_request_once_it_is_out_and_takes_its_share_when_it_is_back",
        &["nginx", "curl", "wrk"],
    ) {
        return;
    }
    let network = Network::two_arm(3);
    let mut nginxes = web(&network, None);
    let weir = Weir::start(&network.lb, &http_config(&network));
    let url = format!("http://{VIP}/");
    wait_for_health(&weir, &network, 0, "up");

    // Idle connections to the victim are open now, and it dies without a word to their owner.
    answers(&network.client, &url, 6);
    nginxes[0].process().signal(Signal::SIGKILL);
    // Before the checks notice, a request that met the dead backend is tried elsewhere.
    let by_name = answers(&network.client, &url, 6);
    assert!(!by_name.contains_key("b1"), "{by_name:?}");
    wait_for_health(&weir, &network, 0, "down");
    let report = wrk(&network.client, &url, 32, Duration::from_secs(2), &[]);
    assert!(
        report.requests > 1000 && report.bad_answers == 0 && report.socket_errors == 0,
        "{}",
        report.text
    );

    nginxes[0] = Nginx::start(&network.backends[0], "b1", &[8080], None);
    wait_for_health(&weir, &network, 0, "up");
    let by_name = answers(&network.client, &url, 9);
    assert_eq!(by_name.len(), 3, "{by_name:?}");
}

#[test]
fn without_a_backend_the_answer_is_503() {
    if !ready("without_a_backend_the_answer_is_503", &["nginx"]) {
        return;
    }
    let network = Network::one_arm(2);
    let nginxes = web(&network, None);
    let weir = Weir::start(&network.lb, &http_config(&network));
    let status = || {
        network
            .client
            .run(|| http::get(vip(80), "www.example.com", "/"))
            .unwrap()
            .status
    };
    eventually("an answer", VERDICT, || {
        if status() == 200 {
            Ok(())
        } else {
            Err(status())
        }
    });
    drop(nginxes);
    for index in 0..2 {
        wait_for_health(&weir, &network, index, "down");
    }
    assert_eq!(status(), 503);
    assert!(
        weir.metric(
            "weir_listener_answers_total",
            &["listener=\"web\"", "class=\"5xx\""]
        ) >= 1.0
    );
    let _nginxes = web(&network, None);
    for index in 0..2 {
        wait_for_health(&weir, &network, index, "up");
    }
    assert_eq!(status(), 200);
}
