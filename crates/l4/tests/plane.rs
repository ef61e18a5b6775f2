//! The plane on a small network: a client, the load balancer, two backends.
#![allow(clippy::unwrap_used)]

mod net;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use net::{Net, until};
use weir_l4::{Attachment, Cursor, CursorError, Decap, DropReason, Filter, Plane, State};
use weir_model::{Forward, Name, XdpMode};

#[test]
fn fullnat_carries_tcp_both_ways_and_counts_it() {
    let Some(net) = Net::new("fullnat") else {
        return;
    };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1, 1]));
    const ASKED: u64 = 16;
    let answers: Vec<String> = (0..ASKED).map(|_| net.ask()).collect();
    // Each core takes turns for itself.
    let cores = std::thread::available_parallelism().unwrap().get();
    for backend in ["backend 1", "backend 2"] {
        let count = answers.iter().filter(|answer| *answer == backend).count();
        assert!(
            count.abs_diff(ASKED as usize / 2) <= cores,
            "{backend}: {answers:?}"
        );
    }
    until("the sweep has counted all sessions", || {
        let stats = plane.stats();
        let listener = &stats.listeners[0];
        listener.counters.sessions_opened == ASKED
            && listener.counters.sessions_active == ASKED
            && listener.counters.packets_in >= ASKED * 4
            && listener.counters.packets_out >= ASKED * 3
            && stats
                .backends
                .iter()
                .map(|backend| backend.counters.sessions_opened)
                .sum::<u64>()
                == ASKED
            && stats.table.sessions == ASKED
            && stats.table.lines_used == 2 * ASKED
    });
    let sessions = plane.sessions(&Filter::default(), 100);
    assert_eq!(sessions.len() as u64, ASKED);
    for session in &sessions {
        assert_eq!(session.vip, SocketAddr::V4(net::VIP));
        assert_eq!(session.client.ip(), net::CLIENT);
        assert_eq!(session.local.unwrap().ip(), net::LOCAL);
        assert_eq!(session.listener.as_ref().unwrap().as_str(), "service");
        assert!(session.backend.is_some());
        assert!(session.packets_in > 3 && session.packets_out > 2);
        assert!(session.idle < Duration::from_secs(5), "{session:?}");
        assert!(session.timeout_left > Duration::from_secs(50));
    }
    let closed = Filter {
        state: Some(State::TimeWait),
        ..Filter::default()
    };
    assert_eq!(plane.session_count(&closed), ASKED);
    plane.stop();
}

#[test]
fn an_open_connection_is_an_established_session() {
    let Some(net) = Net::new("established") else {
        return;
    };
    let plane = net.plane(&net.config("nat", "tcp", "round_robin", &[1]));
    let mut stream = net.connect().unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    let established = Filter {
        state: Some(State::Established),
        ..Filter::default()
    };
    assert_eq!(plane.session_count(&established), 1);
    let none = Filter {
        udp: Some(true),
        ..Filter::default()
    };
    assert_eq!(plane.session_count(&none), 0);
    let session = &plane.sessions(&established, 1)[0];
    assert_eq!(session.client, stream.local_addr().unwrap());
    assert!(session.timeout_left > Duration::from_secs(400_000));
    drop(stream);
    until("the session is closed", || {
        plane.session_count(&established) == 0
    });
}

#[test]
fn a_reload_keeps_sessions_and_a_removed_listener_takes_no_new_ones() {
    let Some(net) = Net::new("reload") else {
        return;
    };
    let both = net.config("fullnat", "tcp", "round_robin", &[1, 1]);
    let plane = net.plane(&both);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| net.connect().unwrap()).collect();
    let one = net.config("fullnat", "tcp", "round_robin", &[1]);
    plane.commit(plane.prepare(&one).unwrap());
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    assert!((0..4).all(|_| net.ask() == "backend 1"));
    let gone = net.empty_config();
    plane.commit(plane.prepare(&gone).unwrap());
    assert!(net.connect().is_err());
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let stats = plane.stats();
    assert!(stats.listeners.iter().all(|listener| !listener.configured));
    assert_eq!(stats.listeners[0].counters.sessions_opened, 8);
}

