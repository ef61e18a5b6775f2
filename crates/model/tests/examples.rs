//! The configs in `examples/` are right, say what they are meant to say, and use addresses for documentation only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_model::{
    Config, Encapsulation, Forward, HealthProbe, HostPattern, Listener, Name, Pool, PoolProtocol,
    Protocol, RequestParts, Scheduler,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Loads an example, which is to have no mistake and no warning.
#[track_caller]
fn example(name: &str) -> Config {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let config = Config::parse(&text, &path).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.warnings.is_empty(), "{name}: {}", config.warnings[0]);
    config
}

#[track_caller]
fn listener<'c>(config: &'c Config, name: &str) -> &'c Listener {
    config.listener(&Name::new(name)).unwrap()
}

#[track_caller]
fn pool<'c>(config: &'c Config, name: &str) -> &'c Pool {
    config.pool(&Name::new(name)).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What every listener is: name, bind, protocol, mode.
#[track_caller]
fn check_listeners(config: &Config, expected: &[(&str, &str, Protocol, Forward)]) {
    let found: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| {
            (
                listener.name.as_str(),
                listener.bind,
                listener.protocol,
                listener.forward,
            )
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, bind, protocol, forward)| (*name, address(bind), *protocol, *forward))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_file_is_loaded_by_a_test_and_documents_itself() {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("# "), "{name} begins with what it is");
            example(&name);
            names.insert(name);
        }
    }
    let expected = [
        "all.toml",
        "dr.toml",
        "fullnat.toml",
        "grpc.toml",
        "http.toml",
        "https.toml",
        "nat.toml",
        "nat64.toml",
        "quic.toml",
        "routing.toml",
        "tcp.toml",
        "tunnel.toml",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn addresses_are_for_documentation() {
    // RFC 5737 and RFC 3849; loopback and every address are nobody's.
    let is_documentation = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_documentation() || v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            v6.segments()[..2] == [0x2001, 0xdb8] || v6.is_loopback() || v6.is_unspecified()
        }
    };
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':'));
        let mut count = 0;
        for word in words {
            let word = word.trim_matches('.');
            let without_port = word.split(':').next().unwrap();
            let parsed = word
                .parse()
                .or_else(|_| without_port.parse())
                .or_else(|_| word.trim_end_matches(':').parse());
            if let Ok(address) = parsed {
                count += 1;
                assert!(is_documentation(address), "{}: {word}", path.display());
            }
        }
        assert!(count > 3, "{}: addresses are found", path.display());
    }
}

#[test]
fn grpc() {
    let config = example("grpc.toml");
    check_listeners(
        &config,
        &[("grpc", "203.0.113.10:443", Protocol::Https, Forward::Proxy)],
    );
    assert_eq!(listener(&config, "grpc").http2.streams, 256);
    assert_eq!(pool(&config, "grpc").protocol, PoolProtocol::Http2);
}

#[test]
fn fullnat() {
    let config = example("fullnat.toml");
    check_listeners(
        &config,
        &[
            (
                "mysql",
                "203.0.113.10:3306",
                Protocol::Tcp,
                Forward::Fullnat,
            ),
            (
                "dns-tcp",
                "203.0.113.10:53",
                Protocol::Tcp,
                Forward::Fullnat,
            ),
            (
                "dns-udp",
                "203.0.113.10:53",
                Protocol::Udp,
                Forward::Fullnat,
            ),
        ],
    );
    let l4 = config.l4.as_ref().unwrap();
    assert_eq!(l4.interfaces, ["eth0", "eth1"]);
    assert_eq!(l4.local_addresses, [address("198.51.100.5:0").ip()]);
    assert_eq!(l4.max_sessions, 1_048_576);
    let mysql = pool(&config, "mysql");
    assert_eq!(
        mysql
            .backends
            .iter()
            .map(|backend| backend.weight)
            .collect::<Vec<_>>(),
        [10, 20]
    );
    assert_eq!(mysql.health.as_ref().unwrap().probe, HealthProbe::Tcp);
    let dns = pool(&config, "dns");
    assert_eq!(
        (dns.scheduler, dns.backends[1].address),
        (Scheduler::Maglev, address("198.51.100.22:5353"))
    );
    assert_eq!(config.xdp().count(), 3);
    assert_eq!(config.proxied().count(), 0);
}

