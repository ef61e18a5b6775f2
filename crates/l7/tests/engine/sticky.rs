//! Persistence by cookie.

use weir_model::{BackendId, BackendState, Health};

use crate::harness::*;

fn config(origins: &[&Origin]) -> String {
    let backends: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let pool = pool(
        "main",
        &backends,
        "sticky = { cookie = \"S\", mode = \"insert\" }",
    );
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
    )
}

fn ask(proxy: &Proxy, cookie: &str) -> Answer {
    let mut client = proxy.client();
    client.send(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {cookie}\r\nCookie: z=1\r\n\r\n"
    ));
    client.answer().unwrap()
}

/// The name and value that an answer sets.
fn cookie(answer: &Answer) -> String {
    let set = field(&answer.head, "set-cookie").unwrap();
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    assert!(pair.starts_with("S=") && pair.len() == 34, "{set}");
    pair.to_owned()
}

#[test]
fn a_client_stays_with_the_backend_of_its_cookie() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start(&config(&[&a, &b]));
    for _ in 0..2 {
        let first = proxy.client().get("/").unwrap();
        let cookie = cookie(&first);
        for _ in 0..6 {
            let next = ask(&proxy, &cookie);
            assert_eq!(next.body, first.body);
            assert_eq!(field(&next.head, "set-cookie"), None, "it has its cookie");
        }
    }
}

#[test]
fn a_cookie_that_was_made_up_counts_as_none() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start(&config(&[&a, &b]));
    let real = cookie(&proxy.client().get("/").unwrap());
    let mut wrong = real.clone();
    wrong.pop();
    let address = format!("S={}", a.address);
    for made_up in [
        "S=",
        "S=a",
        &address,
        &wrong,
        &format!("{real}0"),
        &format!("T{real}"),
    ] {
        let answers = [ask(&proxy, made_up), ask(&proxy, made_up)];
        assert_ne!(answers[0].body, answers[1].body, "{made_up}");
        assert!(
            answers
                .iter()
                .all(|answer| field(&answer.head, "set-cookie").is_some())
        );
    }
}

#[test]
fn a_client_whose_backend_is_down_gets_another_and_its_cookie() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start(&config(&[&a, &b]));
    let first = proxy.client().get("/").unwrap();
    let old = cookie(&first);
    let (down, up) = if first.body == b"a" {
        (&a, "b")
    } else {
        (&b, "a")
    };
    let mut snapshot = proxy.snapshot(&config(&[&a, &b]));
    let id = BackendId {
        pool: "main".into(),
        address: down.address,
    };
    snapshot.backends.insert(
        id,
        BackendState {
            health: Health::Down,
            draining: false,
            ..Default::default()
        },
    );
    proxy.apply_snapshot(snapshot);
    let moved = ask(&proxy, &old);
    assert_eq!(moved.text(), up);
    assert_ne!(cookie(&moved), old);
    assert_eq!(ask(&proxy, &cookie(&moved)).text(), up);
}