#[test]
fn a_change_that_is_not_committed_leaves_no_trace() {
    let Some(net) = Net::new("abandoned") else {
        return;
    };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1]));
    drop(plane.prepare(&net.empty_config()).unwrap());
    assert_eq!(net.ask(), "backend 1");
    drop(
        plane
            .prepare(&net.config("fullnat", "tcp", "maglev", &[1, 1]))
            .unwrap(),
    );
    assert!((0..4).all(|_| net.ask() == "backend 1"));
    until("the number of the second backend is given back", || {
        plane.stats().backends.len() == 1
    });
}

#[test]
fn packets_without_a_backend_or_a_session_are_dropped_and_counted() {
    let Some(net) = Net::new("drops") else { return };
    let snapshot = net.config("fullnat", "tcp", "round_robin", &[1]);
    let plane = net.plane(&snapshot);
    let down = net::all_down(&snapshot);
    plane.commit(plane.prepare(&down).unwrap());
    assert!(net.connect().is_err());
    let stats = plane.stats();
    let drops = |reason| stats.drops.iter().find(|(r, _)| *r == reason).unwrap().1;
    assert!(drops(DropReason::NoBackend) >= 1);
    assert!(stats.listeners[0].drops >= 1);
    plane.commit(plane.prepare(&snapshot).unwrap());
    assert_eq!(net.ask(), "backend 1");
}

#[test]
fn every_mode_and_scheduler_carries_traffic() {
    let Some(net) = Net::new("modes") else { return };
    let plane = net.plane(&net.config("fullnat", "tcp", "source_hash", &[1, 1]));
    let first = net.ask();
    assert!(
        (0..4).all(|_| net.ask() == first),
        "one client stays with one backend"
    );
    for (forward, scheduler) in [
        ("nat", "maglev"),
        ("fullnat", "maglev"),
        ("nat", "round_robin"),
    ] {
        plane.commit(
            plane
                .prepare(&net.config(forward, "tcp", scheduler, &[1, 1]))
                .unwrap(),
        );
        assert!(net.ask().starts_with("backend "), "{forward} {scheduler}");
    }
    for (forward, protocol) in [("fullnat", "udp"), ("nat", "udp")] {
        plane.commit(
            plane
                .prepare(&net.config(forward, protocol, "round_robin", &[1, 1]))
                .unwrap(),
        );
        assert!(
            net.ask_udp().starts_with("backend "),
            "{forward} {protocol}"
        );
    }
}

#[test]
fn ipv6_is_carried_in_every_mode_that_keeps_the_packet_or_rewrites_it() {
    let Some(net) = Net::new("ipv6") else { return };
    net.give_backends_the_vip();
    let plane = net.plane(&net.config6("fullnat", "tcp", 8080));
    for (forward, port) in [("fullnat", 8080), ("nat", 8080), ("dr", 80)] {
        plane.commit(plane.prepare(&net.config6(forward, "tcp", port)).unwrap());
        for _ in 0..3 {
            assert_eq!(net.ask6(), "backend 1", "{forward}");
        }
    }
    for forward in ["fullnat", "nat"] {
        plane.commit(plane.prepare(&net.config6(forward, "udp", 8080)).unwrap());
        assert_eq!(net.ask_udp6(), "backend 1", "{forward}");
    }
    until("every session is counted", || {
        let stats = plane.stats();
        let opened = stats.listeners[0].counters.sessions_opened;
        (opened, stats.table.sessions, stats.table6.lines_used > 0) == (11, 0, true)
    });
    let from_client = Filter {
        client: Some(IpAddr::from(net::CLIENT6).into()),
        vip: Some(SocketAddr::V6(net::VIP6).ip()),
        udp: Some(false),
        ..Filter::default()
    };
    assert_eq!(plane.session_count(&from_client), 9);
    let session = &plane.sessions(&from_client, 1)[0];
    assert_eq!(session.vip, SocketAddr::V6(net::VIP6));
    assert!(session.client.is_ipv6() && session.packets_in > 0);
    let drops = plane.stats().drops;
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
    plane.stop();
}

