//! Every timeout, and what the client is told.

use std::time::{Duration, Instant};

use weir_l7::Reason;

use crate::harness::*;

fn limited(origin: &Origin, timeout: &str) -> Proxy {
    Proxy::http(
        &[origin.address],
        &format!("timeouts = {{ {timeout} = \"300ms\" }}"),
    )
}

#[test]
fn a_slow_head_is_408() {
    let proxy = limited(&Origin::saying("ok"), "request_header");
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost:");
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 408);
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    assert!(client.ends());
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::HeadTimeout) == 1
    });
}

#[test]
fn dripping_does_not_extend_the_time_for_a_head() {
    let proxy = limited(&Origin::saying("ok"), "request_header");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let deadline = Instant::now() + PATIENCE;
    while client.stream.peek(&mut [0]).is_err()
        || proxy.listener_stats().errors(Reason::HeadTimeout) == 0
    {
        assert!(Instant::now() < deadline);
        client.stream.set_nonblocking(true).unwrap();
        client.send("X: y\r\n");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_connection_without_a_request_is_closed() {
    let mut client = limited(&Origin::saying("ok"), "request_header").client_kept();
    assert!(client.1.ends());
}

#[test]
fn an_idle_connection_is_closed() {
    let proxy = limited(&Origin::saying("ok"), "keep_alive");
    let mut client = proxy.client();
    let start = Instant::now();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert!(client.ends());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(proxy.listener_stats().errors.is_empty());
}

#[test]
fn a_backend_that_does_not_answer_is_504() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.request();
    });
    let proxy = limited(&origin, "response_header");
    let mut client = proxy.client();
    let start = Instant::now();
    let answer = client.get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (504, "504 Gateway Timeout: response_timeout\n")
    );
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        proxy
            .backend_stats(origin.address)
            .failures(Reason::ResponseTimeout),
        1
    );
}

#[test]
fn a_backend_that_cannot_be_reached_is_504() {
    // A full backlog: the kernel drops what would be one connection more (tcp_conn_request in net/ipv4/tcp_input.c).
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let filling: Vec<_> = (0..3)
        .map(|_| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let proxy = Proxy::http(&[address], "timeouts = { connect = \"300ms\" }");
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (504, "504 Gateway Timeout: connect_timeout\n")
    );
    drop(filling);
}

#[test]
fn a_request_that_stops_is_408() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.request();
    });
    let proxy = limited(&origin, "idle");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (408, "408 Request Timeout: downstream_idle\n")
    );
}

#[test]
fn an_answer_that_stops_is_cut() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        peer.request();
    });
    let proxy = limited(&origin, "idle");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.rest().ends_with(b"half"));
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::UpstreamIdle) == 1
    });
}

#[test]
fn bytes_that_come_keep_a_body_alive() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            peer.send("x");
        }
    });
    let proxy = limited(&origin, "idle");
    assert_eq!(proxy.client().get("/").unwrap().text(), "xxxxxxxxxx");
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.send_bytes(&vec![b'x'; 100_000_000]);
    });
    let proxy = limited(&origin, "idle");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    proxy.until("the client is given up", |proxy| {
        proxy.listener_stats().errors(Reason::DownstreamIdle) == 1
    });
    assert!(client.rest().len() < 100_000_000);
}

#[test]
fn dripping_a_body_is_408_below_the_rate_and_goes_on_above_it() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(head) = peer.request() {
            peer.drain_body(&head);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let drip = |limits: &str, expected: u16| {
        let extra = format!("timeouts = {{ idle = \"300ms\" }}\nlimits = {{ {limits} }}");
        let proxy = Proxy::http(&[origin.address], &extra);
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n");
        // Each byte long before the wait for it would be over: 1.2 seconds, 33 bytes a second.
        for _ in 0..40 {
            client.send("x");
            std::thread::sleep(Duration::from_millis(30));
        }
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, expected, "{limits}: {answer:?}");
        let count = u64::from(expected == 408);
        assert_eq!(proxy.listener_stats().errors(Reason::SlowClient), count);
    };
    drip("min_rate = 10_000", 408);
    drip("min_rate = 1", 200);
    drip("min_rate = 0", 200);
}

#[test]
fn a_client_that_reads_below_the_rate_is_cut() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.send_bytes(&vec![b'x'; 100_000_000]);
    });
    let proxy = Proxy::http(
        &[origin.address],
        "timeouts = { idle = \"300ms\" }\nlimits = { min_rate = 1_000_000_000 }",
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let deadline = Instant::now() + PATIENCE;
    while proxy.listener_stats().errors(Reason::SlowClient) == 0 {
        assert!(Instant::now() < deadline, "never cut");
        // Never silent for as long as the wait, and never fast.
        client.bytes(65_536);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_goes_while_the_backend_thinks_is_noticed() {
    let (gone, told) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let origin = Origin::start(move |_, mut peer| {
        let request = peer.request().unwrap();
        peer.drain_body(&request);
        // The backend's connection ends without an answer having been sent.
        let ended = peer.bytes(1).is_empty();
        gone.lock().unwrap().send(ended).unwrap();
    });
    let proxy = Proxy::http(&[origin.address], "");
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let mut client = proxy.client();
        client.send(request);
        proxy.until("the backend has it", |proxy| {
            proxy.backend_stats(origin.address).requests_active == 1
        });
        drop(client);
        assert!(told.recv_timeout(PATIENCE).unwrap());
    }
    proxy.until("both are counted", |proxy| {
        proxy.listener_stats().errors(Reason::DownstreamClosed) == 2
    });
}

#[test]
fn a_request_that_comes_while_the_backend_thinks_waits_for_its_turn() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(request) = peer.request() {
            let target = request.split(' ').nth(1).unwrap().to_owned();
            std::thread::sleep(Duration::from_millis(100));
            let length = target.len();
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for number in 0..3 {
        client.send(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        std::thread::sleep(Duration::from_millis(20));
    }
    for number in 0..3 {
        assert_eq!(client.answer().unwrap().text(), format!("/{number}"));
    }
}

impl Proxy {
    /// The proxy with a client, which must outlive it in some tests.
    fn client_kept(self) -> (Self, Peer) {
        let client = self.client();
        (self, client)
    }
}
