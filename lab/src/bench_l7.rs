//! What a proxied request costs at layer 7, in CPU microseconds of the proxy, beside nginx and HAProxy.
//!
//! Each proxy has one worker on the first core; the origin (nginx) and the client (wrk, h2load) share the second. The rivals
//! take turns in short rounds, so that whatever else the machine does falls on all of them; what counts are the
//! minimum, the median, and the ratios within one run. CPU time is the proxy's own, user and system, as the kernel
//! accounts it in `/proc/PID/stat`. All three may keep 1024 idle connections to the origin.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;

use crate::bench::Options;
use crate::folder::Folder;
use crate::requirements::find;

const PROXY_CORE: &str = "0";
const PEER_CORE: &str = "1";
const START_TIMEOUT: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

/// One kind of traffic.
struct Workload {
    name: &'static str,
    tls: bool,
    /// HTTP/2, so many requests at once on each connection; 0 is HTTP/1.1.
    streams: u32,
    path: &'static str,
    connections: u32,
    /// Each request on a connection of its own.
    fresh: bool,
    /// Bytes of an answer's body: a check that all of it came.
    body_bytes: usize,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "HTTP/1.1, keep-alive, small answers",
        tls: false,
        streams: 0,
        path: "/",
        connections: 64,
        fresh: false,
        body_bytes: 3,
    },
    Workload {
        name: "TLS, HTTP/1.1, keep-alive, small answers",
        tls: true,
        streams: 0,
        path: "/",
        connections: 64,
        fresh: false,
        body_bytes: 3,
    },
    Workload {
        name: "TLS, HTTP/2 to HTTP/1.1, small answers",
        tls: true,
        streams: 10,
        path: "/",
        connections: 64,
        fresh: false,
        body_bytes: 3,
    },
    Workload {
        name: "HTTP/1.1, answers of 1 MiB",
        tls: false,
        streams: 0,
        path: "/files/mib",
        connections: 16,
        fresh: false,
        body_bytes: MIB,
    },
    Workload {
        name: "TLS, a new connection for each request",
        tls: true,
        streams: 0,
        path: "/",
        connections: 16,
        fresh: true,
        body_bytes: 3,
    },
];

/// A proxy under test.
struct Rival {
    name: &'static str,
    http: SocketAddr,
    https: SocketAddr,
    process: Background,
}

/// A program that is killed on drop.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only where it has ended. nginx's master takes its worker along when it is asked, not killed.
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one rival needed for one workload.
#[derive(Clone, Debug)]
struct Row {
    workload: &'static str,
    rival: &'static str,
    micros: Vec<f64>,
    requests_per_second: Vec<f64>,
}

