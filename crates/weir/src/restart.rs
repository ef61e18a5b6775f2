//! Settings that are fixed when the daemon starts.

use weir_model::Config;

/// Names of the settings that differ between two configs and take a restart; empty when a reload can do it.
pub(crate) fn needed(running: &Config, wanted: &Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    let mut note = |differs: bool, name| {
        if differs {
            changed.push(name);
        }
    };
    match (&running.l4, &wanted.l4) {
        (Some(old), Some(new)) => {
            note(old.xdp_mode != new.xdp_mode, "[l4] xdp_mode");
            note(old.max_sessions != new.max_sessions, "[l4] max_sessions");
            note(
                old.max_sessions_ipv6 < new.max_sessions_ipv6,
                "[l4] max_sessions_ipv6 (room for sessions of IPv6)",
            );
            note(old.spread != new.spread, "[l4] spread");
            note(old.pin_dir != new.pin_dir, "[l4] pin_dir");
            note(running.node.name != wanted.node.name, "[node] name");
            note(
                old.persistent_clients != new.persistent_clients,
                "[l4] persistent_clients",
            );
        }
        (None, None) => {}
        _ => note(true, "[l4]"),
    }
    note(running.l7.workers != wanted.l7.workers, "[l7] workers");
    note(
        running.node.state_dir != wanted.node.state_dir,
        "[node] state_dir",
    );
    note(running.api.listen != wanted.api.listen, "[api] listen");
    changed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BASE: &str = r#"
        [l4]
        interfaces = ["eth0"]
        local_addresses = ["192.0.2.10"]
        [l7]
        workers = 2
        [api]
        listen = "127.0.0.1:9900"
        [[listener]]
        name = "db"
        bind = "203.0.113.10:3306"
        protocol = "tcp"
        forward = "fullnat"
        pool = "db"
        [[pool]]
        name = "db"
        backend = [{ address = "10.0.0.1:3306" }]
    "#;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("weir.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn check(from: &str, to: &str, expected: &[&str]) {
        let changed = BASE.replace(from, to);
        assert_ne!(changed, BASE, "{from} is not there");
        assert_eq!(
            needed(&config(BASE), &config(&changed)),
            expected,
            "{from} to {to}"
        );
    }

    #[test]
    fn what_is_fixed_at_the_start_is_named() {
        check("[l7]", "xdp_mode = \"generic\"\n[l7]", &["[l4] xdp_mode"]);
        check("[l7]", "spread = \"cpus\"\n[l7]", &["[l4] spread"]);
        check("[l7]", "pin_dir = \"bpf\"\n[l7]", &["[l4] pin_dir"]);
        check("[l4]", "[node]\nname = \"other\"\n[l4]", &["[node] name"]);
        check("[l7]", "max_sessions = 4096\n[l7]", &["[l4] max_sessions"]);
        check(
            "[l7]",
            "persistent_clients = 4096\n[l7]",
            &["[l4] persistent_clients"],
        );
        check("workers = 2", "workers = 3", &["[l7] workers"]);
        check("127.0.0.1:9900", "127.0.0.1:9901", &["[api] listen"]);
        let without = BASE
            .replace("[l4]", "")
            .replace("interfaces = [\"eth0\"]", "")
            .replace("local_addresses = [\"192.0.2.10\"]", "");
        assert_eq!(needed(&config(BASE), &config(&without)), ["[l4]"]);
    }

    #[test]
    fn what_a_reload_can_do_is_not() {
        check("10.0.0.1:3306", "10.0.0.2:3306", &[]);
        check(r#"["eth0"]"#, r#"["eth0", "eth1"]"#, &[]);
        check("192.0.2.10", "192.0.2.11", &[]);
        check("[l7]", "on_stop = \"drain\"\n[l7]", &[]);
        check("listen = ", "token_file = \"token\"\nlisten = ", &[]);
    }
}
