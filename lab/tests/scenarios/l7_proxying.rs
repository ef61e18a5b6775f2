//! Layer 7 between real clients and nginx: HTTP, HTTPS, TCP and UDP in user space.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use weir_lab::network::{CLIENT, VIP};
use weir_lab::{Folder, Network, Nginx, TcpEcho, UdpEcho, Weir, ready};

use crate::client::{Echo, answers, ask_udp, curl, is_even, noise, same_content, wrk};
use crate::scene::{ECHO, names, vip};

/// Each of three backends runs nginx on port 8080.
pub(crate) fn web(network: &Network, files: Option<&Folder>) -> Vec<Nginx> {
    let hosts = network.backends.iter().zip(names());
    hosts
        .map(|(host, name)| Nginx::start(host, &name, &[8080], files))
        .collect()
}

/// An HTTP listener on port 80 before them.
pub(crate) fn http_config(network: &Network) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nbind = \"{VIP}:80\"\nprotocol = \"http\"\npool = \"web\"\n\
         [[pool]]\nname = \"web\"\nhealth = {{ type = \"http\", path = \"/healthz\", interval = \"200ms\", \
         timeout = \"150ms\", rise = 2, fall = 2 }}\nbackend = [{}]\n",
        network.backend_list(8080)
    )
}

#[test]
fn http_goes_to_the_backends_in_turn_and_tells_them_who_asks() {
    if !ready(
        "http_goes_to_the_backends_in_turn_and_tells_them_who_asks",
        &["nginx", "curl"],
    ) {
        return;
    }
    let network = Network::two_arm(3);
    let _web = web(&network, None);
    let weir = Weir::start(&network.lb, &http_config(&network));
    let by_name = answers(&network.client, &format!("http://{VIP}/"), 12);
    assert!(is_even(&by_name), "{by_name:?}");

    let url = format!("http://{VIP}/seen");
    let seen = curl(
        &network.client,
        &["--header", "Host: www.example.com", &url],
    )
    .unwrap();
    let seen: Vec<&str> = seen.trim().split(' ').collect();
    assert_eq!(
        &seen[2..],
        ["www.example.com", &CLIENT.to_string(), "http"],
        "{seen:?}"
    );
    assert!(
        (weir.metric("weir_listener_requests_total", &["listener=\"web\""]) - 13.0).abs()
            < f64::EPSILON
    );
}

#[test]
fn wrk_gets_nothing_but_good_answers() {
    if !ready("wrk_gets_nothing_but_good_answers", &["nginx", "wrk"]) {
        return;
    }
    let network = Network::one_arm(3);
    let _web = web(&network, None);
    let weir = Weir::start(&network.lb, &http_config(&network));
    let report = wrk(
        &network.client,
        &format!("http://{VIP}/"),
        64,
        Duration::from_secs(3),
        &[],
    );
    assert!(
        report.requests > 1000 && report.bad_answers == 0 && report.socket_errors == 0,
        "{}",
        report.text
    );
    assert!(weir.metric("weir_listener_requests_total", &[]) >= report.requests as f64);
}

#[test]
fn https_is_opened_with_the_certificate_of_the_name_that_is_asked_for() {
    if !ready(
        "https_is_opened_with_the_certificate_of_the_name_that_is_asked_for",
        &["nginx", "curl"],
    ) {
        return;
    }
    let network = Network::two_arm(3);
    let _web = web(&network, None);
    let folder = Folder::new();
    let mut authorities = Vec::new();
    for name in ["a.example.com", "b.example.com"] {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        folder.write(&format!("{name}.key"), signing_key.serialize_pem());
        authorities.push((name, folder.write(&format!("{name}.pem"), cert.pem())));
    }
    let config = http_config(&network).replace(
        ":80\"\nprotocol = \"http\"",
        ":443\"\nprotocol = \"https\"\ncertificates = [\
         { cert_file = \"a.example.com.pem\", key_file = \"a.example.com.key\" }, \
         { cert_file = \"b.example.com.pem\", key_file = \"b.example.com.key\" }]",
    );
    let authorities: Vec<_> = authorities
        .into_iter()
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect();
    let _weir = Weir::start_with(&network.lb, folder, &config);
    let here = Folder::new();
    for (name, authority) in authorities {
        let authority = here.write(name, authority);
        let resolve = format!("{name}:443:{VIP}");
        let url = format!("https://{name}/seen");
        let args = [
            "--cacert",
            authority.to_str().unwrap(),
            "--resolve",
            &resolve,
            &url,
        ];
        let seen = curl(&network.client, &args).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            seen.trim().ends_with(&format!("{name} {CLIENT} https")),
            "{seen}"
        );
    }
}

