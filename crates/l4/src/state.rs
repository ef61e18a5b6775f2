//! What state a session is in, and how long it may be idle there.
//!
//! States and timeouts are netfilter's (net/netfilter/nf_conntrack_proto_tcp.c, nf_conntrack_proto_udp.c), as far as
//! the flags seen in each direction tell them. They do not tell which FIN was the first, so the 30 seconds of
//! LAST_ACK are not told from TIME_WAIT. Where only the client's direction passes through us (DR, tunnel) the states
//! are those of IPVS for that case (net/netfilter/ipvs/ip_vs_proto_tcp.c, `tcp_states_dir` "input only").

use std::fmt;
use std::time::Duration;

use weir_l4_common::session::{ACK, FIN, RST, SYN};

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The client's SYN was seen, no answer yet.
    SynSent,
    /// The backend has answered; with DR and tunnel: the client's SYN was seen.
    SynRecv,
    /// The handshake is complete.
    Established,
    /// One side has closed, the other has not sent anything since.
    FinWait,
    /// One side has closed, the other still sends.
    CloseWait,
    /// Both sides have closed.
    TimeWait,
    /// A side has reset the connection.
    Close,
    /// UDP, no answer seen.
    Udp,
    /// UDP in both directions; with DR and tunnel: more than one packet.
    UdpStream,
}

impl State {
    /// The word in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::Udp => "udp",
            Self::UdpStream => "udp_stream",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long a session may be idle in each state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Default 120 s.
    pub syn_sent: Duration,
    /// Default 60 s.
    pub syn_recv: Duration,
    /// Default 432,000 s, five days.
    pub established: Duration,
    /// Where only the client's direction passes through us. Default 900 s, as in IPVS.
    pub established_one_way: Duration,
    /// Default 120 s.
    pub fin_wait: Duration,
    /// Default 60 s.
    pub close_wait: Duration,
    /// Default 120 s.
    pub time_wait: Duration,
    /// Default 10 s.
    pub close: Duration,
    /// Default 30 s.
    pub udp: Duration,
    /// Default 120 s.
    pub udp_stream: Duration,
}

impl Default for Timeouts {
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

impl Timeouts {
    /// How long a session may be idle.
    pub(crate) fn of(&self, state: State, two_way: bool) -> Duration {
        match state {
            State::SynSent => self.syn_sent,
            State::SynRecv => self.syn_recv,
            State::Established if two_way => self.established,
            State::Established => self.established_one_way,
            State::FinWait => self.fin_wait,
            State::CloseWait => self.close_wait,
            State::TimeWait => self.time_wait,
            State::Close => self.close,
            State::Udp => self.udp,
            State::UdpStream => self.udp_stream,
        }
    }

    /// The timeouts while so many sessions are there as `pressure` says, 1 being as many as there is room for. From
    /// [`PRESSURE_MIN`] on, what is not an established session goes earlier and earlier, as with the adaptive
    /// timeouts of pf.conf(5); those that are established stay.
    pub(crate) fn under(&self, pressure: f64) -> Self {
        let room = ((1.0 - pressure) / (1.0 - PRESSURE_MIN)).clamp(SHORTEST, 1.0);
        let shorter = |timeout: Duration| timeout.mul_f64(room);
        Self {
            syn_sent: shorter(self.syn_sent),
            syn_recv: shorter(self.syn_recv),
            established: self.established,
            established_one_way: self.established_one_way,
            fin_wait: shorter(self.fin_wait),
            close_wait: self.close_wait,
            time_wait: shorter(self.time_wait),
            close: shorter(self.close),
            udp: shorter(self.udp),
            udp_stream: self.udp_stream,
        }
    }

    /// No session that is idle for less ends, whatever its state. Until then nobody needs to look at both lines.
    pub(crate) fn least(&self, udp: bool) -> Duration {
        if udp {
            return self.udp.min(self.udp_stream);
        }
        let tcp = [
            self.syn_sent,
            self.syn_recv,
            self.established,
            self.established_one_way,
            self.fin_wait,
            self.close_wait,
            self.time_wait,
            self.close,
        ];
        tcp.into_iter().min().unwrap_or_default()
    }
}

/// Up to this share of the sessions that there is room for, timeouts are what they are.
const PRESSURE_MIN: f64 = 0.6;
/// The part of a timeout that is left when all room is taken: 120 seconds become 6.
const SHORTEST: f64 = 0.05;

/// What is known of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    /// TCP flags seen.
    pub(crate) seen: u8,
    /// Packets.
    pub(crate) packets: u64,
    /// How long ago the last one came, in jiffies.
    pub(crate) idle: u32,
}

