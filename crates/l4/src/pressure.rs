//! How full the session table is now, and how early sessions that nobody has confirmed must go for it.
//!
//! A flood of new flows fills a table faster than the sweep goes through it. Flows lie at random places, so every part
//! that the sweep visits is a sample of the whole: it tells how full the table is and how old its unconfirmed sessions
//! are. From these ages follows how old they may become so that the rest is as much as there should be. The oldest go
//! first: a client that means it confirms its session within a round trip.

use std::time::Duration;

/// Beyond this part of the room, unconfirmed sessions are taken away…
const HIGH: f64 = 0.8;
/// …until this part is in use.
const LOW: f64 = 0.7;
/// No unconfirmed session goes earlier: an answer around the world takes this long.
const UNCONFIRMED_MIN: Duration = Duration::from_millis(300);
/// Ages are told apart by this much…
const BUCKET: Duration = Duration::from_millis(50);
/// …up to eight times a second's retry of a SYN.
const BUCKETS: usize = 160;
/// What a step saw counts so much less at the next one: the last sixteen steps are the sample.
const FADING: f64 = 15.0 / 16.0;
/// No conclusion from fewer lines.
const SAMPLE_MIN: f64 = 256.0;

/// What the sweep has seen lately.
#[derive(Clone, Debug)]
pub(crate) struct Pressure {
    /// The part of a table's lines that is its room.
    room: f64,
    /// Lines looked at.
    lines: f64,
    /// Those in use.
    used: f64,
    /// Lines of unconfirmed sessions, by age.
    ages: [f64; BUCKETS],
}

impl Pressure {
    /// Of a table with so many lines, of which so many may be in use.
    pub(crate) fn new(lines: u64, room: u64) -> Self {
        Self {
            room: room as f64 / lines.max(1) as f64,
            lines: 0.0,
            used: 0.0,
            ages: [0.0; BUCKETS],
        }
    }

    /// A step has looked at so many lines, of which so many are in use.
    pub(crate) fn saw(&mut self, lines: u64, used: u64) {
        self.lines += lines as f64;
        self.used += used as f64;
    }

    /// An unconfirmed session of so many lines, and when its client was heard of.
    pub(crate) fn saw_unconfirmed(&mut self, age: Duration, lines: u32) {
        let bucket = age.as_millis() / BUCKET.as_millis();
        self.ages[(bucket as usize).min(BUCKETS - 1)] += f64::from(lines);
    }

    /// At the end of a step: how long unconfirmed sessions may be idle; `None`: as long as ever.
    pub(crate) fn conclude(&mut self) -> Option<Duration> {
        let conclusion = self.unconfirmed_most();
        self.lines *= FADING;
        self.used *= FADING;
        for age in &mut self.ages {
            *age *= FADING;
        }
        conclusion
    }

    /// Sessions in the table, 1 being as many as there is room for.
    fn present(&self) -> f64 {
        self.used / (self.lines.max(1.0) * self.room)
    }

    fn unconfirmed_most(&self) -> Option<Duration> {
        if self.lines < SAMPLE_MIN || self.present() < HIGH {
            return None;
        }
        let mut excess = self.used - LOW * self.lines * self.room;
        for (bucket, lines) in self.ages.iter().enumerate().rev() {
            excess -= lines;
            if excess <= 0.0 {
                return Some((BUCKET * bucket as u32).max(UNCONFIRMED_MIN));
            }
        }
        Some(UNCONFIRMED_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of 10,000 lines, 6,400 of them room.
    fn seen(used: u64, unconfirmed: &[(u64, u32)]) -> Option<Duration> {
        let mut pressure = Pressure::new(10_000, 6_400);
        pressure.saw(10_000, used);
        for &(age_ms, lines) in unconfirmed {
            for _ in 0..lines / 2 {
                pressure.saw_unconfirmed(Duration::from_millis(age_ms), 2);
            }
        }
        pressure.conclude()
    }

    #[test]
    fn there_is_no_hurry_while_there_is_room() {
        assert_eq!(seen(0, &[]), None);
        assert_eq!(seen(5_000, &[(5_000, 4_000)]), None);
    }

    #[test]
    fn the_oldest_go_and_no_more_than_must() {
        // 6,400 are used and 4,480 should be.
        assert_eq!(
            seen(6_400, &[(400, 2_000), (1_000, 2_000), (3_000, 2_400)]),
            Some(Duration::from_millis(3_000))
        );
        assert_eq!(
            seen(6_400, &[(400, 3_000), (1_000, 2_000), (3_000, 1_400)]),
            Some(Duration::from_millis(1_000))
        );
    }

    #[test]
    fn an_honest_client_has_time_to_answer() {
        assert_eq!(seen(9_000, &[(20, 9_000)]), Some(UNCONFIRMED_MIN));
        assert_eq!(seen(9_000, &[]), Some(UNCONFIRMED_MIN));
    }

    #[test]
    fn a_few_lines_tell_nothing() {
        let mut pressure = Pressure::new(10_000, 6_400);
        pressure.saw(100, 100);
        assert_eq!(pressure.conclude(), None);
    }

    #[test]
    fn a_flood_that_ends_is_forgotten() {
        let mut pressure = Pressure::new(10_000, 6_400);
        pressure.saw(1_000, 1_000);
        assert!(pressure.conclude().is_some());
        let steps = (0..100).take_while(|_| {
            pressure.saw(100, 10);
            pressure.conclude().is_some()
        });
        assert!(steps.count() < 60);
    }
}
