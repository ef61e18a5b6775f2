//! Changes while connections are open: reloads, removals, drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_l7::{Engine, Error};

use crate::harness::*;

#[test]
fn a_changed_pool_counts_from_the_next_request_on() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::http(&[a.address], "");
    let mut client = proxy.client();
    for _ in 0..20 {
        proxy.apply(&one_listener("http", &[a.address], ""));
        assert_eq!(client.get("/").unwrap().text(), "a");
        proxy.apply(&one_listener("http", &[b.address], ""));
        assert_eq!(client.get("/").unwrap().text(), "b");
    }
}

#[test]
fn what_does_not_change_keeps_its_connections_and_counters() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start_with(&one_listener("http", &[a.address], ""), 1);
    let mut client = proxy.client();
    client.get("/");
    let more = one_listener("http", &[a.address], "") + &pool("other", &[b.address], "");
    proxy.apply(&more);
    proxy.apply(&more.replace(
        "pool = \"main\"\n",
        "pool = \"main\"\ntimeouts = { idle = \"9s\" }\n",
    ));
    client.get("/");
    assert_eq!(a.connections(), 1);
    assert_eq!(proxy.listener_stats().requests, 2);
    assert_eq!(proxy.backend_stats(a.address).connections_reused, 1);
}

#[test]
fn a_prepared_change_that_is_dropped_changes_nothing() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::http(&[a.address], "");
    let other = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = one_listener("http", &[b.address], "").replace("LISTEN", &other.to_string());
    let prepared = proxy.engine.prepare(Arc::new(snapshot(&text))).unwrap();
    assert!(std::net::TcpStream::connect(other).is_err());
    drop(prepared);
    assert_eq!(proxy.client().get("/").unwrap().text(), "a");
    assert!(std::net::TcpListener::bind(other).is_ok());
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let engine = Engine::start(&weir_model::L7 { workers: 1 }).unwrap();
    let text = one_listener("http", &[dead_address()], "").replace("LISTEN", &address.to_string());
    let error = engine.prepare(Arc::new(snapshot(&text))).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("listener `main`: cannot bind {address}")),
        "{error}"
    );
}

#[test]
fn an_address_that_another_engine_serves_is_taken_too() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let text =
        one_listener("http", &[origin.address], "").replace("LISTEN", &proxy.address.to_string());
    let engine = Engine::start(&weir_model::L7 { workers: 1 }).unwrap();
    let error = engine.prepare(Arc::new(snapshot(&text))).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("listener `main`: cannot bind {}", proxy.address)),
        "{error}"
    );
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").unwrap().text(), "ok");
    }
}

#[test]
fn a_removed_listener_ends_its_connections_after_their_request() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let mut kept = proxy.client();
    kept.get("/");
    // Its pool goes with it.
    let other = Origin::saying("other");
    let other = format!(
        "[[listener]]\nname = \"other\"\nbind = \"{}\"\nprotocol = \"http\"\npool = \"other\"\n{}",
        free_address(),
        pool("other", &[other.address], "")
    );
    proxy.apply(&other);
    proxy.until("nobody accepts any more", |proxy| {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    let answer = kept.get("/").unwrap();
    assert_eq!(answer.text(), "ok");
    assert!(answer.has("Connection: close"));
    assert!(kept.ends());
}

#[test]
fn a_tunnel_survives_the_removal_of_its_listener() {
    let origin = Origin::start(|_, mut peer| {
        loop {
            let byte = peer.bytes(1);
            if byte.is_empty() {
                return;
            }
            peer.send_bytes(&byte);
        }
    });
    let proxy = Proxy::start(&one_listener("tcp", &[origin.address], ""));
    let mut client = proxy.client();
    client.send("a");
    assert_eq!(client.bytes(1), b"a");
    proxy.apply(&pool("main", &[origin.address], ""));
    proxy.until("nobody accepts any more", |proxy| {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    client.send("b");
    assert_eq!(client.bytes(1), b"b");
}

/// Clients that ask one after the other until told to stop, on new and on kept connections.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(address: std::net::SocketAddr, refusal_is_the_end: bool) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let thread = |number| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let stream = match std::net::TcpStream::connect(address) {
                        Ok(stream) => stream,
                        Err(_) if refusal_is_the_end => return Ok(()),
                        Err(error) => return Err(format!("connect: {error}")),
                    };
                    let mut client = Peer::new(stream);
                    for _ in 0..=number * 10 {
                        let answer = client.get("/").ok_or("no answer")?;
                        if answer.status != 200 {
                            return Err(format!("{answer:?}"));
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                        if answer.has("Connection: close") {
                            break;
                        }
                    }
                }
                Ok(())
            })
        };
        let threads = (0..4).map(thread).collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    fn wait_for(&self, more: usize) {
        let (goal, deadline) = (
            self.done.load(Ordering::SeqCst) + more,
            Instant::now() + PATIENCE,
        );
        while self.done.load(Ordering::SeqCst) < goal
            && self.threads.iter().any(|thread| !thread.is_finished())
        {
            assert!(Instant::now() < deadline, "the load has stalled");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
    }
}

