//! `weir get`: asks a running node and prints a table.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cli::{GetArgs, NodeArgs, SessionsArgs, What};
use crate::client;
use crate::table::Align::{self, Left, Right};
use crate::table::table;

/// A column: its title, how it is aligned, and where its value is in an item (RFC 6901).
type Column = (&'static str, Align, &'static str);

const LISTENERS: &[Column] = &[
    ("NAME", Left, "/name"),
    ("BIND", Left, "/bind"),
    ("PROTOCOL", Left, "/protocol"),
    ("FORWARD", Left, "/forward"),
    ("POOL", Left, "/pool"),
    ("CONNECTIONS", Right, "/traffic/connections"),
    ("OPEN", Right, "/traffic/open"),
    ("REQUESTS", Right, "/traffic/requests"),
    ("BYTES IN", Right, "/traffic/bytes_in"),
    ("BYTES OUT", Right, "/traffic/bytes_out"),
];
const POOLS: &[Column] = &[
    ("NAME", Left, "/name"),
    ("SCHEDULER", Left, "/scheduler"),
    ("CHECK", Left, "/check/type"),
    ("BACKENDS", Right, "/backends"),
    ("AVAILABLE", Right, "/available"),
];
const BACKENDS: &[Column] = &[
    ("POOL", Left, "/pool"),
    ("ADDRESS", Left, "/address"),
    ("WEIGHT", Right, "/weight"),
    ("HEALTH", Left, "/health"),
    ("SINCE", Left, "/checks/since"),
    ("CONNECTIONS", Right, "/traffic/connections"),
    ("REQUESTS", Right, "/traffic/requests"),
    ("OVERRIDE", Left, "/override/state"),
    ("REASON", Left, "/checks/reason"),
];
const OVERRIDES: &[Column] = &[
    ("POOL", Left, "/pool"),
    ("BACKEND", Left, "/address"),
    ("STATE", Left, "/state"),
    ("WEIGHT", Right, "/weight"),
];
const SESSIONS: &[Column] = &[
    ("LISTENER", Left, "/listener"),
    ("PROTOCOL", Left, "/protocol"),
    ("CLIENT", Left, "/client"),
    ("LOCAL", Left, "/local"),
    ("BACKEND", Left, "/backend"),
    ("STATE", Left, "/state"),
    ("IDLE MS", Right, "/idle_ms"),
    ("PACKETS IN", Right, "/packets_in"),
    ("PACKETS OUT", Right, "/packets_out"),
    ("BYTES IN", Right, "/bytes_in"),
    ("BYTES OUT", Right, "/bytes_out"),
];

/// Sessions in a page that is asked for: a few MB of JSON.
const PAGE: u64 = 10_000;

/// Asks and prints.
pub(crate) fn get(args: &GetArgs) -> Result<ExitCode> {
    let (path, columns, node) = match &args.what {
        What::Listeners(node) => ("/api/v1/listeners".to_owned(), LISTENERS, node),
        What::Overrides(node) => ("/api/v1/overrides".to_owned(), OVERRIDES, node),
        What::Pools(node) => ("/api/v1/pools".to_owned(), POOLS, node),
        What::Backends { pool, node } => (
            path("backends", &[("pool", pool.as_deref())]),
            BACKENDS,
            node,
        ),
        What::Sessions(args) => return sessions(args),
    };
    let page = ask(node, &path)?;
    if node.json {
        println!("{page:#}");
    } else {
        print_page(columns, &page);
        print_total(&page, shown(&page));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for sessions, page by page, and prints each page as it comes.
pub(crate) fn sessions(args: &SessionsArgs) -> Result<ExitCode> {
    let limit = if args.count { 0 } else { args.limit };
    let mut left = limit;
    let mut first: Option<Value> = None;
    let mut cursor: Option<String> = None;
    loop {
        let page = ask(
            &args.node,
            &question(args, left.min(PAGE), cursor.as_deref()),
        )?;
        left = left.saturating_sub(shown(&page));
        cursor = page["next"].as_str().map(str::to_owned);
        match (args.node.json, args.count) {
            (true, _) => println!("{page:#}"),
            (false, true) => println!("{}", page["total"].as_u64().unwrap_or(0)),
            (false, false) => print_page(SESSIONS, &page),
        }
        let first = first.get_or_insert(page);
        if left == 0 || cursor.is_none() {
            if !args.node.json && !args.count {
                print_total(first, limit - left);
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn question(args: &SessionsArgs, limit: u64, cursor: Option<&str>) -> String {
    let limit = limit.to_string();
    let parameters = [
        ("listener", args.listener.as_deref()),
        ("pool", args.pool.as_deref()),
        ("client", args.client.as_deref()),
        ("local", args.local.as_deref()),
        ("backend", args.backend.as_deref()),
        ("protocol", args.protocol.as_deref()),
        ("forward", args.forward.as_deref()),
        ("state", args.state.as_deref()),
        ("limit", Some(limit.as_str())),
        ("cursor", cursor),
    ];
    path("sessions", &parameters)
}

/// Asks for a page. An answer that is an error is one.
fn ask(node: &NodeArgs, path: &str) -> Result<Value> {
    let token = match &node.token_file {
        Some(file) => Some(
            fs::read_to_string(file)
                .with_context(|| format!("read the token {}", file.display()))?,
        ),
        None => None,
    };
    let answer = client::get(node.api, path, token.as_deref().map(str::trim))?;
    let json: Value = serde_json::from_slice(&answer.body)
        .with_context(|| format!("status {} and no JSON from {}", answer.status, node.api))?;
    if answer.status != 200 {
        let message = json
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        bail!("{}: {message} (status {})", node.api, answer.status);
    }
    Ok(json)
}

/// Items of a page.
fn shown(page: &Value) -> u64 {
    page["items"].as_array().map_or(0, Vec::len) as u64
}

fn path(list: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> = parameters
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", percent_encoded(value))))
        .collect();
    let separator = if given.is_empty() { "" } else { "?" };
    format!("/api/v1/{list}{separator}{}", given.join("&"))
}

/// All but the unreserved characters (RFC 3986, section 2.3).
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn print_page(columns: &[Column], page: &Value) {
    let items = page["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            columns
                .iter()
                .map(|(_, _, pointer)| cell(item.pointer(pointer)))
                .collect()
        })
        .collect();
    let titles: Vec<(&str, Align)> = columns
        .iter()
        .map(|(title, align, _)| (*title, *align))
        .collect();
    println!("{}", table(&titles, &rows));
}

/// Says how many of all are shown, where that is not all.
fn print_total(page: &Value, shown: u64) {
    let total = page["total"].as_u64().unwrap_or(0);
    if total > shown {
        println!("{shown} of {total}");
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => {
            format!("{:.0}", number.as_f64().unwrap_or(0.0))
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(path("backends", &[("pool", None)]), "/api/v1/backends");
        assert_eq!(
            path(
                "sessions",
                &[
                    ("listener", Some("a b")),
                    ("client", None),
                    ("backend", Some("[::1]:80"))
                ]
            ),
            "/api/v1/sessions?listener=a%20b&backend=%5B%3A%3A1%5D%3A80"
        );
    }

    #[test]
    fn cells() {
        for (value, text) in [
            (json!(null), "-"),
            (json!("web"), "web"),
            (json!(7), "7"),
            (json!(12.6), "13"),
            (json!(true), "true"),
        ] {
            assert_eq!(cell(Some(&value)), text);
        }
        assert_eq!(cell(None), "-");
    }
}
