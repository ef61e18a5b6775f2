//! From a row of results to a verdict.

use weir_model::Health;

/// The verdict on one backend, and the results in a row that speak against it.
///
/// The first result decides at once; after that `rise` successes in a row bring a backend back and `fall`
/// failures in a row take it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    rise: u32,
    fall: u32,
    health: Health,
    /// Whether a result has come in: an inherited verdict gives way to the first one.
    decided: bool,
    /// Results in a row against `health`.
    against: u32,
}

impl Verdict {
    /// Nothing is known. A `rise` or `fall` of 0 counts as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self::inherited(rise, fall, Health::Unknown)
    }

    /// Starts from what an earlier check of the same backend concluded, so that a changed check does not send
    /// work to a backend that is down. The first result decides as ever.
    pub fn inherited(rise: u32, fall: u32, health: Health) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            health,
            decided: false,
            against: 0,
        }
    }

    /// The verdict.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes in a result; returns the new verdict when it has changed.
    pub fn record(&mut self, passed: bool) -> Option<Health> {
        let shown = if passed { Health::Up } else { Health::Down };
        if shown == self.health {
            self.against = 0;
            self.decided = true;
            return None;
        }
        self.against += 1;
        let needed = match (self.decided, passed) {
            (false, _) => 1,
            (true, true) => self.rise,
            (true, false) => self.fall,
        };
        self.decided = true;
        if self.against < needed {
            return None;
        }
        self.health = shown;
        self.against = 0;
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results as `+` and `-`, verdicts after each as `U`p, `D`own or `?`.
    fn check(mut verdict: Verdict, results: &str, verdicts: &str) {
        let seen: String = results
            .chars()
            .map(|result| {
                let before = verdict.health();
                let change = verdict.record(result == '+');
                assert_eq!(
                    change,
                    (before != verdict.health()).then(|| verdict.health()),
                    "{results}"
                );
                match verdict.health() {
                    Health::Unknown => '?',
                    Health::Up => 'U',
                    Health::Down => 'D',
                }
            })
            .collect();
        assert_eq!(seen, verdicts, "after {results}");
    }

    #[test]
    fn first_result_decides_at_once() {
        check(Verdict::new(5, 5), "+", "U");
        check(Verdict::new(5, 5), "-", "D");
    }

    #[test]
    fn later_changes_need_rise_or_fall_in_a_row() {
        check(Verdict::new(2, 3), "+---++", "UUUDDU");
        check(Verdict::new(2, 3), "-++---", "DDUUUD");
        check(Verdict::new(1, 1), "+-+-", "UDUD");
    }

    #[test]
    fn a_result_for_the_verdict_starts_the_count_again() {
        check(Verdict::new(2, 3), "+--+--+---", "UUUUUUUUUD");
        check(Verdict::new(3, 1), "-++-++-+++", "DDDDDDDDDU");
    }

    #[test]
    fn inherited_verdict_stands_until_the_first_result() {
        assert_eq!(
            Verdict::inherited(2, 3, Health::Down).health(),
            Health::Down
        );
        check(Verdict::inherited(2, 3, Health::Down), "+", "U");
        check(Verdict::inherited(2, 3, Health::Up), "-++", "DDU");
        check(Verdict::inherited(2, 3, Health::Up), "+--+", "UUUU");
    }

    #[test]
    fn zero_counts_as_one() {
        check(Verdict::new(0, 0), "+-+", "UDU");
    }
}
