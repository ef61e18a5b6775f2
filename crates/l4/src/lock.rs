//! Mutexes whose poison does not matter: nothing panics with a change half made.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for a mutex.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
