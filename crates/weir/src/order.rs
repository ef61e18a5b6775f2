//! `weir drain`, `disable`, `weight` and `clear`: an order to a running node.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cli::{BackendArgs, WeightArgs};
use crate::client;
use crate::get::percent_encoded;

/// Gives a backend no new work; what is established goes on.
pub(crate) fn drain(args: &BackendArgs) -> Result<ExitCode> {
    set(args, &json!({ "state": "draining" }))
}

/// As [`drain`], and checks end.
pub(crate) fn disable(args: &BackendArgs) -> Result<ExitCode> {
    set(args, &json!({ "state": "disabled" }))
}

/// Gives it another weight.
pub(crate) fn weight(args: &WeightArgs) -> Result<ExitCode> {
    set(&args.backend, &json!({ "weight": args.weight }))
}

/// Goes by the config again.
pub(crate) fn clear(args: &BackendArgs) -> Result<ExitCode> {
    order(args, "DELETE", None)
}

fn set(args: &BackendArgs, change: &Value) -> Result<ExitCode> {
    order(args, "PATCH", Some(&change.to_string()))
}

fn order(args: &BackendArgs, method: &str, body: Option<&str>) -> Result<ExitCode> {
    let BackendArgs {
        pool,
        backend,
        api,
        token_file,
    } = args;
    let token = match token_file {
        Some(file) => Some(
            fs::read_to_string(file)
                .with_context(|| format!("read the token {}", file.display()))?,
        ),
        None => None,
    };
    let path = path(pool, *backend);
    let token = token.as_deref().map(str::trim);
    let answer = client::send(*api, method, &path, token, body)?;
    if answer.status != 200 {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = json
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        bail!("{api}: {message} (status {})", answer.status);
    }
    let json: Value = serde_json::from_slice(&answer.body).context("the answer is no JSON")?;
    let state = json["state"].as_str().unwrap_or("as in the config");
    let weight = match json["weight"].as_u64() {
        Some(weight) => weight.to_string(),
        None => "as in the config".to_owned(),
    };
    println!("{pool}/{backend}: state {state}, weight {weight}");
    Ok(ExitCode::SUCCESS)
}

fn path(pool: &str, backend: SocketAddr) -> String {
    let backend = percent_encoded(&backend.to_string());
    format!("/api/v1/overrides/{}/{backend}", percent_encoded(pool))
}
