//! What is written down, and that nobody waits for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::harness::*;

/// A file of a test's own, gone when the test is.
struct LogFile(PathBuf);

impl LogFile {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("weir-access-{}-{number}.log", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// The listener's key for it, with more keys.
    fn key(&self, more: &str) -> String {
        format!("access_log = {{ file = \"{}\"{more} }}\n", self.0.display())
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The lines, once there are so many.
    fn wait_for(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if lines.len() >= count {
                assert_eq!(lines.len(), count, "{lines:#?}");
                return lines;
            }
            assert!(Instant::now() < deadline, "{lines:#?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The text between a key and the next comma or brace.
fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let rest = line.split_once(&format!("\"{key}\":"))?.1;
    Some(match rest.strip_prefix('"') {
        Some(text) => text.split('"').next()?,
        None => rest.split([',', '}']).next()?,
    })
}

fn number(line: &str, key: &str) -> u64 {
    value(line, key)
        .unwrap_or_else(|| panic!("{key}: {line}"))
        .parse()
        .unwrap()
}

#[test]
fn a_request_leaves_a_line_that_says_what_became_of_it() {
    let file = LogFile::new();
    let origin = Origin::saying("hello");
    let routes = "[[listener.route]]\nname = \"api\"\npath_prefix = \"/api\"\npool = \"main\"\n";
    let log = file.key(", request_headers = [\"user-agent\", \"x-none\"]");
    let proxy = Proxy::http(&[origin.address], &(log + routes));
    let mut client = proxy.client();
    client.send("GET /api/a?b=\"c\" HTTP/1.1\r\nHost: a.example\r\nUser-Agent: t\\est\r\n\r\n");
    let answer = client.answer().unwrap();
    client.get("/").unwrap();
    let lines = file.wait_for(2);
    let line = &lines[0];
    for (key, expected) in [
        ("listener", "main"),
        ("client_address", "127.0.0.1"),
        ("local_port", &proxy.address.port().to_string()),
        ("protocol", "HTTP/1.1"),
        ("method", "GET"),
        ("host", "a.example"),
        ("route", "api"),
        ("pool", "main"),
        ("backend", &origin.address.to_string()),
        ("tries", "1"),
        ("status", "200"),
        ("bytes_out", &(answer.head.len() + 5).to_string()),
        ("termination", "done"),
    ] {
        assert_eq!(value(line, key), Some(expected), "{key}: {line}");
    }
    assert!(line.contains(r#""target":"/api/a?b=\"c\"""#), "{line}");
    assert!(
        line.ends_with(r#""request_headers":{"user-agent":"t\\est"}}"#),
        "{line}"
    );
    let phases = ["head_us", "connect_us", "first_byte_us"].map(|key| number(line, key));
    assert!(
        phases.iter().sum::<u64>() <= number(line, "total_us"),
        "{line}"
    );
    assert_eq!(value(line, "tls_us"), None);
    assert_eq!(value(&lines[1], "route"), None, "{}", lines[1]);
    assert_eq!(value(&lines[1], "target"), Some("/"));
}

#[test]
fn lines_say_how_requests_ended() {
    let file = LogFile::new();
    let origin = Origin::start(|number, mut peer| {
        peer.request();
        if number == 0 {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort");
        }
    });
    let routes = "[[listener.route]]\npath = \"/here\"\nanswer = { status = 418 }\n\
                  [[listener.route]]\npath = \"/dead\"\npool = \"dead\"\n";
    let config = one_listener("http", &[origin.address], &(file.key("") + routes))
        + &pool("dead", &[dead_address()], "");
    let proxy = Proxy::start(&config);
    let ask = |request: &str, ends: &str| {
        let before = file.lines().len();
        let mut client = proxy.client();
        client.send(request);
        client.rest();
        let line = file.wait_for(before + 1).pop().unwrap();
        assert_eq!(value(&line, "termination"), Some(ends), "{line}");
        line
    };
    let line = ask("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "upstream_truncated");
    assert_eq!(value(&line, "status"), None, "{line}");
    ask(
        "GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "upstream_closed",
    );
    let line = ask(
        "GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "answered_here",
    );
    assert_eq!(
        (value(&line, "route"), value(&line, "tries")),
        (Some("#1"), Some("0"))
    );
    let line = ask(
        "GET /dead HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "connect_failed",
    );
    assert_eq!(value(&line, "status"), Some("502"), "{line}");
    assert_eq!(value(&line, "pool"), Some("dead"), "{line}");
    let line = ask("GET / HTTP/1.1\r\n\r\n", "missing_host");
    assert_eq!(
        (value(&line, "status"), value(&line, "method")),
        (Some("400"), None),
        "{line}"
    );
    assert_eq!(value(&line, "protocol"), Some("http"), "{line}");
}

#[test]
fn tunnels_and_connections_leave_a_line_when_they_end() {
    let file = LogFile::new();
    let echo = || {
        Origin::start(|_, mut peer| {
            loop {
                let byte = peer.bytes(1);
                if byte.is_empty() {
                    return;
                }
                peer.send_bytes(&byte);
            }
        })
    };
    let tcp = echo();
    let proxy = Proxy::start(&one_listener("tcp", &[tcp.address], &file.key("")));
    let mut client = proxy.client();
    client.send("abc");
    assert_eq!(client.bytes(3), b"abc");
    assert!(file.lines().is_empty());
    client.finish();
    assert!(client.ends());
    let line = file.wait_for(1).pop().unwrap();
    for (key, expected) in [
        ("protocol", "tcp"),
        ("bytes_in", "3"),
        ("bytes_out", "3"),
        ("backend", &tcp.address.to_string()),
        ("termination", "done"),
    ] {
        assert_eq!(value(&line, key), Some(expected), "{key}: {line}");
    }

    let file = LogFile::new();
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        let bytes = peer.bytes(4);
        peer.send_bytes(&bytes);
    });
    let proxy = Proxy::http(&[origin.address], &file.key(""));
    let mut client = proxy.client();
    client
        .send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(client.head().unwrap().contains("101"));
    client.send("ping");
    assert_eq!(client.bytes(4), b"ping");
    client.finish();
    let line = file.wait_for(1).pop().unwrap();
    assert_eq!(
        (value(&line, "status"), value(&line, "target")),
        (Some("101"), Some("/chat"))
    );
    assert_eq!(value(&line, "termination"), Some("done"), "{line}");
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let (file, moved) = (LogFile::new(), LogFile::new());
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], &file.key(", template = \"{target}\""));
    let mut client = proxy.client();
    client.get("/before").unwrap();
    assert_eq!(file.wait_for(1), ["/before"]);
    std::fs::rename(&file.0, &moved.0).unwrap();
    client.get("/between").unwrap();
    assert_eq!(moved.wait_for(2), ["/before", "/between"]);
    proxy.engine.reopen_access_logs();
    proxy.until("the file is there again", |_| file.0.exists());
    client.get("/after").unwrap();
    assert_eq!(file.wait_for(1), ["/after"]);
    assert_eq!(moved.lines().len(), 2);
}

#[test]
fn a_reload_turns_the_log_on_and_off() {
    let file = LogFile::new();
    let origin = Origin::saying("ok");
    let with = |extra: &str| one_listener("http", &[origin.address], extra);
    let proxy = Proxy::start(&with(""));
    let mut client = proxy.client();
    client.get("/1").unwrap();
    proxy.apply(&with(
        &file.key(", template = \"{target} {request_header:host}\""),
    ));
    client.get("/2").unwrap();
    assert_eq!(file.wait_for(1), ["/2 test"]);
    proxy.apply(&with("access_log = false\n"));
    client.get("/3").unwrap();
    drop(proxy);
    assert_eq!(file.lines().len(), 1);
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_that_names_it() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let extra = "access_log = { file = \"/nowhere/access.log\" }\n";
    let snapshot = proxy.snapshot(&one_listener("http", &[origin.address], extra));
    let error = proxy
        .engine
        .prepare(std::sync::Arc::new(snapshot))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("listener `main`: cannot open the access log /nowhere/access.log"),
        "{text}"
    );
}

/// A pipe that nobody reads is as slow as a disk can be.
#[test]
fn a_writer_that_stands_still_holds_up_no_request_and_drops_are_counted() {
    let file = LogFile::new();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&file.0)
            .status()
            .unwrap()
            .success()
    );
    // Opened for reading as well, so that opening it for writing does not wait.
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file.0)
        .unwrap();
    let origin = Origin::saying("ok");
    let filler = "x".repeat(3_000);
    let proxy = Proxy::start_with(&one_listener("http", &[origin.address], &file.key("")), 1);
    let mut client = proxy.client();
    let dropped = || proxy.engine.stats().access_logs[0].dropped;
    let mut requests = 0;
    while dropped() == 0 {
        assert!(client.get(&format!("/{filler}")).is_some());
        requests += 1;
        assert!(requests < 5_000, "nothing is dropped");
    }
    // The pipe, 64 pieces, and what waits in the worker.
    assert!(requests > 300, "{requests}");
    // Somebody reads again: what was kept is written, and the engine can end.
    let reading = std::thread::spawn(move || {
        use std::io::Read;
        let (mut reader, mut text) = (reader, String::new());
        let mut bytes = vec![0; 65_536];
        while !text.contains("/the-last-one") {
            let count = reader.read(&mut bytes).unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        text.lines().filter(|line| !line.is_empty()).count()
    });
    let deadline = Instant::now() + PATIENCE;
    while !reading.is_finished() {
        assert!(Instant::now() < deadline, "no line is taken any more");
        client.get("/the-last-one").unwrap();
    }
    assert!(reading.join().unwrap() > 300);
}