#[test]
fn nat() {
    let config = example("nat.toml");
    check_listeners(
        &config,
        &[("web", "203.0.113.10:80", Protocol::Tcp, Forward::Nat)],
    );
    let health = pool(&config, "web").health.as_ref().unwrap();
    assert_eq!(
        (health.interval, health.timeout),
        (Duration::from_secs(1), Duration::from_millis(500))
    );
    let HealthProbe::Http(http) = &health.probe else {
        panic!("{health:?}")
    };
    assert_eq!(
        (http.path.as_str(), http.status_min, http.status_max),
        ("/healthz", 200, 200)
    );
}

#[test]
fn dr() {
    let config = example("dr.toml");
    check_listeners(
        &config,
        &[
            ("video", "203.0.113.10:443", Protocol::Tcp, Forward::Dr),
            ("video-quic", "203.0.113.10:443", Protocol::Udp, Forward::Dr),
        ],
    );
    assert!(config.l4.as_ref().unwrap().local_addresses.is_empty());
    assert_eq!(pool(&config, "video").backends[2].weight, 0);
}

#[test]
fn quic() {
    let config = example("quic.toml");
    check_listeners(
        &config,
        &[("h3", "203.0.113.10:443", Protocol::Udp, Forward::Dr)],
    );
    let pool = pool(&config, "h3");
    let ids: Vec<_> = pool
        .quic
        .iter()
        .map(|ids| (ids.config_id, ids.nonce_length, ids.key_file.is_some()))
        .collect();
    assert_eq!(ids, [(0, 8, true), (1, 8, true)]);
    let servers = pool.backends.iter().map(|backend| &backend.quic_server_id);
    assert!(servers.eq(&[0x0b, 0x0c, 0x0d].map(|last| Some(vec![0x0a, 0, last]))));
}

#[test]
fn nat64() {
    let config = example("nat64.toml");
    check_listeners(
        &config,
        &[
            (
                "web6",
                "[2001:db8:ffff::10]:443",
                Protocol::Tcp,
                Forward::Fullnat,
            ),
            ("web4", "203.0.113.10:443", Protocol::Tcp, Forward::Fullnat),
        ],
    );
    let families = |addresses: &mut dyn Iterator<Item = IpAddr>| {
        addresses
            .map(|address| address.is_ipv6())
            .collect::<Vec<_>>()
    };
    let locals = &config.l4.as_ref().unwrap().local_addresses;
    assert_eq!(families(&mut locals.iter().copied()), [false, true]);
    let backends = &pool(&config, "web").backends;
    let mut backends = backends.iter().map(|backend| backend.address.ip());
    assert_eq!(families(&mut backends), [false, true]);
}

#[test]
fn tunnel() {
    let config = example("tunnel.toml");
    check_listeners(
        &config,
        &[
            ("web", "203.0.113.10:80", Protocol::Tcp, Forward::Tunnel),
            ("dns", "203.0.113.10:53", Protocol::Udp, Forward::Tunnel),
        ],
    );
    let tunnel = config.listeners[1].tunnel;
    assert_eq!(tunnel.encapsulation, Encapsulation::Gue);
    assert_eq!(tunnel.source.unwrap().length(), 64);
    assert_eq!(config.l4.as_ref().unwrap().local_addresses.len(), 1);
}

#[test]
fn tcp() {
    let config = example("tcp.toml");
    check_listeners(
        &config,
        &[
            ("redis", "0.0.0.0:6379", Protocol::Tcp, Forward::Proxy),
            ("redis-v6", "[::]:6379", Protocol::Tcp, Forward::Proxy),
            ("mail", "203.0.113.10:993", Protocol::Tls, Forward::Proxy),
        ],
    );
    assert_eq!(config.l4, None);
    assert_eq!(config.node.drain_timeout, Duration::from_secs(60));
    let redis = listener(&config, "redis");
    assert_eq!(
        (redis.timeouts.connect, redis.timeouts.tunnel),
        (Duration::from_secs(1), Duration::from_secs(14_400))
    );
    let mail = listener(&config, "mail");
    assert_eq!(
        mail.pool_for("a.mail.example.org", "").unwrap().as_str(),
        "mail-org"
    );
    assert_eq!(
        mail.pool_for("imap.example.com", "").unwrap().as_str(),
        "mail"
    );
}

