//! What operators set at run time: in force at once, kept over reloads and restarts, cleared by name.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::fixture::{config, names, two_backends};
use crate::support::{Backend, Folder, Node, free_address, text, until, weir_output};

/// Runs an order against a node.
fn order(node: &Node, words: &[&str]) -> Result<String, String> {
    let api = node.api.to_string();
    let output = weir_output(&[words, &["--api", &api]].concat());
    if output.status.success() {
        Ok(text(&output.stdout).to_owned())
    } else {
        Err(text(&output.stderr).to_owned())
    }
}

fn with_state(config: &str, folder: &Folder) -> String {
    let state = format!(
        "state_dir = {:?}\n        drain_timeout",
        folder.path("state")
    );
    config.replacen("drain_timeout", &state, 1)
}

/// Who answers.
fn set_of_names(listen: SocketAddr) -> BTreeSet<String> {
    names(listen, 8).into_iter().collect()
}

#[test]
fn a_drained_backend_gets_nothing_new_until_it_is_cleared_whatever_happens_meanwhile() {
    let (listen, a, b) = (free_address(), Backend::start("a"), Backend::start("b"));
    let folder = Folder::new();
    let config = with_state(&config(listen, &[&a, &b]), &folder);
    let mut node = Node::start(&config);
    let address = a.address.to_string();
    let only_b = BTreeSet::from(["b".to_owned()]);
    let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    assert_eq!(set_of_names(listen), both);

    let said = order(&node, &["drain", "web", &address]).unwrap();
    assert_eq!(
        said,
        format!("web/{address}: state draining, weight as in the config\n")
    );
    assert_eq!(set_of_names(listen), only_b);
    node.reload(&config);
    assert_eq!(set_of_names(listen), only_b);
    let said = order(&node, &["weight", "web", &address, "5"]).unwrap();
    assert_eq!(said, format!("web/{address}: state draining, weight 5\n"));

    node.process.signal(Signal::SIGTERM);
    node.process.code();
    let node = Node::start(&config);
    assert_eq!(set_of_names(listen), only_b);
    let shown = order(&node, &["get", "overrides"]).unwrap();
    assert!(
        shown.contains(&address) && shown.contains("draining") && shown.contains('5'),
        "{shown}"
    );
    let backends = node.list("backends");
    let items = backends["items"].as_array().unwrap();
    let is_a = |item: &&serde_json::Value| item["address"] == address.as_str();
    let shown = items.iter().find(is_a).unwrap();
    assert_eq!(
        (
            &shown["override"]["state"],
            &shown["weight"],
            &shown["available"]
        ),
        (&"draining".into(), &5.into(), &false.into())
    );

    order(&node, &["clear", "web", &address]).unwrap();
    assert_eq!(set_of_names(listen), both);
    assert_eq!(node.list("overrides")["total"], 0);
    let refused = order(&node, &["clear", "web", &address]).unwrap_err();
    assert!(refused.contains("has no override"), "{refused}");
}

#[test]
fn a_disabled_backend_is_not_checked_and_a_weight_of_zero_takes_nothing() {
    let (listen, a, b) = (free_address(), Backend::start("a"), Backend::start("b"));
    let folder = Folder::new();
    let node = Node::start(&with_state(&config(listen, &[&a, &b]), &folder));
    node.wait_for_health(a.address, "up");
    let (a_address, b_address) = (a.address.to_string(), b.address.to_string());
    order(&node, &["disable", "web", &a_address]).unwrap();
    until("no verdict", || node.health(a.address) == "unknown");
    assert_eq!(names(listen, 4), ["b"; 4]);
    order(&node, &["clear", "web", &a_address]).unwrap();
    node.wait_for_health(a.address, "up");
    order(&node, &["weight", "web", &b_address, "0"]).unwrap();
    assert_eq!(names(listen, 4), ["a"; 4]);
    // One whose backend leaves the config goes with it.
    node.reload(&with_state(&config(listen, &[&a]), &folder));
    assert_eq!(node.list("overrides")["total"], 0);
    node.reload(&with_state(&config(listen, &[&a, &b]), &folder));
    let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    until("both", || set_of_names(listen) == both);
}

#[test]
fn an_order_that_cannot_be_kept_changes_nothing() {
    let (listen, a, b) = (free_address(), Backend::start("a"), Backend::start("b"));
    let folder = Folder::new();
    let node = Node::start(&with_state(&config(listen, &[&a, &b]), &folder));
    // A file where the folder should be.
    folder.write("state", "");
    let address = a.address.to_string();
    let refused = order(&node, &["drain", "web", &address]).unwrap_err();
    assert!(refused.contains("keep the overrides in"), "{refused}");
    assert_eq!(node.list("overrides")["total"], 0);
    assert_eq!(set_of_names(listen).len(), 2);
}

#[test]
fn an_order_for_a_stranger_is_refused() {
    let (node, _listen, _backends) = two_backends();
    let refused = order(&node, &["drain", "web", "192.0.2.1:80"]).unwrap_err();
    assert!(
        refused.contains("the config has no backend web/192.0.2.1:80"),
        "{refused}"
    );
}
