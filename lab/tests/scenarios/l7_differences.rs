//! The same bytes to weir, nginx and HAProxy. What each answers and passes on is compared; every difference stands in the
//! table of `docs/http-differences.md` with its reason, and nothing else does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_lab::process::Process;
use weir_lab::requirements::find;
use weir_lab::{Folder, Weir, eventually, ready};
use weir_netns::Namespace;

/// No answer takes longer, on a machine that does other things as well; what has not come then is still waited for.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Behind each case: a request that ends the connection, if it is read as one.
const LAST: &[u8] = b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What is sent, by name.
fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let field = |lines: &str| format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes();
    let post = |lines: &str, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}").into_bytes()
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    vec![
        ("plain", get("/x")),
        (
            "length_and_chunked",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (
            "two_lengths",
            post("Content-Length: 3\r\nContent-Length: 4", "abcd"),
        ),
        (
            "same_length_twice",
            post("Content-Length: 3\r\nContent-Length: 3", "abc"),
        ),
        ("length_list", post("Content-Length: 3, 3", "abc")),
        ("length_with_sign", post("Content-Length: +3", "abc")),
        (
            "chunked_in_http10",
            b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        (
            "gzip_chunked",
            post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        ),
        (
            "chunked_twice",
            post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ),
        (
            "unknown_coding",
            post("Transfer-Encoding: xchunked", "0\r\n\r\n"),
        ),
        (
            "coding_identity",
            post("Transfer-Encoding: identity\r\nContent-Length: 3", "abc"),
        ),
        (
            "coding_with_space",
            post("Transfer-Encoding : chunked", "0\r\n\r\n"),
        ),
        (
            "coding_in_capitals",
            post("Transfer-Encoding: CHUNKED", "0\r\n\r\n"),
        ),
        ("folded_line", field("X: y\r\n z")),
        (
            "bare_lf_everywhere",
            b"GET /x HTTP/1.1\nHost: a\n\n".to_vec(),
        ),
        (
            "bare_lf_in_fields",
            b"GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".to_vec(),
        ),
        ("bare_cr_in_value", field("X: y\rz")),
        ("nul_in_value", field("X: y\0z")),
        ("control_in_value", field("X: y\x01z")),
        ("space_before_colon", field("X : y")),
        ("line_without_colon", field("Xyz")),
        ("empty_name", field(": y")),
        ("name_with_parenthesis", field("X(: y")),
        ("chunk_size_0x", chunked("0x0\r\n\r\n")),
        ("chunk_size_too_large", chunked("fffffffffffffffff\r\n\r\n")),
        ("chunk_size_negative", chunked("-1\r\n\r\n")),
        ("chunk_extension", chunked("1;a=b\r\nx\r\n0\r\n\r\n")),
        ("chunk_space_after_size", chunked("1 \r\nx\r\n0\r\n\r\n")),
        ("chunk_bare_lf", chunked("1\nx\n0\n\n")),
        ("chunk_longer_than_said", chunked("1\r\nxy\r\n0\r\n\r\n")),
        ("trailer", chunked("0\r\nX: y\r\n\r\n")),
        ("trailer_length", chunked("0\r\nContent-Length: 9\r\n\r\n")),
        (
            "absolute_form",
            b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "absolute_form_other_scheme",
            b"GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "connect",
            b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_vec(),
        ),
        ("asterisk_get", get("*")),
        (
            "asterisk_options",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        ("relative_target", get("x")),
        ("no_host", b"GET /x HTTP/1.1\r\n\r\n".to_vec()),
        (
            "no_host_http10",
            b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec(),
        ),
        ("two_hosts", field("Host: b")),
        (
            "host_with_space",
            b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(),
        ),
        (
            "host_with_user",
            b"GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n".to_vec(),
        ),
        ("dot_segments", get("/a/../x")),
        ("encoded_dot_segments", get("/a/%2e%2e/x")),
        ("encoded_slash", get("/a%2fx")),
        ("backslash", get("/a\\x")),
        ("encoded_nul", get("/a%00x")),
        ("broken_encoding", get("/a%zz")),
        ("double_slash", get("/a//x")),
        ("space_in_target", get("/a b")),
        ("fragment", get("/x#y")),
        (
            "bytes_above_ascii_in_target",
            [b"GET /\xc3\xa9".as_slice(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
        ),
        ("version_12", b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n".to_vec()),
        ("version_20", b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n".to_vec()),
        (
            "version_lower_case",
            b"GET /x http/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        ("version_missing", b"GET /x\r\n\r\n".to_vec()),
        (
            "method_lower_case",
            b"get /x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "method_unknown",
            b"BREW /x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "empty_line_before",
            [b"\r\n".as_slice(), &get("/x")].concat(),
        ),
        (
            "tls_hello",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n".to_vec(),
        ),
        (
            "body_with_get",
            field("Content-Length: 3")
                .into_iter()
                .chain(*b"abc")
                .collect(),
        ),
        ("many_fields", field(&vec!["X: y"; 150].join("\r\n"))),
        ("long_field", field(&format!("X: {}", "y".repeat(20_000)))),
        ("expect_unknown", field("Expect: nothing")),
        (
            "upgrade_h2c",
            field(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
            ),
        ),
    ]
}

/// An origin that notes the target of every request, and answers 200.
struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    fn start(namespace: &Namespace) -> Self {
        let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let notes = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let notes = Arc::clone(&notes);
                std::thread::spawn(move || answer(stream, &notes));
            }
        });
        Self { address, seen }
    }
}

/// Answers one connection, as a server that reads what it is told about bodies.
fn answer(stream: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            head.push_str(&String::from_utf8_lossy(&line));
        }
        let target = head.split(' ').nth(1).unwrap_or("?").to_owned();
        let lower = head.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                if size == 0 {
                    let mut line = String::new();
                    while reader.read_line(&mut line).ok()? > 2 {
                        line.clear();
                    }
                    break;
                }
                reader.read_exact(&mut vec![0; size + 2]).ok()?;
            }
        } else if let Some(length) = length {
            reader
                .read_exact(&mut vec![0; length.trim().parse().ok()?])
                .ok()?;
        }
        if target != "/ready" {
            seen.lock().unwrap().push(target);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .ok()?;
    }
}

