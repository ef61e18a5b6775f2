//! `weir demo --l4`: a small network of namespaces, and real connections through each forwarding mode.
//!
//! The load balancer is this program again, `weir run`, in a namespace of its own; so are the tunnels' ends,
//! `weir decap`. The backends are threads that answer HTTP with what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_netns::{Lan, Namespace, check_available};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// What FullNAT puts in the client's place.
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's address for NAT: the backends' way back to it leads through the load balancer.
const NAT_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const BACKENDS: u8 = 3;
/// Packets of 1500 bytes and a tunnel's outer header.
const SEGMENT_MTU: u32 = 1600;
const CLIENT_MTU: u32 = 1500;

/// Connections through each mode.
const CONNECTIONS: usize = 60;
const START_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// A forwarding mode with its listener.
struct Mode {
    name: &'static str,
    vip_port: u16,
    backend_port: u16,
    client: Ipv4Addr,
    way: &'static str,
}

const MODES: [Mode; 4] = [
    Mode {
        name: "fullnat",
        vip_port: 8001,
        backend_port: 80,
        client: CLIENT,
        way: "client -> lb -> backend -> lb -> client, source rewritten: needs nothing of the backend",
    },
    Mode {
        name: "nat",
        vip_port: 8002,
        backend_port: 80,
        client: NAT_CLIENT,
        way: "client -> lb -> backend -> lb -> client, the backend's route back leads through lb",
    },
    Mode {
        name: "dr",
        vip_port: 8003,
        backend_port: 8003,
        client: CLIENT,
        way: "client -> lb -> backend -> client, only the MAC address rewritten",
    },
    Mode {
        name: "tunnel",
        vip_port: 8004,
        backend_port: 8004,
        client: CLIENT,
        way: "client -> lb -> backend -> client, IP in IP, taken off by `weir decap`",
    },
];

/// Builds the network, sends connections through each mode and prints what became of them. On a terminal it stays
/// until Ctrl-C, to be looked at; then everything is removed.
pub(crate) fn run() -> Result<()> {
    check_available().context(
        "`weir demo --l4` builds a network of namespaces, which needs root: try `sudo weir demo --l4`. \
         `weir demo` needs nothing",
    )?;
    // Held back until the end, so that everything is removed then. Threads inherit this, programs do not.
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    ends.thread_block().context("hold back signals")?;

    let demo = Demo::build()?;
    demo.introduce();
    println!(
        "{:<9} {:>11}  {:<20} {:>11}  backends saw",
        "mode", "connections", "answers", "median"
    );
    for mode in &MODES {
        demo.measure(mode)
            .with_context(|| format!("mode {}", mode.name))?
            .print(mode);
    }
    println!("\nThe ways:");
    for mode in &MODES {
        println!("  {:<8} {VIP}:{}  {}", mode.name, mode.vip_port, mode.way);
    }
    if io::stdin().is_terminal() {
        demo.suggest();
        println!("\nPress Ctrl-C to end and remove everything.");
        ends.wait().context("wait for Ctrl-C")?;
    } else {
        println!(
            "\nOn a terminal it stays until Ctrl-C, to be looked at. Now everything is removed."
        );
    }
    Ok(())
}

/// Everything that runs. Fields are dropped in this order: programs before the namespaces they run in.
struct Demo {
    programs: Vec<Program>,
    client: Namespace,
    lb: Namespace,
    backends: Vec<Namespace>,
    segment: Lan,
    folder: Folder,
}

