//! The one owner of the node's state.
//!
//! Every change is a [`Command`] that comes in through the [`Inbox`]. The owner builds the next [`Snapshot`], has
//! every data plane prepare it, and commits it everywhere or nowhere.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_api::Access;
use weir_api::order::{Ask, Order, OrderError, Override, OverrideState};
use weir_health::{Checker, HealthEvent, Wanted};
use weir_model::{BackendId, BackendState, Config, Health, Name, OnStop, Pool, Snapshot};

use crate::cause::told;
use crate::difference::Difference;
use crate::inbox::{Command, Inbox, Signals};
use crate::node::{self, Node};
use crate::overrides::Overrides;
use crate::planes::Planes;
use crate::slow_start::SlowStart;
use crate::{check, notify, restart, run};

/// News that wait for the owner. A check that finds the queue full waits with its news.
const HEALTH_EVENTS: usize = 1024;
/// After a data plane could not follow a change of health.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All work was done.
    Done,
    /// Work was cut off, at the deadline or by a second signal.
    CutOff,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Done => Self::SUCCESS,
            Ended::CutOff => Self::from(3),
        }
    }
}

/// The owner.
pub(crate) struct Control {
    file: PathBuf,
    planes: Arc<Planes>,
    checker: Checker,
    access: Access,
    node: Arc<Node>,
    /// What is in force: the file's config with what operators have set.
    snapshot: Arc<Snapshot>,
    /// The file's config.
    config: Arc<Config>,
    overrides: Overrides,
    /// When to try again what a data plane could not follow.
    retry_at: Option<Instant>,
    slow_start: SlowStart,
    /// When a backend that starts slowly is due for more.
    step_at: Option<Instant>,
    inbox: Inbox,
}

impl Control {
    /// Puts a config in force for the first time and begins to check its backends.
    pub(crate) fn start(
        file: &Path,
        config: Config,
        planes: Arc<Planes>,
        access: Access,
        (signals, orders): (Signals, mpsc::Receiver<Ask>),
    ) -> Result<Self> {
        let (events, health) = mpsc::channel(HEALTH_EVENTS);
        let inbox = Inbox {
            signals,
            health,
            orders,
        };
        let config = Arc::new(config);
        let node = &config.node;
        let overrides = Overrides::load(&node.state_dir, &node::name(node), &config)?;
        let mut checker = Checker::new(events);
        let mut states = known_down(&config, planes.idle_before());
        checker.inherit(states.keys().map(|id| (id.clone(), Health::Down)));
        take_out(&overrides, &mut states);
        let snapshot = Arc::new(Snapshot {
            generation: 1,
            backends: states,
            ..Snapshot::new(overrides.applied_to(&config))
        });
        planes.begin(planes.prepare(&snapshot)?)?;
        checker.apply(checks(&snapshot.config, &overrides));
        let node = Arc::new(Node::new(
            Arc::clone(&planes),
            checker.reports(),
            Arc::clone(&snapshot),
        ));
        node.overridden(overrides.all().clone());
        Ok(Self {
            file: file.to_owned(),
            planes,
            checker,
            access,
            node,
            snapshot,
            config,
            overrides,
            retry_at: None,
            slow_start: SlowStart::default(),
            step_at: None,
            inbox,
        })
    }

