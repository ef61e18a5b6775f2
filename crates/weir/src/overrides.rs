//! What an operator has set at run time in place of the config: kept in a file of `[node] state_dir`, so that it
//! outlives the daemon, until it is cleared or its backend leaves the config.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weir_api::order::{BackendName, Order, OrderError, Override, OverrideState};
use weir_model::{BackendId, Config, MAX_WEIGHT, Name};

/// The overrides of a node, and where they are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    file: PathBuf,
    set: BTreeMap<BackendId, Override>,
}

impl Overrides {
    /// Those that were set before, of backends that are in the config.
    pub(crate) fn load(state_dir: &Path, node: &str, config: &Config) -> Result<Self> {
        let file = state_dir.join(format!("overrides-{node}.json"));
        let read = || -> Result<BTreeMap<BackendId, Override>> {
            match fs::read(&file) {
                Ok(bytes) => parse(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
                Err(error) => Err(error.into()),
            }
        };
        // Starting without them would give work to a backend that somebody has taken out.
        let set = read().with_context(|| format!("read the overrides in {}", file.display()))?;
        let mut overrides = Self { file, set };
        overrides.forget_all_but(config);
        for (id, set) in &overrides.set {
            let state = set.state.map(OverrideState::as_str);
            tracing::info!(pool = %id.pool, backend = %id.address, state, weight = set.weight, "override in force");
        }
        Ok(overrides)
    }

    /// The override of a backend.
    pub(crate) fn of(&self, backend: &BackendId) -> Override {
        self.set.get(backend).copied().unwrap_or_default()
    }

    /// All of them.
    pub(crate) fn all(&self) -> &BTreeMap<BackendId, Override> {
        &self.set
    }

    /// As an order would have them.
    pub(crate) fn after(&self, order: &Order, config: &Config) -> Result<Self, OrderError> {
        let (Order::Set(backend, _) | Order::Clear(backend)) = order;
        let id = known(backend, config)?;
        let mut set = self.set.clone();
        match order {
            Order::Set(_, change) => {
                let changed = self.of(&id).changed_by(*change);
                set.insert(id, changed);
            }
            Order::Clear(_) => {
                if set.remove(&id).is_none() {
                    return Err(OrderError::NoOverride(backend.to_string()));
                }
            }
        }
        Ok(Self {
            file: self.file.clone(),
            set,
        })
    }

    /// Forgets those of backends that a config does not have. Whether there were any.
    pub(crate) fn forget_all_but(&mut self, config: &Config) -> bool {
        let before = self.set.len();
        self.set.retain(|id, _| {
            let pool = config.pool(&id.pool);
            pool.is_some_and(|pool| pool.backends.iter().any(|b| b.address == id.address))
        });
        self.set.len() < before
    }

    /// The config with their weights.
    pub(crate) fn applied_to(&self, config: &Arc<Config>) -> Arc<Config> {
        let weights = || {
            let set = self.set.iter();
            set.filter_map(|(id, set)| Some((id, set.weight?)))
        };
        if weights().next().is_none() {
            return Arc::clone(config);
        }
        let mut changed = Config::clone(config);
        for (id, weight) in weights() {
            let pool = changed.pools.iter_mut().find(|pool| pool.name == id.pool);
            let Some(pool) = pool else { continue };
            for backend in &mut Arc::make_mut(pool).backends {
                if backend.address == id.address {
                    backend.weight = weight;
                }
            }
        }
        Arc::new(changed)
    }

    /// Writes them down: whole, or not at all.
    pub(crate) fn keep(&self) -> Result<()> {
        let items: Vec<Value> = self
            .set
            .iter()
            .map(|(id, set)| {
                json!({
                    "pool": id.pool.as_str(), "address": id.address.to_string(),
                    "state": set.state, "weight": set.weight,
                })
            })
            .collect();
        let text = format!("{:#}\n", json!({ "overrides": items }));
        let write = || -> io::Result<()> {
            if let Some(folder) = self.file.parent() {
                fs::create_dir_all(folder)?;
            }
            let fresh = self.file.with_extension("json.new");
            let mut file = File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.file)
        };
        write().with_context(|| format!("keep the overrides in {}", self.file.display()))
    }
}

