//! What a reload changes, for the log.

use std::fmt;
use std::sync::Arc;

use weir_model::{Config, Name};

/// Names of what differs between two configs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    listeners: Changes,
    pools: Changes,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    added: Vec<Name>,
    changed: Vec<Name>,
    removed: Vec<Name>,
}

impl Difference {
    pub(crate) fn between(before: &Config, now: &Config) -> Self {
        Self {
            listeners: Changes::between(&before.listeners, &now.listeners, |listener| {
                &listener.name
            }),
            pools: Changes::between(&before.pools, &now.pools, |pool| &pool.name),
        }
    }
}

impl Changes {
    fn between<T: Eq>(before: &[Arc<T>], now: &[Arc<T>], name: fn(&T) -> &Name) -> Self {
        use std::collections::HashMap;
        let old: HashMap<&Name, &Arc<T>> = before.iter().map(|item| (name(item), item)).collect();
        let new: HashMap<&Name, &Arc<T>> = now.iter().map(|item| (name(item), item)).collect();
        let names = |items: &[Arc<T>], is_in: &dyn Fn(&T) -> bool| {
            items
                .iter()
                .filter(|item| is_in(item))
                .map(|item| name(item).clone())
                .collect()
        };
        Self {
            added: names(now, &|item| !old.contains_key(name(item))),
            changed: names(now, &|item| {
                old.get(name(item)).is_some_and(|before| ***before != *item)
            }),
            removed: names(before, &|item| !new.contains_key(name(item))),
        }
    }

    fn parts(&self, noun: &str) -> Vec<String> {
        [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(verb, names)| format!("{noun} {verb}: {}", listed(names)))
        .collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.listeners.parts("listeners"), self.pools.parts("pools")].concat();
        if parts.is_empty() {
            f.write_str("no listener and no pool has changed")
        } else {
            f.write_str(&parts.join("; "))
        }
    }
}

/// The first ten names, and how many more there are.
fn listed(names: &[Name]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(Name::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(listeners: &[(&str, u16)]) -> Config {
        let mut text =
            "[[pool]]\nname = \"p\"\nbackend = [{ address = \"10.0.0.1:80\" }]\n".to_owned();
        for (name, port) in listeners {
            text.push_str(&format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\nprotocol = \"http\"\npool = \"p\"\n"
            ));
        }
        Config::parse(&text, Path::new("weir.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn check(before: &[(&str, u16)], now: &[(&str, u16)], expected: &str) {
        assert_eq!(
            Difference::between(&config(before), &config(now)).to_string(),
            expected
        );
    }

    #[test]
    fn changes_are_named() {
        check(
            &[("a", 1), ("b", 2)],
            &[("b", 2), ("a", 1)],
            "no listener and no pool has changed",
        );
        check(
            &[("a", 1)],
            &[("b", 2), ("a", 3)],
            "listeners added: b; listeners changed: a",
        );
        check(&[("a", 1), ("b", 2)], &[("a", 1)], "listeners removed: b");
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|at| format!("l{at}")).collect();
        let many: Vec<(&str, u16)> = names.iter().map(String::as_str).zip(1000..).collect();
        check(
            &[("a", 1)],
            &[&[("a", 1)], &many[..]].concat(),
            "listeners added: l0, l1, l2, l3, l4, l5, l6, l7, l8, l9 and 2 more",
        );
    }
}
