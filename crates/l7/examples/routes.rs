//! What routing a request costs among many routes, beside one: `cargo run --release -p weir-l7 --example routes`.
//!
//! Requests come for all routes in random order, so that what a lookup touches is as cold as it is for a listener with
//! as many names that are all in use. The figure is the median of rounds.

use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use weir_l7::routing::{Found, RequestView, Routes};
use weir_model::Config;

const ROUNDS: usize = 15;
const REQUESTS: usize = 200_000;
const MANY: usize = 10_000;

struct Request {
    authority: String,
    target: String,
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn target(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn values<'s>(&'s self, _name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        std::iter::empty()
    }

    fn client(&self) -> IpAddr {
        [192, 0, 2, 1].into()
    }
}

/// Routes as they are written, and a request for each.
struct Case {
    name: &'static str,
    routes: Vec<String>,
    requests: Vec<Request>,
}

fn case(
    name: &'static str,
    count: usize,
    route: impl Fn(usize) -> String,
    request: impl Fn(usize) -> (String, String),
) -> Case {
    let request = |at| {
        let (authority, target) = request(at);
        Request { authority, target }
    };
    Case {
        name,
        routes: (0..count).map(route).collect(),
        requests: (0..count).map(request).collect(),
    }
}

fn main() {
    let host =
        |at: usize| format!("host = [\"www.name{at}.example.com\"]\npath_prefix = \"/api/v1\"");
    let wildcard = |at: usize| format!("host = [\"*.name{at}.example.com\"]");
    let prefix = |at: usize| format!("path_prefix = \"/api/v1/customers/c{at}\"");
    let regex = |at: usize| format!("path_regex = '/api/v[0-9]+/c{at}/.*'");
    let to_host = |at: usize| {
        (
            format!("www.name{at}.example.com"),
            "/api/v1/users/7?q=1".to_owned(),
        )
    };
    let to_prefix = |at: usize| {
        let target = format!("/api/v1/customers/c{at}/orders/7?q=1");
        ("www.example.com".to_owned(), target)
    };
    let to_regex = |at: usize| {
        (
            "www.example.com".to_owned(),
            format!("/api/v2/c{at}/orders/7"),
        )
    };
    let cases = [
        case("one route", 1, host, to_host),
        case("10,000 hosts", MANY, host, to_host),
        case("10,000 wildcards", MANY, wildcard, to_host),
        case("10,000 prefixes of one host", MANY, prefix, to_prefix),
        case("one expression", 1, regex, to_regex),
        case("100 expressions of one host", 100, regex, to_regex),
        case("1,000 expressions of one host", 1_000, regex, to_regex),
    ];
    println!(
        "{:<32} {:>12} {:>14}",
        "routes", "ns a request", "over one, ns"
    );
    let mut one = None;
    for case in &cases {
        let ns = measure(case);
        let base = *one.get_or_insert(ns);
        println!("{:<32} {ns:>12.0} {:>14.0}", case.name, ns - base);
    }
}

fn measure(case: &Case) -> f64 {
    let mut text =
        "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:80\"\nprotocol = \"http\"\n".to_owned();
    for route in &case.routes {
        text.push_str(&format!("[[listener.route]]\n{route}\npool = \"p\"\n"));
    }
    text.push_str("[[pool]]\nname = \"p\"\nbackend = [{ address = \"127.0.0.1:8080\" }]\n");
    let config = match Config::parse(&text, Path::new("routes.toml")) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    };
    let routes = Routes::new(&config.listeners[0], |_| 0);
    // A generator (xorshift64*) whose order repeats from run to run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let order: Vec<usize> = (0..REQUESTS)
        .map(|_| (next() % case.requests.len() as u64) as usize)
        .collect();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for at in &order {
                let found = routes.find(black_box(&case.requests[*at]));
                assert!(matches!(found, Found::Route(index, _) if index == *at));
            }
            start.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
