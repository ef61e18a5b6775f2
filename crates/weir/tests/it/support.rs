//! The binary under test, backends for it, and a client.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Long enough for a loaded machine; nothing waits for it where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A port of loopback that nobody has: below the range that outgoing connections take theirs from, in a part of it
/// that depends on the process, and never the same one twice, since tests run at once.
pub(crate) fn free_address() -> SocketAddr {
    const PER_PROCESS: u16 = 200;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let part = u16::try_from(std::process::id() % 100).unwrap();
    loop {
        let at = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(at < PER_PROCESS, "more ports than this process may use");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000 + part * PER_PROCESS + at));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "weir-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The binary.
pub(crate) fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.env_remove("WEIR_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// Runs the binary to its end.
pub(crate) fn weir_output(args: &[&str]) -> Output {
    weir().args(args).output().unwrap()
}

/// What it wrote, as text.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A process whose output goes to files; killed when dropped.
pub(crate) struct Process {
    child: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, folder: &Folder) -> Self {
        let (out, log) = (folder.path("out"), folder.path("log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, out, log }
    }

    pub(crate) fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end; the exit code.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut status = None;
        until("the end of weir", || {
            status = self.ended();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        until(&format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of weir:\n{}", self.log());
        }
    }
}

/// A running `weir run`.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    config: PathBuf,
    folder: Folder,
}

impl Node {
    /// Starts a node and waits until it is up. The config gets its `[api]` here.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(Folder::new(), weir(), "", config)
    }

    /// As `start`, with more in `[api]`, by this command, in a folder with other files.
    pub(crate) fn start_with(
        folder: Folder,
        mut command: Command,
        api_settings: &str,
        config: &str,
    ) -> Self {
        let api = free_address();
        let config = folder.write("weir.toml", &with_api(api, api_settings, config));
        command.args(["run", "--config"]).arg(&config);
        let process = Process::start(&mut command, &folder);
        let mut node = Self {
            process,
            api,
            config,
            folder,
        };
        until("/healthz", || {
            assert!(node.process.ended().is_none(), "weir ended");
            get(node.api, "/healthz").is_ok_and(|answer| answer.status == 200)
        });
        node
    }

    /// Writes another config, has it loaded, and waits until the reload has ended.
    pub(crate) fn reload(&self, config: &str) {
        let before = self.reloads();
        fs::write(&self.config, with_api(self.api, "", config)).unwrap();
        self.process.signal(Signal::SIGHUP);
        until("the end of a reload", || self.reloads() > before);
    }

    /// Reloads that have ended.
    fn reloads(&self) -> f64 {
        self.metric(r#"weir_config_reloads_total{result="succeeded"}"#)
            + self.metric(r#"weir_config_reloads_total{result="failed"}"#)
    }

    /// One series of /metrics.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let metrics = get(self.api, "/metrics").unwrap().body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
            .parse()
            .unwrap()
    }

    /// A list of the API.
    pub(crate) fn list(&self, list: &str) -> Value {
        let answer = get(self.api, &format!("/api/v1/{list}")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The health of a backend, as the API shows it.
    pub(crate) fn health(&self, backend: SocketAddr) -> String {
        let backends = self.list("backends");
        let is_it = |item: &&Value| item["address"] == backend.to_string();
        let item = backends["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(is_it)
            .expect("the backend is listed");
        item["health"].as_str().unwrap().to_owned()
    }

    pub(crate) fn wait_for_health(&self, backend: SocketAddr, health: &str) {
        until(&format!("{backend} is {health}"), || {
            self.health(backend) == health
        });
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }
}

fn with_api(api: SocketAddr, settings: &str, config: &str) -> String {
    format!("[api]\nlisten = \"{api}\"\n{settings}\n{config}")
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks once, on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    Client::connect(address)?.get(path)
}

/// A client that keeps its connection.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn send(&mut self, path: &str) -> std::io::Result<()> {
        self.0
            .get_mut()
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.send(path)?;
        self.answer()
    }

    /// Reads an answer; its body has a length.
    pub(crate) fn answer(&mut self) -> std::io::Result<Answer> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(invalid)?;
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| invalid())?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer {
            status,
            body: String::from_utf8(body).map_err(|_| invalid())?,
        })
    }
}

/// A backend: answers every request with its name, `/slow` after a while, and can go away and come back.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    name: String,
    requests: Arc<AtomicU64>,
    server: Option<Server>,
}

struct Server {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

/// What `/slow` takes.
pub(crate) const SLOW: Duration = Duration::from_millis(700);

impl Backend {
    pub(crate) fn start(name: &str) -> Self {
        let mut backend = Self {
            address: free_address(),
            name: name.to_owned(),
            requests: Arc::default(),
            server: None,
        };
        backend.come_back();
        backend
    }

    /// Requests so far, those of health checks apart.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Listens no more and breaks every connection off.
    pub(crate) fn go_away(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        server.stop.store(true, Ordering::Relaxed);
        // The connection that wakes the thread up.
        let _ = TcpStream::connect(self.address);
        server.thread.join().unwrap();
        for connection in server.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Listens again, on the same port.
    pub(crate) fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let (stop, connections) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let (stopped, open) = (Arc::clone(&stop), Arc::clone(&connections));
        let (name, requests) = (self.name.clone(), Arc::clone(&self.requests));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let (name, requests) = (name.clone(), Arc::clone(&requests));
                thread::spawn(move || serve(stream, &name, &requests));
            }
        });
        self.server = Some(Server {
            stop,
            connections,
            thread,
        });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn serve(stream: TcpStream, name: &str, requests: &AtomicU64) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // A peer may be gone at any time.
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut closes = false;
        while line.trim_end() != "" {
            line.clear();
            if reader.read_line(&mut line).is_err() {
                return;
            }
            closes |= line.trim_end().eq_ignore_ascii_case("connection: close");
        }
        if path != "/healthz" {
            requests.fetch_add(1, Ordering::Relaxed);
        }
        if path == "/slow" {
            thread::sleep(SLOW);
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() || closes {
            return;
        }
        line.clear();
    }
}

/// Shakes hands over TLS, believing whatever certificate comes; that certificate.
pub(crate) fn certificate(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(connection.peer_certificates().unwrap()[0].to_vec())
}

#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