impl Demo {
    fn build() -> Result<Self> {
        let segment = Lan::with_mtu("segment", SEGMENT_MTU)?;
        let client = Namespace::new("client")?;
        let link = segment.connect(&client, "eth0")?;
        link.set_mtu(CLIENT_MTU)?;
        link.add_address(&format!("{CLIENT}/24"))?;
        link.add_address(&format!("{NAT_CLIENT}/24"))?;
        client.add_route(&format!("{VIP}/32"), IpAddr::V4(LB))?;

        let lb = Namespace::new("lb")?;
        let link = segment.connect(&lb, "eth0")?;
        link.add_address(&format!("{LB}/24"))?;
        link.add_address(&format!("{LOCAL}/24"))?;
        // The XDP program asks the kernel for routes, which answers only where the host forwards
        // (net/core/filter.c, bpf_ipv4_fib_lookup).
        lb.forward_packets()?;

        let folder = Folder::new()?;
        let mut demo = Self {
            programs: Vec::new(),
            client,
            lb,
            backends: Vec::new(),
            segment,
            folder,
        };
        for number in 1..=BACKENDS {
            demo.add_backend(number)?;
        }
        let config = demo.folder.0.join("weir.toml");
        fs::write(&config, config_text()).with_context(|| format!("write {}", config.display()))?;
        let config = config.to_string_lossy().into_owned();
        let lb = demo.lb.clone();
        demo.start("weir-run", &lb, &["run", "--config", &config])?;
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, 9900));
        let healthy = || demo.lb.run(|| ask(Ipv4Addr::UNSPECIFIED, api, "/healthz"));
        demo.wait_for("weir to start", healthy)?;
        Ok(demo)
    }

    fn add_backend(&mut self, number: u8) -> Result<()> {
        let name = format!("b{number}");
        let namespace = Namespace::new(&name)?;
        let link = self.segment.connect(&namespace, "eth0")?;
        link.add_address(&format!("{}/24", backend(number)))?;
        namespace.add_route(&format!("{NAT_CLIENT}/32"), IpAddr::V4(LB))?;
        // For DR and tunnels it has the VIP, and does not tell the segment so (ip-sysctl.rst).
        namespace.set_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        namespace.set_sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        namespace.loopback()?.add_address(&format!("{VIP}/32"))?;
        let ports: BTreeSet<u16> = MODES.iter().map(|mode| mode.backend_port).collect();
        for port in ports {
            let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
            let listener = listener.with_context(|| format!("listen on port {port} of {name}"))?;
            let name = name.clone();
            thread::spawn(move || serve(&listener, &name));
        }
        self.start(
            &format!("weir-decap-{name}"),
            &namespace,
            &["decap", "--interface", "eth0"],
        )?;
        self.backends.push(namespace);
        Ok(())
    }

    /// Starts this program once more, inside a namespace.
    fn start(&mut self, name: &str, namespace: &Namespace, args: &[&str]) -> Result<()> {
        let log = self.folder.0.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(env::current_exe().context("find this program")?);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = namespace
            .spawn(&mut command)
            .with_context(|| format!("start {name}"))?;
        self.programs.push(Program {
            name: name.to_owned(),
            child,
            log,
        });
        Ok(())
    }

    /// Tries until something succeeds, the time is up, or a program has ended.
    fn wait_for<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            for program in &self.programs {
                if program.has_ended() {
                    bail!("{} ended:\n{}", program.name, program.log());
                }
            }
            if Instant::now() > deadline {
                let logs: Vec<String> = self.programs.iter().map(Program::log).collect();
                return Err(error.context(format!("wait for {what}:\n{}", logs.concat())));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Sends connections through a mode, one after the other.
    fn measure(&self, mode: &Mode) -> Result<Report> {
        let vip = SocketAddr::from((VIP, mode.vip_port));
        let connect = || self.client.run(|| ask(mode.client, vip, "/"));
        // A backend takes part when it has been found healthy, and its first packet may be lost while its MAC address is
        // asked for.
        let mut met = BTreeSet::new();
        self.wait_for("each backend's first answer", || {
            let answer = connect()?;
            let (name, _) = parts(&answer).context("an answer of another kind")?;
            met.insert(name.to_owned());
            ensure!(
                met.len() == usize::from(BACKENDS),
                "only these have answered: {met:?}"
            );
            Ok(())
        })?;
        let mut report = Report {
            answers: BTreeMap::new(),
            seen: BTreeSet::new(),
            times: Vec::new(),
        };
        for _ in 0..CONNECTIONS {
            let start = Instant::now();
            let answer = connect()?;
            report.times.push(start.elapsed());
            let (name, seen) = parts(&answer).context("an answer of another kind")?;
            *report.answers.entry(name.to_owned()).or_default() += 1;
            report.seen.insert(seen.to_owned());
        }
        report.times.sort_unstable();
        Ok(report)
    }

    fn introduce(&self) {
        println!(
            "\
A network of namespaces, one segment:
  client    {CLIENT} and {NAT_CLIENT}, sends to the VIP {VIP}
  lb        {LB}, local address {LOCAL}: `weir run` with XDP on eth0
  b1 to b{BACKENDS}  {} to {}: HTTP, and `weir decap` on eth0
",
            backend(1),
            backend(BACKENDS)
        );
    }

    fn suggest(&self) {
        let file = env::current_exe()
            .map_or_else(|_| "weir".to_owned(), |file| file.display().to_string());
        let (client, lb) = (self.client.path(), self.lb.path());
        let (client, lb, backend) = (client.display(), lb.display(), self.backends[0].path());
        println!(
            "\nWhat to try in another terminal, as root, while this runs:\n\
             \x20 nsenter --net={client} curl http://{VIP}:{}/\n\
             \x20 nsenter --net={client} curl --interface {NAT_CLIENT} http://{VIP}:{}/\n\
             \x20 nsenter --net={lb} {file} get sessions\n\
             \x20 nsenter --net={lb} {file} get backends\n\
             \x20 nsenter --net={lb} curl http://127.0.0.1:9900/metrics\n\
             \x20 nsenter --net={} tcpdump -n -i eth0    what a backend sees\n\
             \x20 cat {}    the config; change it, then: kill -HUP {}",
            MODES[0].vip_port,
            MODES[1].vip_port,
            backend.display(),
            self.folder.0.join("weir.toml").display(),
            self.programs.last().map_or(0, |program| program.child.id()),
        );
    }
}

