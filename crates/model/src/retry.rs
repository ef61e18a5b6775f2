//! Requests that are tried again when a backend could not answer them.

use std::time::Duration;

/// When a request is tried again, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Tries of one request in all. Default 2.
    pub tries: u32,
    /// What is tried again. Default: without the table connections that cannot be made, with it resets, too.
    pub on: RetryOn,
    /// Retries under way, in hundredths of the requests under way on a worker; a few are always allowed. Default 20 with
    /// the table; absent: any number.
    pub budget_percent: Option<u32>,
    /// The longest wait before the first retry; it doubles with each further one. Waits are drawn from zero to that.
    /// Default 25 ms with the table, else none.
    pub backoff: Duration,
    /// What the longest wait grows to. Default 250 ms.
    pub backoff_max: Duration,
    /// For the head of the answer to one try, from the end of the request; the listener's `response_header` counts too.
    pub try_timeout: Option<Duration>,
}

impl Retry {
    /// With the table, what is left out in it.
    pub const CONFIGURED: Self = Self {
        tries: 2,
        on: RetryOn {
            reset: true,
            ..RetryOn::CONNECT
        },
        budget_percent: Some(20),
        backoff: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        try_timeout: None,
    };
}

impl Default for Retry {
    /// Without the table: one other backend where a connection cannot be made.
    fn default() -> Self {
        Self {
            on: RetryOn::CONNECT,
            budget_percent: None,
            backoff: Duration::ZERO,
            backoff_max: Duration::ZERO,
            ..Self::CONFIGURED
        }
    }
}

/// Failures that a request is tried again after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RetryOn {
    /// No connection could be made: the request has not left, whatever its method.
    pub connect: bool,
    /// The backend closed or reset the connection before a byte of its answer. Idempotent requests only.
    pub reset: bool,
    /// No answer's head in time. Idempotent requests only.
    pub timeout: bool,
    /// Answers with 502. Idempotent requests only.
    pub bad_gateway: bool,
    /// Answers with 503. Idempotent requests only.
    pub unavailable: bool,
    /// Answers with 504. Idempotent requests only.
    pub gateway_timeout: bool,
}

impl RetryOn {
    /// Connections that cannot be made, and nothing else.
    pub const CONNECT: Self = Self {
        connect: true,
        reset: false,
        timeout: false,
        bad_gateway: false,
        unavailable: false,
        gateway_timeout: false,
    };

    /// Whether an answer with this status is tried again.
    pub fn has_status(&self, status: u16) -> bool {
        match status {
            502 => self.bad_gateway,
            503 => self.unavailable,
            504 => self.gateway_timeout,
            _ => false,
        }
    }

    /// Whether any status is.
    pub fn has_any_status(&self) -> bool {
        self.bad_gateway || self.unavailable || self.gateway_timeout
    }
}
