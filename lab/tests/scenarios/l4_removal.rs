//! Backends and listeners that are drained, removed or killed while sessions run.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use weir_lab::network::VIP;
use weir_lab::{Folder, Network, ready, until};
use weir_netns::Namespace;

use crate::client::{Echo, TIMEOUT, noise};
use crate::scene::{Arms, Config, ECHO, Mode, Scene, WEB, names, vip};

const PATIENCE: Duration = Duration::from_secs(30);
/// More than sockets hold between nginx and a client that does not read.
pub(crate) const FILE_BYTES: usize = 32 << 20;
/// Read before something happens.
const FIRST_BYTES: usize = 1 << 20;

/// A download on a connection that has asked who serves it.
pub(crate) struct Download {
    stream: BufReader<TcpStream>,
    name: String,
    read: Vec<u8>,
}

impl Download {
    fn start(client: &Namespace) -> io::Result<Self> {
        let stream = client.run(|| TcpStream::connect_timeout(&vip(WEB), TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut download = Self {
            stream: BufReader::new(stream),
            name: String::new(),
            read: Vec::new(),
        };
        let len = download.ask("/")?;
        let mut name = vec![0; len];
        download.stream.read_exact(&mut name)?;
        download.name = String::from_utf8_lossy(&name).trim().to_owned();
        assert_eq!(download.ask("/files/file")?, FILE_BYTES);
        download.read(FIRST_BYTES)?;
        Ok(download)
    }

    /// One to each of the backends.
    pub(crate) fn one_to_each(client: &Namespace) -> Vec<Self> {
        let mut downloads: Vec<Self> = Vec::new();
        while downloads.len() < names().count() {
            let download = Self::start(client).unwrap();
            if downloads.iter().all(|other| other.name != download.name) {
                downloads.push(download);
            }
        }
        downloads
    }

    /// Asks for something; the length of the answer's body.
    fn ask(&mut self, path: &str) -> io::Result<usize> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: weir\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut len) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse().unwrap();
            }
        }
        Ok(len)
    }

    fn read(&mut self, len: usize) -> io::Result<()> {
        let start = self.read.len();
        self.read.resize(start + len, 0);
        self.stream.read_exact(&mut self.read[start..])
    }

    /// Reads the rest: the whole file, byte for byte, or an error.
    pub(crate) fn finish(mut self, file: &[u8]) -> io::Result<()> {
        self.read(FILE_BYTES - FIRST_BYTES)?;
        assert!(self.read == file, "{} sent another file", self.name);
        Ok(())
    }
}

/// A client of UDP that keeps its port.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    /// One that a backend serves.
    pub(crate) fn to(client: &Namespace, name: &str) -> Self {
        loop {
            let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
            socket.connect(vip(ECHO)).unwrap();
            let wait = Duration::from_millis(500);
            socket.set_read_timeout(Some(wait)).unwrap();
            let datagrams = Self(socket);
            if datagrams.ask().as_deref() == Some(name) {
                // More than one question and its answer: a stream.
                assert!(datagrams.ask().is_some());
                return datagrams;
            }
        }
    }

    /// Who answers, if anybody does.
    pub(crate) fn ask(&self) -> Option<String> {
        self.0.send(b"who").unwrap();
        let mut buffer = [0; 64];
        let len = self.0.recv(&mut buffer).ok()?;
        let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
        answer.split(' ').next().map(str::to_owned)
    }
}

/// Connections of a namespace's port that are neither listening nor over.
fn connections(namespace: &Namespace, port: u16) -> usize {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let local = format!(":{port:04X}");
    let (listening, time_wait) = ("0A", "06");
    let connections = table.lines().skip(1).filter(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, state) = (fields.next().unwrap(), fields.nth(1).unwrap());
        address.ends_with(&local) && state != listening && state != time_wait
    });
    connections.count()
}

/// The config, where pools say this about removal.
fn config(network: &Network, mode: Mode, on_removal: &str) -> String {
    let text = Config::of(network, mode).text();
    let pool = format!("[[pool]]\non_removal = \"{on_removal}\"\n");
    text.replace("[[pool]]\n", &pool)
}

