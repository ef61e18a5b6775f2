//! Origins, proxies and clients for the tests: plain blocking sockets, so that what is on the wire is what is
//! written here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_l7::{BackendStats, Engine, ListenerStats};
use weir_model::{Config, Snapshot};

/// Nothing in a test takes longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An address of our own, for TCP and UDP. It stays bound until the process ends, so that no one else gets it; only
/// a socket that shares it (SO_REUSEPORT), as the engine's do, can listen there.
pub fn free_address() -> SocketAddr {
    loop {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        // Else the engine would take it for a stranger's.
        socket.set_reuse_address(true).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        if UdpSocket::bind(address).is_ok() {
            std::mem::forget(socket);
            return address;
        }
    }
}

/// A server of the test's own making.
pub struct Origin {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    /// Serves each connection with `handler`, which is told the connection's number, from 0.
    pub fn start(handler: impl Fn(usize, Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (handler, counter) = (Arc::new(handler), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || handler(number, Peer::new(stream)));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Answers every request with 200 and this body.
    pub fn saying(text: &'static str) -> Self {
        Self::start(move |_, mut peer| {
            while let Some(request) = peer.request() {
                peer.drain_body(&request);
                peer.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                ));
            }
        })
    }

    /// Answers every request with its own head and body.
    pub fn mirror() -> Self {
        Self::start(|_, mut peer| {
            while let Some(request) = peer.request() {
                let body = peer.drain_body(&request);
                let content = [request.as_bytes(), &body].concat();
                peer.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    content.len()
                ));
                peer.send_bytes(&content);
            }
        })
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An address where nobody listens.
pub fn dead_address() -> SocketAddr {
    free_address()
}

/// One end of a connection.
pub struct Peer {
    pub stream: TcpStream,
    pub reader: BufReader<TcpStream>,
}

/// An answer, its body without chunks.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn has(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|other| other.eq_ignore_ascii_case(line))
    }
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            reader: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
    }

    /// Sends; an error shows in what is received.
    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// A head, the empty line included. `None` at the end of the connection.
    pub fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            let start = head.len();
            if self.reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if head[start..] == *"\r\n" {
                return Some(head);
            }
        }
    }

    /// A request's head.
    pub fn request(&mut self) -> Option<String> {
        self.head()
    }

    /// The body that a head announces, without chunks.
    pub fn drain_body(&mut self, head: &str) -> Vec<u8> {
        if field(head, "transfer-encoding").is_some() {
            return self.chunks().0;
        }
        let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
        self.bytes(length)
    }

    /// So many bytes, or fewer where the connection ends.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = (&mut self.reader)
            .take(count as u64)
            .read_to_end(&mut bytes);
        bytes
    }

    /// The content and the trailers of a chunked body.
    pub fn chunks(&mut self) -> (Vec<u8>, String) {
        let mut content = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return (content, "cut off".to_owned());
            }
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            if size == 0 {
                let mut trailers = String::new();
                while self.reader.read_line(&mut trailers).unwrap_or(0) > 2 {}
                return (content, trailers);
            }
            content.extend(self.bytes(size));
            self.bytes(2);
        }
    }

    /// An answer to a request other than HEAD.
    pub fn answer(&mut self) -> Option<Answer> {
        let head = self.head()?;
        let status: u16 = head[9..12].parse().unwrap();
        let body = if status < 200 || status == 204 || status == 304 {
            Vec::new()
        } else if field(&head, "transfer-encoding").is_some()
            || field(&head, "content-length").is_some()
        {
            self.drain_body(&head)
        } else {
            self.rest()
        };
        Some(Answer { status, head, body })
    }

    /// What comes until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// Whether the connection ends in order and without another byte.
    pub fn ends(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0))
    }

    /// Ends the direction away from here.
    pub fn finish(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub fn get(&mut self, target: &str) -> Option<Answer> {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.answer()
    }
}

/// The value of a field.
pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let of = |line: &'h str| {
        line.split_once(':')
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    head.lines().find_map(of).map(|(_, value)| value.trim())
}

/// An engine, and the listener of the config that was made for it.
pub struct Proxy {
    pub engine: Engine,
    pub address: SocketAddr,
}

/// Two workers, unless a test says otherwise: what is per worker must not show.
pub const WORKERS: usize = 2;

impl Proxy {
    /// One HTTP listener in front of `backends`, with `extra` lines in the listener's table.
    pub fn http(backends: &[SocketAddr], extra: &str) -> Self {
        Self::start(&one_listener("http", backends, extra))
    }

    /// Serves a config in which `LISTEN` stands for an address.
    pub fn start(text: &str) -> Self {
        Self::start_with(text, WORKERS)
    }

    pub fn start_with(text: &str, workers: usize) -> Self {
        let engine = Engine::start(&weir_model::L7 { workers }).unwrap();
        let proxy = Self {
            engine,
            address: free_address(),
        };
        proxy.apply(text);
        proxy
    }

    pub fn snapshot(&self, text: &str) -> Snapshot {
        snapshot(&text.replace("LISTEN", &self.address.to_string()))
    }

    pub fn apply(&self, text: &str) {
        self.apply_snapshot(self.snapshot(text));
    }

    pub fn apply_snapshot(&self, snapshot: Snapshot) {
        self.engine
            .commit(self.engine.prepare(Arc::new(snapshot)).unwrap());
    }

    pub fn client(&self) -> Peer {
        Peer::connect(self.address)
    }

    pub fn listener_stats(&self) -> ListenerStats {
        self.engine.stats().listeners.into_iter().next().unwrap()
    }

    pub fn backend_stats(&self, address: SocketAddr) -> BackendStats {
        self.engine
            .stats()
            .backends
            .into_iter()
            .find(|backend| backend.id.address == address)
            .unwrap()
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub fn snapshot(text: &str) -> Snapshot {
    match Config::parse(text, Path::new("test.toml")) {
        Ok(config) => Snapshot::new(Arc::new(config)),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// A config of one listener and one pool.
pub fn one_listener(protocol: &str, backends: &[SocketAddr], extra: &str) -> String {
    let pool = pool("main", backends, "");
    format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"{protocol}\"\npool = \"main\"\n{extra}\n{pool}"
    )
}

/// A pool's table.
pub fn pool(name: &str, backends: &[SocketAddr], extra: &str) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|address| format!("{{ address = \"{address}\" }}"))
        .collect();
    format!(
        "[[pool]]\nname = \"{name}\"\n{extra}\nbackend = [{}]\n",
        backends.join(", ")
    )
}

/// Bytes that look like nothing, the same for the same seed.
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(byte).collect()
}
