//! Heads, as HTTP/2 has them and as the rest of the proxy reads them.
//!
//! What a stream carries becomes the text of an HTTP/1.1 message, and the other way round: routing, cookies, forwarded
//! addresses, retries and limits are decided in one place, for all versions, over that text. What HTTP/2 allows and a
//! line of text could not carry unambiguously (RFC 9113, section 8.2.1) is refused here, before it is text.

use super::hpack::{ENTRY_OVERHEAD, Encoder};
use crate::codec::h1::field::trim;
use crate::errors::Reason;

/// What a block of fields is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Trailers,
}

/// What was found in a block of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The length that the body is said to have.
    pub(super) length: Option<u64>,
    /// The status of an answer.
    pub(super) status: u16,
    /// The method is HEAD.
    pub(super) is_head: bool,
    /// The request wants a WebSocket (RFC 8441).
    pub(super) is_tunnel: bool,
}

/// What is wrong with a block of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// No such message exists.
    Malformed(Reason),
    /// It is larger than the limits.
    TooLarge,
    /// So much larger that nobody means it: an attack on memory or time.
    Bomb,
}

/// A block of this many times the allowed size is a bomb, not a mistake.
const BOMB_FACTOR: usize = 16;

/// Where the parts of a pseudo-field are.
type Place = Option<(usize, usize)>;

/// Collects the fields of a block, and makes the text of a head of them.
#[derive(Debug, Default)]
pub(super) struct Collector {
    kind: Option<Kind>,
    list_bytes_max: usize,
    list_bytes: usize,
    fields_left: usize,
    wrong: Option<Wrong>,
    /// Values of pseudo-fields.
    pseudo: Vec<u8>,
    method: Place,
    scheme: Place,
    path: Place,
    authority: Place,
    protocol: Place,
    /// Field lines, whole.
    lines: Vec<u8>,
    /// Cookies that came in crumbs (RFC 9113, section 8.2.3).
    cookies: Vec<u8>,
    regular_seen: bool,
    found: Found,
}

impl Collector {
    /// Begins a block.
    pub(super) fn begin(&mut self, kind: Kind, list_bytes_max: usize, fields_max: usize) {
        self.pseudo.clear();
        self.lines.clear();
        self.cookies.clear();
        *self = Self {
            kind: Some(kind),
            list_bytes_max,
            fields_left: fields_max,
            pseudo: std::mem::take(&mut self.pseudo),
            lines: std::mem::take(&mut self.lines),
            cookies: std::mem::take(&mut self.cookies),
            ..Self::default()
        };
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// Takes a field.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        // Crumbs of cookies count like other fields.
        self.list_bytes += name.len() + value.len() + ENTRY_OVERHEAD;
        if self.list_bytes > self.list_bytes_max || self.fields_left == 0 {
            let bomb = self.list_bytes > self.list_bytes_max.saturating_mul(BOMB_FACTOR);
            self.wrong = Some(if bomb { Wrong::Bomb } else { Wrong::TooLarge });
            return;
        }
        self.fields_left -= 1;
        if self.wrong.is_none()
            && let Err(reason) = self.take(name, value)
        {
            self.wrong = Some(Wrong::Malformed(reason));
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        if let [b':', ..] = name {
            return self.take_pseudo(name, value);
        }
        self.regular_seen = true;
        if !is_name(name) {
            return Err(Reason::BadField);
        }
        if !is_value(value) {
            return Err(Reason::BadField);
        }
        match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => return Err(Reason::ConnectionField),
            b"te" if value != b"trailers" => return Err(Reason::ConnectionField),
            b"cookie" if self.kind == Some(Kind::Request) => {
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(value);
                return Ok(());
            }
            b"content-length" => {
                let length = content_length(value).ok_or(Reason::BadContentLength)?;
                if self.found.length.is_some_and(|before| before != length) {
                    return Err(Reason::BadContentLength);
                }
                // Two equal ones become one.
                if self.found.length.replace(length).is_some() {
                    return Ok(());
                }
            }
            b"host" if self.kind == Some(Kind::Request) => {
                if let Some(authority) = self.authority {
                    // One of them alone is passed on, so they must not say different things.
                    return if of(&self.pseudo, authority).eq_ignore_ascii_case(value) {
                        Ok(())
                    } else {
                        Err(Reason::BadHost)
                    };
                }
            }
            // Goes into the request that is made of an extended CONNECT; a key of the client's has no meaning there.
            b"sec-websocket-key" if self.protocol.is_some() => return Ok(()),
            _ => {}
        }
        self.lines.extend_from_slice(name);
        self.lines.extend_from_slice(b": ");
        self.lines.extend_from_slice(value);
        self.lines.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn take_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        if self.regular_seen {
            return Err(Reason::BadPseudoField);
        }
        let place = match (self.kind, name) {
            (Some(Kind::Request), b":method") => &mut self.method,
            (Some(Kind::Request), b":scheme") => &mut self.scheme,
            (Some(Kind::Request), b":path") => &mut self.path,
            (Some(Kind::Request), b":authority") => &mut self.authority,
            (Some(Kind::Request), b":protocol") => &mut self.protocol,
            (Some(Kind::Response), b":status") => {
                let status = status(value).ok_or(Reason::BadPseudoField)?;
                if std::mem::replace(&mut self.found.status, status) != 0 {
                    return Err(Reason::BadPseudoField);
                }
                return Ok(());
            }
            _ => return Err(Reason::BadPseudoField),
        };
        // A space or a line end would make another line of the text.
        if value.is_empty() || !value.iter().all(|byte| (0x21..0x7f).contains(byte)) {
            return Err(Reason::BadPseudoField);
        }
        let start = self.pseudo.len();
        self.pseudo.extend_from_slice(value);
        match place.replace((start, self.pseudo.len())) {
            None => Ok(()),
            Some(_) => Err(Reason::BadPseudoField),
        }
    }

