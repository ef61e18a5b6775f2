//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Waits until a condition holds.
///
/// # Panics
/// Where it does not within the time.
pub fn until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    eventually(what, timeout, || condition().then_some(()).ok_or("not yet"));
}

/// Waits until an attempt succeeds and returns what it gave.
///
/// # Panics
/// Where none does within the time; the message holds the last error.
pub fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => {
                assert!(
                    Instant::now() < deadline,
                    "{what}: not within {timeout:?}: {error:?}"
                );
            }
        }
        thread::sleep(PAUSE);
    }
}
