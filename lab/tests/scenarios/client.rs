//! Clients: curl and wrk as they are, and what needs more than they offer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use weir_lab::eventually;
use weir_lab::requirements::find;
use weir_netns::Namespace;

/// No answer takes longer; a lost first packet costs TCP a second, two of them three.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// What curl printed.
pub(crate) fn curl(namespace: &Namespace, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(find("curl").unwrap());
    command
        .args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "60",
        ])
        .args(args);
    let output = namespace.output(&mut command).unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(printed)
    } else {
        Err(format!(
            "{}: {}{printed}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// Asks for a URL a number of times, each on a connection of its own, and counts who answered.
pub(crate) fn answers(namespace: &Namespace, url: &str, times: usize) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for _ in 0..times {
        let answer =
            curl(namespace, &["--insecure", url]).unwrap_or_else(|error| panic!("{url}: {error}"));
        *names.entry(answer.trim().to_owned()).or_default() += 1;
    }
    names
}

/// Whether each of three backends took its share. Every core takes turns by itself, and begins where it likes: two
/// cores may make a difference of two.
pub(crate) fn is_even(by_name: &BTreeMap<String, usize>) -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (least, most) = (by_name.values().min(), by_name.values().max());
    by_name.len() == 3
        && least
            .zip(most)
            .is_some_and(|(least, most)| most - least <= cores)
}

/// What wrk found out.
#[derive(Debug)]
pub(crate) struct Wrk {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Answers that are not 2xx or 3xx.
    pub(crate) bad_answers: u64,
    /// Failed connects, reads and writes, and timeouts.
    pub(crate) socket_errors: u64,
    /// All that it printed.
    pub(crate) text: String,
}

/// Runs wrk with two threads.
pub(crate) fn wrk(
    namespace: &Namespace,
    url: &str,
    connections: usize,
    duration: Duration,
    args: &[&str],
) -> Wrk {
    let mut command = Command::new(find("wrk").unwrap());
    command.args(["--threads", "2", "--connections", &connections.to_string()]);
    command
        .args([
            "--duration",
            &format!("{}s", duration.as_secs()),
            "--timeout",
            "5s",
        ])
        .args(args)
        .arg(url);
    let Output {
        status,
        stdout,
        stderr,
    } = namespace.output(&mut command).unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "wrk: {status}\n{text}");
    let number_before = |what: &str| {
        let line = text.lines().find(|line| line.contains(what));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
    };
    let bad_answers = text.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Non-2xx or 3xx responses: ")?
            .parse()
            .ok()
    });
    let socket_errors = text.lines().find_map(|line| {
        let counts = line.trim().strip_prefix("Socket errors: ")?;
        Some(
            counts
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum(),
        )
    });
    Wrk {
        requests: number_before(" requests in ")
            .unwrap_or_else(|| panic!("wrk counts requests:\n{text}")),
        bad_answers: bad_answers.unwrap_or(0),
        socket_errors: socket_errors.unwrap_or(0),
        text,
    }
}

/// A connection to an echo server, which has said its name.
pub(crate) struct Echo {
    stream: TcpStream,
    /// The name of the server that it reached.
    pub(crate) name: String,
}

impl Echo {
    /// Connects from a namespace.
    pub(crate) fn connect(namespace: &Namespace, server: SocketAddr) -> io::Result<Self> {
        let stream = namespace.run(|| TcpStream::connect_timeout(&server, TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut name = String::new();
        // The greeting is all that is on the way: nothing else is read ahead.
        BufReader::new(&stream).read_line(&mut name)?;
        if name.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            stream,
            name: name.trim().to_owned(),
        })
    }

    /// Says something and hears the same.
    pub(crate) fn say(&mut self, words: &[u8]) -> io::Result<()> {
        let mut heard = vec![0; words.len()];
        let mut writer = self.stream.try_clone()?;
        std::thread::scope(|scope| {
            let written = scope.spawn(move || writer.write_all(words));
            self.stream.read_exact(&mut heard)?;
            written.join().unwrap()
        })?;
        if heard == words {
            Ok(())
        } else {
            Err(io::Error::other("the echo is not what was said"))
        }
    }
}

/// Sends a datagram until one is answered, and returns the answer: datagrams may be lost while a neighbour is asked
/// for.
pub(crate) fn ask_udp(namespace: &Namespace, server: SocketAddr, words: &[u8]) -> Vec<u8> {
    let any = if server.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = namespace.run(|| UdpSocket::bind(any)).unwrap();
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = vec![0; 65536];
    for _ in 0..20 {
        socket.send(words).unwrap();
        if let Ok(len) = socket.recv(&mut buffer) {
            buffer.truncate(len);
            return buffer;
        }
    }
    panic!("no answer to datagrams from {server}");
}

/// A socket in a namespace, whose waits are short.
pub(crate) fn bound(namespace: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = namespace
        .run(|| UdpSocket::bind(address))
        .unwrap_or_else(|error| panic!("bind {address}: {error}"));
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    socket
}

/// Sends datagrams until one is refused by an error of ICMP.
pub(crate) fn is_refused(socket: &UdpSocket) {
    eventually("the datagram to be refused", TIMEOUT, || {
        let sent = socket.send(b"is anybody there?");
        match sent.and_then(|_| socket.recv(&mut [0; 100])) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Runs `ip`; what it printed.
pub(crate) fn ip(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace
        .output(Command::new("ip").args(arguments))
        .unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The router's way to the clients of a family becomes narrower than both ends know.
pub(crate) fn narrow(router: &Namespace, family: u8) {
    let (family, prefix) = match family {
        6 => ("-6", "2001:db8:c::/64"),
        _ => ("-4", "198.51.100.0/24"),
    };
    let route = [
        family, "route", "replace", prefix, "dev", "eth0", "mtu", "1400",
    ];
    ip(router, &route);
}

/// Bytes that repeat nowhere soon: a lost, doubled or moved piece shows.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    // xorshift64 (Marsaglia, Journal of Statistical Software 8(14), 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether two files hold the same bytes.
pub(crate) fn same_content(a: &Path, b: &Path) -> bool {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    if a.metadata().unwrap().len() != b.metadata().unwrap().len() {
        return false;
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = a.read(&mut left).unwrap();
        if len == 0 {
            return true;
        }
        b.read_exact(&mut right[..len]).unwrap();
        if left[..len] != right[..len] {
            return false;
        }
    }
}
