//! `weir check`, and what the command line says to mistakes.

use crate::support::{Folder, text, weir_output};

const GOOD: &str = r#"
[[listener]]
name = "web"
bind = "127.0.0.1:8080"
protocol = "http"
pool = "web"

[[pool]]
name = "web"
backend = [{ address = "127.0.0.1:9001" }, { address = "127.0.0.1:9002" }]
"#;

fn check(config: &str) -> (Option<i32>, String, String) {
    let folder = Folder::new();
    let file = folder.write("weir.toml", config);
    let output = weir_output(&["check", file.to_str().unwrap()]);
    (
        output.status.code(),
        text(&output.stdout).to_owned(),
        text(&output.stderr).to_owned(),
    )
}

#[test]
fn right_config_is_summed_up_in_a_line() {
    let (code, out, err) = check(GOOD);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.ends_with("weir.toml: ok: 1 listener, 1 pool, 2 backends\n"),
        "{out}"
    );
}

#[test]
fn mistakes_are_shown_with_their_place() {
    let (code, out, err) = check(&GOOD.replace("pool = \"web\"", "pool = \"wbe\""));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("weir.toml:6:8"), "{err}");
    assert!(err.contains("did you mean `web`?"), "{err}");
}

#[test]
fn warnings_are_shown_and_counted() {
    let (code, out, err) = check(&GOOD.replace(
        "protocol = \"http\"",
        "protocol = \"tcp\"\nforward = \"fullnat\"",
    ));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("; 1 warning\n"), "{out}");
    assert!(err.starts_with("warning: "), "{err}");
}

#[test]
fn files_that_cannot_be_read_are_warned_of() {
    let tls =
        "protocol = \"https\"\ncertificates = [{ cert_file = \"c.pem\", key_file = \"k.pem\" }]";
    let config = GOOD.replace("protocol = \"http\"", tls);
    let (code, out, err) = check(&format!("[api]\ntoken_file = \"token\"\n{config}"));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("; 3 warnings\n"), "{out}");
    for name in [
        "c.pem cannot be read: No such file",
        "k.pem cannot be read",
        "read the token from",
    ] {
        assert!(err.contains(name), "{err}");
    }
}

#[test]
fn api_away_from_loopback_needs_a_token() {
    let (code, _, err) = check(&format!("[api]\nlisten = \"0.0.0.0:9900\"\n{GOOD}"));
    assert_eq!(code, Some(1));
    assert!(err.contains("token_file"), "{err}");
}

#[test]
fn missing_file_is_named() {
    for args in [
        &["check", "/nonexistent/weir.toml"][..],
        &["run", "--config", "/nonexistent/weir.toml"],
    ] {
        let output = weir_output(args);
        assert_eq!(output.status.code(), Some(1));
        let err = text(&output.stderr);
        assert!(
            err.contains("read the config /nonexistent/weir.toml: No such file or directory"),
            "{err}"
        );
    }
}

#[test]
fn run_refuses_a_config_with_mistakes() {
    let folder = Folder::new();
    let file = folder.write("weir.toml", &GOOD.replace("bind", "bnd"));
    let output = weir_output(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean `bind`?"));
}

#[test]
fn wrong_usage_is_told_apart() {
    for args in [&["rnu"][..], &["run"], &["check"], &["get", "backend"], &[]] {
        assert_eq!(weir_output(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn version_is_told() {
    let output = weir_output(&["--version"]);
    assert_eq!(
        text(&output.stdout),
        format!("weir {}\n", env!("CARGO_PKG_VERSION"))
    );
}
