//! One question to one backend: a TCP connection and what comes over it, an HTTP/1.1 request, or a call of the gRPC
//! health service.
//!
//! A TCP check is closed by a reset (`SO_LINGER` of zero), so that thousands of checks a second leave no socket in
//! TIME-WAIT and no local port taken. An HTTP check asks for `Connection: close` and waits for the end of the
//! answer, so that the backend sees a client that behaves, and resets only what does not end.

mod exchange;
mod grpc;
mod http;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use weir_model::{HealthProbe, ProxyProtocolVersion};

/// An answer's head is read up to this size; a health endpoint has no reason to send more.
const HEAD_BYTES: usize = 16 * 1024;
/// This much of a body is read, and looked at, before the connection is reset.
const BODY_BYTES: usize = 64 * 1024;

/// What one check showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered as expected.
    Passed,
    /// It did not.
    Failed(Failure),
    /// The check could not be made, for a reason that lies with us.
    Inconclusive(String),
}

/// Why a check failed. Shown to operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The connection was not made, or broke.
    #[error("{0}")]
    Connection(String),
    /// Nothing, or not everything, came in time.
    #[error("no answer within {}", Seconds(*.0))]
    Timeout(Duration),
    /// An answer with another status.
    #[error("status {status}, expected {min}-{max}")]
    Status {
        /// What came.
        status: u16,
        /// The lowest that counts as healthy.
        min: u16,
        /// The highest that counts as healthy.
        max: u16,
    },
    /// The TLS handshake failed, or the backend's certificate is not trusted.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// The connection was closed before the answer's head was complete.
    #[error("connection closed before an answer")]
    Closed,
    /// What came is not HTTP/1.
    #[error("answer is not HTTP: {0}")]
    NotHttp(httparse::Error),
    /// The answer's head has no end within the bound.
    #[error("answer's head is longer than {HEAD_BYTES} bytes")]
    HeadTooLong,
    /// The answer's body, or what else came, does not contain what was expected.
    #[error("answer does not contain {0:?}")]
    Unexpected(String),
    /// A chunk of the answer's body is not one.
    #[error("answer's body is not chunked as announced")]
    BadChunk,
    /// What came is not HTTP/2.
    #[error("answer is not HTTP/2")]
    NotHttp2,
    /// The health service says that the service does not serve.
    #[error("the service is {0}")]
    NotServing(&'static str),
    /// The call of the health service failed.
    #[error("the call failed: {0}")]
    Call(String),
}

/// A duration as people write it: `1s`, `250ms`, `1.5s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{}s", self.0.as_secs_f64())
        }
    }
}

/// How a backend is reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way<'w> {
    /// What is asked over a connection is asked over TLS.
    pub tls: Option<&'w weir_tls::Client>,
    /// The connection begins with a header of this version.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// A connection to a backend, in clear or over TLS.
trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

/// An answered check whose connection is still open.
#[derive(Debug)]
pub struct Rest {
    stream: Box<dyn Stream>,
    deadline: Instant,
}

