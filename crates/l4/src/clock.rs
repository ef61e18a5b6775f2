//! The clock of session lines: the kernel's jiffies.

use std::sync::atomic::Ordering::Acquire;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

use crate::attach::Programs;
use crate::error::Error;
use crate::lock::lock;
use crate::memory::{ClockCell, Mapped};
use crate::sweep::Now;

/// The program that reads the kernel's clocks for us.
const PROGRAM: &str = "weir_clock";

/// Tells jiffies from the time that has passed since the kernel was last asked. Jiffies follow the monotonic clock
/// (kernel/time/tick-sched.c, `tick_do_update_jiffies64`), so that the error is one jiffy at most.
#[derive(Debug)]
pub(crate) struct Clock {
    cell: Mapped<ClockCell>,
    programs: Arc<Mutex<Programs>>,
    tick: Duration,
    /// The kernel's last answer.
    answer: Mutex<Answer>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    jiffies: u32,
    monotonic: Duration,
}

/// The length of a jiffy.
pub(crate) fn tick() -> Result<Duration, Error> {
    // The coarse clock advances with each jiffy (kernel/time/posix-timers.c, `posix_get_coarse_res`).
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| Error::System {
        what: "ask for the length of a jiffy",
        source: error.into(),
    })?;
    Ok(tick.into())
}

impl Clock {
    pub(crate) fn new(
        cell: Mapped<ClockCell>,
        programs: Arc<Mutex<Programs>>,
    ) -> Result<Self, Error> {
        let clock = Self {
            cell,
            programs,
            tick: tick()?,
            answer: Mutex::default(),
        };
        clock.ask()?;
        Ok(clock)
    }

    /// Asks the kernel.
    pub(crate) fn ask(&self) -> Result<(), Error> {
        let mut programs = lock(&self.programs);
        programs.run(PROGRAM)?;
        let answer = Answer {
            jiffies: self.cell[0][0].load(Acquire) as u32,
            monotonic: Duration::from_nanos(self.cell[0][1].load(Acquire)),
        };
        *lock(&self.answer) = answer;
        Ok(())
    }

    /// The clocks now.
    pub(crate) fn now(&self) -> Now {
        let answer = *lock(&self.answer);
        let monotonic = monotonic();
        let passed =
            monotonic.saturating_sub(answer.monotonic).as_nanos() / self.tick.as_nanos().max(1);
        Now {
            jiffies: answer.jiffies.wrapping_add(passed as u32),
            tick: self.tick,
            monotonic,
        }
    }
}

/// The kernel's monotonic clock.
pub(crate) fn monotonic() -> Duration {
    // The clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