    /// What is known of the message, once all its fields are in.
    pub(super) fn finish(&mut self) -> Result<Found, Wrong> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let complete = match self.kind {
            Some(Kind::Request) => self.finish_request(),
            Some(Kind::Response) => {
                // 101 has no meaning in HTTP/2 (RFC 9113, section 8.6).
                if matches!(self.found.status, 0 | 101) {
                    Err(Reason::BadPseudoField)
                } else {
                    Ok(())
                }
            }
            Some(Kind::Trailers) | None => Ok(()),
        };
        match complete {
            Ok(()) => Ok(self.found),
            Err(reason) => Err(Wrong::Malformed(reason)),
        }
    }

    fn finish_request(&mut self) -> Result<(), Reason> {
        let method = of(&self.pseudo, self.method.ok_or(Reason::BadPseudoField)?);
        if !is_method(method) {
            return Err(Reason::BadPseudoField);
        }
        self.found.is_head = method == b"HEAD";
        if method == b"CONNECT" {
            // Extended or not, it has an authority; only the extended one has the rest (RFC 8441, section 4).
            let rest = [self.scheme.is_some(), self.path.is_some()];
            let is_extended = self.protocol.is_some();
            if self.authority.is_none() || rest != [is_extended; 2] {
                return Err(Reason::BadPseudoField);
            }
            self.found.is_tunnel = self.protocol.is_some_and(|protocol| {
                of(&self.pseudo, protocol).eq_ignore_ascii_case(b"websocket")
            });
        } else if self.protocol.is_some() {
            return Err(Reason::BadPseudoField);
        }
        if method != b"CONNECT" || self.found.is_tunnel {
            let path = of(&self.pseudo, self.path.ok_or(Reason::BadPseudoField)?);
            self.scheme.ok_or(Reason::BadPseudoField)?;
            // Not the absolute form: only `:authority` says whom a request is for.
            if path[0] != b'/' && !(path == b"*" && method == b"OPTIONS") {
                return Err(Reason::BadTarget);
            }
        }
        Ok(())
    }

    /// Appends the head of the request that was collected. `chunked`: its body has no length, and follows in chunks.
    /// `key` is what a WebSocket's handshake is made with.
    pub(super) fn write_request(&self, chunked: bool, key: &[u8], out: &mut Vec<u8>) {
        let part = |place: Place| place.map_or(&b""[..], |place| of(&self.pseudo, place));
        let is_connect = part(self.method) == b"CONNECT";
        let (method, target) = match (is_connect, self.found.is_tunnel) {
            (true, true) => (&b"GET"[..], part(self.path)),
            (true, false) => (&b"CONNECT"[..], part(self.authority)),
            (false, _) => (part(self.method), part(self.path)),
        };
        out.reserve(self.pseudo.len() + self.lines.len() + self.cookies.len() + 128);
        out.extend_from_slice(method);
        out.push(b' ');
        out.extend_from_slice(target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if self.authority.is_some() {
            out.extend_from_slice(b"Host: ");
            out.extend_from_slice(part(self.authority));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&self.lines);
        if !self.cookies.is_empty() {
            out.extend_from_slice(b"Cookie: ");
            out.extend_from_slice(&self.cookies);
            out.extend_from_slice(b"\r\n");
        }
        if self.found.is_tunnel {
            out.extend_from_slice(
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ",
            );
            out.extend_from_slice(key);
            out.extend_from_slice(b"\r\n");
        } else if chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the head of the answer that was collected. `framing`: the line that says where its body ends, where the
    /// fields do not.
    pub(super) fn write_response(&self, framing: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.lines.len() + 64);
        out.extend_from_slice(b"HTTP/1.1 ");
        let status = self.found.status;
        out.extend([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
        out.extend_from_slice(b" \r\n");
        out.extend_from_slice(&self.lines);
        out.extend_from_slice(framing);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the trailers that were collected, as the end of a body in chunks.
    pub(super) fn write_trailers(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n");
        out.extend_from_slice(&self.lines);
        out.extend_from_slice(b"\r\n");
    }
}

fn of(bytes: &[u8], (start, end): (usize, usize)) -> &[u8] {
    &bytes[start..end]
}

fn status(value: &[u8]) -> Option<u16> {
    match value {
        [a @ b'1'..=b'9', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0, |length: u64, byte| {
        byte.is_ascii_digit()
            .then(|| length * 10 + u64::from(byte - b'0'))
    })
}

/// A token in lower case (RFC 9113, section 8.2.1; RFC 9110, section 5.6.2).
static NAME_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let as_u8 = byte as u8;
        allowed[byte] = as_u8.is_ascii_lowercase()
            || as_u8.is_ascii_digit()
            || matches!(
                as_u8,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    allowed
};

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| NAME_BYTES[usize::from(*byte)])
}

/// No control bytes but tabs, and no white space at the ends.
fn is_value(value: &[u8]) -> bool {
    let ends_are_good =
        !matches!(value.first(), Some(b' ' | b'\t')) && !matches!(value.last(), Some(b' ' | b'\t'));
    ends_are_good
        && value
            .iter()
            .all(|byte| (*byte >= 0x20 && *byte != 0x7f) || *byte == b'\t')
}

fn is_method(method: &[u8]) -> bool {
    method
        .iter()
        .all(|byte| byte.is_ascii_uppercase() || NAME_BYTES[usize::from(*byte)])
}

/// Where the body of a message in text form ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFraming {
    /// No length is said: where the source ends, or nowhere at all for a request.
    Unsaid,
    Length(u64),
    Chunked,
}

/// What a head in text form was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextHead {
    /// Of an answer; 0 for a request.
    pub(super) status: u16,
    pub(super) framing: TextFraming,
    pub(super) is_head: bool,
}

