//! Routes: what they match, and what they make of a request.

use crate::harness::*;

/// A listener with routes in front of pools `main`, `one` and `two`, which say their names.
struct Scene {
    proxy: Proxy,
    _origins: Vec<Origin>,
}

impl Scene {
    fn new(routes: &str) -> Self {
        let origins = ["main", "one", "two"].map(|name| (name, Origin::saying(name)));
        let pools: String = origins
            .iter()
            .map(|(name, origin)| pool(name, &[origin.address], ""))
            .collect();
        Self {
            proxy: Proxy::start(&format!(
                "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{routes}\n{pools}"
            )),
            _origins: origins.map(|(_, origin)| origin).into(),
        }
    }

    fn check(&self, request: &str, expected: &str) {
        let mut client = self.proxy.client();
        client.send(&format!("{request}\r\n\r\n"));
        let answer = client.answer().unwrap();
        assert_eq!(answer.text(), expected, "{request}");
    }
}

/// What an origin that mirrors requests was sent through these routes.
fn mirrored(routes: &str, request: &str) -> String {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], routes);
    let mut client = proxy.client();
    client.send(request);
    client.answer().unwrap().text().to_owned()
}

#[test]
fn every_kind_of_condition_chooses_the_pool() {
    let scene = Scene::new(
        r#"
        [[listener.route]]
        path = "/exact"
        pool = "one"
        [[listener.route]]
        path_regex = '/users/[0-9]+'
        pool = "two"
        [[listener.route]]
        method = ["DELETE", "PATCH"]
        pool = "one"
        [[listener.route]]
        header = [{ name = "X-Version", prefix = "2." }, { name = "x-debug", present = false }]
        pool = "two"
        [[listener.route]]
        query = [{ name = "beta", regex = "[1-9]|yes" }]
        pool = "one"
        [[listener.route]]
        cookie = [{ name = "canary", exact = "yes" }]
        pool = "two"
        [[listener.route]]
        path_prefix = "/local"
        client = ["127.0.0.0/8"]
        pool = "one"
        [[listener.route]]
        path_prefix = "/far"
        client = ["192.0.2.0/24", "2001:db8::/32"]
        pool = "one"
        "#,
    );
    let host = "HTTP/1.1\r\nHost: a";
    scene.check(&format!("GET /exact?x {host}"), "one");
    scene.check(&format!("GET /exact/ {host}"), "main");
    scene.check(&format!("GET /users/12 {host}"), "two");
    scene.check(&format!("GET /users/12/x {host}"), "main");
    scene.check(&format!("PATCH / {host}"), "one");
    scene.check(&format!("GET / {host}\r\nx-VERSION:  2.1  "), "two");
    scene.check(
        &format!("GET / {host}\r\nX-Version: 1\r\nX-Version: 2.0"),
        "two",
    );
    scene.check(
        &format!("GET / {host}\r\nX-Version: 2.1\r\nX-Debug:"),
        "main",
    );
    scene.check(&format!("GET /?a=b&beta=yes {host}"), "one");
    scene.check(&format!("GET /?beta=no {host}"), "main");
    scene.check(&format!("GET / {host}\r\nCookie: a=b; canary=yes"), "two");
    scene.check(&format!("GET / {host}\r\nCookie: canary=yesyes"), "main");
    scene.check(&format!("GET /local {host}"), "one");
    scene.check(&format!("GET /far {host}"), "main");
}

