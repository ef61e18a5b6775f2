//! The gRPC health checking protocol (grpc.health.v1): one unary call over HTTP/2 in clear.
//!
//! A whole HTTP/2 stack is not needed for one small call: the request is written in one go, and of what comes back the
//! message in DATA frames counts. Header blocks are not decoded: a call that fails has no message.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{BODY_BYTES, Broken, Failure};

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &[u8] = b"/grpc.health.v1.Health/Check";
/// The largest frame that the other side may send (RFC 9113, section 6.5.2); we do not ask for larger ones.
const FRAME_BYTES: usize = 16_384;
/// A header block and a message fit into one frame each.
const FRAME_HEADER: usize = 9;

// Frame types and flags: RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Asks whether `service` serves.
pub(super) async fn check<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    authority: &str,
    service: &str,
) -> Result<(), Broken> {
    stream.write_all(&call(authority, service)).await?;
    let mut bytes = Vec::with_capacity(1024);
    let mut message = Vec::new();
    let mut taken = 0;
    let mut first = true;
    loop {
        while let Some(frame) = Frame::parse(&bytes[taken..])? {
            taken += FRAME_HEADER + frame.payload.len();
            // The other side begins with its settings (RFC 9113, section 3.4).
            if std::mem::replace(&mut first, false) && frame.kind != SETTINGS {
                return Err(Failure::NotHttp2.into());
            }
            if let Some(answer) = frame.answer() {
                stream.write_all(&answer).await?;
            }
            if frame.take(&mut message)? {
                return Ok(());
            }
        }
        if bytes.len() >= BODY_BYTES {
            return Err(Failure::Call("the answer is too long".to_owned()).into());
        }
        let room = BODY_BYTES - bytes.len();
        if (&mut *stream)
            .take(room as u64)
            .read_buf(&mut bytes)
            .await?
            == 0
        {
            return Err(Failure::Closed.into());
        }
    }
}

/// Everything that is sent: preface, settings, the request.
fn call(authority: &str, service: &str) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    // SETTINGS_ENABLE_PUSH (2) is 0.
    frame(&mut out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0]);
    // Fields by the static table (RFC 7541, appendix A), their values as they are.
    let mut block = vec![0x83, 0x86];
    let mut field = |name: &[u8], value: &[u8]| {
        block.extend_from_slice(name);
        string(&mut block, value);
    };
    field(&[0x04], PATH);
    field(&[0x01], authority.as_bytes());
    field(&[0x0f, 31 - 15], b"application/grpc");
    field(
        &[0x0f, 58 - 15],
        concat!("weir-health/", env!("CARGO_PKG_VERSION")).as_bytes(),
    );
    field(&[0x00, 2, b't', b'e'], b"trailers");
    frame(&mut out, HEADERS, END_HEADERS, 1, &block);
    // HealthCheckRequest { string service = 1 }, behind "not compressed" and its length.
    let mut request = Vec::new();
    if !service.is_empty() {
        request.push(0x0a);
        varint(&mut request, service.len());
        request.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0];
    message.extend_from_slice(&(request.len() as u32).to_be_bytes());
    message.extend_from_slice(&request);
    frame(&mut out, DATA, END_STREAM, 1, &message);
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A string literal without Huffman coding (RFC 7541, section 5.2).
fn string(out: &mut Vec<u8>, value: &[u8]) {
    // A prefix of seven bits (RFC 7541, section 5.1).
    match u8::try_from(value.len()) {
        Ok(length @ ..127) => out.push(length),
        _ => {
            out.push(127);
            varint(out, value.len() - 127);
        }
    }
    out.extend_from_slice(value);
}

/// Seven bits at a time, the lowest first; as in HPACK, so in protobuf.
fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Frame<'b> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// The frame at the front; none while it is not complete.
    fn parse(bytes: &'b [u8]) -> Result<Option<Self>, Failure> {
        let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > FRAME_BYTES {
            return Err(Failure::NotHttp2);
        }
        Ok(rest.get(..length).map(|payload| Self {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            payload,
        }))
    }

    /// What has to be sent back: settings and pings are acknowledged.
    fn answer(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.kind {
            SETTINGS if self.flags & ACK == 0 => frame(&mut out, SETTINGS, ACK, 0, &[]),
            PING if self.flags & ACK == 0 => frame(&mut out, PING, ACK, 0, self.payload),
            _ => return None,
        }
        Some(out)
    }

    /// Takes the frame in; true once the service is known to serve.
    fn take(&self, message: &mut Vec<u8>) -> Result<bool, Failure> {
        let code = |at: usize| {
            let bytes = self.payload.get(at..at + 4).unwrap_or_default();
            bytes
                .iter()
                .fold(0u32, |code, byte| code << 8 | u32::from(*byte))
        };
        match self.kind {
            GOAWAY if code(0) & 0x7fff_ffff == 0 => {
                return Err(Failure::Call(format!("GOAWAY with error {}", code(4))));
            }
            RST_STREAM if self.stream == 1 => {
                return Err(Failure::Call(format!("RST_STREAM with error {}", code(0))));
            }
            DATA if self.stream == 1 => {
                message.extend_from_slice(self.data()?);
                if let Some(status) = serving_status(message)? {
                    return match status {
                        1 => Ok(true),
                        2 => Err(Failure::NotServing("NOT_SERVING")),
                        3 => Err(Failure::NotServing("SERVICE_UNKNOWN")),
                        _ => Err(Failure::NotServing("UNKNOWN")),
                    };
                }
            }
            _ => {}
        }
        if self.stream == 1 && matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0 {
            let reason = "no message: the health service, or the service, is not there";
            return Err(Failure::Call(reason.to_owned()));
        }
        Ok(false)
    }

    /// The content of a DATA frame (RFC 9113, section 6.1).
    fn data(&self) -> Result<&'b [u8], Failure> {
        if self.flags & PADDED == 0 {
            return Ok(self.payload);
        }
        let (padding, data) = self.payload.split_first().ok_or(Failure::NotHttp2)?;
        let length = data.len().checked_sub(usize::from(*padding));
        length
            .and_then(|length| data.get(..length))
            .ok_or(Failure::NotHttp2)
    }
}

