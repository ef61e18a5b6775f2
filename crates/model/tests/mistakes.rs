//! Configs and what is printed about them, as data: each file in `tests/mistakes` holds cases of one area,
//!
//! ```text
//! === what the case shows
//! the config
//! ---
//! the errors; where there are none the warnings; where there are none nothing
//! ```
//!
//! After a change of the wording, `WEIR_BLESS=1 cargo test -p weir-model --test mistakes` writes down what is printed
//! now; read the difference before you commit it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use weir_model::Config;

#[test]
fn every_mistake_is_printed_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let bless = std::env::var_os("WEIR_BLESS").is_some();
    let mut differences = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let written = fs::read_to_string(&path).unwrap();
        let mut blessed = Vec::new();
        for case in split(&written) {
            cases += 1;
            let printed = printed(case.config);
            if printed != case.expected {
                let name = path.file_name().unwrap().display();
                let Case {
                    title, expected, ..
                } = case;
                differences.push(format!(
                    "{name}: {title}\n--- expected:\n{expected}\n--- printed:\n{printed}"
                ));
            }
            let parts = [
                format!("=== {}", case.title),
                case.config.to_owned(),
                "---".to_owned(),
                printed,
            ];
            blessed.push(
                parts
                    .iter()
                    .map(|part| part.trim_end())
                    .collect::<Vec<_>>()
                    .join("\n")
                    .trim_end()
                    .to_owned(),
            );
        }
        if bless {
            fs::write(&path, blessed.join("\n\n") + "\n").unwrap();
        }
    }
    assert!(cases > 50, "the cases are found: {cases}");
    assert!(
        bless || differences.is_empty(),
        "{}",
        differences.join("\n\n")
    );
}

struct Case<'a> {
    title: &'a str,
    config: &'a str,
    expected: &'a str,
}

fn split(file: &str) -> impl Iterator<Item = Case<'_>> {
    let file = file.strip_prefix("=== ").unwrap();
    file.split("\n=== ").map(|case| {
        let (title, rest) = case.split_once('\n').unwrap();
        let (config, expected) = rest.split_once("\n---").unwrap();
        Case {
            title,
            config,
            expected: expected.trim(),
        }
    })
}

fn printed(config: &str) -> String {
    let found: Vec<String> = match Config::parse(config, Path::new("weir.toml")) {
        Ok(config) => config.warnings.iter().map(ToString::to_string).collect(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    };
    let lines: Vec<String> = found
        .join("\n\n")
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}
