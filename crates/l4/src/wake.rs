//! Wakes a thread that waits for descriptors, and stops it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd, and whether to end.
#[derive(Debug)]
pub(crate) struct Wake {
    wake: EventFd,
    stop: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            wake,
            stop: AtomicBool::new(false),
        })
    }

    /// Readable when woken.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes the wake-ups that have come, and says whether to end.
    pub(crate) fn take(&self) -> bool {
        // A counter that is set back by being read; not readable means not woken.
        let _ = self.wake.read();
        self.stop.load(Acquire)
    }

    /// There is work.
    pub(crate) fn wake(&self) {
        // Fails only when it has been woken 2^64 times and has not noticed.
        let _ = self.wake.write(1);
    }

    /// The thread ends soon.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Release);
        self.wake();
    }
}
