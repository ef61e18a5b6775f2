//! TLS towards backends: who is believed, what is shown, what becomes of the connections.

use std::io::Write;

use weir_l7::Reason;

use crate::harness::*;
use crate::pki::*;

fn proxy(origin: &Origin, tls: &str) -> Proxy {
    Proxy::start(&config(origin, tls))
}

fn config(origin: &Origin, tls: &str) -> String {
    let pool = pool("main", &[origin.address], &format!("tls = {tls}"));
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n{pool}"
    )
}

#[test]
fn a_backend_must_show_a_certificate_for_its_name_from_a_trusted_authority() {
    let folder = Folder::new("backend");
    let (authority, other) = (Authority::new("backends"), Authority::new("other"));
    let named = tls_mirror(Authority::server(
        &authority.issue(1, &["app.example"], Kind::Ecdsa),
        None,
    ));
    let addressed = tls_mirror(Authority::server(
        &authority.issue(2, &["127.0.0.1"], Kind::Ecdsa),
        None,
    ));
    let trusted = folder.write("ca.pem", &authority.pem());
    let untrusted = folder.write("other.pem", &other.pem());
    let check = |origin: &Origin, tls: &str, expected: Result<&str, Reason>| {
        let proxy = proxy(origin, tls);
        let answer = proxy.client().get("/").unwrap();
        match expected {
            Ok(name) => {
                assert_eq!(answer.status, 200, "{tls}");
                assert!(answer.text().contains(&format!("name: {name}\n")), "{tls}");
            }
            Err(reason) => {
                assert_eq!(answer.status, 502, "{tls}");
                assert_eq!(
                    proxy.backend_stats(origin.address).failures(reason),
                    1,
                    "{tls}"
                );
            }
        }
    };
    let with = |ca: &str, more: &str| format!("{{ ca_file = \"{ca}\"{more} }}");
    let name = ", server_name = \"app.example\"";
    check(&named, &with(&trusted, name), Ok("app.example"));
    check(&named, &with(&trusted, ""), Err(Reason::UpstreamTls));
    check(
        &named,
        &with(&trusted, ", server_name = \"app.example.org\""),
        Err(Reason::UpstreamTls),
    );
    check(&named, &with(&untrusted, name), Err(Reason::UpstreamTls));
    // No name is asked for where the address is what counts.
    check(&addressed, &with(&trusted, ""), Ok("none"));
    check(&addressed, &with(&untrusted, ""), Err(Reason::UpstreamTls));
    check(&named, "{ verify = false }", Ok("none"));
    check(
        &named,
        "{ verify = false, server_name = \"any.example\" }",
        Ok("any.example"),
    );
}

#[test]
fn a_certificate_is_shown_to_backends_that_ask() {
    let folder = Folder::new("shown");
    let (authority, ours) = (Authority::new("backends"), Authority::new("ours"));
    let server = authority.issue(1, &["127.0.0.1"], Kind::Ecdsa);
    let origin = tls_mirror(Authority::server(&server, Some(&ours)));
    let ca = folder.write("ca.pem", &authority.pem());
    let pair = ours.issue(2, &["weir"], Kind::Ecdsa);
    let cert = folder.write("weir.pem", &pair.cert);
    let key = folder.write("weir.key", &pair.key);
    let shown = format!("{{ ca_file = \"{ca}\", cert_file = \"{cert}\", key_file = \"{key}\" }}");
    let proxy_with = proxy(&origin, &shown);
    let answer = proxy_with.client().get("/").unwrap();
    assert!(answer.text().contains("shown: true\n"), "{}", answer.text());
    let without = proxy(&origin, &format!("{{ ca_file = \"{ca}\" }}"));
    assert_eq!(without.client().get("/").unwrap().status, 502);
}

#[test]
fn connections_over_tls_are_used_again_and_large_bodies_come_through() {
    let folder = Folder::new("again");
    let authority = Authority::new("backends");
    let server = authority.issue(1, &["127.0.0.1"], Kind::Ecdsa);
    let origin = tls_mirror(Authority::server(&server, None));
    let ca = folder.write("ca.pem", &authority.pem());
    let proxy = Proxy::start_with(&config(&origin, &format!("{{ ca_file = \"{ca}\" }}")), 1);
    // The tickets that come after the handshake are no reason to take a connection for dead.
    for _ in 0..3 {
        let mut client = proxy.client();
        for number in 0..5 {
            let target = format!("/{number}/{}", "x".repeat(3_000));
            let answer = client.get(&target).unwrap();
            assert!(answer.text().starts_with(&format!("GET {target} ")));
        }
    }
    assert_eq!(origin.connections(), 1);
    // A backend that has changed its kind is not spoken to over old connections.
    let clear = Origin::saying("clear");
    proxy.apply(&config(&clear, "{ verify = false }").replace("tls = { verify = false }", ""));
    assert_eq!(proxy.client().get("/").unwrap().text(), "clear");
}

#[test]
fn what_a_backend_says_before_its_handshake_is_no_answer() {
    let origin = Origin::start(|_, mut peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ninjected");
        peer.rest();
    });
    let proxy = proxy(&origin, "{ verify = false }");
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("injected"));
    assert_eq!(
        proxy
            .backend_stats(origin.address)
            .failures(Reason::UpstreamTls),
        1
    );
}

#[test]
fn a_silent_handshake_ends_with_the_time_to_connect() {
    let origin = Origin::start(|_, mut peer| {
        peer.rest();
    });
    let text = config(&origin, "{ verify = false }").replace(
        "pool = \"main\"\n[[pool]]",
        "pool = \"main\"\ntimeouts = { connect = \"200ms\" }\n[[pool]]",
    );
    let proxy = Proxy::start(&text);
    assert_eq!(proxy.client().get("/").unwrap().status, 504);
}

#[test]
fn plain_tcp_is_carried_to_backends_over_tls() {
    let folder = Folder::new("carried");
    let authority = Authority::new("backends");
    let server = authority.issue(1, &["127.0.0.1"], Kind::Ecdsa);
    let origin = tls_mirror(Authority::server(&server, None));
    let ca = folder.write("ca.pem", &authority.pem());
    let text = config(&origin, &format!("{{ ca_file = \"{ca}\" }}"))
        .replace("protocol = \"http\"", "protocol = \"tcp\"");
    let proxy = Proxy::start(&text);
    let mut client = proxy.client();
    client.send("GET /tcp HTTP/1.1\r\n\r\n");
    assert!(client.answer().unwrap().text().starts_with("GET /tcp "));
    client.finish();
    assert!(client.ends());
}

#[test]
fn files_that_cannot_be_used_refuse_the_config() {
    let folder = Folder::new("pool-files");
    let origin = Origin::saying("ok");
    let start = proxy(&origin, "{ verify = false }");
    let mut empty = std::fs::File::create(folder.0.join("empty.pem")).unwrap();
    empty.flush().unwrap();
    for file in ["missing.pem", "empty.pem"] {
        let path = folder.0.join(file);
        let text = config(&origin, &format!("{{ ca_file = \"{}\" }}", path.display()));
        let snapshot = std::sync::Arc::new(start.snapshot(&text));
        let error = start.engine.prepare(snapshot).unwrap_err().to_string();
        assert!(
            error.starts_with("pool `main`: ") && error.contains(file),
            "{error}"
        );
    }
}