#[test]
fn files_and_uploads_arrive_whole_through_http() {
    if !ready(
        "files_and_uploads_arrive_whole_through_http",
        &["nginx", "curl"],
    ) {
        return;
    }
    let network = Network::two_arm(3);
    let files = Folder::new();
    let original = files.write("file", noise(100_000_000));
    let _web = web(&network, Some(&files));
    let _weir = Weir::start(&network.lb, &http_config(&network));
    let here = Folder::new();
    let copy = here.path().join("copy");
    curl(
        &network.client,
        &[
            "--output",
            copy.to_str().unwrap(),
            &format!("http://{VIP}/files/file"),
        ],
    )
    .unwrap();
    assert!(same_content(&original, &copy));
    // nginx reads and forgets an upload; with a length, and in chunks after `Expect: 100-continue`.
    let upload = format!("@{}", here.write("upload", noise(5_000_000)).display());
    for header in ["Expect: 100-continue", "Transfer-Encoding: chunked"] {
        let args = [
            "--header",
            header,
            "--data-binary",
            &upload,
            &format!("http://{VIP}/"),
        ];
        let answer =
            curl(&network.client, &args).unwrap_or_else(|error| panic!("{header}: {error}"));
        assert!(
            names().any(|name| name == answer.trim()),
            "{header}: {answer}"
        );
    }
}

#[test]
fn tcp_and_udp_are_proxied_where_layer_4_is_absent() {
    if !ready("tcp_and_udp_are_proxied_where_layer_4_is_absent", &[]) {
        return;
    }
    let network = Network::one_arm(3);
    let mut servers = Vec::new();
    for (host, name) in network.backends.iter().zip(names()) {
        let address = SocketAddr::from((host.address, ECHO));
        let tcp = TcpEcho::start(&host.namespace, &name, address);
        servers.push((tcp, UdpEcho::start(&host.namespace, &name, address)));
    }
    let listener = |protocol: &str| {
        format!(
            "[[listener]]\nname = \"{protocol}\"\nbind = \"{VIP}:{ECHO}\"\nprotocol = \"{protocol}\"\npool = \"echo\"\n"
        )
    };
    let pool = format!(
        "[[pool]]\nname = \"echo\"\nbackend = [{}]\n",
        network.backend_list(ECHO)
    );
    let weir = Weir::start(
        &network.lb,
        &[listener("tcp"), listener("udp"), pool].concat(),
    );

    let mut reached = BTreeSet::new();
    for _ in 0..6 {
        let mut echo = Echo::connect(&network.client, vip(ECHO)).unwrap();
        echo.say(&noise(3_000_000)).unwrap();
        reached.insert(echo.name);
    }
    assert_eq!(reached, names().collect());
    let answer = ask_udp(&network.client, vip(ECHO), b"who?");
    assert!(
        names().any(|name| answer == format!("{name} who?").into_bytes()),
        "{answer:?}"
    );
    assert!(
        (weir.metric("weir_listener_connections_total", &["listener=\"tcp\""]) - 6.0).abs()
            < f64::EPSILON
    );
}