/// A proxy under test, and the origin that only it sends to.
struct Peer {
    name: &'static str,
    address: SocketAddr,
    origin: Origin,
}

impl Peer {
    /// The statuses that come back, and the targets that arrive behind it: "200 200 → /x /end".
    fn outcome(&self, namespace: &Namespace, case: &str, bytes: &[u8]) -> String {
        self.origin.seen.lock().unwrap().clear();
        let read = namespace.run(|| {
            let mut stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            // One that refuses early may reset what is still on its way.
            let _ = stream.write_all(bytes);
            let _ = stream.write_all(LAST);
            let (mut answers, mut waits) = (Vec::new(), false);
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => answers.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    // What was sent is taken for the beginning of something.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        waits = true;
                        break;
                    }
                    Err(error) => panic!("{}: {case}: {error}", self.name),
                }
            }
            (answers, waits)
        });
        let (read, waits) = read;
        let text = String::from_utf8_lossy(&read);
        let mut statuses: Vec<&str> = text
            .match_indices("HTTP/1.")
            .filter_map(|(at, _)| text.get(at + 9..at + 12))
            .collect();
        if waits {
            statuses.push("waits");
        }
        let mut outcome = if statuses.is_empty() {
            "closed".to_owned()
        } else {
            statuses.join(" ")
        };
        let seen = self.origin.seen.lock().unwrap();
        if !seen.is_empty() {
            let _ = write!(outcome, " → {}", seen.join(" "));
        }
        // A bar would end the cell of the table.
        outcome.replace('|', "\\|")
    }

    fn wait(&self, namespace: &Namespace) {
        let ask = || namespace.run(|| weir_lab::http::get(self.address, "a", "/ready"));
        eventually(self.name, TIMEOUT, || match ask() {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.head),
            Err(error) => Err(error.to_string()),
        });
    }
}

