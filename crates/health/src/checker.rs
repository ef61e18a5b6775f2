//! Runs the checks and keeps what they showed.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use weir_model::{BackendId, Health, HealthCheck};

use crate::probe::{self, Outcome, Rest, Way};
use crate::schedule::Schedule;
use crate::tls::TlsClients;
use crate::verdict::Verdict;

/// Checks under way at one time. Each holds a file descriptor, of which the proxy needs its own; a check that
/// waits for its turn is late, and its timeout starts when it gets it.
const CHECKS_AT_ONCE: usize = 4096;

/// A check that begins so long after it was due counts as late: too many were under way, or the threads that run
/// them had no time.
const LATE: Duration = Duration::from_millis(100);

/// A backend's health has changed.
///
/// It is news, and can be overtaken by a change of the checks: the state to act upon is [`Reports::health`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// Whose.
    pub backend: BackendId,
    /// The new verdict.
    pub health: Health,
    /// Why, for people: "status 503, expected 200-399", or "check passed".
    pub reason: String,
}

/// What is known about one backend from its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The verdict.
    pub health: Health,
    /// When the verdict came to be; the check's start while nothing is known.
    pub since: SystemTime,
    /// Why the verdict is what it is.
    pub reason: String,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks that could not be made for want of our own resources.
    pub inconclusive: u64,
    /// How long the last check took; none before the first.
    pub last_duration: Option<Duration>,
    /// Why the last check that did not pass did not; none when all have.
    pub last_failure: Option<String>,
}

/// Asks a backend once. The checker's own way is [`probe::probe`]; tests have others.
pub trait Ask: Send + Sync + 'static {
    /// As [`probe::probe`].
    fn ask(
        &self,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> impl Future<Output = (Outcome, Option<Rest>)> + Send;
}

/// Asks over real sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    tls: TlsClients,
}

impl Ask for Sockets {
    async fn ask(&self, address: SocketAddr, check: &HealthCheck) -> (Outcome, Option<Rest>) {
        let tls = match &check.tls {
            None => None,
            Some(tls) => match self.tls.client(tls) {
                Ok(client) => Some(client),
                Err(error) => return (Outcome::Inconclusive(error.to_string()), None),
            },
        };
        let way = Way {
            tls: tls.as_deref(),
            proxy_protocol: check.proxy_protocol,
        };
        probe::probe(address, &check.probe, &way, check.timeout).await
    }
}

/// A check that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose health it is about.
    pub backend: BackendId,
    /// Who is asked.
    pub address: SocketAddr,
    /// What is asked.
    pub check: Arc<HealthCheck>,
}

impl From<(BackendId, HealthCheck)> for Wanted {
    /// The backend itself is asked.
    fn from((backend, check): (BackendId, HealthCheck)) -> Self {
        Self {
            address: backend.address,
            backend,
            check: Arc::new(check),
        }
    }
}

/// What makes two checks the same.
type Key = (SocketAddr, Arc<HealthCheck>);

/// Runs the health checks of a node. Dropping it ends them.
#[derive(Debug)]
pub struct Checker<A: Ask = Sockets> {
    ask: Arc<A>,
    events: mpsc::Sender<HealthEvent>,
    runtime: Handle,
    turns: Arc<Semaphore>,
    reports: Reports,
    checks: HashMap<Key, Running>,
    /// Verdicts from before this process.
    inherited: HashMap<BackendId, Health>,
}

/// A check that runs.
#[derive(Debug)]
struct Running {
    check: Arc<Mutex<Check>>,
    task: AbortHandle,
}

/// The state of one check, shared by its task and whoever asks.
#[derive(Debug)]
struct Check {
    verdict: Verdict,
    report: HealthReport,
    /// Whose health this is.
    backends: BTreeSet<BackendId>,
    /// Whether the last one could not be made for want of our own resources.
    lacking: bool,
}

impl Checker {
    /// Nothing is checked yet. Checks run on the present runtime; changes are told through `events`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(events: mpsc::Sender<HealthEvent>) -> Self {
        Self::with(Sockets::default(), events)
    }
}

