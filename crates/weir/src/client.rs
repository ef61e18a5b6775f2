//! A small HTTP client for the API of a node: one request, one bounded answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// 10,000 backends in JSON are about 8 MB.
const ANSWER_BYTES: u64 = 64 << 20;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Asks for a path.
pub(crate) fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Result<Answer> {
    send(address, "GET", path, token, None)
}

/// Sends a request, with a body of JSON if there is one.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .with_context(|| format!("connect to the API at {address} (is weir running there?)"))?;
    let answer = (|| {
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.write_all(request(address, method, path, token, body).as_bytes())?;
        let mut bytes = Vec::new();
        stream
            .take(ANSWER_BYTES)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    })();
    parse(&answer.with_context(|| format!("ask the API at {address}"))?)
        .with_context(|| format!("the answer of the API at {address}"))
}

/// HTTP/1.0: the answer ends with the connection and is never chunked (RFC 9112, section 6.1).
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> String {
    let authorization = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let content = body.map_or_else(String::new, |body| {
        let length = body.len();
        format!("Content-Type: application/json\r\nContent-Length: {length}\r\n")
    });
    let body = body.unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n{authorization}{content}\r\n{body}"
    )
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).context("not HTTP")? else {
        bail!("it ends within its head");
    };
    let status = head.code.ok_or_else(|| anyhow!("it has no status"))?;
    let body = bytes[length..].to_vec();
    let announced = head
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced != body.len()) {
        bail!("it is cut off after {} bytes", body.len());
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let check = |bytes: &str, expected: Result<(u16, &str), &str>| {
            let answer = parse(bytes.as_bytes()).map_err(|error| format!("{error:#}"));
            match expected {
                Ok((status, body)) => assert_eq!(
                    answer,
                    Ok(Answer {
                        status,
                        body: body.into()
                    })
                ),
                Err(text) => assert!(
                    answer.as_ref().is_err_and(|error| error.contains(text)),
                    "{answer:?}"
                ),
            }
        };
        check("HTTP/1.0 200 OK\r\n\r\nbody", Ok((200, "body")));
        check(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            Ok((404, "{}")),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
            Err("cut off after 2 bytes"),
        );
        check("HTTP/1.1 200 OK\r\nContent", Err("ends within its head"));
        check("", Err("ends within its head"));
        check("SSH-2.0\r\n", Err("not HTTP"));
    }

    #[test]
    fn request_carries_the_token() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9900));
        let with = request(address, "GET", "/metrics", Some("secret"), None);
        assert!(
            with.starts_with("GET /metrics HTTP/1.0\r\n")
                && with.contains("\r\nAuthorization: Bearer secret\r\n\r\n")
        );
        let with = request(address, "PATCH", "/x", None, Some("{}"));
        assert!(!with.contains("Authorization"));
        assert!(with.starts_with("PATCH /x ") && with.ends_with("Content-Length: 2\r\n\r\n{}"));
    }
}
