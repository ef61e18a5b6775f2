//! A request over HTTP/1.1, and whether its answer is a healthy one.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use weir_model::HttpProbe;

use super::{BODY_BYTES, Broken, Failure, HEAD_BYTES, contains};

/// Header fields that an answer's head may have.
const HEAD_FIELDS: usize = 128;

/// Sends the request, and reads of the answer what is needed to tell; interim answers (1xx) are passed over.
pub(super) async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: SocketAddr,
    probe: &HttpProbe,
) -> Result<(), Broken> {
    stream.write_all(head(address, probe).as_bytes()).await?;
    let mut bytes = Vec::with_capacity(1024);
    let answer = loop {
        if bytes.len() >= HEAD_BYTES {
            return Err(Failure::HeadTooLong.into());
        }
        let room = HEAD_BYTES - bytes.len();
        if (&mut *stream)
            .take(room as u64)
            .read_buf(&mut bytes)
            .await?
            == 0
        {
            return Err(Failure::Closed.into());
        }
        if let Some(answer) = Answer::parse(&bytes)? {
            break answer;
        }
    };
    let (min, max) = (probe.status_min, probe.status_max);
    if !(min..=max).contains(&answer.status) {
        let status = answer.status;
        return Err(Failure::Status { status, min, max }.into());
    }
    let Some(expected) = &probe.body else {
        return Ok(());
    };
    bytes.drain(..answer.length);
    loop {
        let (body, ended) = answer.body(&bytes)?;
        if contains(&body, expected.as_bytes()) {
            return Ok(());
        }
        let room = BODY_BYTES.saturating_sub(bytes.len());
        if ended
            || room == 0
            || (&mut *stream)
                .take(room as u64)
                .read_buf(&mut bytes)
                .await?
                == 0
        {
            return Err(Failure::Unexpected(expected.clone()).into());
        }
    }
}

fn head(address: SocketAddr, probe: &HttpProbe) -> String {
    let HttpProbe {
        method,
        path,
        host,
        headers,
        ..
    } = probe;
    let host = host.clone().unwrap_or_else(|| address.to_string());
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    let has = |name: &str| {
        headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    if !has("user-agent") {
        head += concat!(
            "User-Agent: weir-health/",
            env!("CARGO_PKG_VERSION"),
            "\r\n"
        );
    }
    if !has("accept") {
        head += "Accept: */*\r\n";
    }
    if method == "POST" {
        head += "Content-Length: 0\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "Connection: close\r\n\r\n"
}

/// A head that is complete.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Bytes of this head and of the interim ones before it.
    length: usize,
    framing: Framing,
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Answer {
    /// The first answer that is not interim; none while its head is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let mut start = 0;
        loop {
            let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
            let mut answer = httparse::Response::new(&mut fields);
            let parsed = answer.parse(&bytes[start..]).map_err(Failure::NotHttp)?;
            let httparse::Status::Complete(length) = parsed else {
                return Ok(None);
            };
            start += length;
            match answer.code {
                // 101 is not interim: it ends HTTP on this connection (RFC 9110, section 15.2.2).
                Some(100..=199) if answer.code != Some(101) => {}
                Some(status) => {
                    return Ok(Some(Self {
                        status,
                        length: start,
                        framing: Framing::of(answer.headers),
                    }));
                }
                None => return Ok(None),
            }
        }
    }

    /// What of the body is there, and whether that is all.
    fn body(&self, bytes: &[u8]) -> Result<(Vec<u8>, bool), Failure> {
        match self.framing {
            Framing::Length(length) => {
                let body = &bytes[..bytes.len().min(length)];
                Ok((body.to_vec(), bytes.len() >= length))
            }
            Framing::UntilClose => Ok((bytes.to_vec(), false)),
            Framing::Chunked => chunks(bytes),
        }
    }
}

impl Framing {
    fn of(fields: &[httparse::Header<'_>]) -> Self {
        let value = |name: &str| {
            let found = fields
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| str::from_utf8(field.value).ok())
        };
        if value("transfer-encoding").is_some() {
            return Self::Chunked;
        }
        value("content-length")
            .and_then(|length| length.trim().parse().ok())
            .map_or(Self::UntilClose, Self::Length)
    }
}

/// The content of chunks (RFC 9112, section 7.1) as far as they are there, and whether the last one is.
fn chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), Failure> {
    let mut content = Vec::new();
    loop {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Ok((content, false));
        };
        let line = str::from_utf8(&bytes[..end]).map_err(|_| Failure::BadChunk)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Failure::BadChunk)?;
        if size == 0 {
            return Ok((content, true));
        }
        bytes = &bytes[end + 1..];
        content.extend_from_slice(&bytes[..size.min(bytes.len())]);
        let Some(rest) = size.checked_add(2).and_then(|size| bytes.get(size..)) else {
            return Ok((content, false));
        };
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_found_at_every_split() {
        let answer =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 207 Multi\r\nContent-Length: 3\r\n\r\n";
        for end in 0..answer.len() {
            assert_eq!(Answer::parse(&answer[..end]), Ok(None), "{end}");
        }
        let found = Answer {
            status: 207,
            length: answer.len(),
            framing: Framing::Length(3),
        };
        assert_eq!(Answer::parse(answer), Ok(Some(found)));
    }

    #[test]
    fn chunks_are_joined_at_every_split() {
        let body = b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        for end in 0..body.len() {
            let (content, ended) = chunks(&body[..end]).unwrap();
            assert!(b"abcde".starts_with(&content), "{end}");
            assert_eq!(ended, end >= 20, "{end}");
        }
        assert_eq!(chunks(body), Ok((b"abcde".to_vec(), true)));
        assert_eq!(
            chunks(b"ffffffffffffffff\r\nabc"),
            Ok((b"abc".to_vec(), false))
        );
        for bad in [&b"x\r\n"[..], b"\r\n", b"\xff\n", b"10000000000000000\r\n"] {
            assert_eq!(chunks(bad), Err(Failure::BadChunk), "{bad:?}");
        }
    }
}
