//! What state a session is in, and how long it may be idle there.
//!
//! States and timeouts are netfilter's (net/netfilter/nf_conntrack_proto_tcp.c, nf_conntrack_proto_udp.c), as far as
//! the flags seen in each direction tell them. They do not tell which FIN was the first, so the 30 seconds of
//! LAST_ACK are not told from TIME_WAIT. Where only the client's direction passes through us (DR, tunnel) the states
//! are those of IPVS for that case (net/netfilter/ipvs/ip_vs_proto_tcp.c, `tcp_states_dir` "input only").

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use weir_l4_common::session::{ACK, FIN, RST, SYN};
use weir_model::SessionTimeouts;

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
    /// UDP, no answer seen, or one answer to one packet.
    Udp,
    /// UDP in both directions, more than that; with DR and tunnel: more than one packet.
    UdpStream,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::TimeWait,
        Self::Close,
        Self::Udp,
        Self::UdpStream,
    ];

    /// Whether nothing shows yet that the client is where its packets say they are from.
    pub(crate) fn is_unconfirmed(self) -> bool {
        matches!(self, Self::SynSent | Self::SynRecv | Self::Udp)
    }

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

/// How long sessions may be idle: as the config says, or less while the table is full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    by_state: SessionTimeouts,
    /// Of established sessions of some listeners, by number.
    by_listener: Arc<HashMap<u16, Duration>>,
    /// At most so long for sessions that nobody has confirmed: half open ones, and single packets of UDP.
    unconfirmed: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn new(by_state: SessionTimeouts, by_listener: Arc<HashMap<u16, Duration>>) -> Self {
        Self {
            by_state,
            by_listener,
            unconfirmed: None,
        }
    }

    /// How long a session of a listener may be idle.
    pub(crate) fn of(&self, state: State, two_way: bool, listener: u16) -> Duration {
        let by_state = match state {
            State::SynSent => self.by_state.syn_sent,
            State::SynRecv => self.by_state.syn_recv,
            State::Established if two_way => self.by_state.established,
            State::Established => self.by_state.established_one_way,
            State::FinWait => self.by_state.fin_wait,
            State::CloseWait => self.by_state.close_wait,
            State::TimeWait => self.by_state.time_wait,
            State::Close => self.by_state.close,
            State::Udp => self.by_state.udp,
            State::UdpStream => self.by_state.udp_stream,
        };
        let timeout = match state {
            State::Established | State::UdpStream => {
                self.by_listener.get(&listener).copied().unwrap_or(by_state)
            }
            _ => by_state,
        };
        match self.unconfirmed {
            Some(most) if state.is_unconfirmed() => timeout.min(most),
            _ => timeout,
        }
    }

    /// The timeouts while so many sessions are there as `pressure` says, 1 being as many as there is room for. From
    /// [`PRESSURE_MIN`] on, what is not an established session goes earlier and earlier, as with the adaptive
    /// timeouts of pf.conf(5); those that are established stay.
    pub(crate) fn under(&self, pressure: f64) -> Self {
        let room = ((1.0 - pressure) / (1.0 - PRESSURE_MIN)).clamp(SHORTEST, 1.0);
        let shorter = |timeout: Duration| timeout.mul_f64(room);
        let normal = &self.by_state;
        Self {
            by_state: SessionTimeouts {
                syn_sent: shorter(normal.syn_sent),
                syn_recv: shorter(normal.syn_recv),
                fin_wait: shorter(normal.fin_wait),
                time_wait: shorter(normal.time_wait),
                close: shorter(normal.close),
                udp: shorter(normal.udp),
                ..normal.clone()
            },
            ..self.clone()
        }
    }

    /// The same, with a limit for what nobody has confirmed.
    pub(crate) fn unconfirmed_at_most(&mut self, most: Option<Duration>) {
        self.unconfirmed = most;
    }

    /// That limit.
    pub(crate) fn unconfirmed(&self) -> Option<Duration> {
        self.unconfirmed
    }

    /// No session that is idle for less ends, whatever its state. Until then nobody needs to look at both lines.
    pub(crate) fn least(&self, udp: bool) -> Duration {
        let by_state = &self.by_state;
        let tcp = [
            by_state.syn_sent,
            by_state.syn_recv,
            by_state.established,
            by_state.established_one_way,
            by_state.fin_wait,
            by_state.close_wait,
            by_state.time_wait,
            by_state.close,
        ];
        let of_protocol = if udp {
            by_state.udp.min(by_state.udp_stream)
        } else {
            tcp.into_iter().min().unwrap_or_default()
        };
        let others = self.by_listener.values().copied().chain(self.unconfirmed);
        others.fold(of_protocol, Duration::min)
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
        // As in nf_conntrack_proto_udp.c, one question and its answer are no stream yet.
        return if reply.packets > 0 && client.packets + reply.packets > 2 {
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
    fn udp_is_a_stream_once_more_than_one_answer_to_one_question_was_seen() {
        assert_eq!(
            two_way(true, direction(0, 9, 0), Some(direction(0, 0, 9))),
            State::Udp
        );
        assert_eq!(
            two_way(true, direction(0, 1, 0), Some(direction(0, 1, 0))),
            State::Udp
        );
        assert_eq!(
            two_way(true, direction(0, 2, 0), Some(direction(0, 1, 0))),
            State::UdpStream
        );
        assert_eq!(
            two_way(true, direction(0, 1, 0), Some(direction(0, 2, 0))),
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
            Timeouts::default().of(State::Established, false, 1),
            Duration::from_secs(900)
        );
        assert_eq!(
            Timeouts::default().of(State::Established, true, 1),
            Duration::from_secs(432_000)
        );
    }

    #[test]
    fn a_full_table_shortens_what_is_not_established() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.under(0.0), timeouts);
        assert_eq!(timeouts.under(PRESSURE_MIN), timeouts);
        let of = |timeouts: &Timeouts, state| timeouts.of(state, true, 1);
        let half = timeouts.under(0.8);
        assert_eq!(of(&half, State::TimeWait).as_secs_f64().round(), 60.0);
        let full = timeouts.under(1.5);
        assert_eq!(of(&full, State::TimeWait), Duration::from_secs(6));
        for state in [State::Established, State::UdpStream, State::CloseWait] {
            assert_eq!(of(&full, state), of(&timeouts, state));
        }
        assert!(full.least(false) < Duration::from_secs(1));
    }

    #[test]
    fn what_nobody_has_confirmed_can_be_given_less() {
        let mut timeouts = Timeouts::default();
        let most = Duration::from_millis(300);
        timeouts.unconfirmed_at_most(Some(most));
        for state in State::ALL {
            let limited = timeouts.of(state, true, 1) == most;
            assert_eq!(limited, state.is_unconfirmed(), "{state}");
        }
        assert_eq!((timeouts.least(false), timeouts.least(true)), (most, most));
    }

    #[test]
    fn a_listener_has_its_own_timeout_for_established_sessions() {
        let own = Duration::from_secs(7);
        let timeouts = Timeouts::new(
            SessionTimeouts::default(),
            Arc::new(HashMap::from([(3, own)])),
        );
        for state in State::ALL {
            let expected = match state {
                State::Established | State::UdpStream => own,
                _ => Timeouts::default().of(state, true, 3),
            };
            assert_eq!(timeouts.of(state, true, 3), expected, "{state}");
            assert_eq!(
                timeouts.of(state, true, 4),
                Timeouts::default().of(state, true, 4)
            );
        }
        assert_eq!(timeouts.least(false), own);
    }

    #[test]
    fn nothing_ends_before_the_least_timeout() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.least(false), Duration::from_secs(10));
        assert_eq!(timeouts.least(true), Duration::from_secs(30));
    }
}