/// Something else in place of the backend b1, which is listed first in all pools.
fn instead_of_first(scene: &Scene, text: &str, other: &str) -> String {
    [WEB, ECHO].into_iter().fold(text.to_owned(), |text, port| {
        let address = scene.network.backends[0].at(scene.mode.backend_port(port));
        let backend = format!("{{ address = \"{address}\" }}, ");
        assert!(text.contains(&backend), "{text}");
        let other = other.replace("ADDRESS", &address.to_string());
        text.replace(&backend, &other)
    })
}

struct Running {
    scene: Scene,
    text: String,
    file: Vec<u8>,
    downloads: Vec<Download>,
    held: Vec<Echo>,
    datagrams: Datagrams,
    _files: Folder,
}

/// A download from each backend, an idle connection to each, and datagrams to the first.
fn running(mode: Mode, on_removal: &str) -> Running {
    let files = Folder::new();
    let file = noise(FILE_BYTES);
    fs::write(files.path().join("file"), &file).unwrap();
    let config = |network: &Network| config(network, mode, on_removal);
    let scene = Scene::with(Arms::Two, mode, config, Some(&files));
    let client = &scene.network.client;
    let mut held: Vec<Echo> = Vec::new();
    while held.len() < names().count() {
        let echo = Echo::connect(client, vip(ECHO)).unwrap();
        if held.iter().all(|other| other.name != echo.name) {
            held.push(echo);
        }
    }
    Running {
        text: config(&scene.network),
        file,
        downloads: Download::one_to_each(client),
        held,
        datagrams: Datagrams::to(client, "b1"),
        scene,
        _files: files,
    }
}

impl Running {
    /// New connections go to the other backends from now on.
    fn wait_until_first_takes_nothing_new(&self) {
        let client = &self.scene.network.client;
        until("b1 takes nothing new", PATIENCE, || {
            (0..6).all(|_| Echo::connect(client, vip(ECHO)).unwrap().name != "b1")
        });
    }

    /// The pass of the sweep that is under way, or one after it, has been through the table.
    fn wait_for_a_pass(&self) {
        let sessions = || {
            let family = ["family=\"ipv4\""];
            self.scene.weir.metric("weir_sessions", &family)
        };
        let before = sessions();
        // More than end meanwhile.
        let connect = || Echo::connect(&self.scene.network.client, vip(ECHO)).unwrap();
        let _more: Vec<Echo> = (0..6).map(|_| connect()).collect();
        until("a pass of the sweep", PATIENCE, || sessions() > before);
    }