/// Measures, prints the table, and writes it as JSON where the options say so. `weir` is the built binary.
pub fn run(weir: &Path, options: &Options) -> Result<()> {
    for program in ["nginx", "wrk", "h2load", "taskset"] {
        ensure!(find(program).is_some(), "{program} is not installed");
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ensure!(
        cores >= 2,
        "the proxy and its peers need a core each, and there is one"
    );
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    folder.write("cert.pem", certificate.cert.pem());
    folder.write("cert.key", certificate.signing_key.serialize_pem());
    fs::create_dir_all(folder.path().join("files"))?;
    folder.write("files/mib", vec![b'x'; MIB]);

    let origin_address = free_address()?;
    let _origin = start_origin(&folder, origin_address)?;
    let mut rivals = vec![
        start_weir(weir, &folder, origin_address)?,
        start_nginx(&folder, origin_address)?,
    ];
    if find("haproxy").is_some() {
        rivals.push(start_haproxy(&folder, origin_address)?);
    }

    let (rounds, seconds) = if options.quick { (3, 1) } else { (7, 3) };
    let mut rows = Vec::new();
    for workload in WORKLOADS {
        let mut measured: Vec<Row> = rivals
            .iter()
            .map(|rival| Row {
                workload: workload.name,
                rival: rival.name,
                micros: Vec::new(),
                requests_per_second: Vec::new(),
            })
            .collect();
        for rival in &rivals {
            load(rival, workload, 1)
                .with_context(|| format!("warm {} up: {}", rival.name, workload.name))?;
        }
        for _ in 0..rounds {
            for (rival, row) in rivals.iter().zip(&mut measured) {
                let before = cpu_time(rival.process.0.id())?;
                let requests = load(rival, workload, seconds)
                    .with_context(|| format!("{}: {}", rival.name, workload.name))?;
                let used = cpu_time(rival.process.0.id())? - before;
                row.micros.push(used.as_secs_f64() * 1e6 / requests as f64);
                row.requests_per_second
                    .push(requests as f64 / f64::from(seconds));
            }
        }
        rows.extend(measured);
    }
    print(&rows);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&as_json(&rows))?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Weir's median over nginx's, and over the better of its rivals, in one workload.
fn ratios(rows: &[Row], workload: &str) -> Option<(f64, f64)> {
    let of = |rival: &str| {
        rows.iter()
            .find(|row| row.workload == workload && row.rival == rival)
    };
    let weir = median(&of("weir")?.micros);
    let nginx = median(&of("nginx")?.micros);
    let best = of("haproxy").map_or(nginx, |haproxy| nginx.min(median(&haproxy.micros)));
    Some((weir / nginx, weir / best))
}

fn print(rows: &[Row]) {
    println!(
        "{:<42} {:<8} {:>10} {:>10} {:>10}",
        "CPU time of the proxy, one worker", "proxy", "min us", "median us", "requests/s"
    );
    for row in rows {
        println!(
            "{:<42} {:<8} {:>10.2} {:>10.2} {:>10.0}",
            row.workload,
            row.rival,
            minimum(&row.micros),
            median(&row.micros),
            median(&row.requests_per_second)
        );
    }
    for workload in WORKLOADS {
        if let Some((nginx, best)) = ratios(rows, workload.name) {
            println!(
                "{:<42} weir is {nginx:.2} of nginx, {best:.2} of the better rival (medians)",
                workload.name
            );
        }
    }
}

fn as_json(rows: &[Row]) -> serde_json::Value {
    let row = |row: &Row| {
        json!({
            "workload": row.workload,
            "proxy": row.rival,
            "min_us": minimum(&row.micros),
            "median_us": median(&row.micros),
            "requests_per_second": median(&row.requests_per_second),
        })
    };
    let ratio = |workload: &Workload| {
        let (nginx, best) = ratios(rows, workload.name)?;
        Some(json!({ "workload": workload.name, "of_nginx": nginx, "of_the_better": best }))
    };
    json!({
        "benchmark": "l7",
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "ratios": WORKLOADS.iter().filter_map(ratio).collect::<Vec<_>>(),
    })
}

/// Lets a client ask for so long; the number of answers, all of which must be good.
fn load(rival: &Rival, workload: &Workload, seconds: u32) -> Result<u64> {
    if workload.streams > 0 {
        return load_http2(rival, workload, seconds);
    }
    let (scheme, address) = if workload.tls {
        ("https", rival.https)
    } else {
        ("http", rival.http)
    };
    let mut command = pinned(PEER_CORE, "wrk")?;
    command
        .arg("-t1")
        .arg(format!("-c{}", workload.connections))
        .arg(format!("-d{seconds}s"));
    if workload.fresh {
        command.arg("-H").arg("Connection: close");
    }
    let output = command
        .arg(format!("{scheme}://{address}{}", workload.path))
        .output()
        .context("run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let bad = text
        .lines()
        .find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    // wrk counts the connections that the proxy closes as read errors when each request has its own.
    if let Some(bad) = bad.filter(|line| !(workload.fresh && line.contains("Socket errors"))) {
        bail!("wrk says: {}", bad.trim());
    }
    let line = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .with_context(|| format!("wrk says: {text}"))?;
    let (requests, rest) = line
        .trim()
        .split_once(" requests in ")
        .context("wrk's summary")?;
    let requests: u64 = requests.parse().context("wrk's count of requests")?;
    ensure!(requests > 0, "no request was answered");
    let read = rest
        .split(", ")
        .nth(1)
        .and_then(|read| bytes(read.trim_end_matches(" read")));
    let read = read.with_context(|| format!("wrk's count of bytes: {rest}"))?;
    // The requests under way at the end are read in part.
    ensure!(
        read >= requests as f64 * workload.body_bytes as f64 * 0.95,
        "answers are too short: {line}"
    );
    Ok(requests)
}

fn load_http2(rival: &Rival, workload: &Workload, seconds: u32) -> Result<u64> {
    let output = pinned(PEER_CORE, "h2load")?
        .arg("-t1")
        .arg(format!("-c{}", workload.connections))
        .arg(format!("-m{}", workload.streams))
        .arg(format!("-D{seconds}"))
        .arg(format!("https://{}{}", rival.https, workload.path))
        .output()
        .context("run h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains("Application protocol: h2"),
        "HTTP/2 is not spoken: {text}"
    );
    // requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))
        .with_context(|| format!("h2load says: {text}"))?;
    let count = |what: &str| {
        line.split(", ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok())
            .with_context(|| format!("h2load's count of {what}: {line}"))
    };
    let (succeeded, failed) = (count("succeeded")?, count("failed")?);
    ensure!(succeeded > 0 && failed == 0, "h2load says: {line}");
    Ok(succeeded)
}

/// wrk's way to write an amount of bytes: 1.50MB.
fn bytes(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "B" => 1.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * scale)
}

/// User and system time of a process, its threads, and the processes that it started.
fn cpu_time(pid: u32) -> Result<Duration> {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let mut ticks = 0;
    let mut processes = vec![pid];
    while let Some(pid) = processes.pop() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has ended"))?;
        // proc_pid_stat(5): behind the name in parentheses, utime and stime are the 12th and 13th.
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        let number = |at: usize| {
            fields
                .split_whitespace()
                .nth(at)
                .and_then(|field| field.parse::<u64>().ok())
        };
        ticks += number(11)
            .zip(number(12))
            .map(|(user, system)| user + system)
            .context("no times in stat")?;
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        processes.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second as f64,
    ))
}

