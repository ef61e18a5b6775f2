//! Peak EWMA: how long a backend takes to answer, as a moving average that rises at once and falls slowly. A backend
//! that becomes slow is noticed by its first slow answer, and believed again after some seconds of good ones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// After this time without an answer an old value weighs 1/e.
const DECAY_MS: f32 = 10_000.0;
/// A value that is older says nothing any more: the backend is asked again.
const STALE_MS: u32 = 30_000;
/// A failure counts as an answer that took this long: a backend that fails at once must not look like a fast one.
pub const FAILURE: Duration = Duration::from_secs(1);

/// The average of one backend. Any thread reads and writes; two that write at once lose one of two samples.
#[derive(Debug, Default)]
pub struct Ewma {
    /// Bits 0–31: microseconds as the bits of an `f32`; 32–63: when, in milliseconds. 0: nothing was seen.
    word: AtomicU64,
}

impl Ewma {
    /// Takes in one answer's time.
    pub fn record(&self, took: Duration, now_ms: u64) {
        let sample = took.as_micros().max(1) as f32;
        let (before, at) = unpack(self.word.load(Relaxed));
        let age = (now_ms as u32).wrapping_sub(at);
        let next = if before == 0.0 || sample >= before || age > STALE_MS {
            sample
        } else {
            // With answers every few milliseconds the steps are small, and as many as they are: the average does not
            // depend on the rate. The clock ticks coarsely, so half a millisecond stands for the same tick.
            let keeps = (-(age as f32).max(0.5) / DECAY_MS).exp();
            before * keeps + sample * (1.0 - keeps)
        };
        self.word.store(pack(next, now_ms), Relaxed);
    }

    /// What an answer is expected to take, in microseconds. Where no answer came lately the value falls with time;
    /// `None` once nothing is known.
    pub fn micros(&self, now_ms: u64) -> Option<f32> {
        let (value, at) = unpack(self.word.load(Relaxed));
        let age = (now_ms as u32).wrapping_sub(at);
        // Workers' clocks differ by a tick: what is from the future is new.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        if value == 0.0 || age > STALE_MS {
            return None;
        }
        Some(value * (-(age as f32) / DECAY_MS).exp())
    }
}

fn pack(micros: f32, now_ms: u64) -> u64 {
    u64::from(now_ms as u32) << 32 | u64::from(micros.to_bits())
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits(word as u32), (word >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rises_at_once_and_falls_slowly() {
        let ewma = Ewma::default();
        assert_eq!(ewma.micros(0), None);
        ewma.record(ms(1), 100);
        assert_eq!(ewma.micros(100), Some(1_000.0));
        ewma.record(ms(500), 200);
        assert_eq!(ewma.micros(200), Some(500_000.0));
        ewma.record(ms(1), 1_200);
        let soon = ewma.micros(1_200).unwrap();
        assert!((440_000.0..460_000.0).contains(&soon), "{soon}");
        for at in 0..600 {
            ewma.record(ms(1), 1_200 + at * 100);
        }
        let later = ewma.micros(61_200).unwrap();
        assert!(later < 3_000.0, "{later}");
    }

    #[test]
    fn a_value_without_answers_falls_and_is_forgotten() {
        let ewma = Ewma::default();
        ewma.record(ms(100), 1_000);
        let later = ewma.micros(11_000).unwrap();
        assert!((36_000.0..37_500.0).contains(&later), "{later}");
        assert_eq!(ewma.micros(31_001), None);
        // A clock that is a tick behind sees a new value.
        assert_eq!(ewma.micros(950), Some(100_000.0));
    }
}