/// Where a head in text form ends, if it is whole.
pub(super) fn text_head_length(text: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', text)
        .find(|lf| text[..=*lf].ends_with(b"\r\n\r\n"))
        .map(|lf| lf + 1)
}

/// Encodes the head of an answer. `None` where it is none: the text comes from ourselves, so that is a defect.
pub(super) fn encode_response(
    text: &[u8],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> Option<TextHead> {
    let status = status(text.get(9..12)?)?;
    encoder.begin(out);
    // RFC 8441, section 5: what is 101 there is 200 here.
    encoder.status(if status == 101 { 200 } else { status }, out);
    let framing = encode_fields(text, encoder, out, |name| {
        name == b"sec-websocket-accept" && status == 101
    });
    Some(TextHead {
        status,
        framing,
        is_head: false,
    })
}

/// Encodes the head of a request.
pub(super) fn encode_request(
    text: &[u8],
    scheme: &[u8],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> Option<TextHead> {
    let line_end = memchr::memchr(b'\r', text)?;
    let mut words = text[..line_end].split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let host = lines(text)
        .find(|(name, _)| name.eq_ignore_ascii_case(b"host"))?
        .1;
    encoder.begin(out);
    encoder.field(b":method", method, out);
    encoder.field(b":scheme", scheme, out);
    encoder.field(b":path", target, out);
    encoder.field(b":authority", host, out);
    let framing = encode_fields(text, encoder, out, |name| {
        matches!(name, b"host" | b"http2-settings")
    });
    Some(TextHead {
        status: 0,
        framing,
        is_head: method == b"HEAD",
    })
}

/// Encodes trailers, one line after the other.
pub(super) fn encode_trailers(text: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    let mut lower = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if let Some((name, value)) = split_line(line) {
            lower.clear();
            lower.extend(name.iter().map(u8::to_ascii_lowercase));
            encoder.field(&lower, value, out);
        }
    }
}

/// Encodes the field lines of a head but those of the hop, and says how the body is framed.
fn encode_fields(
    text: &[u8],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    is_left_out: impl Fn(&[u8]) -> bool,
) -> TextFraming {
    const NAME_ON_STACK: usize = 64;
    let mut framing = TextFraming::Unsaid;
    for (name, value) in lines(text) {
        let mut on_stack = [0; NAME_ON_STACK];
        let mut on_heap = Vec::new();
        let lower = match on_stack.get_mut(..name.len()) {
            Some(lower) => lower,
            None => {
                on_heap.resize(name.len(), 0);
                &mut on_heap[..]
            }
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        match &*lower {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"upgrade" => continue,
            b"transfer-encoding" => {
                framing = TextFraming::Chunked;
                continue;
            }
            b"te" if value != b"trailers" => continue,
            b"content-length" => {
                if let Some(length) = content_length(value) {
                    framing = TextFraming::Length(length);
                }
            }
            name if is_left_out(name) => continue,
            _ => {}
        }
        encoder.field(lower, value, out);
    }
    framing
}

/// The field lines of a head.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = memchr::memchr(b'\n', text).map_or(&b""[..], |lf| &text[lf + 1..]);
    std::iter::from_fn(move || {
        let lf = memchr::memchr(b'\n', rest)?;
        let (line, behind) = rest.split_at(lf + 1);
        rest = behind;
        split_line(line)
    })
}

fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let value = line[colon + 1..].strip_suffix(b"\r\n")?;
    Some((&line[..colon], trim(value)))
}