impl<A: Ask> Checker<A> {
    /// As [`Checker::new`], with another way to ask.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with(ask: A, events: mpsc::Sender<HealthEvent>) -> Self {
        Self {
            ask: Arc::new(ask),
            events,
            runtime: Handle::current(),
            turns: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            reports: Reports::default(),
            checks: HashMap::new(),
            inherited: HashMap::new(),
        }
    }

    /// These verdicts were known before this process. With the next [`Checker::apply`] they stand until the first
    /// result, which decides as ever.
    pub fn inherit(&mut self, verdicts: impl IntoIterator<Item = (BackendId, Health)>) {
        self.inherited.extend(verdicts);
    }

    /// What is known, readable from everywhere.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// These backends are checked from now on, and no others. What does not change goes on undisturbed; a backend
    /// whose check has changed keeps its health until the first result of the new one.
    pub fn apply<W: Into<Wanted>>(&mut self, wanted: impl IntoIterator<Item = W>) {
        let mut by_key: HashMap<Key, BTreeSet<BackendId>> = HashMap::new();
        for wanted in wanted {
            let Wanted {
                backend,
                address,
                check,
            } = wanted.into();
            by_key.entry((address, check)).or_default().insert(backend);
        }
        self.checks.retain(|key, running| {
            let goes_on = by_key.contains_key(key);
            if !goes_on {
                running.task.abort();
            }
            goes_on
        });
        let mut by_backend = HashMap::new();
        for (key, backends) in by_key {
            let check = match self.checks.get(&key) {
                Some(running) => {
                    lock(&running.check).backends.clone_from(&backends);
                    Arc::clone(&running.check)
                }
                None => self.start(key, backends.clone()),
            };
            by_backend.extend(
                backends
                    .into_iter()
                    .map(|backend| (backend, Arc::clone(&check))),
            );
        }
        *lock(&self.reports.checks) = by_backend;
        self.inherited.clear();
    }

    fn start(&mut self, key: Key, backends: BTreeSet<BackendId>) -> Arc<Mutex<Check>> {
        let (address, settings) = &key;
        let inherited = backends
            .iter()
            .map(|backend| match self.reports.health(backend) {
                Health::Unknown => self.inherited.get(backend).copied().unwrap_or_default(),
                known => known,
            })
            .find(|&h| h != Health::Unknown);
        let verdict =
            Verdict::inherited(settings.rise, settings.fall, inherited.unwrap_or_default());
        let report = HealthReport {
            health: verdict.health(),
            since: SystemTime::now(),
            reason: "not checked yet".to_owned(),
            passed: 0,
            failed: 0,
            inconclusive: 0,
            last_duration: None,
            last_failure: None,
        };
        let check = Arc::new(Mutex::new(Check {
            verdict,
            report,
            backends,
            lacking: false,
        }));
        let task = Task {
            address: *address,
            settings: Arc::clone(settings),
            ask: Arc::clone(&self.ask),
            turns: Arc::clone(&self.turns),
            events: self.events.clone(),
            check: Arc::clone(&check),
            late: Arc::clone(&self.reports.late),
        };
        let task = self.runtime.spawn(task.run()).abort_handle();
        self.checks.insert(
            key,
            Running {
                check: Arc::clone(&check),
                task,
            },
        );
        check
    }
}

impl<A: Ask> Drop for Checker<A> {
    fn drop(&mut self) {
        self.checks
            .values()
            .for_each(|running| running.task.abort());
    }
}

/// What the checks have shown so far. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    checks: Arc<Mutex<HashMap<BackendId, Arc<Mutex<Check>>>>>,
    late: Arc<AtomicU64>,
}

impl Reports {
    /// The verdict on a backend; unknown when it is not checked.
    pub fn health(&self, backend: &BackendId) -> Health {
        lock(&self.checks)
            .get(backend)
            .map(|check| lock(check).verdict.health())
            .unwrap_or_default()
    }

    /// The verdicts on all backends that are checked.
    pub fn verdicts(&self) -> HashMap<BackendId, Health> {
        lock(&self.checks)
            .iter()
            .map(|(backend, check)| (backend.clone(), lock(check).verdict.health()))
            .collect()
    }

    /// Checks that began more than 100 ms late: while there are many, failures are found later than promised.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// The report on a backend; none when it is not checked.
    pub fn report(&self, backend: &BackendId) -> Option<HealthReport> {
        lock(&self.checks)
            .get(backend)
            .map(|check| lock(check).report.clone())
    }
}

/// The task behind one check.
struct Task<A> {
    address: SocketAddr,
    settings: Arc<HealthCheck>,
    ask: Arc<A>,
    turns: Arc<Semaphore>,
    events: mpsc::Sender<HealthEvent>,
    check: Arc<Mutex<Check>>,
    late: Arc<AtomicU64>,
}