/// The state of a session both directions of which pass through us. `reply`: the backend's direction, if its line is
/// there.
pub(crate) fn two_way(udp: bool, client: Direction, reply: Option<Direction>) -> State {
    let reply = reply.unwrap_or(Direction {
        seen: 0,
        packets: 0,
        idle: u32::MAX,
    });
    if udp {
        return if client.packets > 0 && reply.packets > 0 {
            State::UdpStream
        } else {
            State::Udp
        };
    }
    if (client.seen | reply.seen) & RST != 0 {
        return State::Close;
    }
    match (client.seen & FIN != 0, reply.seen & FIN != 0) {
        (true, true) => State::TimeWait,
        (true, false) => closed_by(client, reply),
        (false, true) => closed_by(reply, client),
        (false, false) if reply.seen == 0 => State::SynSent,
        (false, false) if client.seen & ACK != 0 => State::Established,
        (false, false) => State::SynRecv,
    }
}

/// Of two directions one has closed.
fn closed_by(closed: Direction, other: Direction) -> State {
    // What was heard of the other side after the FIN has acknowledged it.
    if other.idle < closed.idle {
        State::CloseWait
    } else {
        State::FinWait
    }
}

/// The state of a session of which only the client's direction passes through us.
pub(crate) fn one_way(udp: bool, client: Direction) -> State {
    if udp {
        return if client.packets > 1 {
            State::UdpStream
        } else {
            State::Udp
        };
    }
    match client.seen {
        seen if seen & RST != 0 => State::Close,
        seen if seen & FIN != 0 => State::FinWait,
        seen if seen & ACK != 0 => State::Established,
        seen if seen & SYN != 0 => State::SynRecv,
        // A session that was taken over in the middle.
        _ => State::Established,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(seen: u8, packets: u64, idle: u32) -> Direction {
        Direction {
            seen,
            packets,
            idle,
        }
    }

    #[test]
    fn tcp_goes_through_its_states() {
        let check = |client: (u8, u32), reply: (u8, u32), expected: State| {
            let packets = |seen: u8| u64::from(seen != 0);
            let reply = direction(reply.0, packets(reply.0), reply.1);
            assert_eq!(
                two_way(false, direction(client.0, 1, client.1), Some(reply)),
                expected
            );
        };
        check((SYN, 5), (0, 5), State::SynSent);
        check((SYN, 5), (SYN | ACK, 4), State::SynRecv);
        check((SYN | ACK, 3), (SYN | ACK, 4), State::Established);
        check((SYN | ACK | FIN, 2), (SYN | ACK, 4), State::FinWait);
        check((SYN | ACK | FIN, 2), (SYN | ACK, 1), State::CloseWait);
        check((SYN | ACK, 3), (SYN | ACK | FIN, 2), State::FinWait);
        check((SYN | ACK, 1), (SYN | ACK | FIN, 2), State::CloseWait);
        check((SYN | ACK | FIN, 1), (SYN | ACK | FIN, 1), State::TimeWait);
        check((SYN, 1), (RST | ACK, 1), State::Close);
        check((SYN | ACK | RST, 1), (SYN | ACK | FIN, 1), State::Close);
    }

    #[test]
    fn a_missing_reply_line_counts_as_silence() {
        assert_eq!(
            two_way(false, direction(SYN | ACK, 9, 0), None),
            State::SynSent
        );
        assert_eq!(two_way(true, direction(0, 9, 0), None), State::Udp);
    }

    #[test]
    fn udp_is_a_stream_once_it_is_answered() {
        assert_eq!(
            two_way(true, direction(0, 9, 0), Some(direction(0, 0, 9))),
            State::Udp
        );
        assert_eq!(
            two_way(true, direction(0, 1, 0), Some(direction(0, 1, 0))),
            State::UdpStream
        );
        assert_eq!(one_way(true, direction(0, 1, 0)), State::Udp);
        assert_eq!(one_way(true, direction(0, 2, 0)), State::UdpStream);
    }

    #[test]
    fn one_way_sessions_are_judged_by_the_client_alone() {
        assert_eq!(one_way(false, direction(SYN, 1, 0)), State::SynRecv);
        assert_eq!(
            one_way(false, direction(SYN | ACK, 2, 0)),
            State::Established
        );
        assert_eq!(
            one_way(false, direction(SYN | ACK | FIN, 3, 0)),
            State::FinWait
        );
        assert_eq!(
            one_way(false, direction(SYN | ACK | FIN | RST, 3, 0)),
            State::Close
        );
        assert_eq!(
            Timeouts::default().of(State::Established, false),
            Duration::from_secs(900)
        );
        assert_eq!(
            Timeouts::default().of(State::Established, true),
            Duration::from_secs(432_000)
        );
    }

    #[test]
    fn a_full_table_shortens_what_is_not_established() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.under(0.0), timeouts);
        assert_eq!(timeouts.under(PRESSURE_MIN), timeouts);
        let half = timeouts.under(0.8);
        assert_eq!(half.time_wait.as_secs_f64().round(), 60.0);
        let full = timeouts.under(1.5);
        assert_eq!(full.time_wait, Duration::from_secs(6));
        assert_eq!(full.established, timeouts.established);
        assert_eq!(full.udp_stream, timeouts.udp_stream);
        assert!(full.least(false) < Duration::from_secs(1));
    }

    #[test]
    fn nothing_ends_before_the_least_timeout() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.least(false), Duration::from_secs(10));
        assert_eq!(timeouts.least(true), Duration::from_secs(30));
    }
}
