//! Persistence by cookie.

use weir_model::{BackendId, BackendState, Health};

use crate::harness::*;

fn config(origins: &[&Origin]) -> String {
    config_with(origins, "cookie = \"S\", mode = \"insert\"")
}

fn config_with(origins: &[&Origin], sticky: &str) -> String {
    let backends: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let pool = pool("main", &backends, &format!("sticky = {{ {sticky} }}"));
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

#[test]
fn a_cookie_has_the_attributes_of_the_config() {
    let a = Origin::saying("a");
    for (keys, attributes) in [
        ("", "; Path=/; HttpOnly; SameSite=Lax"),
        (
            ", secure = true, http_only = false, same_site = \"strict\"",
            "; Path=/; SameSite=Strict; Secure",
        ),
        (
            ", domain = \".Example.com\", path = \"/shop\", max_age = \"1h30m\", same_site = \"none\"",
            "; Path=/shop; Domain=example.com; Max-Age=5400; HttpOnly; SameSite=None; Secure",
        ),
    ] {
        let proxy = Proxy::start(&config_with(&[&a], &format!("cookie = \"S\"{keys}")));
        let answer = proxy.client().get("/").unwrap();
        let set = field(&answer.head, "set-cookie").unwrap();
        assert_eq!(set[34..], *attributes, "{keys}");
    }
}

/// Answers every request with its name and the request's cookies, and sets a cookie where the path has one.
fn application(name: &'static str) -> Origin {
    Origin::start(move |_, mut peer| {
        while let Some(request) = peer.request() {
            let cookies: Vec<&str> = request
                .lines()
                .filter_map(|line| line.strip_prefix("Cookie: "))
                .collect();
            let target = request.split(' ').nth(1).unwrap();
            let set = target.strip_prefix("/set/").map(|value| {
                format!("Set-Cookie: other=1\r\nSet-Cookie: S={value}; Path=/app\r\n")
            });
            let body = format!("{name}|{}", cookies.join("|"));
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{body}",
                set.unwrap_or_default(),
                body.len()
            ));
        }
    })
}

/// The values of the cookie `S` that an answer sets, with their attributes.
fn set_by(answer: &Answer) -> Vec<String> {
    let lines = answer.head.lines();
    lines
        .filter_map(|line| Some(line.strip_prefix("Set-Cookie: S=")?.to_owned()))
        .collect()
}

fn get(proxy: &Proxy, target: &str, cookie: &str) -> Answer {
    let mut client = proxy.client();
    client.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nCookie: x=y; S={cookie}; z=1\r\n\r\n"
    ));
    client.answer().unwrap()
}

#[test]
fn rewritten_a_backends_cookie_has_our_value() {
    let (a, b) = (application("a"), application("b"));
    let proxy = Proxy::start(&config_with(
        &[&a, &b],
        "cookie = \"S\", mode = \"rewrite\"",
    ));
    assert_eq!(set_by(&proxy.client().get("/").unwrap()), [""; 0]);
    let mut values = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let first = proxy.client().get("/set/abc").unwrap();
        let set = set_by(&first);
        let [set] = set.as_slice() else {
            panic!("{first:?}")
        };
        assert!(first.has("Set-Cookie: other=1"));
        let (value, attributes) = set.split_once(';').unwrap();
        assert_eq!((value.len(), attributes), (32, " Path=/app"));
        values.insert(value.to_owned());
        for _ in 0..4 {
            let next = get(&proxy, "/set/again", value);
            // The backend sees what the client has.
            assert_eq!(
                next.text(),
                format!("{}|x=y; S={value}; z=1", &first.text()[..1])
            );
            assert_eq!(set_by(&next), [format!("{value}; Path=/app")]);
        }
    }
    assert_eq!(values.len(), 2);
}

#[test]
fn prefixed_a_backend_sees_its_own_value_again() {
    let (a, b) = (application("a"), application("b"));
    let proxy = Proxy::start(&config_with(&[&a, &b], "cookie = \"S\", mode = \"prefix\""));
    for _ in 0..2 {
        let first = proxy.client().get("/set/ab~c").unwrap();
        let name = &first.text()[..1];
        let set = set_by(&first).remove(0);
        let value = set.strip_suffix("; Path=/app").unwrap();
        assert_eq!(value[32..], *"~ab~c");
        for _ in 0..4 {
            let next = get(&proxy, "/", value);
            assert_eq!(next.text(), format!("{name}|x=y; S=ab~c; z=1"));
        }
    }
    // One of another run: whose it was nobody knows, but the backend is not to see it.
    let old = format!("{}~ab", "0".repeat(32));
    let answers = [get(&proxy, "/", &old), get(&proxy, "/", &old)];
    assert_ne!(answers[0].body, answers[1].body);
    assert!(answers[0].text().ends_with("|x=y; S=ab; z=1"));
    // The application's own, from before.
    assert!(
        get(&proxy, "/", "ab~c")
            .text()
            .ends_with("|x=y; S=ab~c; z=1")
    );
}

#[test]
fn learned_an_applications_session_stays_where_it_began() {
    let (a, b) = (application("a"), application("b"));
    let sticky = "cookie = \"S\", mode = \"learn\", timeout = \"1m\"";
    let config = config_with(&[&a, &b], sticky);
    // Two workers: each client may meet either, and both know.
    let proxy = Proxy::start_with(&config, 2);
    let mut names = std::collections::BTreeSet::new();
    for value in ["one", "two", "three", "four"] {
        let first = proxy.client().get(&format!("/set/{value}")).unwrap();
        assert_eq!(set_by(&first), [format!("{value}; Path=/app")]);
        let name = &first.text()[..1];
        names.insert(name.to_owned());
        for _ in 0..6 {
            assert_eq!(
                get(&proxy, "/", value).text(),
                format!("{name}|x=y; S={value}; z=1")
            );
        }
    }
    assert_eq!(names.len(), 2, "the sessions are spread");
    // What no backend has set is nobody's.
    let strangers: std::collections::BTreeSet<_> =
        (0..8).map(|_| get(&proxy, "/", "made-up").body).collect();
    assert_eq!(strangers.len(), 2);

    // A session whose backend is gone moves once, and stays.
    let first = get(&proxy, "/", "one");
    let down = if first.text().starts_with('a') {
        &a
    } else {
        &b
    };
    let mut snapshot = proxy.snapshot(&config);
    let id = BackendId {
        pool: "main".into(),
        address: down.address,
    };
    let state = BackendState {
        health: Health::Down,
        ..Default::default()
    };
    snapshot.backends.insert(id, state);
    proxy.apply_snapshot(snapshot);
    let moved = get(&proxy, "/", "one");
    assert_ne!(moved.body, first.body);
    proxy.apply_snapshot(proxy.snapshot(&config));
    for _ in 0..6 {
        assert_eq!(get(&proxy, "/", "one").body, moved.body);
    }
}
