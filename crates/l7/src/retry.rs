//! Trying a request again: how often, after which failures, how long after, and how many at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use weir_model::Retry;

use crate::errors::Reason;
use crate::upstream;

/// Retries under way that are always allowed: with few requests a share of them would be none.
const ALWAYS_ALLOWED: usize = 3;

/// What is under way on one worker for one pool.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    requests: Cell<usize>,
    retries: Cell<usize>,
}

impl Budget {
    /// Whether one more retry may begin.
    fn allows(&self, policy: &Retry) -> bool {
        policy.budget_percent.is_none_or(|percent| {
            let share = self.requests.get() * percent as usize / 100;
            self.retries.get() < share.max(ALWAYS_ALLOWED)
        })
    }
}

/// A request, or a retry, that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    budget: Rc<Budget>,
    count: fn(&Budget) -> &Cell<usize>,
}

impl Counted {
    pub(crate) fn request(budget: &Rc<Budget>) -> Self {
        Self::new(budget, |budget| &budget.requests)
    }

    fn retry(budget: &Rc<Budget>) -> Self {
        Self::new(budget, |budget| &budget.retries)
    }

    /// One more retry, if the budget allows it.
    pub(crate) fn retry_within(budget: &Rc<Budget>, policy: &Retry) -> Option<Self> {
        budget.allows(policy).then(|| Self::retry(budget))
    }

    fn new(budget: &Rc<Budget>, count: fn(&Budget) -> &Cell<usize>) -> Self {
        let cell = count(budget);
        cell.set(cell.get() + 1);
        Self {
            budget: Rc::clone(budget),
            count,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = (self.count)(&self.budget);
        cell.set(cell.get().saturating_sub(1));
    }
}

/// A try that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedTry {
    pub(crate) reason: Reason,
    /// Nothing of the request has left, or all that has left can be sent again.
    pub(crate) can_be_repeated: bool,
    /// Not a byte of an answer has come.
    pub(crate) nothing_came: bool,
    pub(crate) idempotent: bool,
}

impl FailedTry {
    /// No connection could be made.
    pub(crate) fn to_connect(reason: Reason) -> Self {
        Self {
            reason,
            can_be_repeated: true,
            nothing_came: true,
            idempotent: true,
        }
    }

    /// Whether it looks as if the backend had closed an idle connection while the request was on its way to it (RFC 9112,
    /// section 9.3.1).
    pub(crate) fn is_of_dead_connection(&self) -> bool {
        self.reason == Reason::UpstreamClosed
            && self.nothing_came
            && self.idempotent
            && self.can_be_repeated
    }

    /// Whether the policy wants another try after this failure, the number of tries and the budget apart.
    pub(crate) fn is_tried_again(&self, policy: &Retry) -> bool {
        let on = &policy.on;
        match self.reason {
            // The request has not left.
            Reason::ConnectFailed | Reason::ConnectTimeout | Reason::UpstreamTls => on.connect,
            Reason::UpstreamClosed => {
                on.reset && self.nothing_came && self.idempotent && self.can_be_repeated
            }
            Reason::ResponseTimeout => {
                on.timeout && self.nothing_came && self.idempotent && self.can_be_repeated
            }
            _ => false,
        }
    }
}

/// The tries of one request so far.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// Places of the backends that failed.
    pub(crate) backends: Vec<usize>,
    /// Why the last one did.
    pub(crate) reason: Option<Reason>,
    /// Tries that are counted.
    tries: u32,
    /// The retry that is under way.
    retry: Option<Counted>,
}

impl Tried {
    /// Whether the try that is under way is the last one.
    pub(crate) fn is_last(&self, policy: &Retry) -> bool {
        self.tries + 1 >= policy.tries
    }

    /// Whether another try may follow the one that has failed; it is counted from now on.
    pub(crate) fn may_go_on(
        &mut self,
        failed: &FailedTry,
        policy: &Retry,
        budget: &Rc<Budget>,
    ) -> bool {
        if self.is_last(policy) || !failed.is_tried_again(policy) {
            return false;
        }
        self.retry = Counted::retry_within(budget, policy);
        self.retry.is_some()
    }

