//! Mistakes as data: a config in, what is printed out.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::{Config, Diagnostic, Severity};
use crate::health::HealthProbe;
use crate::listener::{Forward, Protocol};
use crate::node::XdpMode;
use crate::pool::{Scheduler, StickyMode};
use crate::route::HostPattern;

/// Parses and compares what is printed: errors if there are any, else warnings.
#[track_caller]
fn check(text: &str, expected: &str) {
    let printed = match Config::parse(text, Path::new("weir.toml")) {
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
  | ^^^ expected `name`, `bind`, `protocol`, `forward`, `pool`, `route`, `certificates`, `timeouts` or `limits`
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
   |          ^^^^ expected `name` or `drain_timeout`
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
    let errors = Config::parse(&text, Path::new("weir.toml")).unwrap_err();
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