fn start_nginx(
    namespace: &Namespace,
    folder: &Folder,
    address: SocketAddr,
    origin: SocketAddr,
) -> Process {
    let config = format!(
        "daemon off; master_process off; user root; pid nginx.pid; error_log stderr crit;
        events {{ worker_connections 256; }}
        http {{
          access_log off;
          client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
          uwsgi_temp_path uwsgi; scgi_temp_path scgi;
          server {{
            listen {address};
            location / {{
              proxy_pass http://{origin};
              proxy_http_version 1.1;
              proxy_set_header Connection \"\";
              proxy_set_header Host $http_host;
              proxy_request_buffering off;
            }}
          }}
        }}"
    );
    let path = folder.write("nginx.conf", config);
    let mut command = Command::new(find("nginx").unwrap());
    command
        .args(["-e", "stderr", "-p"])
        .arg(folder.path())
        .arg("-c")
        .arg(path);
    Process::start("nginx", namespace, folder, &mut command)
}

fn start_haproxy(
    namespace: &Namespace,
    folder: &Folder,
    address: SocketAddr,
    origin: SocketAddr,
) -> Process {
    let config = format!(
        "global\n maxconn 256\n nbthread 1\ndefaults\n mode http\n timeout client 30s\n timeout server 30s\n \
         timeout connect 3s\nfrontend web\n bind {address}\n default_backend origin\nbackend origin\n \
         server origin {origin}\n"
    );
    let path = folder.write("haproxy.cfg", config);
    let mut command = Command::new(find("haproxy").unwrap());
    command.arg("-db").arg("-f").arg(path);
    Process::start("haproxy", namespace, folder, &mut command)
}

/// The rows of the table: case, outcomes, reason.
fn documented() -> BTreeMap<String, ([String; 3], String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http-differences.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| {
        let line = line.strip_prefix("| `")?;
        let (name, rest) = line.split_once("` | ")?;
        let mut cells = rest
            .trim_end_matches(" |")
            .splitn(4, " | ")
            .map(str::to_owned);
        let outcomes = [cells.next()?, cells.next()?, cells.next()?];
        Some((
            name.to_owned(),
            (outcomes, cells.next().unwrap_or_default()),
        ))
    });
    rows.collect()
}

#[test]
fn every_difference_to_nginx_and_haproxy_is_explained() {
    if !ready(
        "every_difference_to_nginx_and_haproxy_is_explained",
        &["nginx", "haproxy"],
    ) {
        return;
    }
    let namespace = Namespace::new("differ").unwrap();
    let folder = Folder::new();
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let peer = |name, port| Peer {
        name,
        address: at(port),
        origin: Origin::start(&namespace),
    };
    let peers = [
        peer("weir", 8001),
        peer("nginx", 8002),
        peer("haproxy", 8003),
    ];
    let _weir = Weir::start(
        &namespace,
        &format!(
            "[[listener]]\nname = \"web\"\nbind = \"{}\"\nprotocol = \"http\"\npool = \"web\"\n\
             [[pool]]\nname = \"web\"\nbackend = [{{ address = \"{}\" }}]\n",
            peers[0].address, peers[0].origin.address
        ),
    );
    let _nginx = start_nginx(
        &namespace,
        &folder,
        peers[1].address,
        peers[1].origin.address,
    );
    let _haproxy = start_haproxy(
        &namespace,
        &folder,
        peers[2].address,
        peers[2].origin.address,
    );
    for peer in &peers {
        peer.wait(&namespace);
    }

    let mut documented = documented();
    let mut wrong = String::new();
    for (name, bytes) in cases() {
        let found = std::thread::scope(|scope| {
            let (namespace, bytes) = (&namespace, &bytes);
            let ask = |peer| scope.spawn(move || Peer::outcome(peer, namespace, name, bytes));
            let asked: Vec<_> = peers.iter().map(ask).collect();
            let mut found = asked.into_iter().map(|asked| asked.join().unwrap());
            std::array::from_fn::<String, 3, _>(|_| found.next().unwrap())
        });
        let differs = found[0] != found[1] || found[0] != found[2];
        let row = documented.remove(name);
        let holds = match &row {
            Some((outcomes, reason)) => differs && *outcomes == found && !reason.is_empty(),
            None => !differs,
        };
        if !holds {
            let [weir, nginx, haproxy] = found;
            let _ = writeln!(wrong, "| `{name}` | {weir} | {nginx} | {haproxy} |  |");
        }
    }
    for name in documented.keys() {
        let _ = writeln!(wrong, "`{name}` is in the table and is no case");
    }
    assert!(
        wrong.is_empty(),
        "docs/http-differences.md says otherwise:\n{wrong}"
    );
}