    /// What the API shows.
    pub(crate) fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node)
    }

    /// Obeys until told to stop, then drains.
    pub(crate) async fn run(mut self) -> Ended {
        loop {
            let due = [self.retry_at, self.step_at].into_iter().flatten().min();
            match self.inbox.next(due).await {
                Command::Reload => self.reload(),
                Command::ReopenLogs => self.planes.reopen_access_logs(),
                Command::Health(events) => {
                    events.iter().for_each(tell);
                    self.follow_health();
                }
                Command::Order(Ask { order, reply }) => {
                    // Who has ordered may have gone.
                    let _ = reply.send(self.obey(&order));
                }
                Command::Retry => self.follow_health(),
                Command::Stop => return self.drain().await,
            }
        }
    }

    fn reload(&mut self) {
        // Whatever becomes of the config: who has moved a log away sends this signal as well.
        self.planes.reopen_access_logs();
        let outcome = self.try_reload();
        self.node.reloaded(outcome.is_ok());
        match outcome {
            Ok(difference) => tracing::info!(file = %self.file.display(), "reloaded: {difference}"),
            Err(error) => {
                tracing::error!(file = %self.file.display(), "reload refused, everything stays as it was: {}", told(&error));
            }
        }
    }

    fn try_reload(&mut self) -> Result<Difference> {
        let mut config = check::load(&self.file)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let fixed = restart::needed(&self.snapshot.config, &config);
        if !fixed.is_empty() {
            bail!("a restart is needed to change {}", fixed.join(", "));
        }
        let token = run::token(&config.api)?;
        let difference = Difference::between(&self.config, &config);
        share_unchanged(&self.snapshot.config, &mut config);
        let config = Arc::new(config);
        let mut overrides = self.overrides.clone();
        let has_lost = overrides.forget_all_but(&config);
        let applied = overrides.applied_to(&config);
        let backends = self.states(&applied, &overrides);
        self.publish(applied, backends)?;
        self.config = config;
        self.set_overrides(overrides);
        if has_lost && let Err(error) = self.overrides.keep() {
            // They are of backends that are gone: the next start forgets them as well.
            tracing::warn!("{}", told(&error));
        }
        self.access.set(token);
        // A backend that joins a check which is already running has a health from the start.
        self.follow_health();
        Ok(difference)
    }

    /// Does what an operator orders: kept, in force everywhere, or refused and nothing has changed.
    fn obey(&mut self, order: &Order) -> Result<Override, OrderError> {
        let failed = |error: &anyhow::Error| OrderError::Failed(told(error));
        let next = self.overrides.after(order, &self.config)?;
        next.keep().map_err(|error| failed(&error))?;
        let config = next.applied_to(&self.config);
        let backends = self.states(&config, &next);
        if let Err(error) = self.publish(config, backends) {
            if let Err(kept) = self.overrides.keep() {
                tracing::error!("an order that is not in force is kept: {}", told(&kept));
            }
            return Err(failed(&error));
        }
        self.set_overrides(next);
        self.follow_health();
        let (Order::Set(backend, _) | Order::Clear(backend)) = order;
        let set = self
            .overrides
            .all()
            .iter()
            .find(|(id, _)| id.pool.as_str() == backend.pool && id.address == backend.address);
        let set = set.map(|(_, set)| *set).unwrap_or_default();
        let state = set.state.map(OverrideState::as_str);
        tracing::info!(pool = %backend.pool, backend = %backend.address, state, weight = set.weight, "override set");
        Ok(set)
    }

    fn set_overrides(&mut self, overrides: Overrides) {
        self.checker
            .apply(checks(&self.snapshot.config, &overrides));
        self.node.overridden(overrides.all().clone());
        self.overrides = overrides;
    }

    /// Publishes what the health checks now say, if it is not what is in force.
    fn follow_health(&mut self) {
        self.retry_at = None;
        let config = Arc::clone(&self.snapshot.config);
        let overrides = self.overrides.clone();
        let backends = self.states(&config, &overrides);
        if backends == self.snapshot.backends {
            return;
        }
        if let Err(error) = self.publish(config, backends) {
            tracing::error!(
                "a change of health could not be applied, trying again: {}",
                told(&error)
            );
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
    }

    /// Puts a config with the state of its backends in force, everywhere or nowhere.
    fn publish(
        &mut self,
        config: Arc<Config>,
        backends: HashMap<BackendId, BackendState>,
    ) -> Result<()> {
        let start = Instant::now();
        let next = Arc::new(Snapshot {
            generation: self.snapshot.generation + 1,
            config,
            backends,
        });
        let prepared = self.planes.prepare(&next)?;
        self.planes.commit(prepared);
        tracing::debug!(generation = next.generation, took = ?start.elapsed(), "snapshot in force");
        for pool in newly_empty(&self.snapshot, &next) {
            tracing::error!(%pool, "no backend of the pool takes new work");
        }
        self.node.published(Arc::clone(&next));
        self.snapshot = next;
        Ok(())
    }

    /// The backends of a config whose state is not the default: those with a check and a verdict, those that operators
    /// have taken out, and those that start slowly.
    fn states(
        &mut self,
        config: &Config,
        overrides: &Overrides,
    ) -> HashMap<BackendId, BackendState> {
        let mut verdicts = self.checker.reports().verdicts();
        verdicts.retain(|id, health| {
            *health != Health::Unknown
                && config
                    .pool(&id.pool)
                    .is_some_and(|pool| pool.health.is_some())
        });
        let state = |(id, health)| {
            (
                id,
                BackendState {
                    health,
                    ..BackendState::default()
                },
            )
        };
        let mut states = verdicts.into_iter().map(state).collect();
        take_out(overrides, &mut states);
        self.step_at = self
            .slow_start
            .follow(&self.snapshot, config, &mut states, Instant::now());
        states
    }

    async fn drain(mut self) -> Ended {
        let timeout = self.snapshot.config.node.drain_timeout;
        tracing::info!(
            ?timeout,
            "draining: no new work; a second signal ends at once"
        );
        self.node.drains();
        notify::stopping();
        let l4 = self.snapshot.config.l4.as_ref();
        let on_stop = l4.map(|l4| l4.on_stop).unwrap_or_default();
        if on_stop == OnStop::Drain {
            self.give_no_new_sessions();
        }
        let drained = Arc::clone(&self.planes).drain(timeout, on_stop);
        tokio::pin!(drained);
        let ended = loop {
            tokio::select! {
                ended = &mut drained => break ended,
                command = self.inbox.next(None) => match command {
                    Command::Stop => break Ended::CutOff,
                    Command::Reload => tracing::warn!("no reload while draining"),
                    Command::ReopenLogs => self.planes.reopen_access_logs(),
                    Command::Order(ask) => {
                        let _ = ask.reply.send(Err(OrderError::Stopping));
                    }
                    Command::Health(_) | Command::Retry => {}
                },
            }
        };
        match ended {
            Ended::Done => tracing::info!("stopped, all work done"),
            Ended::CutOff => tracing::warn!("stopped, work cut off"),
        }
        self.planes.stop(on_stop);
        ended
    }

    /// Drains every backend in the eyes of layer 4, which then takes no new sessions. Layer 7 does not accept any
    /// more, but still has backends for requests that come on the connections it has.
    fn give_no_new_sessions(&self) {
        let mut last = Snapshot::clone(&self.snapshot);
        last.generation += 1;
        for (id, ..) in self.snapshot.config.backends() {
            last.backends.entry(id).or_default().draining = true;
        }
        if let Err(error) = self.planes.publish_to_layer4(&Arc::new(last)) {
            tracing::warn!(
                "layer 4 goes on taking new sessions until the end: {}",
                told(&error)
            );
        }
    }
}

