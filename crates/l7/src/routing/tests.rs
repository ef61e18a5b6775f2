use proptest::prelude::*;
use weir_model::condition::{Condition, ValueTest};
use weir_model::{Forward, HttpLimits, PathPrefix, Protocol, RequestParts, Timeouts};

use super::*;

struct Request<'r>(RequestParts<'r>, Vec<u8>, Vec<u8>);

impl<'r> Request<'r> {
    fn new(parts: RequestParts<'r>) -> Self {
        let target = match parts.query {
            "" => parts.path.to_owned(),
            query => format!("{}?{query}", parts.path),
        };
        Self(parts, parts.host.as_bytes().to_vec(), target.into_bytes())
    }

    fn get(authority: &'r str, target: &'r str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self::new(RequestParts {
            host: authority,
            path,
            query,
            method: "GET",
            fields: &[],
            client: [192, 0, 2, 1].into(),
        })
    }
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        self.0.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        &self.1
    }

    fn target(&self) -> &[u8] {
        &self.2
    }

    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        let fields = self.0.fields.iter();
        fields
            .filter(move |(other, _)| *other == name)
            .map(|(_, value)| *value)
    }

    fn client(&self) -> IpAddr {
        self.0.client
    }
}

fn listener(routes: Vec<Route>, pool: Option<&str>) -> Arc<Listener> {
    Arc::new(Listener {
        name: Name::new("web"),
        bind: "203.0.113.1:80".parse().unwrap(),
        protocol: Protocol::Http,
        forward: Forward::Proxy,
        pool: pool.map(Name::new),
        routes,
        certificates: Vec::new(),
        idle_timeout: None,
        tunnel: weir_model::Tunnel::default(),
        tls: weir_model::ListenerTls::default(),
        proxy_protocol: None,
        http: weir_model::HttpPolicy::default(),
        connections: weir_model::ConnectionLimits::default(),
        timeouts: Timeouts::default(),
        limits: HttpLimits::default(),
        http2: weir_model::Http2::default(),
        access_log: None,
    })
}

fn number(name: &Name) -> usize {
    name.as_str().parse().unwrap()
}

fn pool(found: Found<'_>) -> Option<usize> {
    match found {
        Found::Route(_, Target::Pool(pool)) => Some(*pool),
        Found::Default(pool) => Some(pool),
        _ => None,
    }
}

fn plain(hosts: &[&str], prefix: Option<&str>, pool: &str) -> Route {
    let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap());
    let path = prefix.map_or(PathMatch::Any, |prefix| {
        PathPrefix::parse(prefix).unwrap().into_match()
    });
    Route::new(hosts.collect(), path, Action::Pool(Name::new(pool)))
}

#[test]
fn the_most_specific_route_wins() {
    let list = vec![
        plain(&["*.example.com"], None, "1"),
        plain(&["*.deep.example.com"], None, "2"),
        plain(&["api.example.com"], Some("/v1/"), "3"),
        plain(&["api.example.com"], Some("/v1/users"), "4"),
        plain(&[], Some("/static"), "5"),
        plain(&["api.example.com"], Some("/v1"), "6"),
        plain(&["[2001:db8::1]"], None, "7"),
        Route {
            path: PathMatch::Exact("/v1/users".to_owned()),
            ..plain(&["api.example.com"], None, "8")
        },
        Route {
            path: PathMatch::Regex(Pattern::parse("/v1/[a-z]+/x").unwrap()),
            ..plain(&["api.example.com"], None, "9")
        },
    ];
    let routes = Routes::new(&listener(list, Some("0")), number);
    for (authority, target, expected) in [
        ("api.example.com", "/v1/x", 3),
        ("API.Example.COM.:8080", "/v1/x", 3),
        ("api.example.com", "/v1", 3),
        ("api.example.com", "/v1?x=/v1/users", 3),
        ("api.example.com", "/v1/users/7", 4),
        ("api.example.com", "/v1/users", 8),
        ("api.example.com", "/v1/users?a", 8),
        ("api.example.com", "/v1/users/x", 9),
        ("api.example.com", "/v1/users/x?y", 9),
        ("api.example.com", "/v1/usersx", 3),
        ("api.example.com", "/v1x", 1),
        ("www.example.com", "/", 1),
        ("a.b.example.com", "/static", 1),
        ("a.deep.example.com", "/", 2),
        ("deep.example.com", "/", 1),
        ("example.com", "/", 0),
        ("example.com", "/static/x", 5),
        ("example.com", "/staticx", 0),
        (".example.com", "/", 0),
        ("", "", 0),
        ("[2001:DB8::1]:443", "/", 7),
        ("other", "*", 0),
    ] {
        let request = Request::get(authority, target);
        assert_eq!(
            pool(routes.find(&request)),
            Some(expected),
            "{authority}{target}"
        );
    }
}