/// The status in a message that is whole: HealthCheckResponse { ServingStatus status = 1 }. 0 where it has none.
fn serving_status(message: &[u8]) -> Result<Option<u64>, Failure> {
    let Some((prefix, rest)) = message.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    let Some(mut body) = rest.get(..u32::from_be_bytes(length) as usize) else {
        return Ok(None);
    };
    let bad = || Failure::Call("the message is not a HealthCheckResponse".to_owned());
    if compressed != 0 {
        return Err(bad());
    }
    let mut status = 0;
    while !body.is_empty() {
        let key = take_varint(&mut body).ok_or_else(bad)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut body).ok_or_else(bad)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = take_varint(&mut body).ok_or_else(bad)?;
                let length = usize::try_from(length).map_err(|_| bad())?;
                body = body.get(length..).ok_or_else(bad)?;
            }
            _ => return Err(bad()),
        }
    }
    Ok(Some(status))
}

fn take_varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// A call of `service`, answered with these frames; what the check makes of it, and what it sent.
    async fn ask(service: &str, answer: &[u8]) -> (Result<(), String>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = check(&mut ours, "a.test", service).await;
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        let result = result.map_err(|broken| match broken {
            Broken::Backend(failure) => failure.to_string(),
            Broken::Ours(error) => error.to_string(),
        });
        (result, sent)
    }

    fn frames(list: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, flags, stream, payload) in list {
            frame(&mut out, *kind, *flags, *stream, payload);
        }
        out
    }

    /// A good answer with this status: settings, head, a padded message in two pieces, trailers.
    fn answered(status: u8) -> Vec<u8> {
        frames(&[
            (SETTINGS, 0, 0, &[]),
            (SETTINGS, ACK, 0, &[]),
            (8, 0, 0, &[0, 0, 1, 0]),
            (PING, 0, 0, b"01234567"),
            (HEADERS, END_HEADERS, 1, &[0x88]),
            (DATA, 0, 1, &[0, 0, 0]),
            (DATA, PADDED, 1, &[2, 0, 2, 8, status, 0, 0]),
            (HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]),
        ])
    }

    #[tokio::test]
    async fn only_serving_passes() {
        let (result, sent) = ask("shop.v1.Orders", &answered(1)).await;
        assert_eq!(result, Ok(()));
        let call = call("a.test", "shop.v1.Orders");
        assert!(sent.starts_with(&call));
        let acknowledged = frames(&[(SETTINGS, ACK, 0, &[]), (PING, ACK, 0, b"01234567")]);
        assert_eq!(sent[call.len()..], acknowledged);
        for (status, word) in [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN")] {
            let (result, _) = ask("", &answered(status)).await;
            assert_eq!(result, Err(format!("the service is {word}")));
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_message_fails() {
        let settings = (SETTINGS, 0, 0, &[][..]);
        let cases: [(Vec<u8>, &str); 7] = [
            (Vec::new(), "connection closed before an answer"),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                "answer is not HTTP/2",
            ),
            (frames(&[(PING, 0, 0, b"01234567")]), "answer is not HTTP/2"),
            (
                frames(&[settings, (HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])]),
                "the call failed: no message: the health service, or the service, is not there",
            ),
            (
                frames(&[settings, (RST_STREAM, 0, 1, &[0, 0, 0, 7])]),
                "the call failed: RST_STREAM with error 7",
            ),
            (
                frames(&[settings, (GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])]),
                "the call failed: GOAWAY with error 11",
            ),
            (
                frames(&[settings, (DATA, 0, 1, &[0, 0, 0, 0, 2, 0xff, 0xff])]),
                "the call failed: the message is not a HealthCheckResponse",
            ),
        ];
        for (answer, expected) in cases {
            assert_eq!(ask("", &answer).await.0, Err(expected.to_owned()));
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let mut answer = frames(&[(SETTINGS, 0, 0, &[])]);
        for _ in 0..20 {
            frame(&mut answer, 99, 0, 0, &[0; 8192]);
        }
        let (result, _) = ask("", &answer).await;
        assert_eq!(
            result,
            Err("the call failed: the answer is too long".to_owned())
        );
    }

    #[tokio::test]
    async fn an_answer_at_every_split_is_none_or_good() {
        let whole = answered(1);
        for end in 0..whole.len() {
            let (result, _) = ask("", &whole[..end]).await;
            // The trailers are a frame of ten bytes, and nobody waits for them.
            let expected = end >= whole.len() - 10;
            assert_eq!(
                result.is_ok(),
                expected,
                "{end} of {}: {result:?}",
                whole.len()
            );
        }
    }

    #[test]
    fn long_strings_have_long_lengths() {
        let mut out = Vec::new();
        string(&mut out, &[b'a'; 126]);
        assert_eq!((out[0], out.len()), (126, 127));
        out.clear();
        string(&mut out, &[b'a'; 300]);
        assert_eq!((&out[..3], out.len()), (&[127, 0xad, 0x01][..], 303));
    }
}