fn known(backend: &BackendName, config: &Config) -> Result<BackendId, OrderError> {
    let pool = config.pools.iter().find(|pool| {
        pool.name.as_str() == backend.pool
            && pool.backends.iter().any(|b| b.address == backend.address)
    });
    let pool = pool.ok_or_else(|| OrderError::NoBackend(backend.to_string()))?;
    Ok(BackendId {
        pool: pool.name.clone(),
        address: backend.address,
    })
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<BackendId, Override>> {
    let json: Value = serde_json::from_slice(bytes)?;
    let items = json["overrides"].as_array().context("no `overrides`")?;
    let mut set = BTreeMap::new();
    for item in items {
        let pool = item["pool"].as_str().context("no `pool`")?;
        let id = BackendId {
            pool: Name::parse(pool)?,
            address: item["address"].as_str().context("no `address`")?.parse()?,
        };
        let of = |key: &str| item.get(key).cloned().unwrap_or(Value::Null);
        let weight: Option<u16> = serde_json::from_value(of("weight"))?;
        anyhow::ensure!(
            weight.is_none_or(|weight| weight <= MAX_WEIGHT),
            "the weight of {id} is too large"
        );
        let state = serde_json::from_value(of("state"))?;
        set.insert(id, Override { state, weight });
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[listener]]
        name = "a"
        bind = "127.0.0.1:80"
        protocol = "tcp"
        pool = "a"
        [[pool]]
        name = "a"
        backend = [{ address = "10.0.0.1:80", weight = 3 }, { address = "10.0.0.2:80" }]
    "#;

    fn config(text: &str) -> Arc<Config> {
        Arc::new(
            Config::parse(text, Path::new("weir.toml")).unwrap_or_else(|errors| panic!("{errors}")),
        )
    }

    fn backend(address: &str) -> BackendName {
        BackendName {
            pool: "a".to_owned(),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn overrides_outlive_the_daemon_and_not_their_backend() {
        let folder = std::env::temp_dir().join(format!("weir-overrides-{}", std::process::id()));
        let load = |text: &str| Overrides::load(&folder, "lb-1", &config(text)).unwrap();
        let both = config(TEXT);
        let draining = Override {
            state: Some(OverrideState::Draining),
            weight: None,
        };
        let heavier = Override {
            state: None,
            weight: Some(7),
        };
        let overrides = load(TEXT)
            .after(&Order::Set(backend("10.0.0.1:80"), draining), &both)
            .and_then(|set| set.after(&Order::Set(backend("10.0.0.1:80"), heavier), &both))
            .and_then(|set| set.after(&Order::Set(backend("10.0.0.2:80"), draining), &both))
            .unwrap();
        overrides.keep().unwrap();
        let mut again = load(TEXT);
        assert_eq!(again.set, overrides.set);
        let weights = |config: &Config| -> Vec<u16> {
            config.pools[0].backends.iter().map(|b| b.weight).collect()
        };
        assert_eq!(weights(&again.applied_to(&both)), [7, 1]);
        assert_eq!(weights(&both), [3, 1]);

        let one = config(&TEXT.replace("{ address = \"10.0.0.1:80\", weight = 3 }, ", ""));
        assert!(!again.forget_all_but(&both));
        assert!(again.forget_all_but(&one));
        assert_eq!(again.set.len(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_not_there_cannot_be_overridden_or_cleared() {
        let config = config(TEXT);
        let overrides = Overrides {
            file: PathBuf::new(),
            set: BTreeMap::new(),
        };
        let stranger = backend("10.0.0.9:80");
        let refused = overrides.after(&Order::Set(stranger.clone(), Override::default()), &config);
        assert_eq!(
            refused.unwrap_err(),
            OrderError::NoBackend(stranger.to_string())
        );
        let plain = backend("10.0.0.1:80");
        let refused = overrides.after(&Order::Clear(plain.clone()), &config);
        assert_eq!(
            refused.unwrap_err(),
            OrderError::NoOverride(plain.to_string())
        );
    }

    #[test]
    fn a_file_that_is_not_ours_is_an_error() {
        for text in [
            "",
            "{}",
            r#"{"overrides":[{"pool":"a"}]}"#,
            r#"{"overrides":[{"pool":"a","address":"x"}]}"#,
            r#"{"overrides":[{"pool":"a","address":"10.0.0.1:80","weight":1001}]}"#,
            r#"{"overrides":[{"pool":"a","address":"10.0.0.1:80","state":"gone"}]}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
