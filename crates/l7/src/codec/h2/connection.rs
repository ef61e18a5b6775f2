//! One side of a connection, as far as it receives: frames become changes of streams and settings.

use std::collections::VecDeque;
use std::task::Waker;

use super::Fault;
use super::flood::{FloodLimits, Floods, Kind as Flood};
use super::frame::{
    self, ErrorCode, FrameHeader, HEADER_BYTES, PAYLOAD_BYTES_MAX, PREFACE, WINDOW_MAX, flag, kind,
    setting,
};
use super::hpack::{Decoder, Encoder};
use super::message::{Collector, Kind as BlockKind, Wrong};
use super::stream::{Inbound, Key, Outbound, Stream, Streams};
use crate::errors::Reason;

/// Which side of a connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answers requests.
    Server,
    /// It sends them.
    Client,
}

/// What a connection allows its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Streams that the peer may have open.
    pub streams_max: u32,
    /// Bytes of data that the peer may send on a stream before they are read.
    pub stream_window: u32,
    /// Likewise on all streams together.
    pub connection_window: u32,
    /// Bytes of a header list, 32 added for each field.
    pub header_bytes: usize,
    /// Fields of a header list, each crumb of a cookie counted.
    pub header_count: usize,
    /// CONTINUATION frames of one block.
    pub continuations_max: u32,
    /// WebSockets may be asked for (RFC 8441).
    pub websockets: bool,
    /// What the requests say that they are sent over, `http` or `https`; a client's only.
    pub scheme: &'static [u8],
    /// How often everything else may come.
    pub floods: FloodLimits,
}

impl Config {
    /// The header list that the peer may send, as it is told.
    fn header_list_size(&self) -> u32 {
        self.header_bytes.try_into().unwrap_or(u32::MAX)
    }
}

/// The window that both sides begin with (RFC 9113, section 6.9.2).
const WINDOW_DEFAULT: u32 = 65_535;

/// Streams that we have reset lately: what the peer had sent before it knew is no fault.
const REMEMBERED_RESETS: usize = 32;

/// A connection's window is given back once so much of it is used: a half.
const CREDIT_SHARE: u32 = 2;

/// A header block that is not complete yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    flags: u8,
    depends_on_itself: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// One side of a connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) streams: Streams,
    decoder: Decoder,
    pub(super) encoder: Encoder,
    collector: Collector,
    floods: Floods,
    /// The preface and the first SETTINGS have come.
    preface_read: bool,
    settings_read: bool,
    block: Option<Block>,
    /// The highest stream that the peer has opened.
    last_remote: u32,
    /// Identifiers that the peer has passed over lately, from and to: these were never streams.
    passed_over: (u32, u32),
    /// The next stream that we open.
    next_local: u32,
    /// No stream above it is served any more.
    goaway_at: Option<u32>,
    /// The peer serves no stream above this one.
    peer_goaway: Option<u32>,
    receive_window: u32,
    unread: u32,
    uncredited: u32,
    pub(super) send_window: i64,
    pub(super) peer_window: u32,
    pub(super) peer_frame_max: usize,
    pub(super) peer_streams_max: u32,
    resets: [u32; REMEMBERED_RESETS],
    resets_at: usize,
    /// WINDOW_UPDATE frames that the data we have sent accounts for.
    pub(super) updates_expected: u32,
    /// What is to be sent, and how much of it was.
    pub(super) out: Vec<u8>,
    pub(super) out_sent: usize,
    /// The last frame in `out`, if it is DATA of this stream: its header's place, and where it ends.
    pub(super) last_data: Option<(u32, usize, usize)>,
    /// Streams that wait for room, for the connection's window, or for their turn.
    pub(super) queue: VecDeque<Key>,
    /// Streams that the peer has opened and nobody has taken yet.
    opened: Vec<Opened>,
    /// What went wrong with streams, to be counted.
    faults: Vec<Reason>,
    /// The connection is given up.
    dead: bool,
    /// What a WebSocket's key is made from; of no secrecy (RFC 6455, section 10.3, is about scripts in browsers).
    key_seed: u64,
}

/// A stream that the peer has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The stream.
    pub key: Key,
    /// Its request is not served, but answered with the status of this reason.
    pub refused: Option<Reason>,
}

impl Connection {
    /// A server's side. `key_seed` is any number that others do not know.
    pub fn server(config: Config, key_seed: u64) -> Self {
        let mut connection = Self::new(Role::Server, config, key_seed);
        let mut settings = vec![
            (
                setting::MAX_CONCURRENT_STREAMS,
                connection.config.streams_max,
            ),
            (
                setting::INITIAL_WINDOW_SIZE,
                connection.config.stream_window,
            ),
            (
                setting::MAX_HEADER_LIST_SIZE,
                connection.config.header_list_size(),
            ),
        ];
        if connection.config.websockets {
            settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
        }
        connection.announce(&settings);
        connection
    }