impl<A: Ask> Task<A> {
    async fn run(self) {
        let start = Instant::now();
        let mut schedule = Schedule::new(&(self.address, &self.settings), self.settings.interval);
        loop {
            sleep_until(start + schedule.next()).await;
            let Ok(turn) = self.turns.acquire().await else {
                return;
            };
            let asked = Instant::now();
            if asked > start + schedule.next() + LATE {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            // In boxes, so that the many checks that wait are small.
            let (outcome, rest) = Box::pin(self.ask.ask(self.address, &self.settings)).await;
            let news = lock(&self.check).record(outcome, asked.elapsed());
            for event in news {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            if let Some(rest) = rest {
                Box::pin(rest.finish()).await;
            }
            drop(turn);
            schedule.advance(start.elapsed());
        }
    }
}

impl Check {
    /// Takes in an outcome; returns what there is to tell.
    fn record(&mut self, outcome: Outcome, took: Duration) -> Vec<HealthEvent> {
        self.report.last_duration = Some(took);
        let (passed, reason) = match outcome {
            Outcome::Passed => {
                self.report.passed += 1;
                (true, "check passed".to_owned())
            }
            Outcome::Failed(failure) => {
                self.report.failed += 1;
                (false, failure.to_string())
            }
            Outcome::Inconclusive(reason) => {
                if !std::mem::replace(&mut self.lacking, true) {
                    tracing::warn!(reason, "health checks cannot be made; the verdict stays");
                }
                self.report.inconclusive += 1;
                self.report.last_failure = Some(reason);
                return Vec::new();
            }
        };
        self.lacking = false;
        if !passed {
            self.report.last_failure = Some(reason.clone());
        }
        let Some(health) = self.verdict.record(passed) else {
            return Vec::new();
        };
        self.report.health = health;
        self.report.since = SystemTime::now();
        self.report.reason.clone_from(&reason);
        let event = |backend: &BackendId| HealthEvent {
            backend: backend.clone(),
            health,
            reason: reason.clone(),
        };
        self.backends.iter().map(event).collect()
    }
}

/// A panic elsewhere leaves these maps whole: every change to them is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use weir_model::{HealthProbe, Name};

    use super::*;
    use crate::probe::Failure;

    /// Answers from a script per address, its last entry for ever; notes when it was asked.
    #[derive(Clone, Default)]
    struct Script {
        answers: Arc<Mutex<HashMap<SocketAddr, VecDeque<Answer>>>>,
        asked: Arc<Mutex<Vec<(SocketAddr, Instant)>>>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Answer {
        Pass,
        Refuse,
        Hang,
        Lack,
    }

    impl Script {
        fn set(&self, address: SocketAddr, answers: &[Answer]) {
            lock(&self.answers).insert(address, answers.iter().copied().collect());
        }

        fn asked(&self, address: SocketAddr) -> Vec<Instant> {
            lock(&self.asked)
                .iter()
                .filter(|(of, _)| *of == address)
                .map(|(_, at)| *at)
                .collect()
        }
    }

    impl Ask for Script {
        async fn ask(&self, address: SocketAddr, check: &HealthCheck) -> (Outcome, Option<Rest>) {
            lock(&self.asked).push((address, Instant::now()));
            let answer = {
                let mut answers = lock(&self.answers);
                let row = answers.get_mut(&address).unwrap();
                if row.len() > 1 {
                    row.pop_front().unwrap()
                } else {
                    row[0]
                }
            };
            let outcome = match answer {
                Answer::Pass => Outcome::Passed,
                Answer::Refuse => Outcome::Failed(Failure::Connection("connection refused".into())),
                Answer::Hang => {
                    tokio::time::sleep(check.timeout).await;
                    Outcome::Failed(Failure::Timeout(check.timeout))
                }
                Answer::Lack => Outcome::Inconclusive("Too many open files".into()),
            };
            (outcome, None)
        }
    }

    fn address(last: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, last), 80).into()
    }

    fn backend(pool: &str, address: SocketAddr) -> BackendId {
        BackendId {
            pool: Name::new(pool),
            address,
        }
    }

    fn tcp(interval_ms: u64) -> HealthCheck {
        HealthCheck {
            probe: HealthProbe::Tcp,
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::from_millis(interval_ms / 2),
            rise: 2,
            fall: 3,
            port: None,
            tls: None,
            proxy_protocol: None,
        }
    }

    fn scripted() -> (Script, Checker<Script>, mpsc::Receiver<HealthEvent>) {
        let script = Script::default();
        let (sender, events) = mpsc::channel(16);
        (script.clone(), Checker::with(script, sender), events)
    }