#[test]
fn a_backend_with_another_mac_address_is_followed() {
    let Some(net) = Net::new("mac") else { return };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1]));
    let mut stream = net.connect().unwrap();
    net.move_backend([2, 0, 0, 0, 9, 9]);
    stream.write_all(b"x").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    drop(plane);
}

#[test]
fn an_interface_has_one_program_and_is_free_again_afterwards() {
    let Some(net) = Net::new("attach") else {
        return;
    };
    let snapshot = net.config("fullnat", "tcp", "round_robin", &[1]);
    let plane = net.plane(&snapshot);
    let l4 = snapshot.config.l4.clone().unwrap();
    let error = net
        .balancer
        .run(|| Plane::start(&l4))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("attach XDP to eth0 (native): "),
        "{error}"
    );
    assert!(error.contains("another XDP program"), "{error}");
    assert!(
        plane
            .stats()
            .interfaces
            .iter()
            .all(|interface| interface.attachment.is_some())
    );
    plane.stop();
    drop(net.balancer.run(|| Plane::start(&l4)).unwrap());
}

#[test]
fn an_interface_that_comes_back_is_attached_again() {
    let Some(mut net) = Net::new("return") else {
        return;
    };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1]));
    assert_eq!(net.ask(), "backend 1");
    net.replace_client_link();
    let attached = || {
        plane
            .stats()
            .interfaces
            .iter()
            .filter(|interface| interface.attachment.is_some())
            .count()
    };
    until("the new interface is attached", || {
        attached() == 2 && net.try_ask().is_ok()
    });
}

#[test]
fn a_missing_interface_is_an_error_that_names_it() {
    let Some(net) = Net::new("missing") else {
        return;
    };
    let snapshot = net.config("fullnat", "tcp", "round_robin", &[1]);
    let mut l4 = snapshot.config.l4.clone().unwrap();
    l4.interfaces = vec!["eth7".to_owned()];
    let error = net.balancer.run(|| Plane::start(&l4)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "attach XDP to eth7: there is no such interface"
    );
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let Some(net) = Net::new("refused") else {
        return;
    };
    let snapshot = net.config("fullnat", "tcp", "round_robin", &[1]);
    let plane = net.plane(&snapshot);
    let refused = |edit: &dyn Fn(&str) -> String| {
        let text = edit(&net.text("fullnat", "tcp", "round_robin", &[1]));
        plane
            .prepare(&net::snapshot(&text))
            .err()
            .unwrap()
            .to_string()
    };
    let error = refused(&|text| text.replace("max_sessions = 4096", "max_sessions = 8192"));
    assert_eq!(error, "[l4] max_sessions has changed: this needs a restart");
    let error = refused(&|text| text.replace("\"eth1\"", "\"eth7\""));
    assert_eq!(error, "attach XDP to eth7: there is no such interface");
    assert_eq!(net.ask(), "backend 1");
}

#[test]
fn dr_and_tunnel_reach_a_backend_that_has_the_vip() {
    let Some(net) = Net::new("direct") else {
        return;
    };
    net.give_backends_the_vip();
    let plane = net.plane(&net.config_to_port(80, "dr", "tcp"));
    assert_eq!(net.ask(), "backend 1");
    let decap = net
        .backend(0)
        .run(|| Decap::attach("eth0", XdpMode::Auto, 6080))
        .unwrap();
    plane.commit(
        plane
            .prepare(&net.config_to_port(80, "tunnel", "tcp"))
            .unwrap(),
    );
    assert_eq!(net.ask(), "backend 1");
    assert!(decap.decapsulated().unwrap() >= 4);
    until("one-way sessions are counted", || {
        let stats = plane.stats();
        stats.table.lines_used == 2 && stats.listeners[0].counters.packets_out == 0
    });
    let established = Filter {
        state: Some(State::FinWait),
        ..Filter::default()
    };
    assert_eq!(plane.session_count(&established), 2);
}