impl Rest {
    /// Reads the rest of the answer until it ends, is too long, or the check's time is over; then closes.
    pub async fn finish(mut self) {
        // An error of either kind leaves the connection to be reset, which is what dropping it does.
        let _ = timeout_at(self.deadline, async {
            let mut sink = [0; 4096];
            let mut left = BODY_BYTES;
            while left > 0 {
                match self.stream.read(&mut sink).await? {
                    // The backend has closed; with our FIN sent, dropping the socket resets nothing.
                    0 => return self.stream.shutdown().await,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        })
        .await;
    }
}

/// Asks `address` once, for at most `timeout`. Where the answer is here but its connection is still open, the
/// second value closes it in an orderly way.
pub async fn probe(
    address: SocketAddr,
    probe: &HealthProbe,
    way: &Way<'_>,
    timeout: Duration,
) -> (Outcome, Option<Rest>) {
    let deadline = Instant::now() + timeout;
    let asked = timeout_at(deadline, async {
        let mut socket = connect(address).await?;
        if let Some(version) = way.proxy_protocol {
            socket.write_all(own_connection(version)).await?;
        }
        // Whether somebody accepts connections has nothing to do with what is spoken over them.
        let tls = way.tls.filter(|_| !matches!(probe, HealthProbe::Tcp));
        let mut stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(client) => {
                let (config, name) = client.parts(address);
                let handshake = tokio_rustls::TlsConnector::from(config).connect(name, socket);
                Box::new(handshake.await.map_err(handshake_failure)?)
            }
        };
        match probe {
            HealthProbe::Tcp => {}
            HealthProbe::Exchange { send, expect } => {
                exchange::exchange(&mut stream, send, expect).await?;
            }
            HealthProbe::Http(http) => match http::request(&mut stream, address, http).await {
                // It has answered, and sees an orderly end.
                Err(Broken::Backend(
                    failure @ (Failure::Status { .. } | Failure::Unexpected(_)),
                )) => return Ok((stream, Err(failure))),
                answered => answered?,
            },
            HealthProbe::Grpc { service, host } => {
                let authority = host.clone().unwrap_or_else(|| address.to_string());
                grpc::check(&mut stream, &authority, service).await?;
            }
        }
        Ok((stream, Ok(())))
    })
    .await;
    match asked {
        Ok(Ok((stream, answer))) => {
            // The others leave a reset behind: they have no end that the backend would wait for.
            let rest = matches!(probe, HealthProbe::Http(_)).then_some(Rest { stream, deadline });
            let outcome = answer.map_or_else(Outcome::Failed, |()| Outcome::Passed);
            (outcome, rest)
        }
        Ok(Err(Broken::Backend(failure))) => (Outcome::Failed(failure), None),
        Ok(Err(Broken::Ours(error))) => (Outcome::Inconclusive(error.to_string()), None),
        Err(_) => (Outcome::Failed(Failure::Timeout(timeout)), None),
    }
}

/// The PROXY header of a connection that nobody else is behind: UNKNOWN, or LOCAL without addresses
/// (`doc/proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2).
fn own_connection(version: ProxyProtocolVersion) -> &'static [u8] {
    match version {
        ProxyProtocolVersion::V1 => b"PROXY UNKNOWN\r\n",
        ProxyProtocolVersion::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// A handshake that failed by what was said in it is told apart from a connection that broke.
fn handshake_failure(error: io::Error) -> Broken {
    if error.kind() == io::ErrorKind::InvalidData {
        Failure::Handshake(error.to_string()).into()
    } else {
        error.into()
    }
}

/// Why there is no answer, by whose fault it is.
enum Broken {
    Backend(Failure),
    Ours(io::Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Backend(failure)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        if is_ours(&error) {
            return Self::Ours(error);
        }
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "connection reset".to_owned()
            }
            io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
            io::ErrorKind::TimedOut => "connection timed out".to_owned(),
            _ => error.to_string(),
        };
        Self::Backend(Failure::Connection(reason))
    }
}

/// Whether the lack is on our side: file descriptors, local ports, memory.
fn is_ours(error: &io::Error) -> bool {
    // errno(3); the numbers are the same on every Linux that we build for.
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EADDRNOTAVAIL: i32 = 99;
    const ENOBUFS: i32 = 105;
    matches!(
        error.raw_os_error(),
        Some(ENOMEM | ENFILE | EMFILE | EADDRNOTAVAIL | ENOBUFS)
    )
}

/// Connects, with a linger of zero: however the check ends, also when its future is dropped at the deadline, no
/// socket stays behind.
async fn connect(address: SocketAddr) -> Result<TcpStream, Broken> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(Broken::Ours)?;
    socket.set_zero_linger().map_err(Broken::Ours)?;
    let stream = socket.connect(address).await?;
    // On loopback a connection to a free port of the ephemeral range can meet itself (RFC 9293, simultaneous open).
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    }
    Ok(stream)
}

