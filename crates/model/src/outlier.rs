//! Backends that fail while they serve are left out for a while, without waiting for a check.

use std::time::Duration;

/// When a backend is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// Failures in a row that eject it. Default 5.
    pub failures: u32,
    /// What counts as one, beside broken connections and answers that do not come. Default `5xx`.
    pub on: OutlierOn,
    /// An answer whose head takes longer counts as a failure, too.
    pub slow: Option<Duration>,
    /// How long the first ejection lasts; each further one is twice as long. Default 30 s.
    pub ejection: Duration,
    /// What ejections grow to. Default 5 min.
    pub ejection_max: Duration,
    /// Backends that may be ejected at one time, in hundredths of the pool's; one always may, and never the last that
    /// takes new work. Default 50.
    pub ejected_max_percent: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            failures: 5,
            on: OutlierOn::ServerError,
            slow: None,
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_max_percent: 50,
        }
    }
}

/// Answers that count as failures of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutlierOn {
    /// Every status from 500.
    ServerError,
    /// 502, 503 and 504: what a proxy answers for a server behind it.
    Gateway,
}

impl OutlierOn {
    /// Whether an answer with this status is a failure.
    pub fn has(self, status: u16) -> bool {
        match self {
            Self::ServerError => status >= 500,
            Self::Gateway => matches!(status, 502..=504),
        }
    }
}