    /// A client's side.
    pub fn client(config: Config) -> Self {
        let mut connection = Self::new(Role::Client, config, 0);
        connection.preface_read = true;
        connection.out.extend_from_slice(PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (
                setting::INITIAL_WINDOW_SIZE,
                connection.config.stream_window,
            ),
            (
                setting::MAX_HEADER_LIST_SIZE,
                connection.config.header_list_size(),
            ),
        ];
        connection.announce(&settings);
        connection
    }

    fn new(role: Role, config: Config, key_seed: u64) -> Self {
        Self {
            role,
            streams: Streams::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            collector: Collector::default(),
            floods: Floods::new(config.floods),
            preface_read: false,
            settings_read: false,
            block: None,
            last_remote: 0,
            passed_over: (0, 0),
            next_local: 1,
            goaway_at: None,
            peer_goaway: None,
            receive_window: WINDOW_DEFAULT,
            unread: 0,
            uncredited: 0,
            send_window: i64::from(WINDOW_DEFAULT),
            peer_window: WINDOW_DEFAULT,
            peer_frame_max: PAYLOAD_BYTES_MAX,
            // Until the peer says how many it takes: what RFC 9113, section 6.5.2, recommends as the least.
            peer_streams_max: 100,
            resets: [0; REMEMBERED_RESETS],
            resets_at: 0,
            updates_expected: 0,
            out: Vec::new(),
            out_sent: 0,
            last_data: None,
            queue: VecDeque::new(),
            opened: Vec::new(),
            faults: Vec::new(),
            dead: false,
            key_seed,
            config,
        }
    }

    fn announce(&mut self, settings: &[(u16, u32)]) {
        frame::write_settings(settings, &mut self.out);
        let more = self.config.connection_window.saturating_sub(WINDOW_DEFAULT);
        if more > 0 {
            frame::write_window_update(0, more, &mut self.out);
            self.receive_window += more;
        }
    }

