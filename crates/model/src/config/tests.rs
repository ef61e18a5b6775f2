//! Mistakes as data: a config in, what is printed out.

use std::path::Path;

use proptest::prelude::*;

use super::{Config, ConfigErrors, Diagnostic};
use crate::node::{Api, L4, L7, Node, OnStop, Spread, XdpMode};
use crate::pool::Scheduler;
use crate::session::SessionTimeouts;
use crate::{
    Backend, CookieAttributes, Forward, HealthCheck, HealthProbe, HttpLimits, HttpProbe,
    StickyMode, Timeouts,
};

const ALL: &str = include_str!("../../../../examples/all.toml");

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("weir.toml"))
}

/// Parses and compares what is printed: errors if there are any, else warnings.
#[track_caller]
fn check(text: &str, expected: &str) {
    let printed = match parse(text) {
        Ok(config) => print(config.warnings.iter()),
        Err(errors) => print(errors.iter()),
    };
    assert_eq!(
        printed,
        expected.trim_matches('\n'),
        "\n--- printed:\n{printed}\n"
    );
}

fn print<'d>(found: impl Iterator<Item = &'d Diagnostic>) -> String {
    found
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[test]
fn a_mistake_is_printed_with_its_line_and_an_underline() {
    check(
        "[[listener]]\nname = \"mysql\"\nbind = \"203.0.113.10:3306\"\nprotocol = \"tcp\"\npol = \"mysql\"\n\n\
         [[pool]]\nname = \"mysql\"\nbackend = [{ address = \"10.0.2.11:3306\" }]\n",
        r#"
error: unknown key `pol` in [[listener]]
 --> weir.toml:5:1
  |
5 | pol = "mysql"
  | ^^^ expected `name`, `bind`, `protocol`, `forward`, `pool`, `route`, `certificates`, `idle_timeout`, `tunnel`, `tls`, `proxy_protocol`, `allow_upgrade`, `encoded_slashes`, `max_connections`, `max_connections_per_client`, `timeouts`, `limits`, `http2` or `access_log`
  |
  = help: did you mean `pool`?
"#,
    );
    check(
        "\n\n\n\n[[pool]]\nname = \"a\"\nbackend = [{ address = \"10.0.2.11:80\" },\n\t{ address = \"10.0.2.12:80\" },\r\n\
         \t{ address = \"10.0.2.11:80\", weight = 2 }]\n[[listener]]\nname = \"a\"\nbind = \"203.0.113.1:80\"\n\
         protocol = \"http\"\npool = \"a\"\n",
        r#"
error: backend `10.0.2.11:80` is in pool `a` twice
 --> weir.toml:9:14
  |
9 |     { address = "10.0.2.11:80", weight = 2 }]
  |                 ^^^^^^^^^^^^^^ expected each address once
  |
  = help: for more of the work, raise its `weight`
note: the first is here
 --> weir.toml:7:24
  |
7 | backend = [{ address = "10.0.2.11:80" },
  |                        ^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn columns_count_characters_and_terminals_are_safe() {
    let text = format!(
        "{}node = {{ nome = \"ä\", name = \"\u{202e}b\" }}",
        "# ö\n".repeat(9)
    );
    check(
        &text,
        "
error: unknown key `nome` in [node]
  --> weir.toml:10:10
   |
10 | node = { nome = \"ä\", name = \"\u{fffd}b\" }
   |          ^^^^ expected `name`, `drain_timeout` or `state_dir`
   |
   = help: did you mean `name`?

error: `\\u{202e}b` cannot be a name: it contains '\\u{202e}'
  --> weir.toml:10:29
   |
10 | node = { nome = \"ä\", name = \"\u{fffd}b\" }
   |                             ^^^^ expected 1 to 63 letters, digits, `-`, `_` or `.`
",
    );
}

#[test]
fn long_lines_are_cut_around_the_mistake() {
    let many = "{ address = \"10.0.2.11:80\" }, ".repeat(20);
    let text = format!("pool = [{{ name = \"web\", backend = [{many}], wait = 1 }}]\n");
    let errors = parse(&text).unwrap_err();
    assert_eq!(errors.len(), 20, "19 duplicates and a key");
    let last = errors.iter().last().unwrap().to_string();
    let lines: Vec<&str> = last.lines().collect();
    assert_eq!(
        lines[3],
        "1 | …80\" }, { address = \"10.0.2.11:80\" }, ], wait = 1 }]"
    );
    assert_eq!(lines[4].find('^'), lines[3].replace('…', ".").find("wait"));
}

#[test]
fn errors_are_counted_at_the_end() {
    let errors = Config::parse("a = 1\nb = 2\n", Path::new("etc/weir.toml")).unwrap_err();
    assert!(
        errors
            .to_string()
            .ends_with("\n\netc/weir.toml: 2 mistakes"),
        "{errors}"
    );
    assert_eq!(
        errors
            .iter()
            .map(|error| error.position.line)
            .collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(
        r#"
[l4]
interfaces = ["eth0"]
[[listener]]
name = "l"
bind = "203.0.113.1:80"
protocol = "http"
pool = "p"
[[pool]]
name = "p"
health = { type = "http" }
sticky = { cookie = "A" }
backend = [{ address = "198.51.100.1:80" }]
"#,
    )
    .unwrap();
    let l4 = L4 {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Auto,
        local_addresses: Vec::new(),
        max_sessions: 1_048_576,
        max_sessions_ipv6: 1_024,
        persistent_clients: 262_144,
        timeouts: SessionTimeouts::default(),
        pin_dir: "/sys/fs/bpf/weir".into(),
        on_stop: OnStop::Keep,
        spread: Spread::Queues,
    };
    assert_eq!(
        (config.node.clone(), config.l7.clone()),
        (Node::default(), L7::default())
    );
    assert_eq!(
        (config.l4.clone(), config.api.clone()),
        (Some(l4), Api::default())
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.forward, Forward::Proxy);
    assert_eq!(
        (&listener.timeouts, &listener.limits),
        (&Timeouts::default(), &HttpLimits::default())
    );
    let pool = &config.pools[0];
    assert_eq!(pool.scheduler, Scheduler::RoundRobin);
    assert_eq!(
        pool.sticky.as_ref().unwrap().mode,
        StickyMode::Insert(CookieAttributes::default())
    );
    assert_eq!(
        pool.backends,
        [Backend {
            address: "198.51.100.1:80".parse().unwrap(),
            weight: 1,
            check_address: None,
            quic_server_id: None,
        }]
    );
    let HealthCheck {
        probe,
        interval,
        timeout,
        rise,
        fall,
        port,
        tls: None,
        proxy_protocol: None,
    } = pool.health.clone().unwrap()
    else {
        panic!("nothing of the pool's connection is set")
    };
    assert_eq!(probe, HealthProbe::Http(HttpProbe::default()));
    assert_eq!(port, None);
    assert_eq!(
        (interval.as_secs(), timeout.as_secs(), rise, fall),
        (2, 1, 2, 3)
    );
}

#[test]
fn an_empty_file_is_a_node_without_services() {
    let config = parse("").unwrap();
    assert!(config.listeners.is_empty() && config.pools.is_empty() && config.warnings.is_empty());
}

#[test]
fn comments_and_warnings_make_no_difference_between_configs() {
    let moved = format!("# moved\n{ALL}");
    assert_eq!(parse(ALL).unwrap(), parse(&moved).unwrap());
    assert_ne!(
        parse(ALL).unwrap(),
        parse(&ALL.replace("weight = 20", "weight = 21")).unwrap()
    );
}

#[test]
fn a_short_interval_bounds_the_timeout() {
    let text = ALL.replace(
        r#"interval = "2s", timeout = "1s""#,
        r#"interval = "300ms""#,
    );
    let config = parse(&text).unwrap();
    let health = config
        .pool(&"mysql".into())
        .unwrap()
        .health
        .clone()
        .unwrap();
    assert_eq!(
        (health.interval.as_millis(), health.timeout.as_millis()),
        (300, 300)
    );
}

#[test]
fn every_misspelt_key_is_pointed_at() {
    let mut keys = 0;
    for (number, line) in ALL.lines().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        if line.starts_with('#') {
            continue;
        }
        keys += 1;
        let mut lines: Vec<String> = ALL.lines().map(str::to_owned).collect();
        lines[number].insert(key.len(), 'q');
        let errors = parse(&lines.join("\n")).unwrap_err();
        let found = errors
            .iter()
            .find(|error| error.position.line == number + 1)
            .unwrap();
        assert_eq!(
            (found.position.column, found.position.width),
            (1, key.len() + 1),
            "{found}"
        );
    }
    assert!(keys > 70, "the keys are found: {keys}");
}

#[test]
fn names_of_thousands_of_listeners_and_pools_resolve() {
    let mut text = String::new();
    for at in 0..2000 {
        let (high, low) = (at / 250, at % 250);
        text += &format!(
            "[[listener]]\nname = \"l{at}\"\nbind = \"203.0.{high}.{low}:80\"\nprotocol = \"tcp\"\npool = \"p{at}\"\n\
             [[pool]]\nname = \"p{at}\"\nbackend = [{{ address = \"198.51.100.1:80\" }}]\n",
        );
    }
    let config = parse(&text).unwrap();
    for listener in &config.listeners {
        let pool: Vec<_> = config
            .pools_of(listener)
            .map(|pool| pool.name.as_str())
            .collect();
        assert_eq!(pool, [listener.pool.as_ref().unwrap().as_str()]);
        assert_eq!(config.listener(&listener.name), Some(listener));
    }
}

#[test]
fn thousands_of_mistakes_are_counted_and_near_misses_are_looked_for_a_few_times() {
    let mut text =
        "[[pool]]\nname = \"pool\"\nbackend = [{ address = \"198.51.100.1:80\" }]\n".to_owned();
    for at in 0..1500 {
        let (high, low) = (at / 250, at % 250);
        text += &format!(
            "[[listener]]\nname = \"l{at}\"\nbind = \"203.0.{high}.{low}:80\"\nprotocol = \"tcp\"\npool = \"poll\"\n",
        );
    }
    let errors = parse(&text).unwrap_err();
    assert_eq!((errors.len(), errors.iter().count()), (1500, 1000));
    assert_eq!(
        errors.iter().filter(|error| error.help.is_some()).count(),
        32
    );
    assert!(
        errors
            .to_string()
            .ends_with("and 500 more\n\nweir.toml: 1500 mistakes")
    );
}

/// Every place is inside the text, and what is printed underlines it.
fn check_places(text: &str) {
    let found = match parse(text) {
        Ok(config) => config.warnings,
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            errors.into_iter().collect()
        }
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for diagnostic in found {
        let notes = diagnostic.note.iter().map(|note| note.position);
        for position in notes.chain([diagnostic.position]) {
            let line = lines[position.line - 1].chars().count();
            assert!((1..=line + 1).contains(&position.column), "{diagnostic}");
            assert!(
                position.width >= 1 && position.column + position.width <= line + 2,
                "{diagnostic}"
            );
        }
        let printed = diagnostic.to_string();
        assert!(printed.lines().any(|line| line.contains('^')), "{printed}");
        assert!(
            !printed.chars().any(|c| c.is_control() && c != '\n'),
            "{printed:?}"
        );
    }
}

/// One change of a text: at a place (in thousandths of its length) so many characters become something else.
fn change() -> impl Strategy<Value = (usize, usize, String)> {
    let pieces = [
        "",
        "\"",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        "\n",
        "\r\n",
        "\t",
        ".",
        ",",
        "#",
        "0",
        "-1",
        "99999999999999999999",
        "1.5",
        "true",
        "1979-05-27",
        "\"\"",
        "[]",
        "{}",
        "'",
        "\\u001b",
        "ü",
        "\u{202e}",
        "日本",
        "\u{0}",
        "[pool]",
        "name = 1\n",
        "[[pool]]\n",
        "[[listener.route]]\n",
        "pool = \"x\"\n",
        "0.0.0.0:1",
        "[::]:0",
        "proxy",
        "udp",
        "https",
        "*.",
        "/",
    ];
    (
        0usize..1000,
        0usize..12,
        prop::sample::select(pieces.to_vec()).prop_map(str::to_owned),
    )
}

proptest! {
    #[test]
    fn changed_configs_never_panic_and_places_are_in_the_text(changes in prop::collection::vec(change(), 1..8)) {
        let mut chars: Vec<char> = ALL.chars().collect();
        for (at, removed, inserted) in changes {
            let from = chars.len() * at / 1000;
            let to = (from + removed).min(chars.len());
            chars.splice(from..to, inserted.chars());
        }
        check_places(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        check_places(&text);
    }
}