fn pinned(core: &str, program: &str) -> Result<Command> {
    let program = find(program).with_context(|| format!("{program} is not installed"))?;
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    Ok(command)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Starts a program whose output goes to a file of the folder, and waits until it answers.
fn start(
    name: &str,
    folder: &Folder,
    mut command: Command,
    http: SocketAddr,
) -> Result<Background> {
    let log = folder.path().join(format!("{name}.log"));
    let file = fs::File::create(&log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut process = Background(command.spawn().with_context(|| format!("start {name}"))?);
    let deadline = Instant::now() + START_TIMEOUT;
    while !answers(http) {
        let ended = process.0.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            bail!(
                "{name} does not answer:\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    ask().unwrap_or(false)
}

fn nginx(core: &str, name: &str, folder: &Folder, http: &str) -> Result<Command> {
    let config = format!(
        "daemon off; worker_processes 1; user root; pid {name}.pid; error_log stderr crit;
        events {{ worker_connections 4096; }}
        http {{
          access_log off; default_type text/plain; keepalive_requests 100000000; keepalive_timeout 600s;
          client_body_temp_path {name}-body; proxy_temp_path {name}-proxy; fastcgi_temp_path {name}-fastcgi;
          uwsgi_temp_path {name}-uwsgi; scgi_temp_path {name}-scgi;
          {http}
        }}"
    );
    let path = folder.write(&format!("{name}.conf"), config);
    let mut command = pinned(core, "nginx")?;
    command
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(folder.path())
        .arg("-c")
        .arg(path);
    Ok(command)
}

fn start_origin(folder: &Folder, address: SocketAddr) -> Result<Background> {
    let files = folder.path().join("files");
    let server = format!(
        "sendfile on; server {{ listen {address} backlog=4096; location / {{ return 200 \"ok\\n\"; }}
         location /files/ {{ alias {}/; }} }}",
        files.display()
    );
    start(
        "origin",
        folder,
        nginx(PEER_CORE, "origin", folder, &server)?,
        address,
    )
}

fn start_nginx(folder: &Folder, origin: SocketAddr) -> Result<Rival> {
    let (http, https) = (free_address()?, free_address()?);
    let server = format!(
        "ssl_session_cache shared:s:10m; ssl_protocols TLSv1.2 TLSv1.3;
        upstream origin {{ server {origin}; keepalive 1024; keepalive_requests 100000000; }}
        server {{
          listen {http} backlog=4096; listen {https} ssl http2 backlog=4096;
          ssl_certificate cert.pem; ssl_certificate_key cert.key;
          location / {{
            proxy_pass http://origin; proxy_max_temp_file_size 0; proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
          }}
        }}"
    );
    let process = start(
        "nginx",
        folder,
        nginx(PROXY_CORE, "nginx", folder, &server)?,
        http,
    )?;
    Ok(Rival {
        name: "nginx",
        http,
        https,
        process,
    })
}

fn start_haproxy(folder: &Folder, origin: SocketAddr) -> Result<Rival> {
    let (http, https) = (free_address()?, free_address()?);
    let pem = ["cert.pem", "cert.key"].map(|file| fs::read_to_string(folder.path().join(file)));
    let [cert, key] = pem;
    let pem = folder.write("both.pem", cert? + &key?);
    let config = format!(
        "global
          nbthread 1
          maxconn 4096
        defaults
          mode http
          timeout client 60s
          timeout server 60s
          timeout connect 3s
          timeout http-keep-alive 60s
          http-reuse always
        frontend web
          bind {http}
          bind {https} ssl crt {} alpn h2,http/1.1
          http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
          http-request set-header X-Forwarded-Host %[req.hdr(host)]
          option forwardfor
          default_backend origin
        backend origin
          server origin {origin} pool-max-conn 1024
        ",
        pem.display()
    );
    let config: String = config
        .lines()
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    let path = folder.write("haproxy.cfg", config);
    let mut command = pinned(PROXY_CORE, "haproxy")?;
    command.arg("-db").arg("-f").arg(path);
    let process = start("haproxy", folder, command, http)?;
    Ok(Rival {
        name: "haproxy",
        http,
        https,
        process,
    })
}

fn start_weir(weir: &Path, folder: &Folder, origin: SocketAddr) -> Result<Rival> {
    let (http, https, api) = (free_address()?, free_address()?, free_address()?);
    let config = format!(
        r#"
        [l7]
        workers = 1
        [api]
        listen = "{api}"
        [[listener]]
        name = "http"
        bind = "{http}"
        protocol = "http"
        pool = "origin"
        [[listener]]
        name = "https"
        bind = "{https}"
        protocol = "https"
        certificates = [{{ cert_file = "cert.pem", key_file = "cert.key" }}]
        pool = "origin"
        [[pool]]
        name = "origin"
        backend = [{{ address = "{origin}" }}]
        "#
    );
    let path = folder.write("weir.toml", config);
    let mut command = Command::new("taskset");
    command
        .args(["-c", PROXY_CORE])
        .arg(weir)
        .arg("run")
        .arg("--config")
        .arg(path);
    let process = start("weir", folder, command, http)?;
    Ok(Rival {
        name: "weir",
        http,
        https,
        process,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes_are_read() {
        assert_eq!(bytes("12B"), Some(12.0));
        assert_eq!(bytes("1.50KB"), Some(1536.0));
        assert_eq!(bytes("2.00GB"), Some(2.0 * 1024.0 * 1024.0 * 1024.0));
        assert_eq!(bytes("fast"), None);
    }

    #[test]
    fn the_better_rival_counts() {
        let row = |rival, micros: f64| Row {
            workload: "w",
            rival,
            micros: vec![micros],
            requests_per_second: vec![1.0],
        };
        let rows = [row("weir", 8.0), row("nginx", 16.0), row("haproxy", 10.0)];
        assert_eq!(ratios(&rows, "w"), Some((0.5, 0.8)));
        assert_eq!(ratios(&rows[..2], "w"), Some((0.5, 0.5)));
    }

    #[test]
    fn a_process_has_used_time() {
        let start = cpu_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_time(std::process::id()).unwrap() == start {
            sum = (0..1_000_000u64).fold(sum, |sum, number| sum.wrapping_mul(31) ^ number);
        }
        assert!(std::hint::black_box(sum) != 1);
    }
}