#[test]
fn a_rewrite_changes_path_and_host_and_leaves_the_rest() {
    let route = |rewrite: &str| {
        format!("[[listener.route]]\npath_prefix = \"/v1\"\npool = \"main\"\nrewrite = {rewrite}\n")
    };
    let request = "POST /v1/a%20b?q=/v1 HTTP/1.1\r\nHost: front.example\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi";
    let sent = mirrored(&route(r#"{ path_prefix = "/v2/x" }"#), request);
    assert!(
        sent.starts_with("POST /v2/x/a%20b?q=/v1 HTTP/1.1\r\nHost: front.example\r\nX-A: 1\r\n"),
        "{sent}"
    );
    assert!(sent.ends_with("\r\n\r\nhi"), "{sent}");
    let sent = mirrored(
        &route(r#"{ path = "/whole", host = "back.example:81" }"#),
        request,
    );
    assert!(
        sent.starts_with("POST /whole?q=/v1 HTTP/1.1\r\nHost: back.example:81\r\nX-A: 1\r\n"),
        "{sent}"
    );
    assert!(
        sent.contains("\r\nX-Forwarded-Host: front.example\r\n"),
        "{sent}"
    );
    assert_eq!(sent.matches("Host: ").count(), 2, "{sent}");
    let sent = mirrored(
        &route(r#"{ path_regex = '/v1/(\w+)(.*)', substitution = "/{1}/v1{2}" }"#),
        request,
    );
    assert!(
        sent.starts_with("POST /a/v1%20b?q=/v1 HTTP/1.1\r\n"),
        "{sent}"
    );
}

#[test]
fn fields_of_the_request_are_removed_set_and_added() {
    let routes = r#"
        [[listener.route]]
        pool = "main"
        [listener.route.request_headers]
        remove = ["X-Secret", "X-Forwarded-Proto"]
        set = { X-Real-IP = "{client_address}", X-Sni = "{tls_sni}", X-Path = "{method} {path}|{query}|{{}}" }
        add = { X-Hop = "{listener}" }
    "#;
    let sent = mirrored(
        routes,
        "GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-SECRET: s\r\nx-real-ip: forged\r\nX-Sni: forged\r\nX-Hop: first\r\n\r\n",
    );
    let lines: Vec<&str> = sent.lines().collect();
    assert!(lines.contains(&"X-Real-IP: 127.0.0.1"), "{sent}");
    assert!(lines.contains(&"X-Path: GET /a|b=c|{}"), "{sent}");
    assert!(
        lines.contains(&"X-Hop: first") && lines.contains(&"X-Hop: main"),
        "{sent}"
    );
    for gone in ["X-SECRET", "forged", "X-Forwarded-Proto", "X-Sni"] {
        assert!(!sent.contains(gone), "{gone}: {sent}");
    }
    assert!(sent.contains("X-Forwarded-For: 127.0.0.1"), "{sent}");
}

#[test]
fn fields_of_the_answer_are_removed_set_and_added() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nServer: secret\r\nX-Frame-Options: ALLOW\r\nVary: a\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let routes = r#"
        [[listener.route]]
        pool = "main"
        response_headers = { remove = ["server"], set = { X-Frame-Options = "DENY" }, add = { Vary = "b", X-Asked = "{host}" } }
    "#;
    let proxy = Proxy::http(&[origin.address], routes);
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/").unwrap();
        assert_eq!(answer.text(), "ok");
        for line in [
            "X-Frame-Options: DENY",
            "Vary: a",
            "Vary: b",
            "X-Asked: test",
        ] {
            assert!(answer.has(line), "{line}: {}", answer.head);
        }
        assert!(!answer.head.contains("secret") && !answer.head.contains("ALLOW"));
    }
}

#[test]
fn request_ids_are_of_one_request_alone() {
    let routes = r#"
        [[listener.route]]
        pool = "main"
        request_headers = { set = { X-Request-ID = "{request_id}" } }
        response_headers = { set = { X-Request-ID = "{request_id}" } }
    "#;
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], routes);
    let mut ids = std::collections::HashSet::new();
    for _ in 0..4 {
        let mut client = proxy.client();
        for _ in 0..3 {
            let answer = client.get("/").unwrap();
            let id = field(&answer.head, "x-request-id").unwrap().to_owned();
            assert_eq!(field(answer.text(), "x-request-id"), Some(id.as_str()));
            assert_eq!(id.len(), 32);
            assert!(ids.insert(id));
        }
    }
}

#[test]
fn redirects_and_fixed_answers_keep_the_connection() {
    let scene = Scene::new(
        r#"
        [[listener.route]]
        host = ["old.example"]
        redirect = { status = 301, scheme = "https", host = "new.example" }
        [[listener.route]]
        path_prefix = "/docs"
        redirect = { path_prefix = "/manual", keep_query = false }
        [[listener.route]]
        path = "/robots.txt"
        answer = { status = 200, content_type = "text/x-robots", body = "User-agent: *\n" }
        response_headers = { set = { Cache-Control = "max-age=60" } }
        [[listener.route]]
        path = "/gone"
        answer = { status = 410 }
        [[listener.route]]
        path = "/empty"
        answer = { status = 204 }
        "#,
    );
    let mut client = scene.proxy.client();
    let mut ask = |request: &str| {
        client.send(&format!("{request}\r\n\r\n"));
        client.answer().unwrap()
    };
    let answer = ask("GET /a?b HTTP/1.1\r\nHost: OLD.example:80");
    assert_eq!(answer.status, 301);
    assert!(
        answer.has("Location: https://new.example/a?b"),
        "{}",
        answer.head
    );
    let answer = ask("GET /docs/a?b HTTP/1.1\r\nHost: x.example:8080");
    assert_eq!(answer.status, 302);
    assert!(
        answer.has("Location: http://x.example:8080/manual/a"),
        "{}",
        answer.head
    );
    let answer = ask("GET /robots.txt?x HTTP/1.1\r\nHost: a");
    assert_eq!((answer.status, answer.text()), (200, "User-agent: *\n"));
    assert!(answer.has("Content-Type: text/x-robots") && answer.has("Cache-Control: max-age=60"));
    let answer = ask("GET /gone HTTP/1.1\r\nHost: a");
    assert_eq!((answer.status, answer.text()), (410, ""));
    assert!(answer.head.starts_with("HTTP/1.1 410 Gone\r\n"));
    assert!(!answer.head.contains("Content-Type"), "{}", answer.head);
    let answer = ask("GET /empty HTTP/1.1\r\nHost: a");
    assert_eq!(answer.status, 204);
    assert!(!answer.head.contains("Content-Length"), "{}", answer.head);
    let answer = ask("GET / HTTP/1.1\r\nHost: a");
    assert_eq!(answer.text(), "main");
    // The last one is counted when it was sent.
    scene.proxy.until("all answers are counted", |proxy| {
        proxy.listener_stats().answers == [0, 0, 3, 2, 1, 0]
    });
    let stats = scene.proxy.listener_stats();
    assert!(stats.errors.is_empty(), "{:?}", stats.errors);
}