/// Whether `needle`, which is not empty, is somewhere in `bytes`.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::net::TcpListener;
    use weir_model::HttpProbe;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(300);

    fn http() -> HealthProbe {
        HealthProbe::Http(HttpProbe {
            path: "/healthz".into(),
            ..HttpProbe::default()
        })
    }

    /// A server that does `serve` with its one connection, and what the probe makes of it.
    async fn check<S, F>(question: HealthProbe, serve: S, expected: &str)
    where
        S: FnOnce(TcpStream) -> F,
        F: Future<Output = ()>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream).await;
        };
        let asked = async {
            let (outcome, rest) = probe(address, &question, &Way::default(), TIMEOUT).await;
            if let Some(rest) = rest {
                rest.finish().await;
            }
            outcome
        };
        let (outcome, ()) = tokio::join!(asked, server);
        let shown = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(failure) => failure.to_string(),
            Outcome::Inconclusive(reason) => format!("inconclusive: {reason}"),
        };
        assert_eq!(shown, expected);
    }

    /// Answers with these bytes once the request's head is here, and closes.
    async fn answer(mut stream: TcpStream, bytes: &[u8]) {
        request_head(&mut stream).await;
        // The prober may have hung up on purpose, as on an answer that is too long.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
    }

    async fn request_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(
                stream.read_buf(&mut head).await.unwrap(),
                0,
                "closed before a request"
            );
        }
        String::from_utf8(head).unwrap()
    }

    /// Waits until the other side has closed.
    async fn hang(mut stream: TcpStream) {
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    }

    #[tokio::test]
    async fn tcp_passes_where_someone_accepts() {
        check(HealthProbe::Tcp, hang, "passed").await;
    }

    #[tokio::test]
    async fn refused_connection() {
        let address = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        for question in [HealthProbe::Tcp, http()] {
            let (outcome, rest) = probe(address, &question, &Way::default(), TIMEOUT).await;
            assert_eq!(
                outcome,
                Outcome::Failed(Failure::Connection("connection refused".into()))
            );
            assert!(rest.is_none());
        }
    }

    #[tokio::test]
    async fn expected_status_passes() {
        for status in ["200 OK", "204 No Content", "302 Found", "399 Odd"] {
            check(
                http(),
                |s| async move { answer(s, format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await },
                "passed",
            )
            .await;
        }
        check(
            http(),
            |s| answer(s, b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nbody"),
            "passed",
        )
        .await;
    }

    #[tokio::test]
    async fn other_status_fails_and_is_named() {
        check(
            http(),
            |s| answer(s, b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
            "status 503, expected 200-399",
        )
        .await;
        check(
            http(),
            |s| answer(s, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "status 400, expected 200-399",
        )
        .await;
        check(
            http(),
            |s| answer(s, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
            "status 101, expected 200-399",
        )
        .await;
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over() {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        check(http(), |s| answer(s, hints), "passed").await;
    }

    #[tokio::test]
    async fn hanging_server_times_out() {
        check(http(), hang, "no answer within 300ms").await;
    }

    #[tokio::test]
    async fn slow_drip_does_not_stretch_the_timeout() {
        let drip = |mut stream: TcpStream| async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            for byte in b"HTTP/1.1 200 OK\r\nServer: slow\r\nX: 1\r\n\r\n" {
                ticks.tick().await;
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        };
        check(http(), drip, "no answer within 300ms").await;
    }

    #[tokio::test]
    async fn resetting_server() {
        let reset = |mut stream: TcpStream| async move {
            request_head(&mut stream).await;
            stream.set_zero_linger().unwrap();
        };
        check(http(), reset, "connection reset").await;
    }

    #[tokio::test]
    async fn closing_server() {
        check(
            http(),
            |s| answer(s, b""),
            "connection closed before an answer",
        )
        .await;
        check(
            http(),
            |s| answer(s, b"HTTP/1.1 200 OK\r\nServer: x\r\n"),
            "connection closed before an answer",
        )
        .await;
    }

    #[tokio::test]
    async fn garbage() {
        check(
            http(),
            |s| answer(s, b"SSH-2.0-OpenSSH_9.2\r\n"),
            "answer is not HTTP: invalid HTTP version",
        )
        .await;
        check(
            http(),
            |s| answer(s, b"HTTP/1.1 2x0 OK\r\n\r\n"),
            "answer is not HTTP: invalid response status",
        )
        .await;
        check(
            http(),
            |s| answer(s, &[0; 64]),
            "answer is not HTTP: invalid HTTP version",
        )
        .await;
    }

    #[tokio::test]
    async fn body_has_to_contain_what_is_expected() {
        let question = |body: &str| {
            HealthProbe::Http(HttpProbe {
                body: Some(body.to_owned()),
                ..HttpProbe::default()
            })
        };
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good and more";
        check(question("good"), |s| answer(s, plain), "passed").await;
        let mismatch = "answer does not contain \"more\"";
        check(question("more"), |s| answer(s, plain), mismatch).await;
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall g\r\n3;x=y\r\nood\r\n0\r\n\r\n";
        check(question("all good"), |s| answer(s, chunked), "passed").await;
        check(question("more"), |s| answer(s, chunked), mismatch).await;
        let until_close = b"HTTP/1.0 200 OK\r\n\r\nall good";
        check(question("good"), |s| answer(s, until_close), "passed").await;
        check(question("more"), |s| answer(s, until_close), mismatch).await;
        let broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        let not_chunked = "answer's body is not chunked as announced";
        check(question("more"), |s| answer(s, broken), not_chunked).await;
        // The status comes first.
        let other = b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\ngood";
        let status = "status 500, expected 200-399";
        check(question("good"), |s| answer(s, other), status).await;
    }

    #[tokio::test]
    async fn method_and_headers_are_sent() {
        let question = HealthProbe::Http(HttpProbe {
            method: "POST".into(),
            headers: vec![
                ("X-Check".into(), "1".into()),
                ("user-agent".into(), "mine".into()),
            ],
            ..HttpProbe::default()
        });
        let serve = |mut stream: TcpStream| async move {
            let head = request_head(&mut stream).await;
            assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
            for line in ["X-Check: 1", "user-agent: mine", "Content-Length: 0"] {
                assert!(head.lines().any(|other| other == line), "{head}");
            }
            assert!(!head.contains("weir-health"), "{head}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        check(question, serve, "passed").await;
    }

    #[tokio::test]
    async fn exchange_finds_the_expected_bytes_in_pieces() {
        let question = |send: &[u8], expect: &[u8]| HealthProbe::Exchange {
            send: send.into(),
            expect: expect.into(),
        };
        let redis = |mut stream: TcpStream| async move {
            let mut asked = [0; 6];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"PING\r\n");
            for piece in [&b"+PO"[..], b"NG\r\n"] {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            hang(stream).await;
        };
        check(question(b"PING\r\n", b"+PONG"), redis, "passed").await;
        let smtp = |mut stream: TcpStream| async move {
            stream.write_all(b"421 busy\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        check(
            question(b"", b"220"),
            smtp,
            "answer does not contain \"220\"",
        )
        .await;
        check(question(b"", b"220"), hang, "no answer within 300ms").await;
        let pour = |mut stream: TcpStream| async move {
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
        };
        check(
            question(b"", b"220"),
            pour,
            "answer does not contain \"220\"",
        )
        .await;
    }

    #[tokio::test]
    async fn endless_head_is_cut_off() {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        head.extend(b"X: ".iter().chain(&[b'a'; 20_000]));
        check(
            http(),
            |s| async move { answer(s, &head).await },
            "answer's head is longer than 16384 bytes",
        )
        .await;
    }

    #[tokio::test]
    async fn endless_body_is_cut_off() {
        let pour = |mut stream: TcpStream| async move {
            request_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut poured = 0;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {
                poured += 8192;
                assert!(poured < 64 << 20, "the prober goes on reading");
            }
        };
        check(http(), pour, "passed").await;
    }

    #[tokio::test]
    async fn request_names_path_and_host() {
        let question = HealthProbe::Http(HttpProbe {
            path: "/up?x=1".into(),
            host: Some("a.test".into()),
            status_max: 200,
            ..HttpProbe::default()
        });
        let serve = |mut stream: TcpStream| async move {
            let head = request_head(&mut stream).await;
            assert!(
                head.starts_with("GET /up?x=1 HTTP/1.1\r\nHost: a.test\r\n"),
                "{head}"
            );
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        check(question, serve, "passed").await;
        let serve = |mut stream: TcpStream| async move {
            let address = stream.local_addr().unwrap();
            let head = request_head(&mut stream).await;
            assert!(head.contains(&format!("\r\nHost: {address}\r\n")), "{head}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        check(http(), serve, "passed").await;
    }

    #[tokio::test]
    async fn backend_that_closes_sees_an_orderly_end() {
        let serve = |mut stream: TcpStream| async move {
            request_head(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            assert_eq!(
                stream.read_to_end(&mut rest).await.unwrap(),
                0,
                "FIN, not RST"
            );
        };
        check(http(), serve, "passed").await;
        let serve = |mut stream: TcpStream| async move {
            request_head(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            assert_eq!(
                stream.read_to_end(&mut rest).await.unwrap(),
                0,
                "FIN, not RST"
            );
        };
        check(http(), serve, "status 503, expected 200-399").await;
    }

    /// Sockets of this machine whose local or remote port is `port`, by state (proc(5), /proc/net/tcp).
    fn sockets(port: u16, state: &str) -> usize {
        let port = format!(":{port:04X}");
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_match = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[1].ends_with(&port) || fields[2].ends_with(&port)) && fields[3] == state
        };
        table.lines().skip(1).filter(is_match).count()
    }

    #[tokio::test]
    async fn tcp_checks_leave_no_socket_behind() {
        const TIME_WAIT: &str = "06";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..50 {
            let (outcome, _) = probe(address, &HealthProbe::Tcp, &Way::default(), TIMEOUT).await;
            assert_eq!(outcome, Outcome::Passed);
            drop(listener.accept().await.unwrap());
        }
        assert_eq!(sockets(address.port(), TIME_WAIT), 0);
        // The measure does see such sockets: an ordinary close leaves one.
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        drop(client);
        hang(server).await;
        let deadline = Instant::now() + Duration::from_secs(5);
        while sockets(address.port(), TIME_WAIT) == 0 {
            assert!(
                Instant::now() < deadline,
                "no socket in TIME-WAIT is ever seen"
            );
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn lack_of_our_own_resources_is_told_apart() {
        for errno in [12, 23, 24, 99, 105] {
            assert!(is_ours(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        for errno in [104, 110, 111, 113] {
            assert!(!is_ours(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }

    #[test]
    fn timeouts_are_written_as_people_do() {
        for (ms, text) in [
            (250, "250ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (60_000, "60s"),
        ] {
            assert_eq!(Seconds(Duration::from_millis(ms)).to_string(), text);
        }
    }

    /// A backend over TLS, with a certificate for an address, and the authority that signed it.
    fn tls_backend(address: &str) -> (tokio_rustls::TlsAcceptor, String) {
        use tokio_rustls::rustls::{self, pki_types::PrivateKeyDer};
        let made = rcgen::generate_simple_self_signed(vec![address.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        (acceptor, made.cert.pem())
    }

    #[tokio::test]
    async fn checks_over_tls_verify_the_backend_as_requests_do() {
        let folder = std::env::temp_dir().join(format!("weir-health-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let check = async |certificate: &str, proxy_protocol| {
            let (acceptor, authority) = tls_backend(certificate);
            let ca_file = folder.join(certificate);
            std::fs::write(&ca_file, authority).unwrap();
            let tls = weir_model::UpstreamTls {
                ca_file: Some(ca_file),
                ..weir_model::UpstreamTls::default()
            };
            let client = weir_tls::Client::new(&std::sync::Arc::new(tls)).unwrap();
            let way = Way {
                tls: Some(&client),
                proxy_protocol,
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let header = proxy_protocol.map_or(&b""[..], own_connection);
                let mut read = vec![0; header.len()];
                stream.read_exact(&mut read).await.unwrap();
                assert_eq!(read, header);
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let question = http();
            let timeout = Duration::from_secs(20);
            let asked = probe(address, &question, &way, timeout);
            let ((outcome, rest), ()) = tokio::join!(asked, server);
            if let Some(rest) = rest {
                rest.finish().await;
            }
            outcome
        };
        assert_eq!(check("127.0.0.1", None).await, Outcome::Passed);
        for version in [ProxyProtocolVersion::V1, ProxyProtocolVersion::V2] {
            assert_eq!(check("127.0.0.1", Some(version)).await, Outcome::Passed);
        }
        let other = check("127.0.0.2", None).await;
        assert!(
            matches!(&other, Outcome::Failed(Failure::Handshake(_))),
            "{other:?}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