#[test]
fn every_tunnel_reaches_a_backend_over_real_stacks() {
    let Some(net) = Net::new("tunnels") else {
        return;
    };
    net.give_backends_the_vip();
    let decap = net
        .backend(0)
        .run(|| Decap::attach("eth0", XdpMode::Auto, 6080))
        .unwrap();
    let plane = net.plane(&net.config_of_tunnel("ipip", false, false));
    for encapsulation in ["ipip", "gue", "gre"] {
        for (vip6, backend6) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = net.config_of_tunnel(encapsulation, vip6, backend6);
            plane.commit(plane.prepare(&config).unwrap());
            let before = decap.decapsulated().unwrap();
            let answer = if vip6 { net.ask6() } else { net.ask() };
            let what = format!("{encapsulation}, VIP IPv6: {vip6}, backend IPv6: {backend6}");
            assert_eq!(answer, "backend 1", "{what}");
            assert!(decap.decapsulated().unwrap() >= before + 4, "{what}");
        }
    }
    let drops = plane.stats().drops;
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

#[test]
fn an_interface_without_native_xdp_gets_the_generic_one() {
    let Some(net) = Net::new("generic") else {
        return;
    };
    let attach = |mode| net.balancer.run(|| Decap::attach("lo", mode, 6080));
    assert_eq!(
        attach(XdpMode::Auto).unwrap().attachment(),
        Attachment::Generic
    );
    assert_eq!(
        attach(XdpMode::Generic).unwrap().attachment(),
        Attachment::Generic
    );
    let error = attach(XdpMode::Native).err().unwrap().to_string();
    assert!(error.starts_with("attach XDP to lo (native): "), "{error}");
    assert!(error.contains("the driver has no XDP"), "{error}");
}

#[test]
fn a_changed_route_is_followed() {
    let Some(net) = Net::new("route") else {
        return;
    };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1]));
    let mut stream = net.connect().unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    // The other backend is no router: what goes there is lost.
    net.route_first_backend(Some("10.2.0.12"));
    until("packets take the new way", || {
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        stream.write_all(b"x").unwrap();
        stream.read(&mut [0; 100]).is_err()
    });
    net.route_first_backend(None);
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert!(
        stream.read(&mut [0; 100]).unwrap() > 0,
        "TCP repeats what was lost"
    );
    drop(plane);
}

#[test]
fn the_kernel_keeps_the_neighbours_that_we_use_and_only_those() {
    let Some(net) = Net::new("managed") else {
        return;
    };
    let managed = || {
        net.neighbours()
            .lines()
            .filter(|line| line.contains("managed"))
            .count()
    };
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1, 1]));
    assert_eq!(managed(), 2, "{}", net.neighbours());
    plane.commit(
        plane
            .prepare(&net.config("fullnat", "tcp", "round_robin", &[1]))
            .unwrap(),
    );
    until("the second backend is forgotten", || managed() == 1);
    plane.stop();
    assert_eq!(managed(), 0, "{}", net.neighbours());
}

#[test]
fn a_client_that_the_kernel_does_not_know_is_asked_for() {
    let Some(net) = Net::new("wanted") else {
        return;
    };
    net.introduce_balancer_to_client();
    let plane = net.plane(&net.config("fullnat", "tcp", "round_robin", &[1]));
    assert!(
        !net.neighbours().contains("10.1.0.2 "),
        "{}",
        net.neighbours()
    );
    assert_eq!(net.ask(), "backend 1");
    until("the kernel knows the client", || {
        net.neighbours()
            .lines()
            .any(|line| line.contains("10.1.0.2 ") && line.contains("lladdr"))
    });
    assert_eq!(net.ask(), "backend 1");
    drop(plane);
}