#[test]
fn an_answer_of_our_own_to_a_request_with_a_body_ends_the_connection() {
    let scene = Scene::new("[[listener.route]]\nanswer = { status = 200, body = \"ok\" }\n");
    let mut client = scene.proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer().unwrap();
    assert_eq!(answer.text(), "ok");
    assert!(answer.has("Connection: close"), "{}", answer.head);
    assert!(client.ends());
    // HEAD announces the length and sends nothing.
    let mut client = scene.proxy.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(field(&head, "content-length"), Some("2"));
    assert_eq!(client.get("/").unwrap().text(), "ok");
}

#[test]
fn a_split_gives_each_pool_its_share() {
    let scene = Scene::new(
        "[[listener.route]]\nsplit = [{ pool = \"one\", weight = 3 }, { pool = \"two\", weight = 1 }, { pool = \"main\", weight = 0 }]\n",
    );
    let mut counts = std::collections::HashMap::new();
    for _ in 0..4 {
        let mut client = scene.proxy.client();
        for _ in 0..100 {
            let answer = client.get("/").unwrap();
            *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
        }
    }
    let share = counts["one"];
    assert!((290..=310).contains(&share), "{counts:?}");
    assert_eq!(counts["two"], 400 - share);
}

#[test]
fn a_client_with_a_cookie_of_a_side_stays_there_even_without_weight() {
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let config = |weights: [u32; 2]| {
        let sticky = "sticky = { cookie = \"S\" }";
        format!(
            "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\n\
             [[listener.route]]\nsplit = [{{ pool = \"one\", weight = {} }}, {{ pool = \"two\", weight = {} }}]\n{}{}",
            weights[0],
            weights[1],
            pool("one", &[one.address], sticky),
            pool("two", &[two.address], sticky),
        )
    };
    let proxy = Proxy::start(&config([1, 0]));
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(answer.text(), "one");
    let cookie = field(&answer.head, "set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    proxy.apply(&config([0, 1]));
    for _ in 0..10 {
        let mut client = proxy.client();
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"
        ));
        assert_eq!(client.answer().unwrap().text(), "one");
        assert_eq!(proxy.client().get("/").unwrap().text(), "two");
    }
}

#[test]
fn an_encoded_path_is_routed_as_what_it_says_and_passed_on_as_it_came() {
    let (mirror, admin) = (Origin::mirror(), Origin::saying("admin"));
    let config = format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n\
         [[listener.route]]\npath_prefix = \"/admin\"\npool = \"admin\"\n\
         [[listener.route]]\npath = \"/caf%c3%a9\"\nanswer = {{ status = 200, body = \"exact\" }}\n\
         [[listener.route]]\npath_regex = '/users/[0-9]+'\nanswer = {{ status = 200, body = \"regex\" }}\n\
         [[listener.route]]\npath_prefix = \"/a@b\"\npool = \"main\"\nrewrite = {{ path_prefix = \"/c\" }}\n{}{}",
        pool("main", &[mirror.address], ""),
        pool("admin", &[admin.address], ""),
    );
    let proxy = Proxy::start(&config);
    for (target, expected) in [
        ("/%61dmin", "admin"),
        ("/%61%64min/x?%61", "admin"),
        ("/admi%6E/", "admin"),
        ("/%2561dmin", "GET /%2561dmin HTTP/1.1"),
        ("/x/%61?b=%61", "GET /x/%61?b=%61 HTTP/1.1"),
        ("/caf%C3%A9", "exact"),
        ("/c%61f%c3%A9", "exact"),
        ("/users/%31%32", "regex"),
        ("/%61%40b/d%65/%22?q=%61", "GET /c/de/%22?q=%61 HTTP/1.1"),
        // What begins parameters to some is something else where it is encoded.
        ("/admin%3Bx", "GET /admin%3Bx HTTP/1.1"),
    ] {
        let answer = proxy.client().get(target).unwrap();
        assert_eq!(answer.text().lines().next(), Some(expected), "{target}");
    }
}
