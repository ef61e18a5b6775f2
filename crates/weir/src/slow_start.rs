//! Backends that start slowly: their share of the work grows from the moment they come back, or join.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weir_model::{Backend, BackendId, BackendState, Config, Pool, Share, Snapshot};

/// Steps in which a share grows; each is a change that the data planes follow.
const STEPS: u32 = 20;
/// A step is no shorter than this, so that many backends that come back do not keep the owner busy.
const STEP_MIN: Duration = Duration::from_millis(200);

/// Since when each backend that has not its whole share yet takes work.
#[derive(Debug, Default)]
pub(crate) struct SlowStart {
    since: HashMap<BackendId, Instant>,
}

impl SlowStart {
    /// Writes shares into the states that are about to follow the snapshot `before`. When the next step is due; `None`
    /// where every backend has its whole share.
    pub(crate) fn follow(
        &mut self,
        before: &Snapshot,
        config: &Config,
        states: &mut HashMap<BackendId, BackendState>,
        now: Instant,
    ) -> Option<Instant> {
        let mut rising = HashMap::new();
        let mut next: Option<Instant> = None;
        for pool in &config.pools {
            let Some(time) = pool.slow_start else {
                continue;
            };
            // What begins with its pool begins alike.
            let Some(pool_before) = before.config.pool(&pool.name) else {
                continue;
            };
            let took = took_work(before, pool_before);
            for backend in &pool.backends {
                let id = BackendId {
                    pool: pool.name.clone(),
                    address: backend.address,
                };
                let state = states.get(&id).copied().unwrap_or_default();
                if !takes_work(backend, state) {
                    continue;
                }
                let since = match self.since.get(&id) {
                    Some(since) => *since,
                    None if took.contains(&backend.address) => continue,
                    None => now,
                };
                let passed = now.duration_since(since);
                if passed >= time {
                    continue;
                }
                states.entry(id.clone()).or_default().share = share(passed, time);
                rising.insert(id, since);
                let step = (time / STEPS).max(STEP_MIN);
                next = Some(next.map_or(now + step, |next| next.min(now + step)));
            }
        }
        self.since = rising;
        next
    }
}

/// Linear, and never nothing.
fn share(passed: Duration, time: Duration) -> Share {
    let part = passed.as_secs_f64() / time.as_secs_f64();
    Share::percent((part * 100.0).clamp(1.0, 100.0) as u8)
}

fn takes_work(backend: &Backend, state: BackendState) -> bool {
    backend.weight > 0 && state.health.takes_new_work() && !state.draining
}

/// The backends of a pool that took new work in a snapshot.
fn took_work(before: &Snapshot, pool: &Arc<Pool>) -> HashSet<SocketAddr> {
    let took = |backend: &&Backend| {
        let id = BackendId {
            pool: pool.name.clone(),
            address: backend.address,
        };
        takes_work(backend, before.state(&id))
    };
    pool.backends
        .iter()
        .filter(took)
        .map(|backend| backend.address)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weir_model::{Health, Name};

    use super::*;

    const TIME: Duration = Duration::from_secs(20);

    /// A pool with these last numbers of backends, and those of them that are down.
    fn snapshot(backends: &[u8], down: &[u8], more: &str) -> Snapshot {
        let list: String = backends
            .iter()
            .map(|last| format!("{{ address = \"10.0.0.{last}:80\" }}, "))
            .collect();
        let text = format!(
            "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:80\"\nprotocol = \"tcp\"\npool = \"a\"\n\
             [[pool]]\nname = \"a\"\n{more}\nbackend = [{list}]\n"
        );
        let config = Config::parse(&text, Path::new("weir.toml"))
            .unwrap_or_else(|errors| panic!("{errors}"));
        let mut snapshot = Snapshot::new(Arc::new(config));
        for last in down {
            snapshot.backends.entry(id(*last)).or_default().health = Health::Down;
        }
        snapshot
    }

    fn id(last: u8) -> BackendId {
        BackendId {
            pool: Name::new("a"),
            address: ([10, 0, 0, last], 80).into(),
        }
    }

    struct World {
        slow: SlowStart,
        now: Instant,
        present: Snapshot,
    }

    impl World {
        fn new(present: Snapshot) -> Self {
            Self {
                slow: SlowStart::default(),
                now: Instant::now(),
                present,
            }
        }

        /// The share of a backend after another snapshot has followed, and how long until the next step.
        fn follow(&mut self, mut next: Snapshot, last: u8) -> (Share, Option<Duration>) {
            let mut states = std::mem::take(&mut next.backends);
            let due = self
                .slow
                .follow(&self.present, &next.config, &mut states, self.now);
            next.backends = states;
            self.present = next;
            (
                self.present.state(&id(last)).share,
                due.map(|due| due - self.now),
            )
        }
    }

    #[test]
    fn a_backend_that_comes_back_rises_to_its_whole_share() {
        let slow = "slow_start = \"20s\"";
        let mut world = World::new(snapshot(&[1, 2], &[], slow));
        let step = Some(TIME / STEPS);
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[2], slow), 2),
            (Share::FULL, None)
        );
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[], slow), 2),
            (Share::percent(1), step)
        );
        world.now += TIME / 2;
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[], slow), 2),
            (Share::percent(50), step)
        );
        assert_eq!(world.present.state(&id(1)).share, Share::FULL);
        world.now += TIME / 2;
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[], slow), 2),
            (Share::FULL, None)
        );
        world.now += TIME / 2;
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[], slow), 2),
            (Share::FULL, None),
            "it has risen"
        );
    }

    #[test]
    fn one_that_fails_while_it_rises_begins_again() {
        let slow = "slow_start = \"20s\"";
        let mut world = World::new(snapshot(&[1, 2], &[2], slow));
        world.follow(snapshot(&[1, 2], &[], slow), 2);
        world.now += TIME / 2;
        world.follow(snapshot(&[1, 2], &[2], slow), 2);
        let (share, _) = world.follow(snapshot(&[1, 2], &[], slow), 2);
        assert_eq!(share, Share::percent(1));
    }

    #[test]
    fn one_that_joins_rises_and_those_that_begin_with_the_pool_do_not() {
        let slow = "slow_start = \"20s\"";
        let mut world = World::new(snapshot(&[1, 2], &[], slow));
        assert_eq!(
            world.follow(snapshot(&[1, 2, 3], &[], slow), 3).0,
            Share::percent(1)
        );
        assert_eq!(world.present.state(&id(2)).share, Share::FULL);
        let empty = Snapshot::new(Arc::new(
            Config::parse("", Path::new("weir.toml")).unwrap_or_else(|errors| panic!("{errors}")),
        ));
        let mut world = World::new(empty);
        assert_eq!(
            world.follow(snapshot(&[1, 2], &[], slow), 1),
            (Share::FULL, None)
        );
    }

    #[test]
    fn without_the_setting_everything_counts_at_once() {
        let mut world = World::new(snapshot(&[1, 2], &[2], ""));
        assert_eq!(
            world.follow(snapshot(&[1, 2, 3], &[], ""), 2),
            (Share::FULL, None)
        );
    }
}
