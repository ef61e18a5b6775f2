//! How long a layer 4 session may be idle.

use std::time::Duration;

/// How long a session may be idle in each state: `[l4.timeouts]`. The states are netfilter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTimeouts {
    /// The client's SYN was seen, no answer yet. Default 120 s.
    pub syn_sent: Duration,
    /// The backend has answered. Default 60 s.
    pub syn_recv: Duration,
    /// The handshake is complete. Default 432,000 s, five days.
    pub established: Duration,
    /// The same, where only the client's direction passes through us (DR, tunnel). Default 900 s, as in IPVS.
    pub established_one_way: Duration,
    /// One side has closed. Default 120 s.
    pub fin_wait: Duration,
    /// One side has closed, the other still sends. Default 60 s.
    pub close_wait: Duration,
    /// Both sides have closed. Default 120 s.
    pub time_wait: Duration,
    /// A side has reset the connection. Default 10 s.
    pub close: Duration,
    /// UDP, no answer, or one answer to one packet. Default 30 s.
    pub udp: Duration,
    /// UDP in both directions, more than that. Default 120 s.
    pub udp_stream: Duration,
}

impl Default for SessionTimeouts {
    fn default() -> Self {
        Self {
            syn_sent: Duration::from_secs(120),
            syn_recv: Duration::from_secs(60),
            established: Duration::from_secs(432_000),
            established_one_way: Duration::from_secs(900),
            fin_wait: Duration::from_secs(120),
            close_wait: Duration::from_secs(60),
            time_wait: Duration::from_secs(120),
            close: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
        }
    }
}