#[test]
fn http() {
    let config = example("http.toml");
    check_listeners(
        &config,
        &[("web", "203.0.113.10:80", Protocol::Http, Forward::Proxy)],
    );
    let web = listener(&config, "web");
    let check = |host, path, expected| {
        assert_eq!(
            web.pool_for(host, path).unwrap().as_str(),
            expected,
            "{host}{path}"
        );
    };
    check("api.example.com", "/v1/users", "api-v1");
    check("api.example.com", "/v10", "api");
    check("eu.api.example.com", "/static/a.css", "api");
    check("www.example.com", "/static/a.css", "static");
    check("www.example.com", "/", "web");
    assert_eq!(
        (web.limits.header_bytes, web.limits.header_count),
        (32_768, 100)
    );
    assert_eq!(
        pool(&config, "web").sticky.as_ref().unwrap().cookie,
        "WEIRSRV"
    );
    let used: Vec<_> = config
        .pools_of(web)
        .map(|pool| pool.name.as_str())
        .collect();
    assert_eq!(used, ["web", "api-v1", "api", "static"]);
}

#[test]
fn routing() {
    let config = example("routing.toml");
    let web = listener(&config, "web");
    let check = |method, host, target: &str, fields: &[(&str, &[u8])], client: &str, expected| {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let route = web.route(&RequestParts {
            host,
            path,
            query,
            method,
            fields,
            client: client.parse().unwrap(),
        });
        let name = route.map(|route| route.name.as_ref().unwrap().as_str());
        assert_eq!(name, expected, "{method} {host}{target}");
    };
    let far = "198.51.100.99";
    check("GET", "a.example.net", "/x", &[], far, Some("old-name"));
    check("GET", "www.example.com", "/shop/x", &[], far, Some("shop"));
    let preview: &[(&str, &[u8])] = &[("cookie", b"preview=1")];
    let shop = "/shop";
    check(
        "GET",
        "www.example.com",
        shop,
        preview,
        far,
        Some("shop-preview"),
    );
    let v2: &[(&str, &[u8])] = &[("accept", b"application/vnd.example.v2+json")];
    check("GET", "api.example.com", "/", v2, far, Some("api-v2"));
    let asked = Some("api-v2-asked");
    check("GET", "api.example.com", "/?version=2.1", &[], far, asked);
    check(
        "POST",
        "api.example.com",
        "/",
        &[],
        "192.0.2.9",
        Some("api-office"),
    );
    check("POST", "api.example.com", "/", v2, far, Some("api-refused"));
    check("GET", "api.example.com", "/", &[], far, None);
    check(
        "GET",
        "x.example.com",
        "/~joe/a",
        &[],
        far,
        Some("user-pages"),
    );
    check(
        "GET",
        "x.example.com",
        "/robots.txt",
        &[],
        far,
        Some("robots"),
    );
}

#[test]
fn https() {
    let config = example("https.toml");
    check_listeners(
        &config,
        &[
            ("web", "203.0.113.10:443", Protocol::Https, Forward::Proxy),
            (
                "web-clear",
                "203.0.113.10:80",
                Protocol::Http,
                Forward::Proxy,
            ),
        ],
    );
    let web = listener(&config, "web");
    assert_eq!(
        web.certificates[0].cert_file,
        folder().join("www.example.com.pem")
    );
    assert_eq!(
        web.certificates[1].key_file,
        Path::new("/etc/weir/example.org.key")
    );
    assert_eq!(
        web.routes[0].hosts[1],
        HostPattern::Wildcard("example.org".to_owned())
    );
    assert_eq!(config.api.token_file, Some(folder().join("token")));
}

#[test]
fn all() {
    let config = example("all.toml");
    let forwards: BTreeSet<_> = config
        .listeners
        .iter()
        .map(|listener| listener.forward.as_str())
        .collect();
    assert_eq!(forwards, ["dr", "fullnat", "nat", "proxy", "tunnel"].into());
    let protocols: BTreeSet<_> = config
        .listeners
        .iter()
        .map(|listener| listener.protocol.as_str())
        .collect();
    assert_eq!(protocols, ["https", "tcp", "tls", "udp"].into());
    assert_eq!(config.backends().count(), 10);
    let web = pool(&config, "web");
    assert_eq!(
        web.backends
            .iter()
            .map(|backend| backend.weight)
            .collect::<Vec<_>>(),
        [10, 20]
    );
    assert!(web.health.is_some());
    let timeouts = &listener(&config, "web").timeouts;
    assert_eq!(
        *timeouts,
        weir_model::Timeouts {
            request: Some(Duration::from_secs(300)),
            ..weir_model::Timeouts::default()
        },
        "the defaults, written out"
    );
}
