//! Bodies: whole, in both directions at once, with back-pressure, and the client that waits for 100.

use std::io::Write;
use std::time::Duration;

use crate::harness::*;

const LARGE: usize = 5_000_000;

#[test]
fn large_bodies_come_through_whole_in_both_directions() {
    let origin = Origin::mirror();
    let proxy = Proxy::http(&[origin.address], "");
    let body = noise(LARGE, 1);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
        ));
        client.send_bytes(&body);
        let answer = client.answer().unwrap();
        assert!(answer.body.ends_with(&body));
    }
    // The last answer is counted after it was sent.
    proxy.until("all bytes are counted", |proxy| {
        let stats = proxy.listener_stats();
        stats.bytes_in > 2 * LARGE as u64 && stats.bytes_out > 2 * LARGE as u64
    });
}

#[test]
fn chunked_bodies_and_trailers_come_through_whole() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            let (body, trailers) = peer.chunks();
            assert_eq!(trailers, "X-Sum: 7\r\n\r\n");
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
            for part in body.chunks(70_001) {
                peer.send(&format!("{:X}\r\n", part.len()));
                peer.send_bytes(part);
                peer.send("\r\n");
            }
            peer.send("0\r\nX-Sum: 8\r\nContent-Length: 9\r\n\r\n");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let body = noise(LARGE, 2);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(9_999) {
            client.send(&format!("{:x};ext=1\r\n", part.len()));
            client.send_bytes(part);
            client.send("\r\n");
        }
        client.send("0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n");
        let head = client.head().unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        let (answer, trailers) = client.chunks();
        assert!(answer == body);
        assert_eq!(trailers, "X-Sum: 8\r\n\r\n");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_answer_that_ends_with_the_connection_comes_through_whole() {
    let body = noise(LARGE, 3);
    let sent = body.clone();
    let origin = Origin::start(move |_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        peer.send_bytes(&sent);
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    let answer = client.get("/").unwrap();
    assert!(answer.has("Connection: close"));
    assert!(answer.body == body);
}

#[test]
fn both_directions_run_at_once() {
    // The answer is the request, sent back as it comes: whoever waits for the whole request first never ends.
    let origin = Origin::start(|_, mut peer| {
        let head = peer.request().unwrap();
        let length: usize = field(&head, "content-length").unwrap().parse().unwrap();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        let mut left = length;
        while left > 0 {
            let part = peer.bytes(left.min(1000));
            left -= part.len();
            peer.send_bytes(&part);
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let body = noise(LARGE, 4);
    let mut client = proxy.client();
    client.send(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    let mut stream = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let sender = std::thread::spawn(move || stream.write_all(&sent).unwrap());
    assert!(client.answer().unwrap().body == body);
    sender.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_stops_the_backend() {
    let (report, sent) = std::sync::mpsc::channel();
    let origin = Origin::start(move |_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let piece = vec![b'x'; 100_000];
        peer.stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut total = 0usize;
        while total < 100_000_000 {
            match peer.stream.write(&piece) {
                Ok(count) => total += count,
                Err(_) => break,
            }
        }
        report.send(total).unwrap();
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let total = sent.recv_timeout(PATIENCE).unwrap();
    // What the sockets of three hops hold; the proxy itself holds one buffer.
    assert!(
        total < 50_000_000,
        "{total} bytes left the backend though nobody read them"
    );
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_backend() {
    let origin = Origin::start(|_, mut peer| {
        while let Some(head) = peer.request() {
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = peer.drain_body(&head);
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            peer.send_bytes(&body);
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(client.answer().unwrap().status, 100);
        client.send("hello");
        assert_eq!(client.answer().unwrap().text(), "hello");
    }
}

#[test]
fn a_final_answer_instead_of_100_ends_the_connection() {
    let origin = Origin::start(|_, mut peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (417, "no"));
    assert!(answer.has("Connection: close"));
    assert!(client.ends());
    assert_eq!(proxy.client().get("/").unwrap().status, 417);
    assert_eq!(
        origin.connections(),
        2,
        "a connection with half a request on it must not be used again"
    );
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.bytes(1000);
        peer.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
        );
        // Reads on for a moment, as servers do, so that the answer is not lost in a reset.
        peer.finish();
        peer.bytes(200_000);
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    client.send_bytes(&noise(100_000, 5));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (413, "big"));
}

#[test]
fn an_answer_that_is_broken_before_any_of_it_has_gone_is_502() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    });
    let proxy = Proxy::http(&[origin.address], "");
    let answer = proxy.client().get("/").unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (502, "502 Bad Gateway: bad_response_framing\n")
    );
}

#[test]
fn an_answer_that_cuts_the_upload_short_says_so() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (200, "no"));
    assert!(answer.has("Connection: close"), "{}", answer.head);
    assert!(client.ends());
}