/// The backend's name and the client's address in an answer.
fn parts(answer: &str) -> Option<(&str, &str)> {
    answer.trim().split_once(" saw ")
}

/// What became of a mode's connections.
struct Report {
    answers: BTreeMap<String, usize>,
    seen: BTreeSet<String>,
    times: Vec<Duration>,
}

impl Report {
    fn print(&self, mode: &Mode) {
        let answers: Vec<String> = self
            .answers
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let seen: Vec<&str> = self.seen.iter().map(String::as_str).collect();
        let median = self
            .times
            .get(self.times.len() / 2)
            .copied()
            .unwrap_or_default();
        println!(
            "{:<9} {:>11}  {:<20} {:>8.0} us  {}",
            mode.name,
            self.times.len(),
            answers.join(", "),
            median.as_secs_f64() * 1e6,
            seen.join(", ")
        );
    }
}

/// This program in another role. Killed on drop.
struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    fn has_ended(&self) -> bool {
        // A child that ended stays in /proc as a zombie until it is waited for.
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    fn log(&self) -> String {
        format!(
            "--- {}\n{}",
            self.name,
            fs::read_to_string(&self.log).unwrap_or_default()
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the system's temporary folder, which the system clears.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn backend(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 20 + number)
}

fn config_text() -> String {
    let mut text = format!(
        "[l4]\ninterfaces = [\"eth0\"]\nlocal_addresses = [\"{LOCAL}\"]\nmax_sessions = 65_536\n"
    );
    for Mode {
        name,
        vip_port,
        backend_port,
        ..
    } in &MODES
    {
        let backends: Vec<String> = (1..=BACKENDS)
            .map(|number| format!("{{ address = \"{}:{backend_port}\" }}", backend(number)))
            .collect();
        text += &format!(
            "\n[[listener]]\nname = \"{name}\"\nbind = \"{VIP}:{vip_port}\"\nprotocol = \"tcp\"\n\
             forward = \"{name}\"\npool = \"{name}\"\n\
             \n[[pool]]\nname = \"{name}\"\nhealth = {{ type = \"tcp\" }}\nbackend = [{}]\n",
            backends.join(", ")
        );
    }
    text
}

/// A backend: answers every request with its name and the client that it saw.
fn serve(listener: &TcpListener, name: &str) {
    while let Ok((stream, client)) = listener.accept() {
        // A client that goes away is no concern of the others.
        let _ = answer(stream, &format!("{name} saw {}\n", client.ip()));
    }
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    for line in BufReader::new(&stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close"
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
}

/// Asks a server over HTTP from one of the host's addresses, and returns the body.
fn ask(from: Ipv4Addr, server: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(from, server).with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("read from {server}"))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => bail!("{server} answered {text:?}"),
    }
}

/// Connects from one of the host's addresses.
fn connect(from: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(SocketAddr::from((from, 0))))?;
    socket.connect_timeout(&SockAddr::from(server), ANSWER_TIMEOUT)?;
    Ok(socket.into())
}