    /// Everything goes on until it ends.
    fn all_goes_on(mut self) {
        assert_eq!(self.datagrams.ask().as_deref(), Some("b1"));
        for download in self.downloads {
            let name = download.name.clone();
            let done = download.finish(&self.file);
            done.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for echo in &mut self.held {
            echo.say(&noise(10_000)).unwrap();
        }
        assert_eq!(self.datagrams.ask().as_deref(), Some("b1"));
    }
}

#[test]
fn a_drained_backend_keeps_its_sessions() {
    if !ready("a_drained_backend_keeps_its_sessions", &["nginx"]) {
        return;
    }
    let running = running(Mode::Fullnat, "reset");
    let drained = "{ address = \"ADDRESS\", weight = 0 }, ";
    let text = instead_of_first(&running.scene, &running.text, drained);
    running.scene.weir.reload(&text);
    running.wait_until_first_takes_nothing_new();
    running.all_goes_on();
}

#[test]
fn a_removed_backend_keeps_its_sessions_where_the_pool_says_so() {
    if !ready(
        "a_removed_backend_keeps_its_sessions_where_the_pool_says_so",
        &["nginx"],
    ) {
        return;
    }
    for mode in [Mode::Nat, Mode::Tunnel] {
        let running = running(mode, "keep");
        let text = instead_of_first(&running.scene, &running.text, "");
        running.scene.weir.reload(&text);
        running.wait_until_first_takes_nothing_new();
        running.all_goes_on();
    }
}

fn a_removed_backend_is_reset(scenario: &str, mode: Mode) {
    if !ready(scenario, &["nginx"]) {
        return;
    }
    let running = running(mode, "reset");
    let web = mode.backend_port(WEB);
    let first = running.scene.network.backends[0].namespace.clone();
    assert!(connections(&first, web) > 0);
    let text = instead_of_first(&running.scene, &running.text, "");
    running.scene.weir.reload(&text);
    running.wait_until_first_takes_nothing_new();
    until("datagrams go to another backend", PATIENCE, || {
        let name = running.datagrams.ask();
        name.is_some_and(|name| name != "b1")
    });
    running.wait_for_a_pass();
    for mut echo in running.held {
        let said = echo.say(b"still here?");
        let kind = said.as_ref().map_err(io::Error::kind);
        if echo.name == "b1" {
            assert_eq!(kind, Err(io::ErrorKind::ConnectionReset), "{said:?}");
        } else {
            said.unwrap();
        }
    }
    for download in running.downloads {
        let name = download.name.clone();
        let done = download.finish(&running.file);
        let kind = done.as_ref().map_err(io::Error::kind);
        if name == "b1" {
            assert_eq!(kind, Err(io::ErrorKind::ConnectionReset), "{done:?}");
        } else {
            done.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    // What it still sends reaches the client, which has no such connection.
    until("the backend hears of it, too", PATIENCE, || {
        connections(&first, web) == 0
    });
    let answered = running
        .scene
        .weir
        .metric("weir_drops_total", &["reason=\"removed\""]);
    assert!(answered > 0.0);
}

#[test]
fn fullnat_resets_sessions_of_a_removed_backend() {
    a_removed_backend_is_reset(
        "fullnat_resets_sessions_of_a_removed_backend",
        Mode::Fullnat,
    );
}

#[test]
fn dr_resets_sessions_of_a_removed_backend() {
    a_removed_backend_is_reset("dr_resets_sessions_of_a_removed_backend", Mode::Dr);
}

#[test]
fn a_killed_backend_ends_its_own_sessions_alone() {
    if !ready("a_killed_backend_ends_its_own_sessions_alone", &["nginx"]) {
        return;
    }
    let mut running = running(Mode::Fullnat, "keep");
    drop(running.scene.nginxes.remove(0));
    for download in running.downloads {
        let name = download.name.clone();
        let done = download.finish(&running.file);
        assert_eq!(done.is_err(), name == "b1", "{name}: {done:?}");
    }
}

#[test]
fn a_removed_listener_ends_its_sessions_as_the_pool_says() {
    if !ready("a_removed_listener_ends_its_sessions_as_the_pool_says", &[]) {
        return;
    }
    const OTHER: u16 = 77;
    for on_removal in ["keep", "reset"] {
        let other = format!(
            "[[listener]]\nname = \"other\"\nbind = \"{VIP}:{OTHER}\"\nprotocol = \"tcp\"\nforward = \"fullnat\"\n\
             pool = \"echo\"\n"
        );
        let config = |network: &Network| config(network, Mode::Fullnat, on_removal) + &other;
        let scene = Scene::with(Arms::Two, Mode::Fullnat, config, None);
        let client = &scene.network.client;
        let mut of_removed = Echo::connect(client, vip(ECHO)).unwrap();
        let mut of_other = Echo::connect(client, vip(OTHER)).unwrap();
        let text = config(&scene.network);
        let start = text.find("[[listener]]\nname = \"echo\"").unwrap();
        let end = text.find("[[listener]]\nname = \"echo-udp\"").unwrap();
        let text = [&text[..start], &text[end..]].concat();
        scene.weir.reload(&text);
        until("the listener is gone", PATIENCE, || {
            let wait = Duration::from_secs(1);
            let refused = client.run(|| TcpStream::connect_timeout(&vip(ECHO), wait));
            refused.is_err()
        });
        if on_removal == "keep" {
            of_removed.say(&noise(10_000)).unwrap();
        } else {
            until("its session is reset", PATIENCE, || {
                let said = of_removed.say(b"still here?");
                said.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
            });
        }
        of_other.say(&noise(10_000)).unwrap();
    }
}
