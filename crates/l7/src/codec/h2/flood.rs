//! What a peer may do how often: frames that cost us more than they cost the peer, or that carry nothing.
//!
//! Each kind is counted over ten seconds. Ordinary clients stay far below the limits; who passes one loses the
//! connection, with a reason of its own in the metrics.

use super::{Fault, frame::ErrorCode};
use crate::errors::Reason;

/// How long is counted before counting begins anew.
const WINDOW_MS: u64 = 10_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client takes a request back before its answer is complete (CVE-2023-44487).
    Reset,
    /// The client makes us reset a stream by a frame that the stream cannot have (CVE-2025-8671).
    MadeReset,
    /// A header list beyond the limits, which is answered without being read: a byte of it stands for a whole field of the
    /// decoder's table.
    LargeHead,
    /// PING.
    Ping,
    /// SETTINGS.
    Settings,
    /// DATA without a byte of data that ends nothing.
    EmptyData,
    /// DATA that a window of a few bytes makes us send (CVE-2019-9511).
    TinyWindow,
    /// PRIORITY, frames of unknown kinds, and WINDOW_UPDATE that no data of ours has called for.
    Idle,
}

impl Kind {
    const COUNT: usize = 8;

    /// Why a connection with too many of these ends.
    pub fn reason(self) -> Reason {
        match self {
            Self::Reset => Reason::ResetFlood,
            Self::MadeReset => Reason::MadeResetFlood,
            Self::LargeHead => Reason::HeadFlood,
            Self::Ping => Reason::PingFlood,
            Self::Settings => Reason::SettingsFlood,
            Self::EmptyData => Reason::EmptyDataFlood,
            Self::TinyWindow => Reason::WindowStallFlood,
            Self::Idle => Reason::FrameFlood,
        }
    }
}

/// How often each kind may come within ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// [`Kind::Reset`].
    pub resets: u32,
    /// [`Kind::MadeReset`], and likewise [`Kind::LargeHead`]: mistakes both.
    pub made_resets: u32,
    /// [`Kind::Ping`].
    pub pings: u32,
    /// [`Kind::Settings`].
    pub settings: u32,
    /// [`Kind::EmptyData`].
    pub empty_data: u32,
    /// [`Kind::TinyWindow`].
    pub tiny_windows: u32,
    /// [`Kind::Idle`].
    pub idle_frames: u32,
}

impl FloodLimits {
    fn of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Reset => self.resets,
            Kind::MadeReset | Kind::LargeHead => self.made_resets,
            Kind::Ping => self.pings,
            Kind::Settings => self.settings,
            Kind::EmptyData => self.empty_data,
            Kind::TinyWindow => self.tiny_windows,
            Kind::Idle => self.idle_frames,
        }
    }
}

/// The counts of one connection.
#[derive(Debug)]
pub struct Floods {
    limits: FloodLimits,
    counts: [u32; Kind::COUNT],
    since_ms: u64,
    now_ms: u64,
}

impl Floods {
    pub(super) fn new(limits: FloodLimits) -> Self {
        Self {
            limits,
            counts: [0; Kind::COUNT],
            since_ms: 0,
            now_ms: 0,
        }
    }

    /// Tells the time.
    pub(super) fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Counts one more.
    pub(super) fn count(&mut self, kind: Kind) -> Result<(), Fault> {
        if self.now_ms >= self.since_ms + WINDOW_MS {
            self.since_ms = self.now_ms;
            self.counts = [0; Kind::COUNT];
        }
        let count = &mut self.counts[kind as usize];
        *count += 1;
        if *count > self.limits.of(kind) {
            return Err(Fault {
                code: ErrorCode::EnhanceYourCalm,
                reason: kind.reason(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_begins_anew_after_ten_seconds() {
        let mut floods = Floods::new(FloodLimits {
            resets: 2,
            made_resets: 0,
            pings: 0,
            settings: 0,
            empty_data: 0,
            tiny_windows: 0,
            idle_frames: 0,
        });
        for now_ms in [0, 10_000, 25_000] {
            floods.set_now(now_ms);
            floods.count(Kind::Reset).unwrap();
            floods.set_now(now_ms + WINDOW_MS - 1);
            floods.count(Kind::Reset).unwrap();
            assert_eq!(
                floods.count(Kind::Reset).unwrap_err().reason,
                Reason::ResetFlood
            );
        }
    }
}