#[test]
fn nothing_matches_without_a_default() {
    let none = Routes::new(&listener(vec![], None), number);
    assert!(matches!(
        none.find(&Request::get("example.com", "/")),
        Found::Nothing
    ));
}

/// A host, and a path, that take as long as they may.
#[test]
fn what_a_client_sends_is_looked_at_once() {
    let routes = Routes::new(
        &listener(vec![plain(&["*.a.a"], Some("/a/a"), "1")], Some("0")),
        number,
    );
    let (host, path) = ("a.".repeat(4_000) + "a", "/a".repeat(8_000));
    let start = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(pool(routes.find(&Request::get(&host, &path))), Some(0));
        assert_eq!(pool(routes.find(&Request::get("x.a.a", &path))), Some(1));
    }
    // Quadratic time would be a minute or more.
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}

fn condition(name: &'static str) -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        "(a|b|ab)".prop_map(ValueTest::Exact),
        "(a|)".prop_map(ValueTest::Prefix),
        "(a[*]|a[.])".prop_map(|source| ValueTest::Regex(Pattern::parse(&source).unwrap())),
        any::<bool>().prop_map(ValueTest::Present),
    ];
    test.prop_map(move |test| Condition {
        name: name.to_owned(),
        test,
    })
}

fn few<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    max: usize,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![
        2 => Just(0usize),
        1 => 1..=max,
    ]
    .prop_flat_map({
        let strategy = std::rc::Rc::new(strategy);
        move |count| {
            let one = strategy.clone();
            proptest::collection::vec(one, count)
        }
    })
}

fn route() -> impl Strategy<Value = Route> {
    let host =
        "([*][.])?(a|b|a[.]b|b[.]a[.]b)".prop_map(|written| HostPattern::parse(&written).unwrap());
    let path = prop_oneof![
        1 => Just(PathMatch::Any),
        1 => "(/|(/a|/b|/){1,3})".prop_map(PathMatch::Exact),
        // Enough of them that both forms of the index are met.
        4 => "(/a|/b|/){0,3}(/a|/b)".prop_map(PathMatch::Prefix),
        1 => "/(a|b|[.][*])(/[ab][+])?"
            .prop_map(|source| PathMatch::Regex(Pattern::parse(&source).unwrap())),
    ];
    let range = prop_oneof![
        "192[.]0[.]2[.](0/24|0/25|1)",
        "(0[.]0[.]0[.]0/0|2001:db8::/32|2001:db8::1)",
    ]
    .prop_map(|written| IpPrefix::parse(&written).unwrap());
    (
        few(host, 2),
        path,
        few("(GET|POST)", 2),
        few(condition("x"), 2),
        few(condition("q"), 2),
        few(condition("c"), 1),
        few(range, 3),
    )
        .prop_map(
            |(hosts, path, methods, headers, query, cookies, clients)| Route {
                methods,
                headers,
                query,
                cookies,
                clients,
                ..Route::new(hosts, path, Action::Pool(Name::new("0")))
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn the_index_agrees_with_the_reference(
        mut list in proptest::collection::vec(route(), 0..40),
        host in "[.]?((a|b|c)[.]){0,3}(a|b)[.]?",
        path in "((/|/a|/b|/c){1,4}|[*])",
        query in "((q|p)(=(a|b|ab)?)?&?){0,2}",
        method in "(GET|POST|PUT)",
        fields in proptest::collection::vec(("(x|y|cookie)", "((c|d)=(a|b|ab);? ?|a|b|ab){0,2}"), 0..3),
        client in "(192[.]0[.]2[.](1|2|129)|192[.]0[.]3[.]1|2001:db8::(1|2)|2001:db9::1)",
    ) {
        for (at, route) in list.iter_mut().enumerate() {
            route.action = Action::Pool(Name::new(&at.to_string()));
        }
        let fields: Vec<(&str, &[u8])> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let parts = RequestParts {
            host: &host,
            path: &path,
            query: query.trim_start_matches('&'),
            method: &method,
            fields: &fields,
            client: client.parse().unwrap(),
        };
        let listener = listener(list, None);
        let routes = Routes::new(&listener, number);
        let expected = listener.route(&parts).map(|route| match &route.action {
            Action::Pool(pool) => number(pool),
            _ => unreachable!(),
        });
        prop_assert_eq!(pool(routes.find(&Request::new(parts))), expected);
    }
}
