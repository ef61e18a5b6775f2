//! A backend of the demo: a small HTTP/1.1 server that says who it is and what it was asked.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long `/down` lasts.
const DOWN: Duration = Duration::from_secs(15);
/// What `/slow` takes.
const SLOW: Duration = Duration::from_secs(2);
const HEAD_BYTES: usize = 64 * 1024;
const HEAD_FIELDS: usize = 256;
/// What `/bytes/N` gives at most.
const MOST_BYTES: usize = 1 << 30;

/// A running backend; ends when it is dropped.
pub(super) struct Backend {
    address: SocketAddr,
    _task: JoinSet<Infallible>,
}

impl Backend {
    /// Starts one on a free port of loopback.
    pub(super) async fn start(name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("start a backend of the demo")?;
        let address = listener
            .local_addr()
            .context("start a backend of the demo")?;
        let mut task = JoinSet::new();
        task.spawn(live(name, address, listener));
        Ok(Self {
            address,
            _task: task,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves; when told to go down, breaks everything off for a while.
async fn live(name: &'static str, address: SocketAddr, mut listener: TcpListener) -> Infallible {
    let down = Arc::new(Notify::new());
    loop {
        tokio::select! {
            () = serve(name, address, &listener, &down) => {}
            () = down.notified() => {}
        }
        drop(listener);
        tracing::info!(backend = name, "down for {DOWN:?}, as asked");
        sleep(DOWN).await;
        listener = loop {
            match bind_again(address) {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::warn!(%error, backend = name, "still down: its port is taken");
                }
            }
            sleep(Duration::from_secs(1)).await;
        };
    }
}

fn bind_again(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Accepts connections; all end when this is dropped.
async fn serve(
    name: &'static str,
    address: SocketAddr,
    listener: &TcpListener,
    down: &Arc<Notify>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let down = Arc::clone(down);
                    connections.spawn(async move {
                        // A client may leave at any time.
                        let _ = answer_all(stream, name, address, &down).await;
                    });
                }
                // For want of descriptors, most likely: others must end first.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the requests of a connection, one after the other.
async fn answer_all(
    mut stream: TcpStream,
    name: &str,
    address: SocketAddr,
    down: &Notify,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut bytes).await? {
        let answer = Answer::to(&request, name, address);
        sleep(answer.delay).await;
        let connection = if request.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Backend: {name}\r\nConnection: {connection}\r\n\r\n",
            answer.status,
            answer.body.len(),
        );
        stream.write_all(head.as_bytes()).await?;
        if !request.line.starts_with("HEAD ") {
            stream.write_all(&answer.body).await?;
        }
        if answer.then_down {
            stream.shutdown().await?;
            down.notify_one();
        }
        if !request.keep_alive {
            break;
        }
    }
    stream.shutdown().await
}

/// A request, as it came.
struct Request {
    /// The request line.
    line: String,
    /// The field lines.
    fields: String,
    method: String,
    path: String,
    keep_alive: bool,
}

/// The next request of a connection, its body passed over; none at its end.
async fn read_request(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
) -> std::io::Result<Option<Request>> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    loop {
        if let Some((request, length, body)) = parse(bytes).ok_or_else(invalid)? {
            bytes.drain(..length);
            let mut body = body;
            while body > bytes.len() {
                body -= bytes.len();
                bytes.clear();
                if stream.read_buf(bytes).await? == 0 {
                    return Ok(None);
                }
            }
            bytes.drain(..body);
            return Ok(Some(request));
        }
        if bytes.len() > HEAD_BYTES || stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// A request, the length of its head, and of its body. `Some(None)`: it is not complete; `None`: it is none.
#[expect(
    clippy::option_option,
    reason = "the two mean different things, and nobody else sees them"
)]
fn parse(bytes: &[u8]) -> Option<Option<(Request, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else {
        return Some(None);
    };
    let value = |name: &str| {
        let field = head
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let body = value("content-length").map_or(Some(0), |text| text.parse().ok())?;
    // A chunked body is not read: the connection ends with the answer.
    let is_chunked = value("transfer-encoding").is_some();
    let asks_to_close = value("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"));
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let (line, fields) = text
        .trim_end()
        .split_once("\r\n")
        .unwrap_or((text.trim_end(), ""));
    let request = Request {
        line: line.to_owned(),
        fields: fields.to_owned(),
        method: head.method?.to_owned(),
        path: head.path?.to_owned(),
        keep_alive: head.version == Some(1) && !is_chunked && !asks_to_close,
    };
    Some(Some((request, length, body)))
}

/// What is said to a request.
struct Answer {
    status: &'static str,
    body: Vec<u8>,
    delay: Duration,
    /// The backend goes down after it.
    then_down: bool,
}

impl Answer {
    fn to(request: &Request, name: &str, address: SocketAddr) -> Self {
        let ok = Self {
            status: "200 OK",
            body: Vec::new(),
            delay: Duration::ZERO,
            then_down: false,
        };
        match (request.method.as_str(), request.path.as_str()) {
            (_, "/healthz") => Self {
                body: b"ok\n".to_vec(),
                ..ok
            },
            ("POST", "/down") => Self {
                body: format!("{name} goes down for {} s\n", DOWN.as_secs()).into(),
                then_down: true,
                ..ok
            },
            (_, "/down") => Self {
                status: "405 Method Not Allowed",
                body: b"POST is needed\n".to_vec(),
                ..ok
            },
            (_, "/slow") => Self {
                body: told(request, name, address),
                delay: SLOW,
                ..ok
            },
            (_, path) => match path.strip_prefix("/bytes/").map(str::parse::<usize>) {
                Some(Ok(count)) if count <= MOST_BYTES => Self {
                    body: vec![b'x'; count],
                    ..ok
                },
                Some(_) => Self {
                    status: "400 Bad Request",
                    body: b"how many bytes?\n".to_vec(),
                    ..ok
                },
                None => Self {
                    body: told(request, name, address),
                    ..ok
                },
            },
        }
    }
}

/// Who answers, and what it was asked.
fn told(request: &Request, name: &str, address: SocketAddr) -> Vec<u8> {
    format!(
        "{name} ({address}) was asked:\n\n{}\n{}\n",
        request.line,
        request.fields.replace("\r\n", "\n")
    )
    .into()
}