#[test]
fn idle_times_are_those_of_the_clock_on_the_wall() {
    let Some(net) = Net::new("idle") else {
        return;
    };
    let plane = net.plane(&net.config_to_port(80, "dr", "udp"));
    let before = Instant::now();
    net.send_udp();
    let after = Instant::now();
    let sessions = || plane.sessions(&Filter::default(), 1);
    until("the session is there, and idle for a while", || {
        sessions()
            .first()
            .is_some_and(|session| session.idle > Duration::from_millis(1500))
    });
    let at_least = after.elapsed();
    let idle = sessions()[0].idle;
    let at_most = before.elapsed();
    let jiffies = Duration::from_millis(25);
    assert!(
        idle + jiffies >= at_least && idle <= at_most + jiffies,
        "{at_least:?} {idle:?} {at_most:?}"
    );
}

#[test]
fn changes_under_load_lose_no_connection() {
    let Some(net) = Net::new("load") else {
        return;
    };
    let configs = [
        net.config("fullnat", "tcp", "round_robin", &[1, 1]),
        net.config("fullnat", "tcp", "maglev", &[3, 1]),
        net.config("fullnat", "tcp", "round_robin", &[2, 7]),
        net.config("fullnat", "tcp", "source_hash", &[1, 1]),
    ];
    let plane = net.plane(&configs[0]);
    const THREADS: u64 = 4;
    const EACH: u64 = 50;
    let running = AtomicU64::new(THREADS);
    let mut changes = 0;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assert!(net.ask().starts_with("backend "));
                }
                running.fetch_sub(1, Relaxed);
            });
        }
        while running.load(Relaxed) > 0 {
            for config in configs.iter().cycle().skip(1).take(configs.len()) {
                plane.commit(plane.prepare(config).unwrap());
                changes += 1;
            }
        }
    });
    assert!(changes > 20, "only {changes} changes");
    until("every connection is counted once", || {
        let stats = plane.stats();
        let counters = stats.listeners[0].counters;
        counters.sessions_opened == THREADS * EACH && counters.sessions_active == THREADS * EACH
    });
    let drops = plane.stats().drops;
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

#[test]
fn the_table_holds_as_many_sessions_as_the_config_says() {
    let Some(net) = Net::new("full") else {
        return;
    };
    let plane = net.plane(&net.config("fullnat", "udp", "maglev", &[1, 1]));
    let sessions = u64::from(plane.stats().table.max_sessions);
    for port in (10_000..).take(sessions as usize) {
        // Twice: what asks once is the first to go where the table is full.
        assert!(
            net.ask_udp_from(port, 2).starts_with("backend "),
            "port {port}"
        );
    }
    until("every packet is counted", || {
        let stats = plane.stats();
        let counters = stats.listeners[0].counters;
        counters.packets_in == 2 * sessions && counters.packets_out == 2 * sessions
    });
    let stats = plane.stats();
    assert_eq!(
        (stats.table.sessions, stats.table.lines_used),
        (sessions, 2 * sessions)
    );
    assert_eq!((stats.table.expired, stats.table.orphans), (0, 0));
    assert!(
        stats.drops.iter().all(|(_, count)| *count == 0),
        "{:?}",
        stats.drops
    );
    let to_first = Filter {
        backend: Some("10.2.0.11:8080".parse().unwrap()),
        state: Some(State::UdpStream),
        ..Filter::default()
    };
    // A hash of the port decides.
    let share = plane.session_count(&to_first) as f64 / sessions as f64;
    assert!((0.45..0.55).contains(&share), "{share}");
    assert_eq!(plane.sessions(&to_first, 7).len(), 7);
    pages_show_every_session_once(&plane, &to_first);
    pages_show_every_session_once(&plane, &Filter::default());
    filters_tell_sessions_apart(&plane, sessions);
}