    /// Reads what has come, as far as it is whole frames, and says how many bytes those are. An error ends the
    /// connection; what is to be sent then says why.
    pub fn receive(&mut self, input: &[u8], now_ms: u64) -> Result<usize, Fault> {
        self.floods.set_now(now_ms);
        let mut read = 0;
        while !self.dead {
            match self.receive_one(&input[read..]) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(fault) => {
                    self.give_up(fault.code);
                    return Err(fault);
                }
            }
        }
        Ok(read)
    }

    fn receive_one(&mut self, input: &[u8]) -> Result<usize, Fault> {
        if !self.preface_read {
            let common = input.len().min(PREFACE.len());
            if input[..common] != PREFACE[..common] {
                return Err(Fault::PROTOCOL);
            }
            if common < PREFACE.len() {
                return Ok(0);
            }
            self.preface_read = true;
            return Ok(PREFACE.len());
        }
        let Some(header) = FrameHeader::parse(input) else {
            return Ok(0);
        };
        if header.length > PAYLOAD_BYTES_MAX {
            return Err(Fault::FRAME_SIZE);
        }
        let length = HEADER_BYTES + header.length;
        let Some(payload) = input.get(HEADER_BYTES..length) else {
            return Ok(0);
        };
        self.frame(header, payload)?;
        Ok(length)
    }

    fn frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if !self.settings_read && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Fault::PROTOCOL);
        }
        if let Some(block) = &self.block
            && (header.kind != kind::CONTINUATION || header.stream != block.stream)
        {
            return Err(Fault::PROTOCOL);
        }
        match header.kind {
            kind::DATA => self.data(header, payload),
            kind::HEADERS => self.headers(header, payload),
            kind::PRIORITY => self.priority(header, payload),
            kind::RST_STREAM => self.rst_stream(header, payload),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING => self.ping(header, payload),
            kind::GOAWAY => self.goaway(header, payload),
            kind::WINDOW_UPDATE => self.window_update(header, payload),
            kind::CONTINUATION => self.continuation(header, payload),
            // Nobody may push to a server, and a client of ours does not allow it.
            kind::PUSH_PROMISE => Err(Fault::PROTOCOL),
            _ => self.floods.count(Flood::Idle),
        }
    }

    fn data(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 || self.is_idle(header.stream) {
            return Err(Fault::PROTOCOL);
        }
        let data = unpadded(header, payload)?;
        let length = payload.len() as u32;
        if length > self.receive_window {
            return Err(Fault::FLOW_CONTROL);
        }
        self.receive_window -= length;
        let ends = header.has(flag::END_STREAM);
        if data.is_empty() && !ends {
            self.floods.count(Flood::EmptyData)?;
        }
        let found = self.streams.find(header.stream).filter(|key| {
            self.streams
                .get(*key)
                .is_some_and(|stream| stream.reset.is_none())
        });
        let Some(key) = found else {
            self.credit(length);
            return self.late(header.stream);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let fault = if stream.remote_ended {
            Some(Fault::STREAM_CLOSED)
        } else if length > stream.receive_window {
            Some(Fault::FLOW_CONTROL)
        } else if stream.inbound == Inbound::Head {
            // A body before the head of the answer.
            Some(Fault::PROTOCOL)
        } else {
            stream.receive_window -= length;
            let left = stream
                .expected
                .map(|left| left.checked_sub(data.len() as u64));
            let is_wrong = match left {
                Some(None) => true,
                Some(Some(left)) => {
                    stream.expected = Some(left);
                    ends && left > 0
                }
                None => false,
            };
            is_wrong.then_some(Fault {
                code: ErrorCode::ProtocolError,
                reason: Reason::LengthMismatch,
            })
        };
        if let Some(fault) = fault {
            self.credit(length);
            return self.reset_for(key, fault);
        }
        // What is only padding comes back at once.
        let padding = length - data.len() as u32;
        let kept = if stream.inbound == Inbound::Nothing {
            0
        } else {
            data.len() as u32
        };
        let back = padding + (data.len() as u32 - kept);
        stream.uncredited += back;
        stream.unread += kept;
        self.unread += kept;
        match stream.inbound {
            Inbound::Chunked if !data.is_empty() => {
                write_chunk(data, &mut stream.inbox);
            }
            Inbound::Plain => stream.inbox.extend_from_slice(data),
            Inbound::Chunked | Inbound::Nothing | Inbound::Head => {}
        }
        if ends {
            if stream.inbound == Inbound::Chunked {
                stream.inbox.extend_from_slice(b"0\r\n\r\n");
            }
            self.streams
                .update(key, |stream| stream.remote_ended = true);
        }
        if let Some(stream) = self.streams.get(key) {
            stream.wake();
        }
        self.credit(back);
        self.credit_stream(key);
        Ok(())
    }

    /// A frame for a stream that is gone: to be borne where we have reset it, or where it can have been on its way.
    fn late(&mut self, stream: u32) -> Result<(), Fault> {
        if self.resets.contains(&stream) || self.is_local(stream) {
            return Ok(());
        }
        let fault = Fault::STREAM_CLOSED;
        self.faults.push(fault.reason);
        self.floods.count(Flood::MadeReset)?;
        frame::write_reset(stream, fault.code, &mut self.out);
        self.remember_reset(stream);
        Ok(())
    }

    fn headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 {
            return Err(Fault::PROTOCOL);
        }
        let mut fragment = unpadded(header, payload)?;
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let (priority, rest) = fragment.split_first_chunk::<5>().ok_or(Fault::FRAME_SIZE)?;
            let [a, b, c, d, _] = *priority;
            depends_on_itself = frame::number([a, b, c, d]) == header.stream;
            fragment = rest;
        }
        if header.has(flag::END_HEADERS) {
            return self.block(header.stream, header.flags, depends_on_itself, fragment);
        }
        self.block = Some(Block {
            stream: header.stream,
            flags: header.flags,
            depends_on_itself,
            bytes: fragment.to_vec(),
            continuations: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let Some(block) = &mut self.block else {
            return Err(Fault::PROTOCOL);
        };
        block.continuations += 1;
        // A block that is longer than what it may come to is nobody's: it is not read to its end (CVE-2024-27316).
        let is_flood = block.continuations > self.config.continuations_max
            || block.bytes.len() + payload.len() > PAYLOAD_BYTES_MAX + self.config.header_bytes;
        if is_flood {
            return Err(Fault {
                code: ErrorCode::EnhanceYourCalm,
                reason: Reason::ContinuationFlood,
            });
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            return self.block(
                block.stream,
                block.flags,
                block.depends_on_itself,
                &block.bytes,
            );
        }
        Ok(())
    }

    /// Takes a whole header block.
    fn block(
        &mut self,
        id: u32,
        flags: u8,
        depends_on_itself: bool,
        block: &[u8],
    ) -> Result<(), Fault> {
        let found = self.streams.find(id);
        let is_new = self.role == Role::Server && id > self.last_remote;
        if self.role == Role::Server && id.is_multiple_of(2) {
            return Err(Fault::PROTOCOL);
        }
        if self.role == Role::Client && (id.is_multiple_of(2) || id >= self.next_local) {
            return Err(Fault::PROTOCOL);
        }
        let awaits_head = found
            .and_then(|key| self.streams.get(key))
            .is_some_and(|stream| stream.inbound == Inbound::Head);
        let kind = match (self.role, is_new) {
            (Role::Server, true) => BlockKind::Request,
            (Role::Client, _) if awaits_head => BlockKind::Response,
            _ => BlockKind::Trailers,
        };
        self.collector
            .begin(kind, self.config.header_bytes, self.config.header_count);
        let collector = &mut self.collector;
        let decoded = self
            .decoder
            .decode(block, |name, value| collector.field(name, value));
        decoded.map_err(|_| Fault {
            code: ErrorCode::CompressionError,
            reason: Reason::BadCompression,
        })?;
        let ends = flags & flag::END_STREAM != 0;
        if is_new {
            return self.request(id, ends, depends_on_itself);
        }
        let found = found.filter(|key| {
            self.streams
                .get(*key)
                .is_some_and(|stream| stream.reset.is_none())
        });
        let Some(key) = found else {
            // Fields for a stream that is gone may only come from before we have reset it.
            return if self.resets.contains(&id) || self.is_local(id) {
                Ok(())
            } else if (self.passed_over.0..self.passed_over.1).contains(&id) {
                // Identifiers only grow (RFC 9113, section 5.1.1).
                Err(Fault::PROTOCOL)
            } else {
                Err(Fault::STREAM_CLOSED)
            };
        };
        let was_ended = self
            .streams
            .get(key)
            .is_some_and(|stream| stream.remote_ended);
        if was_ended {
            return self.reset_for(key, Fault::STREAM_CLOSED);
        }
        if depends_on_itself {
            return self.reset_for(key, Fault::PROTOCOL);
        }
        match kind {
            BlockKind::Response => self.response(key, ends),
            _ => self.trailers(key, ends),
        }
    }

    /// A new request.
    fn request(&mut self, id: u32, ends: bool, depends_on_itself: bool) -> Result<(), Fault> {
        if id > self.last_remote + 2 {
            self.passed_over = (self.last_remote + 1, id);
        }
        self.last_remote = id;
        if self.goaway_at.is_some_and(|last| id > last) {
            // The peer knows from our GOAWAY that it is not served.
            self.remember_reset(id);
            return Ok(());
        }
        let found = self.collector.finish();
        let fault = match found {
            Err(Wrong::Bomb) => {
                return Err(Fault {
                    code: ErrorCode::EnhanceYourCalm,
                    reason: Reason::FieldBomb,
                });
            }
            Err(Wrong::Malformed(reason)) => Some(Fault {
                code: ErrorCode::ProtocolError,
                reason,
            }),
            _ if depends_on_itself => Some(Fault::PROTOCOL),
            Ok(found) if ends && found.length.is_some_and(|length| length > 0) => Some(Fault {
                code: ErrorCode::ProtocolError,
                reason: Reason::LengthMismatch,
            }),
            _ => None,
        };
        if let Some(fault) = fault {
            self.faults.push(fault.reason);
            self.floods.count(Flood::MadeReset)?;
            frame::write_reset(id, fault.code, &mut self.out);
            self.remember_reset(id);
            return Ok(());
        }
        if found.is_err() {
            self.floods.count(Flood::LargeHead)?;
        }
        // Streams that were reset and whose end nobody has noticed yet count for twice as many.
        let streams_max = self.config.streams_max as usize;
        if self.streams.open >= streams_max || self.streams.len() >= 2 * streams_max {
            self.faults.push(Reason::TooManyStreams);
            frame::write_reset(id, ErrorCode::RefusedStream, &mut self.out);
            self.remember_reset(id);
            return Ok(());
        }
        let mut stream = Stream::new(id, self.config.stream_window, i64::from(self.peer_window));
        stream.remote_ended = ends;
        let mut refused = None;
        match found {
            Err(_) => {
                stream.inbound = Inbound::Nothing;
                refused = Some(Reason::HeadTooLarge);
            }
            Ok(found) => {
                stream.expected = found.length;
                stream.is_head = found.is_head;
                stream.is_tunnel = found.is_tunnel && self.config.websockets;
                let chunked = !ends && found.length.is_none() && !found.is_tunnel;
                stream.inbound = match found.length {
                    _ if found.is_tunnel => Inbound::Plain,
                    _ if chunked => Inbound::Chunked,
                    Some(1..) => Inbound::Plain,
                    _ => Inbound::Nothing,
                };
                if found.is_tunnel && !self.config.websockets {
                    refused = Some(Reason::ConnectRefused);
                }
            }
        }
        let key = self.streams.insert(stream);
        if refused.is_none() {
            let websocket_key = match found {
                Ok(found) if found.is_tunnel => self.websocket_key(),
                _ => [0; 24],
            };
            let chunked = self
                .streams
                .get(key)
                .is_some_and(|stream| stream.inbound == Inbound::Chunked);
            if let Some(stream) = self.streams.get_mut(key) {
                self.collector
                    .write_request(chunked, &websocket_key, &mut stream.inbox);
            }
        }
        self.opened.push(Opened { key, refused });
        Ok(())
    }

    /// The head of an answer.
    fn response(&mut self, key: Key, ends: bool) -> Result<(), Fault> {
        let found = match self.collector.finish() {
            Ok(found) => found,
            Err(_) => {
                return self.reset_for(
                    key,
                    Fault {
                        code: ErrorCode::ProtocolError,
                        reason: Reason::BadResponse,
                    },
                );
            }
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let is_interim = found.status < 200;
        let is_bodiless = is_interim || matches!(found.status, 204 | 304) || stream.is_head;
        if (is_interim && ends)
            || (ends && !is_bodiless && found.length.is_some_and(|length| length > 0))
        {
            return self.reset_for(
                key,
                Fault {
                    code: ErrorCode::ProtocolError,
                    reason: Reason::BadResponseFraming,
                },
            );
        }
        let framing = match found.length {
            _ if is_bodiless => &b""[..],
            Some(_) => b"",
            None if ends => b"Content-Length: 0\r\n",
            None => b"Transfer-Encoding: chunked\r\n",
        };
        if !is_interim {
            stream.expected = found.length.filter(|_| !is_bodiless);
            stream.inbound = match found.length {
                _ if is_bodiless => Inbound::Nothing,
                Some(_) => Inbound::Plain,
                None if ends => Inbound::Nothing,
                None => Inbound::Chunked,
            };
        }
        self.collector.write_response(framing, &mut stream.inbox);
        stream.wake();
        if ends {
            self.streams
                .update(key, |stream| stream.remote_ended = true);
        }
        Ok(())
    }

    fn trailers(&mut self, key: Key, ends: bool) -> Result<(), Fault> {
        let reason = match self.collector.finish() {
            _ if !ends => Some(Reason::BadFrame),
            Err(Wrong::Bomb | Wrong::TooLarge) => Some(Reason::HeadTooLarge),
            Err(Wrong::Malformed(reason)) => Some(reason),
            Ok(_) => None,
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        let reason = reason.or_else(|| {
            stream
                .expected
                .is_some_and(|left| left > 0)
                .then_some(Reason::LengthMismatch)
        });
        if let Some(reason) = reason {
            let code = ErrorCode::ProtocolError;
            return self.reset_for(key, Fault { code, reason });
        }
        // A body with a length has no trailers in HTTP/1.1: they are left out, as any recipient may.
        if stream.inbound == Inbound::Chunked {
            self.collector.write_trailers(&mut stream.inbox);
        }
        stream.wake();
        self.streams
            .update(key, |stream| stream.remote_ended = true);
        Ok(())
    }

    fn priority(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 {
            return Err(Fault::PROTOCOL);
        }
        self.floods.count(Flood::Idle)?;
        let fault = match *payload {
            [a, b, c, d, _] if frame::number([a, b, c, d]) != header.stream => return Ok(()),
            [_, _, _, _, _] => Fault::PROTOCOL,
            _ => Fault::FRAME_SIZE,
        };
        match self.streams.find(header.stream) {
            Some(key) => self.reset_for(key, fault),
            None if self.is_idle(header.stream) => Err(fault),
            None => Ok(()),
        }
    }

    fn rst_stream(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let code: [u8; 4] = payload.try_into().map_err(|_| Fault::FRAME_SIZE)?;
        if header.stream == 0 || self.is_idle(header.stream) {
            return Err(Fault::PROTOCOL);
        }
        let Some(key) = self.streams.find(header.stream) else {
            return self.floods.count(Flood::Idle);
        };
        if self.role == Role::Server && self.streams.get(key).is_some_and(Stream::is_open) {
            self.floods.count(Flood::Reset)?;
        }
        let code = match u32::from_be_bytes(code) {
            0 => ErrorCode::NoError,
            7 => ErrorCode::RefusedStream,
            _ => ErrorCode::Cancel,
        };
        self.mark_reset(key, code);
        Ok(())
    }

    fn settings(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::PROTOCOL);
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || (header.has(flag::ACK) && !payload.is_empty()) {
            return Err(Fault::FRAME_SIZE);
        }
        if header.has(flag::ACK) {
            return self.floods.count(Flood::Settings);
        }
        if self.settings_read {
            self.floods.count(Flood::Settings)?;
        }
        self.settings_read = true;
        for [a, b, c, d, e, f] in settings {
            let value = u32::from_be_bytes([*c, *d, *e, *f]);
            self.setting(u16::from_be_bytes([*a, *b]), value)?;
        }
        frame::write_settings_ack(&mut self.out);
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            setting::HEADER_TABLE_SIZE => {
                self.encoder
                    .set_table_bytes(usize::try_from(value).unwrap_or(usize::MAX));
            }
            // Only a client may allow pushes (RFC 9113, section 6.5.2).
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(Fault::PROTOCOL);
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer_streams_max = value,
            setting::INITIAL_WINDOW_SIZE => {
                if value > WINDOW_MAX {
                    return Err(Fault::FLOW_CONTROL);
                }
                let change = i64::from(value) - i64::from(self.peer_window);
                self.peer_window = value;
                let mut waiting = Vec::new();
                for stream in self.streams.all_mut() {
                    stream.send_window += change;
                    if stream.send_window > i64::from(WINDOW_MAX) {
                        return Err(Fault::FLOW_CONTROL);
                    }
                    if change > 0 && stream.send_window > 0 && !stream.queued {
                        waiting.push(stream.id);
                    }
                }
                for id in waiting {
                    if let Some(key) = self.streams.find(id) {
                        self.enqueue(key);
                    }
                }
                self.unblock();
            }
            setting::MAX_FRAME_SIZE => {
                let size = usize::try_from(value).unwrap_or(usize::MAX);
                if !(PAYLOAD_BYTES_MAX..1 << 24).contains(&size) {
                    return Err(Fault::PROTOCOL);
                }
                // Larger frames than these would hold up the other streams.
                self.peer_frame_max = PAYLOAD_BYTES_MAX;
            }
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Fault::PROTOCOL),
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::PROTOCOL);
        }
        if payload.len() != 8 {
            return Err(Fault::FRAME_SIZE);
        }
        self.floods.count(Flood::Ping)?;
        if !header.has(flag::ACK) {
            frame::write_pong(payload, &mut self.out);
        }
        Ok(())
    }

    fn goaway(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::PROTOCOL);
        }
        let (last, _) = payload.split_first_chunk::<4>().ok_or(Fault::FRAME_SIZE)?;
        if payload.len() < 8 {
            return Err(Fault::FRAME_SIZE);
        }
        self.floods.count(Flood::Settings)?;
        let last = frame::number(*last);
        self.peer_goaway = Some(last);
        if self.role == Role::Client {
            // What is above was not served, and may be sent elsewhere (RFC 9113, section 6.8).
            let mut lost = Vec::new();
            for stream in self.streams.all_mut() {
                if stream.id > last {
                    lost.push(stream.id);
                }
            }
            for id in lost {
                if let Some(key) = self.streams.find(id) {
                    self.mark_reset(key, ErrorCode::RefusedStream);
                }
            }
        }
        Ok(())
    }

    fn window_update(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let increment: [u8; 4] = payload.try_into().map_err(|_| Fault::FRAME_SIZE)?;
        let increment = frame::number(increment);
        match self.updates_expected.checked_sub(1) {
            Some(left) => self.updates_expected = left,
            // One of nothing is a mistake, and counted as such.
            None if increment > 0 => self.floods.count(Flood::Idle)?,
            None => {}
        }
        if header.stream == 0 {
            self.send_window += i64::from(increment);
            if increment == 0 {
                return Err(Fault::PROTOCOL);
            }
            if self.send_window > i64::from(WINDOW_MAX) {
                return Err(Fault::FLOW_CONTROL);
            }
            self.unblock();
            return Ok(());
        }
        if self.is_idle(header.stream) {
            return Err(Fault::PROTOCOL);
        }
        let Some(key) = self.streams.find(header.stream) else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        stream.send_window += i64::from(increment);
        if increment == 0 {
            return self.reset_for(key, Fault::PROTOCOL);
        }
        if stream.send_window > i64::from(WINDOW_MAX) {
            return self.reset_for(key, Fault::FLOW_CONTROL);
        }
        self.enqueue(key);
        self.unblock();
        Ok(())
    }

    /// Whether a stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        if self.is_local(id) {
            id >= self.next_local
        } else {
            self.role == Role::Client || id.is_multiple_of(2) || id > self.last_remote
        }
    }

    fn is_local(&self, id: u32) -> bool {
        self.role == Role::Client && !id.is_multiple_of(2)
    }

    /// Resets a stream for something that the peer has done.
    fn reset_for(&mut self, key: Key, fault: Fault) -> Result<(), Fault> {
        if self
            .streams
            .get(key)
            .is_none_or(|stream| stream.reset.is_some())
        {
            return Ok(());
        }
        self.faults.push(fault.reason);
        self.floods.count(Flood::MadeReset)?;
        self.reset(key, fault.code);
        Ok(())
    }

    /// Resets a stream.
    pub(super) fn reset(&mut self, key: Key, code: ErrorCode) {
        if self
            .streams
            .get(key)
            .is_none_or(|stream| stream.reset.is_some())
        {
            return;
        }
        if !self.is_unsaid(key) {
            frame::write_reset(key.id, code, &mut self.out);
        }
        self.remember_reset(key.id);
        self.mark_reset(key, code);
    }

    /// Whether the peer has not heard of a stream that we have opened: there is nothing to reset.
    fn is_unsaid(&self, key: Key) -> bool {
        let stream = self.streams.get(key);
        self.role == Role::Client
            && stream.is_some_and(|stream| matches!(stream.outbound, Outbound::Head))
    }

    fn remember_reset(&mut self, id: u32) {
        self.resets[self.resets_at % REMEMBERED_RESETS] = id;
        self.resets_at += 1;
    }

    fn mark_reset(&mut self, key: Key, code: ErrorCode) {
        let unread = self.streams.update(key, |stream| {
            stream.reset.get_or_insert(code);
            stream.wake();
            // An answer that was complete before the end of the request was refused is still read.
            if stream.remote_ended && code == ErrorCode::NoError {
                0
            } else {
                stream.inbox.clear();
                stream.inbox_read = 0;
                std::mem::take(&mut stream.unread)
            }
        });
        self.give_back_unread(unread.unwrap_or(0));
    }

    fn give_back_unread(&mut self, bytes: u32) {
        self.unread -= bytes;
        self.credit(bytes);
    }

    /// Gives the connection's window back, in pieces that are worth a frame.
    fn credit(&mut self, bytes: u32) {
        self.uncredited += bytes;
        if self.uncredited >= self.config.connection_window / CREDIT_SHARE && !self.dead {
            frame::write_window_update(0, self.uncredited, &mut self.out);
            self.receive_window += std::mem::take(&mut self.uncredited);
        }
    }

    fn credit_stream(&mut self, key: Key) {
        let threshold = self.config.stream_window / CREDIT_SHARE;
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.remote_ended || stream.reset.is_some() || stream.uncredited < threshold.max(1) {
            return;
        }
        let increment = std::mem::take(&mut stream.uncredited);
        stream.receive_window += increment;
        frame::write_window_update(key.id, increment, &mut self.out);
    }

    /// 24 characters of base 64 that nobody has sent before, for the handshake of a WebSocket.
    fn websocket_key(&mut self) -> [u8; 24] {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut key = [b'='; 24];
        for (at, digit) in key[..22].iter_mut().enumerate() {
            // splitmix64
            self.key_seed = self.key_seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.key_seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = (mixed >> 58) as usize;
            // 16 bytes are 21 digits and two bits.
            *digit = DIGITS[if at == 21 { bits & 0x30 } else { bits }];
        }
        key
    }

    /// Gives the connection up: what is to be sent ends with the reason.
    pub fn give_up(&mut self, code: ErrorCode) {
        if self.dead {
            return;
        }
        self.dead = true;
        frame::write_goaway(self.last_remote, code, &mut self.out);
        self.fail_streams();
    }

    /// The peer is gone: every stream fails.
    pub fn fail_streams(&mut self) {
        self.dead = true;
        for stream in self.streams.all_mut() {
            stream.wake();
        }
        let ids: Vec<u32> = self.streams.all_mut().map(|stream| stream.id).collect();
        for id in ids {
            if let Some(key) = self.streams.find(id) {
                self.mark_reset(key, ErrorCode::InternalError);
            }
        }
    }

    /// Asks the peer for a sign of life.
    pub fn send_ping(&mut self) {
        if !self.dead {
            frame::write_ping(&mut self.out);
        }
    }

    /// Tells the peer that the connection will end soon; it may still open streams for a while.
    pub fn announce_end(&mut self) {
        if self.goaway_at.is_none() && !self.dead {
            self.goaway_at = Some(WINDOW_MAX);
            frame::write_goaway(WINDOW_MAX, ErrorCode::NoError, &mut self.out);
        }
    }

    /// No stream that is opened from now on is served.
    pub fn end_after_open_streams(&mut self) {
        if self.goaway_at != Some(self.last_remote) && !self.dead {
            self.goaway_at = Some(self.last_remote);
            frame::write_goaway(self.last_remote, ErrorCode::NoError, &mut self.out);
        }
    }

    /// Whether the peer is told that the connection ends.
    pub fn is_ending(&self) -> bool {
        self.goaway_at.is_some()
    }

    /// Whether the connection was given up.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether the peer has said that it ends the connection.
    pub fn peer_is_ending(&self) -> bool {
        self.peer_goaway.is_some()
    }

    /// Streams that are held, ended or not.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether something has begun and is not complete: a preface, or a header block.
    pub fn is_in_the_middle(&self) -> bool {
        !self.settings_read || self.block.is_some()
    }

    /// Whether the peer's first SETTINGS have come.
    pub fn is_established(&self) -> bool {
        self.settings_read
    }

    /// Whether a client may open another stream.
    pub fn takes_more(&self) -> bool {
        !self.dead
            && self.peer_goaway.is_none()
            && self.goaway_at.is_none()
            && self.next_local < WINDOW_MAX - 2
            && self.streams.len() < self.peer_streams_max.min(self.config.streams_max) as usize
    }

    /// Opens a stream for a request.
    pub fn open(&mut self) -> Option<Key> {
        if !self.takes_more() {
            return None;
        }
        let id = self.next_local;
        self.next_local += 2;
        let stream = Stream::new(id, self.config.stream_window, i64::from(self.peer_window));
        Some(self.streams.insert(stream))
    }

    /// Streams that the peer has opened since the last call.
    pub fn take_opened(&mut self, taken: &mut Vec<Opened>) {
        taken.append(&mut self.opened);
    }

    /// What has gone wrong with streams since the last call.
    pub fn take_faults(&mut self) -> Vec<Reason> {
        std::mem::take(&mut self.faults)
    }

    /// Text that came on a stream and was not read yet, and whether more will come.
    pub fn inbox(&self, key: Key) -> Inbox<'_> {
        let Some(stream) = self.streams.get(key) else {
            return Inbox::Reset(ErrorCode::InternalError);
        };
        let unread = stream.unread();
        match stream.reset {
            _ if !unread.is_empty() => Inbox::Text(unread),
            Some(code) if !(stream.remote_ended && code == ErrorCode::NoError) => {
                Inbox::Reset(code)
            }
            _ if stream.remote_ended => Inbox::Ended,
            _ => Inbox::Empty,
        }
    }

    /// Takes text that was read off the inbox.
    pub fn consume(&mut self, key: Key, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.inbox_read += count;
        if stream.inbox_read < stream.inbox.len() {
            return;
        }
        stream.inbox.clear();
        stream.inbox_read = 0;
        let bytes = std::mem::take(&mut stream.unread);
        stream.uncredited += bytes;
        self.credit_stream(key);
        self.give_back_unread(bytes);
    }

    /// Whether a stream was reset before its end.
    pub fn is_reset(&self, key: Key) -> bool {
        self.streams
            .get(key)
            .is_none_or(|stream| stream.reset.is_some())
    }

    /// Why a stream was reset.
    pub fn reset_code(&self, key: Key) -> Option<ErrorCode> {
        self.streams.get(key)?.reset
    }

    /// Whom to wake when something happens to a stream.
    pub fn set_waker(&mut self, key: Key, waker: &Waker) {
        if let Some(stream) = self.streams.get_mut(key) {
            match &mut stream.waker {
                Some(known) => known.clone_from(waker),
                None => stream.waker = Some(waker.clone()),
            }
        }
    }

    /// The stream is let down: its end will look like the failure that it is.
    pub fn abort(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.aborted = true;
        }
    }

    /// Refuses a stream of which nothing was served: the peer may send its request elsewhere.
    pub fn refuse(&mut self, key: Key) {
        self.reset(key, ErrorCode::RefusedStream);
    }

    /// Nobody is interested in a stream any more. What is not at its end is reset.
    pub fn release_stream(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let code = match self.role {
            _ if stream.reset.is_some() || !stream.is_open() => None,
            Role::Client => Some(ErrorCode::Cancel),
            // The answer is whole, the rest of the request is not wanted (RFC 9113, section 8.1).
            Role::Server if stream.local_ended && !stream.aborted => Some(ErrorCode::NoError),
            Role::Server => Some(ErrorCode::InternalError),
        };
        if let Some(code) = code
            && !self.dead
            && !self.is_unsaid(key)
        {
            frame::write_reset(key.id, code, &mut self.out);
            self.remember_reset(key.id);
        }
        let unread = stream_unread(self.streams.get(key));
        self.give_back_unread(unread);
        self.streams.remove(key);
    }

    /// Gives memory back that is of no use while no stream is open.
    pub fn release_memory(&mut self) {
        if self.streams.len() == 0 {
            self.streams.release();
            self.collector.release();
            self.queue = VecDeque::new();
            self.opened = Vec::new();
            self.faults = Vec::new();
        }
    }

    pub(super) fn count_tiny(&mut self) {
        if let Err(fault) = self.floods.count(Flood::TinyWindow) {
            self.faults.push(fault.reason);
            self.give_up(fault.code);
        }
    }

    pub(super) fn set_outbound(&mut self, key: Key, outbound: Outbound) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.outbound = outbound;
        }
    }
}

fn stream_unread(stream: Option<&Stream>) -> u32 {
    stream.map_or(0, |stream| stream.unread)
}

/// What there is to read of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbox<'i> {
    /// This.
    Text(&'i [u8]),
    /// Nothing yet.
    Empty,
    /// Nothing more.
    Ended,
    /// Nothing more, though it is not the end.
    Reset(ErrorCode),
}

/// Takes the padding off a payload (RFC 9113, section 6.1).
fn unpadded(header: FrameHeader, payload: &[u8]) -> Result<&[u8], Fault> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Fault::FRAME_SIZE)?;
    let length = rest
        .len()
        .checked_sub(usize::from(*padding))
        .ok_or(Fault::PROTOCOL)?;
    Ok(&rest[..length])
}

fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // A frame has at most 2^14 bytes: four digits.
    let digits = [12, 8, 4, 0].map(|shift| DIGITS[data.len() >> shift & 0xf]);
    out.reserve(data.len() + 8);
    out.extend_from_slice(&digits);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}