#[test]
fn reloads_under_load_fail_no_request() {
    let (a, b) = (Origin::saying("ok"), Origin::saying("ok"));
    let proxy = Proxy::http(&[a.address], "");
    let load = Load::start(proxy.address, false);
    for round in 0..30 {
        let backends = if round % 2 == 0 {
            vec![b.address]
        } else {
            vec![a.address, b.address]
        };
        let extra = format!("timeouts = {{ idle = \"{}s\" }}", 10 + round % 3);
        let other = format!(
            "[[listener]]\nname = \"o\"\nbind = \"{}\"\nprotocol = \"http\"\npool = \"main\"\n",
            free_address()
        );
        proxy.apply(&(one_listener("http", &backends, &extra) + &other));
        load.wait_for(50);
    }
    load.end();
    assert!(
        proxy.listener_stats().errors.is_empty(),
        "{:?}",
        proxy.listener_stats().errors
    );
}

#[test]
fn changes_that_outrun_the_workers_lose_no_socket() {
    let origin = Origin::saying("ok");
    for _ in 0..20 {
        let proxy = Proxy::http(&[origin.address], "");
        for round in 0..5 {
            let named = format!("name = \"main{round}\"\nbind");
            let config = one_listener("http", &[origin.address], "");
            proxy.apply(&config.replace("name = \"main\"\nbind", &named));
        }
        for _ in 0..8 {
            assert_eq!(proxy.client().get("/").unwrap().text(), "ok");
        }
    }
}

#[test]
fn a_listener_under_another_name_takes_over_under_load() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let load = Load::start(proxy.address, false);
    for round in 0..10 {
        let named = format!("name = \"main{round}\"\nbind");
        proxy.apply(
            &one_listener("http", &[origin.address], "").replace("name = \"main\"\nbind", &named),
        );
        load.wait_for(50);
    }
    load.end();
}

#[test]
fn a_drain_under_load_fails_no_request_and_ends_when_idle() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::http(&[origin.address], "");
    let idle = proxy.client();
    let load = Load::start(proxy.address, true);
    load.wait_for(200);
    let start = Instant::now();
    let drained = proxy.engine.drain(PATIENCE);
    assert_eq!(drained.connections_left, 0);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    load.end();
    drop(idle);
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let origin = Origin::start(|_, mut peer| {
        peer.request();
        peer.request();
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    proxy.until("the request is under way", |proxy| {
        proxy.backend_stats(origin.address).requests_active == 1
    });
    let start = Instant::now();
    assert_eq!(
        proxy
            .engine
            .drain(Duration::from_millis(300))
            .connections_left,
        1
    );
    assert!(start.elapsed() >= Duration::from_millis(300));
    drop(proxy);
    assert!(client.answer().is_none());
}

#[test]
fn a_drain_that_begins_while_the_backend_works_is_told_to_the_client() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::start(move |_, mut peer| {
        peer.request();
        let _ = released.lock().unwrap().recv();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        peer.request();
    });
    let proxy = Proxy::http(&[origin.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    proxy.until("the request is under way", |proxy| {
        proxy.backend_stats(origin.address).requests_active == 1
    });
    proxy.engine.drain(Duration::ZERO);
    proxy.until("nobody accepts any more", |proxy| {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    release.send(()).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.text(), "ok");
    assert!(answer.has("Connection: close"), "{}", answer.head);
    assert!(client.ends());
}

#[test]
fn a_websocket_and_counters_survive_a_change_of_their_listeners_routes() {
    let echo = Origin::start(|_, mut peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        loop {
            let byte = peer.bytes(1);
            if byte.is_empty() {
                return;
            }
            peer.send_bytes(&byte);
        }
    });
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let config = |route: &str| {
        one_listener("http", &[echo.address], route)
            + &pool("a", &[a.address], "")
            + &pool("b", &[b.address], "")
    };
    let route = |pool: &str| format!("[[listener.route]]\npath = \"/x\"\npool = \"{pool}\"\n");
    let proxy = Proxy::start_with(&config(&route("a")), 1);
    let mut socket = proxy.client();
    socket
        .send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(socket.head().unwrap().contains("101"));
    let mut other = proxy.client();
    assert_eq!(other.get("/x").unwrap().text(), "a");
    // The route leads elsewhere, then there is none, then the pool of the WebSocket is another.
    proxy.apply(&config(&route("b")));
    assert_eq!(other.get("/x").unwrap().text(), "b");
    proxy.apply(&config(
        "[[listener.route]]\npath = \"/x\"\nanswer = { status = 200, body = \"here\" }\n",
    ));
    assert_eq!(other.get("/x").unwrap().text(), "here");
    socket.send("1");
    assert_eq!(socket.bytes(1), b"1");
    proxy.apply(&one_listener("http", &[b.address], ""));
    assert_eq!(other.get("/x").unwrap().text(), "b");
    socket.send("2");
    assert_eq!(socket.bytes(1), b"2");
    let stats = proxy.listener_stats();
    assert_eq!((stats.requests, stats.connections), (5, 2));
    // What did not change was reused all the time.
    assert_eq!(proxy.backend_stats(b.address).id.pool.as_str(), "main");
}