    async fn next(events: &mut mpsc::Receiver<HealthEvent>) -> HealthEvent {
        timeout(Duration::from_secs(600), events.recv())
            .await
            .expect("an event in time")
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_else_can_be_asked_about_a_backend() {
        let (script, mut checker, mut events) = scripted();
        let asked = address(2);
        script.set(asked, &[Answer::Refuse]);
        let wanted = Wanted {
            backend: backend("web", address(1)),
            address: asked,
            check: Arc::new(tcp(2000)),
        };
        checker.apply([wanted.clone()]);
        let event = next(&mut events).await;
        assert_eq!(
            (event.backend, event.health),
            (wanted.backend, Health::Down)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failing_backend_is_reported_within_interval_times_fall_plus_timeout() {
        let (script, mut checker, mut events) = scripted();
        let check = tcp(2000);
        for last in 1..40 {
            script.set(address(last), &[Answer::Pass]);
            checker.apply([(backend("web", address(last)), check.clone())]);
            assert_eq!(next(&mut events).await.health, Health::Up);
            script.set(address(last), &[Answer::Hang]);
            let failed = Instant::now();
            let event = next(&mut events).await;
            assert_eq!(
                (event.health, event.reason.as_str()),
                (Health::Down, "no answer within 1s")
            );
            // A millisecond of grace for the timer's granularity.
            let bound = check.interval * check.fall + check.timeout + Duration::from_millis(1);
            assert!(
                failed.elapsed() <= bound,
                "{:?} for {}",
                failed.elapsed(),
                address(last)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn down_and_back_up_with_reasons_and_counters() {
        use Answer::{Pass, Refuse};
        let (script, mut checker, mut events) = scripted();
        let id = backend("web", address(1));
        script.set(
            id.address,
            &[Pass, Refuse, Refuse, Refuse, Pass, Refuse, Pass, Pass],
        );
        checker.apply([(id.clone(), tcp(2000))]);
        let reports = checker.reports();
        assert_eq!(reports.health(&id), Health::Unknown);
        for (health, reason) in [
            (Health::Up, "check passed"),
            (Health::Down, "connection refused"),
            (Health::Up, "check passed"),
        ] {
            assert_eq!(
                next(&mut events).await,
                HealthEvent {
                    backend: id.clone(),
                    health,
                    reason: reason.into()
                }
            );
            assert_eq!(reports.health(&id), health);
        }
        let report = reports.report(&id).unwrap();
        assert_eq!(
            (report.passed, report.failed, report.inconclusive),
            (4, 4, 0)
        );
        assert_eq!(report.last_failure.as_deref(), Some("connection refused"));
        assert_eq!(report.last_duration, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn same_check_of_several_pools_runs_once_and_counts_for_all() {
        let (script, mut checker, mut events) = scripted();
        let (web, api) = (backend("web", address(1)), backend("api", address(1)));
        script.set(address(1), &[Answer::Refuse]);
        checker.apply([(web.clone(), tcp(2000)), (api.clone(), tcp(2000))]);
        let told = BTreeSet::from([
            next(&mut events).await.backend,
            next(&mut events).await.backend,
        ]);
        assert_eq!(told, BTreeSet::from([web.clone(), api.clone()]));
        assert_eq!(script.asked(address(1)).len(), 1);
        // A third pool joins: what is known holds for it at once.
        let late = backend("late", address(1));
        checker.apply([web, api, late.clone()].map(|id| (id, tcp(2000))));
        assert_eq!(checker.reports().health(&late), Health::Down);
        assert_eq!(script.asked(address(1)).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn unchanged_checks_go_on_when_others_change() {
        let (script, mut checker, mut events) = scripted();
        let (stays, goes, comes) = (
            backend("web", address(1)),
            backend("web", address(2)),
            backend("web", address(3)),
        );
        for id in [&stays, &goes, &comes] {
            script.set(id.address, &[Answer::Pass]);
        }
        checker.apply([(stays.clone(), tcp(2000)), (goes.clone(), tcp(2000))]);
        next(&mut events).await;
        next(&mut events).await;
        let asked_before = script.asked(goes.address).len();
        checker.apply([(stays.clone(), tcp(2000)), (comes.clone(), tcp(2000))]);
        assert_eq!(next(&mut events).await.backend, comes);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let reports = checker.reports();
        assert_eq!(reports.report(&goes), None);
        assert_eq!(script.asked(goes.address).len(), asked_before);
        let at = script.asked(stays.address);
        assert!(at.len() >= 10, "{}", at.len());
        let is_regular = |pair: &[Instant]| (pair[1] - pair[0]).as_millis().abs_diff(2000) <= 2;
        assert!(at[1..].windows(2).all(is_regular), "{at:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_check_keeps_the_health_until_its_first_result() {
        let (script, mut checker, mut events) = scripted();
        let id = backend("web", address(1));
        script.set(id.address, &[Answer::Refuse]);
        checker.apply([(id.clone(), tcp(2000))]);
        assert_eq!(next(&mut events).await.health, Health::Down);
        checker.apply([(id.clone(), tcp(4000))]);
        assert_eq!(checker.reports().health(&id), Health::Down);
        script.set(id.address, &[Answer::Pass]);
        assert_eq!(next(&mut events).await.health, Health::Up);
        assert_eq!(
            checker.reports().report(&id).unwrap().passed,
            1,
            "the first success decides"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_lack_changes_no_verdict() {
        let (script, mut checker, mut events) = scripted();
        let id = backend("web", address(1));
        script.set(id.address, &[Answer::Pass, Answer::Lack]);
        checker.apply([(id.clone(), tcp(2000))]);
        assert_eq!(next(&mut events).await.health, Health::Up);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let report = checker.reports().report(&id).unwrap();
        assert_eq!(
            (report.health, report.passed, report.failed),
            (Health::Up, 1, 0)
        );
        assert!(report.inconclusive >= 29, "{}", report.inconclusive);
        assert_eq!(report.last_failure.as_deref(), Some("Too many open files"));
    }

    #[tokio::test(start_paused = true)]
    async fn check_that_begins_late_is_counted() {
        let (script, mut checker, mut events) = scripted();
        let id = backend("web", address(1));
        script.set(id.address, &[Answer::Pass]);
        checker.apply([(id.clone(), tcp(2000))]);
        next(&mut events).await;
        assert_eq!(checker.reports().late(), 0);
        let all = Arc::clone(&checker.turns)
            .acquire_many_owned(CHECKS_AT_ONCE as u32)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(all);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(checker.reports().late(), 1);
        let report = checker.reports().report(&id).unwrap();
        assert_eq!((report.health, report.failed), (Health::Up, 0));
    }

    #[tokio::test]
    async fn check_that_waits_is_small() {
        let (sender, _events) = mpsc::channel(1);
        let mut checker = Checker::new(sender);
        let shared = checker.start((address(1), Arc::new(tcp(2000))), BTreeSet::new());
        let task = Task {
            address: address(1),
            settings: Arc::new(tcp(2000)),
            ask: Arc::new(Sockets::default()),
            turns: Arc::clone(&checker.turns),
            events: checker.events.clone(),
            check: shared,
            late: Arc::default(),
        };
        let bytes = size_of_val(&task.run());
        assert!(bytes <= 1024, "{bytes} bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_after_the_checker_is_gone() {
        let (script, mut checker, mut events) = scripted();
        script.set(address(1), &[Answer::Pass]);
        checker.apply([(backend("web", address(1)), tcp(1000))]);
        next(&mut events).await;
        drop(checker);
        assert_eq!(events.recv().await, None, "the tasks have ended");
        let asked = script.asked(address(1)).len();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(script.asked(address(1)).len(), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_do_not_start_all_at_once() {
        let (script, mut checker, _events) = scripted();
        let ids: Vec<BackendId> = (1..=200)
            .map(|last| backend("web", address(last)))
            .collect();
        for id in &ids {
            script.set(id.address, &[Answer::Lack]);
        }
        let start = Instant::now();
        checker.apply(ids.iter().map(|id| (id.clone(), tcp(2000))));
        tokio::time::sleep(Duration::from_millis(999)).await;
        let mut tenths = [0; 10];
        for id in &ids {
            let first = script.asked(id.address)[0] - start;
            tenths[usize::try_from(first.as_millis() / 100).unwrap()] += 1;
        }
        assert_eq!(
            tenths.iter().sum::<u32>(),
            200,
            "every backend is asked within the first second"
        );
        assert!(
            tenths.iter().all(|&count| count > 5 && count < 40),
            "{tenths:?}"
        );
    }

    #[tokio::test]
    async fn real_server_goes_and_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = backend("web", listener.local_addr().unwrap());
        let (sender, mut events) = mpsc::channel(16);
        let mut checker = Checker::new(sender);
        let check = HealthCheck {
            probe: HealthProbe::Tcp,
            interval: Duration::from_millis(40),
            timeout: Duration::from_millis(40),
            rise: 2,
            fall: 3,
            port: None,
            tls: None,
            proxy_protocol: None,
        };
        checker.apply([(id.clone(), check)]);
        assert_eq!(next(&mut events).await.health, Health::Up);
        drop(listener);
        let event = next(&mut events).await;
        assert_eq!(
            (event.health, event.reason.as_str()),
            (Health::Down, "connection refused")
        );
        let _listener = TcpListener::bind(id.address).await.unwrap();
        assert_eq!(next(&mut events).await.health, Health::Up);
    }
}
