use std::sync::Arc;

use proptest::prelude::*;
use weir_model::{AccessLog, LogOutput, Template};

use super::super::Output;
use super::*;
use crate::routing::RequestView;

struct Request<'r> {
    target: &'r [u8],
    agent: Option<&'r [u8]>,
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn authority(&self) -> &[u8] {
        b"a.example"
    }

    fn target(&self) -> &[u8] {
        self.target
    }

    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.agent.filter(|_| name == "user-agent").into_iter()
    }

    fn client(&self) -> std::net::IpAddr {
        [192, 0, 2, 7].into()
    }
}

fn log(format: LogFormat, headers: &[&str]) -> Log {
    let config = AccessLog {
        output: LogOutput::Stdout,
        format,
        request_headers: headers.iter().map(|name| (*name).to_owned()).collect(),
    };
    Log::new(&config, Arc::new(Output::open(&LogOutput::Stdout).unwrap()))
}

fn template(written: &str) -> Log {
    let template = Template::parse(written, LogVariable::named).unwrap();
    log(LogFormat::Template(template), &[])
}

fn line(log: &Log, request: &Request<'_>) -> Vec<u8> {
    let mut journal = Journal::default();
    journal.take_down(log, request);
    let record = Record {
        time: UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456),
        listener: "web",
        client: "[::ffff:192.0.2.7]:4711".parse().unwrap(),
        local: "203.0.113.1:443".parse().unwrap(),
        protocol: "HTTP/1.1",
        tls: Some(TlsFacts {
            version: "TLSv1.3",
            sni: "a.example",
        }),
        request_id: None,
        journal: Some(&journal),
        route: None,
        tries: 1,
        status: 200,
        bytes_in: 10,
        bytes_out: 20,
        tls_time: None,
        head_time: Some(Duration::from_nanos(1_999)),
        connect_time: Some(Duration::ZERO),
        first_byte_time: None,
        total_time: Duration::from_millis(2),
        termination: Termination::Done,
    };
    let mut out = Vec::new();
    record.write(log, &mut out);
    out
}

#[test]
fn a_json_line_leaves_out_what_there_is_not() {
    let request = Request {
        target: b"/a?b=\"c\\d\"\x01\xff\xc2\x9b",
        agent: Some("J\u{f6}rg\x7f".as_bytes()),
    };
    let log = log(LogFormat::Json, &["referer", "user-agent"]);
    assert_eq!(
        String::from_utf8(line(&log, &request)).unwrap(),
        concat!(
            r#"{"time":"2009-02-13T23:31:30.123456Z","listener":"web","client_address":"192.0.2.7","#,
            r#""client_port":4711,"local_address":"203.0.113.1","local_port":443,"protocol":"HTTP/1.1","#,
            r#""tls_version":"TLSv1.3","tls_sni":"a.example","method":"GET","host":"a.example","#,
            r#""target":"/a?b=\"c\\d\"\u0001"#,
            "\u{fffd}\\u009b",
            r#"","tries":1,"status":200,"bytes_in":10,"bytes_out":20,"head_us":1,"connect_us":0,"#,
            r#""total_us":2000,"termination":"done","request_headers":{"user-agent":"Jör"#,
            r#"g\u007f"}}"#
        )
        .replace("Jör", "J\u{f6}r")
    );
    let bare = Request {
        target: b"/",
        agent: None,
    };
    let line = String::from_utf8(line(&log, &bare)).unwrap();
    assert!(line.ends_with(r#""termination":"done"}"#), "{line}");
}

#[test]
fn a_template_has_a_dash_for_what_there_is_not() {
    let log = template(
        r#"{client_address} [{time}] "{method} {target}" {status} {backend} "{request_header:User-Agent}" {{}}"#,
    );
    let request = Request {
        target: b"/\" 200 \"\n\\\xe4",
        agent: None,
    };
    assert_eq!(
        String::from_utf8(line(&log, &request)).unwrap(),
        r#"192.0.2.7 [2009-02-13T23:31:30.123456Z] "GET /\x22 200 \x22\x0a\x5c\xe4" 200 - "-" {}"#
    );
}

#[test]
fn days_are_those_of_the_calendar() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
    ] {
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(seconds)),
            expected
        );
    }
}

/// Operators look them up there.
#[test]
fn every_variable_and_every_termination_is_documented() {
    let read = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/");
        std::fs::read_to_string(format!("{folder}{name}")).unwrap()
    };
    let (own, reasons) = (read("access-log.md"), read("metrics.md"));
    for word in LogVariable::ALL.iter().map(LogVariable::as_str) {
        assert!(own.contains(&format!("\n| `{word}` |")), "{word}");
    }
    for termination in Termination::all() {
        let word = termination.as_str();
        assert!(
            match termination {
                Termination::Failed(_) => reasons.contains(&format!("\n| {word} |")),
                _ => own.contains(&format!("\n| `{word}` |")),
            },
            "{word}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_end_a_string_or_a_line(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let request = Request { target: &bytes, agent: Some(&bytes) };
        let json = line(&log(LogFormat::Json, &["user-agent"]), &request);
        let text = std::str::from_utf8(&json).unwrap();
        prop_assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
        // Outside of strings there is nothing but what we wrote: quotes come in pairs.
        let mut inside = false;
        let mut escaped = false;
        let mut outside = String::new();
        for c in text.chars() {
            match (inside, escaped, c) {
                (true, true, _) => escaped = false,
                (true, false, '\\') => escaped = true,
                (_, _, '"') => inside = !inside,
                (true, ..) => {}
                (false, ..) => outside.push(c),
            }
        }
        prop_assert!(!inside);
        prop_assert!(outside.chars().all(|c| c.is_ascii_digit() || "{}:,".contains(c)), "{outside}");
        let plain = line(&template("\"{target}\" {status}"), &request);
        prop_assert!(plain.iter().all(|byte| (0x20..0x7f).contains(byte)));
        prop_assert_eq!(plain.iter().filter(|byte| **byte == b'"').count(), 2);
    }
}