    /// Takes in a failure that another try follows.
    pub(crate) fn add(&mut self, backend: usize, reason: Reason) {
        self.backends.push(backend);
        self.reason = Some(reason);
        self.tries += 1;
    }

    /// An answer is not for the client; the next try has been counted.
    pub(crate) fn add_refused(&mut self, backend: usize, retry: Counted) {
        self.retry = Some(retry);
        self.add(backend, Reason::UpstreamRefused);
    }

    /// A connection was dead before the request came: the next one does not count as a try.
    pub(crate) fn add_dead(&mut self, backend: usize, reason: Reason, budget: &Rc<Budget>) {
        self.retry = Some(Counted::retry(budget));
        self.add(backend, reason);
        self.tries -= 1;
    }

    /// Waits before the next try.
    pub(crate) async fn wait(&self, policy: &Retry) {
        let wait = backoff(policy, self.tries, upstream::seed());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// How long to wait before the retry with this number, from 1: anything from zero to a bound that doubles ("full
/// jitter"), so that the retries of one failure do not come back together. `random` is any number.
pub(crate) fn backoff(policy: &Retry, number: u32, random: u64) -> Duration {
    let longest = policy
        .backoff
        .saturating_mul(1 << (number - 1).min(16))
        .min(policy.backoff_max);
    // The high half of the product scales the number to 0..=longest.
    let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(random) * u128::from(nanos)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::RetryOn;

    #[test]
    fn a_share_of_the_requests_may_be_retries() {
        let budget = Rc::new(Budget::default());
        let policy = Retry {
            budget_percent: Some(10),
            ..Retry::CONFIGURED
        };
        let mut retries: Vec<Counted> = (0..3).map(|_| Counted::retry(&budget)).collect();
        assert!(!budget.allows(&policy));
        let requests: Vec<Counted> = (0..40).map(|_| Counted::request(&budget)).collect();
        assert!(budget.allows(&policy));
        retries.push(Counted::retry(&budget));
        assert!(!budget.allows(&policy));
        assert!(budget.allows(&Retry::default()), "without a budget");
        drop(requests);
        retries.truncate(2);
        assert!(budget.allows(&policy));
    }

    #[test]
    fn waits_double_up_to_a_bound_and_are_drawn_from_zero() {
        let policy = Retry {
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_millis(35),
            ..Retry::CONFIGURED
        };
        let longest = |number| backoff(&policy, number, u64::MAX).as_micros();
        assert_eq!(
            [longest(1), longest(2), longest(3), longest(40)],
            [9_999, 19_999, 34_999, 34_999]
        );
        assert_eq!(backoff(&policy, 3, 0), Duration::ZERO);
        assert_eq!(backoff(&Retry::default(), 1, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn only_what_cannot_have_an_effect_twice_is_tried_again() {
        let everything = Retry {
            on: RetryOn {
                connect: true,
                reset: true,
                timeout: true,
                bad_gateway: true,
                unavailable: true,
                gateway_timeout: true,
            },
            ..Retry::CONFIGURED
        };
        let good = FailedTry {
            reason: Reason::UpstreamClosed,
            can_be_repeated: true,
            nothing_came: true,
            idempotent: true,
        };
        assert!(good.is_tried_again(&everything));
        for bad in [
            FailedTry {
                can_be_repeated: false,
                ..good
            },
            FailedTry {
                nothing_came: false,
                ..good
            },
            FailedTry {
                idempotent: false,
                ..good
            },
            FailedTry {
                reason: Reason::BadResponse,
                ..good
            },
        ] {
            assert!(!bad.is_tried_again(&everything), "{bad:?}");
        }
        let refused = FailedTry {
            reason: Reason::ConnectFailed,
            idempotent: false,
            ..good
        };
        assert!(refused.is_tried_again(&everything) && refused.is_tried_again(&Retry::default()));
        assert!(!good.is_tried_again(&Retry::default()));
    }
}