/// Backends that the former daemon gave no new sessions and that have a check: they stay down until their first check
/// has passed. Without one, nobody would ever say that they are up again.
fn known_down(config: &Config, idle: Vec<BackendId>) -> HashMap<BackendId, BackendState> {
    let is_checked = |id: &BackendId| {
        config.pool(&id.pool).is_some_and(|pool| {
            pool.health.is_some()
                && pool
                    .backends
                    .iter()
                    .any(|backend| backend.address == id.address)
        })
    };
    let down = BackendState {
        health: Health::Down,
        ..BackendState::default()
    };
    idle.into_iter()
        .filter(is_checked)
        .map(|id| (id, down))
        .collect()
}

/// Gives no new work to what operators have taken out.
fn take_out(overrides: &Overrides, states: &mut HashMap<BackendId, BackendState>) {
    for (id, set) in overrides.all() {
        if set.state.is_some() {
            states.entry(id.clone()).or_default().draining = true;
        }
    }
}

/// Every backend that is to be checked, and how. One that somebody works on is not.
fn checks(config: &Config, overrides: &Overrides) -> impl Iterator<Item = Wanted> {
    config.backends().filter_map(|(id, backend, pool)| {
        if overrides.of(&id).state == Some(OverrideState::Disabled) {
            return None;
        }
        let check = Arc::new(pool.health.clone()?);
        Some(Wanted {
            backend: id,
            address: backend.checked_at(&check),
            check,
        })
    })
}

/// Listeners and pools that are as before are shared with the config before, so that data planes see by pointer
/// that nothing has changed. Of listeners with certificates nobody can say that: a reload is how renewed ones are
/// read.
fn share_unchanged(before: &Config, config: &mut Config) {
    for listener in &mut config.listeners {
        if let Some(same) = before
            .listener(&listener.name)
            .filter(|same| *same == listener && same.certificates.is_empty())
        {
            *listener = Arc::clone(same);
        }
    }
    for pool in &mut config.pools {
        if let Some(same) = before.pool(&pool.name).filter(|same| *same == pool) {
            *pool = Arc::clone(same);
        }
    }
}