fn pages_show_every_session_once(plane: &Plane, filter: &Filter) {
    const PAGE: usize = 97;
    let first = plane.list(filter, None, PAGE).unwrap();
    let total = first.total.unwrap();
    assert_eq!(total, plane.session_count(filter));
    let mut clients: HashSet<SocketAddr> = HashSet::new();
    let mut page = first;
    loop {
        assert!(page.sessions.len() <= PAGE);
        for session in &page.sessions {
            assert!(clients.insert(session.client), "{session:?} again");
        }
        let Some(cursor) = page.next else {
            break;
        };
        assert_eq!(
            page.sessions.len(),
            PAGE,
            "a page with more behind it is full"
        );
        // As the API hands it out and takes it back.
        let cursor: Cursor = cursor.to_string().parse().unwrap();
        page = plane.list(filter, Some(cursor), PAGE).unwrap();
        assert_eq!(page.total, None);
    }
    assert_eq!(clients.len() as u64, total);
    assert_eq!(
        "4-0-8"
            .parse()
            .map(|cursor| plane.list(filter, Some(cursor), 1).err()),
        Ok(Some(CursorError::Stale))
    );
    for wrong in ["", "5-0-8", "4-0", "4-0-8-", "4--1-8", "4-x-8"] {
        assert_eq!(
            wrong.parse::<Cursor>(),
            Err(CursorError::Unknown),
            "{wrong}"
        );
    }
}

fn filters_tell_sessions_apart(plane: &Plane, all: u64) {
    let some = plane.sessions(&Filter::default(), 1).remove(0);
    let count = |filter: Filter| plane.session_count(&filter);
    let ends = |text: &str| Some(text.parse().unwrap());
    let check = |filter: Filter, expected: u64| {
        assert_eq!(count(filter.clone()), expected, "{filter:?}");
    };
    let none = Filter::default;
    check(
        Filter {
            client: ends(&some.client.to_string()),
            ..none()
        },
        1,
    );
    check(
        Filter {
            client: ends(&some.client.ip().to_string()),
            ..none()
        },
        all,
    );
    check(
        Filter {
            client: ends("0.0.0.0/0"),
            ..none()
        },
        all,
    );
    check(
        Filter {
            client: ends("192.0.2.77"),
            ..none()
        },
        0,
    );
    check(
        Filter {
            local: ends(&some.local.unwrap().to_string()),
            backend: some.backend.clone().map(|id| id.address.into()),
            ..none()
        },
        1,
    );
    check(
        Filter {
            local: ends("192.0.2.77"),
            ..none()
        },
        0,
    );
    check(
        Filter {
            forward: Some(Forward::Fullnat),
            ..none()
        },
        all,
    );
    check(
        Filter {
            forward: Some(Forward::Dr),
            ..none()
        },
        0,
    );
    check(
        Filter {
            pool: some.backend.map(|id| id.pool),
            ..none()
        },
        all,
    );
    check(
        Filter {
            pool: Some(Name::new("other")),
            ..none()
        },
        0,
    );
    check(
        Filter {
            listener: some.listener,
            ..none()
        },
        all,
    );
    check(
        Filter {
            listener: Some(Name::new("other")),
            ..none()
        },
        0,
    );
    check(
        Filter {
            backend: ends("10.0.0.0/8"),
            ..none()
        },
        all,
    );
    check(
        Filter {
            state: Some(State::Udp),
            ..none()
        },
        0,
    );
    check(
        Filter {
            udp: Some(false),
            ..none()
        },
        0,
    );
}

#[test]
fn generic_mode_carries_traffic_too() {
    let Some(net) = Net::new("skb") else {
        return;
    };
    let text = net.text("fullnat", "tcp", "round_robin", &[1, 1]);
    let plane = net.plane(&net::snapshot(
        &text.replace("[l4]\n", "[l4]\nxdp_mode = \"generic\"\n"),
    ));
    for interface in plane.stats().interfaces {
        assert_eq!(interface.attachment, Some(Attachment::Generic));
    }
    assert!((0..4).all(|_| net.ask().starts_with("backend ")));
    plane.stop();
    assert!(!net.balancer.link("eth0").unwrap().has_xdp().unwrap());
}
