//! How long a large config takes: `cargo run --release -p weir-model --example parse_large [LISTENERS] [BACKENDS]`.
//! With a file's name in place of numbers, parses that file and prints what is wrong with it.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use weir_model::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let first = args.next().unwrap_or_else(|| "10000".to_owned());
    let Ok(listeners) = first.parse::<u32>() else {
        return check(Path::new(&first));
    };
    let backends: u32 = args.next().unwrap_or_else(|| "50000".to_owned()).parse()?;
    let text = large(listeners, backends);
    for _ in 0..5 {
        let start = Instant::now();
        let config = Config::parse(&text, Path::new("large.toml"))?;
        let parsed = start.elapsed();
        let found = config
            .listeners
            .iter()
            .flat_map(|listener| config.pools_of(listener))
            .count();
        let resolved = start.elapsed() - parsed;
        println!(
            "{listeners} listeners, {backends} backends, {} bytes: {parsed:?}, {found} pools looked up: {resolved:?}",
            text.len()
        );
    }
    Ok(())
}

fn check(file: &Path) -> Result<(), Box<dyn Error>> {
    match Config::parse(&std::fs::read_to_string(file)?, file) {
        Ok(config) => {
            for warning in &config.warnings {
                println!("{warning}\n");
            }
            println!(
                "{} listeners, {} pools",
                config.listeners.len(),
                config.pools.len()
            );
        }
        Err(errors) => println!("{errors}"),
    }
    Ok(())
}

/// A pool for each listener, the backends shared out evenly.
fn large(listeners: u32, backends: u32) -> String {
    let mut text = "[l4]\ninterfaces = [\"eth0\"]\nlocal_addresses = [\"192.0.2.10\"]\n".to_owned();
    let each = (backends / listeners.max(1)).max(1);
    for at in 0..listeners {
        let [_, a, b, c] = at.to_be_bytes();
        let _ = writeln!(
            text,
            "[[listener]]\nname = \"l{at}\"\nbind = \"203.{a}.{b}.{c}:80\"\nprotocol = \"tcp\"\nforward = \"fullnat\"\npool = \"p{at}\""
        );
        let _ = writeln!(
            text,
            "[[pool]]\nname = \"p{at}\"\nhealth = {{ type = \"tcp\" }}\nbackend = ["
        );
        for server in 0..each {
            let [_, a, b, c] = (at * each + server).to_be_bytes();
            let _ = writeln!(
                text,
                "  {{ address = \"10.{a}.{b}.{c}:8080\", weight = 10 }},"
            );
        }
        text.push_str("]\n");
    }
    text
}