/// Pools in which a backend has gone down, and none takes new work now.
fn newly_empty<'s>(before: &Snapshot, now: &'s Snapshot) -> BTreeSet<&'s Name> {
    let gone = now
        .backends
        .keys()
        .filter(|id| !now.takes_new_work(id) && before.takes_new_work(id));
    let takes_work = |pool: &Pool| {
        pool.backends.iter().any(|backend| {
            let id = BackendId {
                pool: pool.name.clone(),
                address: backend.address,
            };
            backend.weight > 0 && now.takes_new_work(&id)
        })
    };
    let pools: BTreeSet<&Name> = gone.map(|id| &id.pool).collect();
    pools
        .into_iter()
        .filter(|name| now.config.pool(name).is_some_and(|pool| !takes_work(pool)))
        .collect()
}

fn tell(event: &HealthEvent) {
    let HealthEvent {
        backend,
        health,
        reason,
    } = event;
    match health {
        Health::Down => {
            tracing::warn!(pool = %backend.pool, backend = %backend.address, reason, "backend is down");
        }
        Health::Up | Health::Unknown => {
            tracing::info!(pool = %backend.pool, backend = %backend.address, reason, "backend is up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Arc<Config> {
        Arc::new(
            Config::parse(text, Path::new("weir.toml")).unwrap_or_else(|errors| panic!("{errors}")),
        )
    }

    const TWO_POOLS: &str = r#"
        [[pool]]
        name = "a"
        health = { type = "tcp" }
        backend = [{ address = "10.0.0.1:80" }, { address = "10.0.0.2:80" }, { address = "10.0.0.3:80", weight = 0 }]
        [[pool]]
        name = "b"
        backend = [{ address = "10.0.0.1:80" }]
        [[listener]]
        name = "a"
        bind = "127.0.0.1:80"
        protocol = "tcp"
        pool = "a"
        [[listener]]
        name = "b"
        bind = "127.0.0.1:443"
        protocol = "https"
        certificates = [{ cert_file = "c", key_file = "k" }]
        pool = "b"
    "#;

    /// The snapshot in which these backends of pool `a` are down.
    fn snapshot(down: &[u8]) -> Snapshot {
        let mut snapshot = Snapshot::new(config(TWO_POOLS));
        for last in down {
            let id = BackendId {
                pool: Name::new("a"),
                address: ([10, 0, 0, *last], 80).into(),
            };
            snapshot.backends.insert(
                id,
                BackendState {
                    health: Health::Down,
                    ..BackendState::default()
                },
            );
        }
        snapshot
    }

    #[test]
    fn pool_is_newly_empty_once() {
        let check = |before: &[u8], now: &[u8], expected: &[&str]| {
            let (before, now) = (snapshot(before), snapshot(now));
            let names: Vec<&str> = newly_empty(&before, &now)
                .into_iter()
                .map(Name::as_str)
                .collect();
            assert_eq!(names, expected);
        };
        check(&[], &[1], &[]);
        check(&[1], &[1, 2], &["a"]);
        check(&[], &[1, 2, 3], &["a"]);
        check(&[1, 2], &[1, 2], &[]);
        check(&[1, 2], &[2], &[]);
    }

    #[test]
    fn what_has_not_changed_is_shared_but_for_certificates() {
        let before = config(TWO_POOLS);
        let mut now = Config::clone(&config(&TWO_POOLS.replace("10.0.0.3", "10.0.0.4")));
        share_unchanged(&before, &mut now);
        let is_shared = [
            Arc::ptr_eq(&before.listeners[0], &now.listeners[0]),
            Arc::ptr_eq(&before.listeners[1], &now.listeners[1]),
            Arc::ptr_eq(&before.pools[0], &now.pools[0]),
            Arc::ptr_eq(&before.pools[1], &now.pools[1]),
        ];
        assert_eq!(is_shared, [true, false, false, true]);
        assert_eq!(now.pools[0].backends[2].address.to_string(), "10.0.0.4:80");
    }

    #[test]
    fn checks_are_those_of_pools_that_have_one() {
        let ids: Vec<String> = checks(&config(TWO_POOLS), &Overrides::default())
            .map(|wanted| wanted.backend.to_string())
            .collect();
        assert_eq!(ids, ["a/10.0.0.1:80", "a/10.0.0.2:80", "a/10.0.0.3:80"]);
    }
}
