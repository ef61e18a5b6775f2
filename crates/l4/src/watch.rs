//! The thread that follows the kernel's interfaces, routes and neighbours, and keeps next hops up to date.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_l4_common::event::{Event, EventKind};
use weir_model::XdpMode;

use crate::attach::Programs;
use crate::backends::{Backends, Hop};
use crate::error::Error;
use crate::links::{INTERFACES_MAX, Links};
use crate::lock::lock;
use crate::netlink::{Keep, LinkInfo, Message, Monitor, Questions};
use crate::next_hop::{Effects, NextHops};
use crate::vlans::{self, Carrier, Vlans};
use crate::wake::Wake;

/// After a change of routes, wait for more of them before all ways are asked for again…
const ROUTES_SETTLE: Duration = Duration::from_millis(20);
/// …but not for longer than this.
const ROUTES_SETTLE_MAX: Duration = Duration::from_millis(200);
/// Where routes change all the time they are asked for no more often than this.
const ROUTES_INTERVAL: Duration = Duration::from_millis(500);
/// Sessions take their next hops anew no more often than this: 256 times are told apart.
const REFRESH_INTERVAL: Duration = Duration::from_millis(50);
/// How often neighbours are asked for that do not answer, and interfaces looked for that have gone.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer of a neighbour that the program wants is waited for at least: the kernel asks three times, a second
/// apart (`mcast_solicit`, `retrans_time_ms`).
const WANTED_INTERVAL: Duration = Duration::from_secs(4);
/// Backends that came or went and are dealt with in a row: orders, and what the kernel tells, wait so long at most.
const NEWS_AT_ONCE: usize = 512;
/// Backends without a next hop that are logged one by one; of more of them at a time, the number.
const COMPLAINTS_AT_ONCE: usize = 20;
/// How often an event of one kind is logged at most.
const EVENT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What the thread works on.
pub(crate) struct Watch {
    monitor: Monitor,
    questions: Questions,
    events: RingBuf<MapData>,
    wake: Arc<Wake>,
    backends: Arc<Backends>,
    programs: Arc<Mutex<Programs>>,
    links: Links,
    vlans: Vlans,
    /// Interfaces that the program is attached to, and how it should be.
    attach: Vec<String>,
    /// Those that it is going to be attached to.
    expected: Vec<String>,
    mode: XdpMode,
    orders: Receiver<Order>,
    /// Whether the kernel goes on keeping the neighbours fresh that are in use.
    leaves_neighbours: bool,
    interfaces: HashMap<u32, LinkInfo>,
    hops: NextHops,
    /// Addresses of backends that came (true) or went (false), not dealt with yet.
    news: VecDeque<(IpAddr, bool)>,
    /// When the first and the last change came that is not dealt with.
    routes_changed: Option<(Instant, Instant)>,
    routes_asked_at: Option<Instant>,
    /// Whether sessions must take their next hops anew.
    refresh_wanted: bool,
    refreshed_at: Option<Instant>,
    retry_at: Instant,
    wanted_at: Instant,
    /// Addresses whose trouble was logged.
    complained: HashSet<IpAddr>,
    logged: HashMap<u32, (Instant, u64)>,
    vanished: HashSet<String>,
}

/// What the thread is told to do.
pub(crate) enum Order {
    /// Attach the program to these interfaces, too: all or none.
    Attach(Vec<String>, SyncSender<Result<(), Error>>),
    /// Detach the program from all interfaces but these.
    Keep(Vec<String>),
    /// At the end, leave the kernel's neighbours as they are: forwarding goes on.
    LeaveNeighbours,
}

/// What a [`Watch`] is made of.
pub(crate) struct Parts {
    pub(crate) events: RingBuf<MapData>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) backends: Arc<Backends>,
    pub(crate) programs: Arc<Mutex<Programs>>,
    pub(crate) links: Links,
    pub(crate) vlans: Vlans,
    pub(crate) mode: XdpMode,
    pub(crate) orders: Receiver<Order>,
    /// Interfaces that the program is going to be attached to.
    pub(crate) expected: Vec<String>,
    pub(crate) locals: Vec<IpAddr>,
}

impl Watch {
    /// Reads what there is now, in the calling thread's network namespace.
    pub(crate) fn start(parts: Parts) -> Result<Self, Error> {
        let monitor = Monitor::open().map_err(Error::system("listen to rtnetlink"))?;
        let questions = Questions::open().map_err(Error::system("open rtnetlink"))?;
        let Parts {
            events,
            wake,
            backends,
            programs,
            links,
            vlans,
            mode,
            orders,
            expected,
            locals,
        } = parts;
        let mut watch = Self {
            monitor,
            questions,
            events,
            wake,
            backends,
            programs,
            links,
            vlans,
            attach: Vec::new(),
            expected,
            mode,
            orders,
            leaves_neighbours: false,
            interfaces: HashMap::new(),
            hops: NextHops::default(),
            news: VecDeque::new(),
            routes_changed: None,
            routes_asked_at: None,
            refresh_wanted: false,
            refreshed_at: None,
            retry_at: Instant::now() + RETRY_INTERVAL,
            wanted_at: Instant::now() + WANTED_INTERVAL,
            complained: HashSet::new(),
            logged: HashMap::new(),
            vanished: HashSet::new(),
        };
        watch
            .read_all()
            .map_err(Error::system("list interfaces and neighbours"))?;
        watch
            .check_locals(&locals)
            .map_err(Error::system("list this machine's addresses"))?;
        // Sessions from before lead through them.
        watch.update_links();
        Ok(watch)
    }

    /// Warns of local addresses that the kernel does not answer ARP or neighbour solicitations for.
    fn check_locals(&mut self, locals: &[IpAddr]) -> io::Result<()> {
        let here = self.questions.addresses()?;
        for local in locals {
            if !here.contains(local) {
                tracing::warn!(
                    %local,
                    "the local address is on no interface of this machine: replies arrive only if they are routed here"
                );
            }
        }
        Ok(())
    }

    /// Runs until it is stopped; leaves the kernel's neighbours as it found them.
    pub(crate) fn run(mut self) {
        while !self.wake.take() {
            self.take_orders();
            self.take_messages();
            self.take_news();
            self.take_events();
            let now = Instant::now();
            if self.routes_due().is_some_and(|due| due <= now) {
                self.routes_changed = None;
                self.routes_asked_at = Some(now);
                self.ask_all_routes();
            }
            if self.retry_at <= now {
                self.retry_at = now + RETRY_INTERVAL;
                if self.wanted_at <= now {
                    self.wanted_at = now + WANTED_INTERVAL;
                    self.hops.rotate_wanted();
                }
                self.retry();
            }
            if self.refresh_due(now).is_some_and(|due| due <= now) {
                self.refresh_wanted = false;
                self.refreshed_at = Some(now);
                self.links.refresh_sessions();
            }
            self.wait();
        }
        self.take_orders();
        if self.leaves_neighbours {
            return;
        }
        for (ifindex, addr) in self.hops.in_use().collect::<Vec<_>>() {
            self.ask_neighbour(ifindex, addr, Keep::Unmanaged);
        }
    }

    fn wait(&self) {
        if !self.news.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = [self.routes_due(), self.refresh_due(now)];
        let until = due.into_iter().flatten().fold(self.retry_at, Instant::min);
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that what is due then is due when we wake.
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut sources = [
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted: the loop comes back here.
        let _ = poll(&mut sources, timeout);
    }

    fn routes_due(&self) -> Option<Instant> {
        let (first, last) = self.routes_changed?;
        let settled = (last + ROUTES_SETTLE).min(first + ROUTES_SETTLE_MAX);
        Some(match self.routes_asked_at {
            Some(asked) => settled.max(asked + ROUTES_INTERVAL),
            None => settled,
        })
    }

    fn refresh_due(&self, now: Instant) -> Option<Instant> {
        self.refresh_wanted.then(|| {
            self.refreshed_at
                .map_or(now, |last| last + REFRESH_INTERVAL)
        })
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Attach(names, done) => {
                    // Nobody waits for the answer any more: it does not matter.
                    let _ = done.send(self.attach_all(names));
                }
                Order::Keep(names) => self.keep(&names),
                Order::LeaveNeighbours => self.leaves_neighbours = true,
            }
        }
    }

    fn attach_all(&mut self, names: Vec<String>) -> Result<(), Error> {
        // A former daemon's program forwards there: that goes on, also where another interface fails.
        let mut stays = lock(&self.programs).interfaces();
        stays.extend(self.attach.iter().cloned());
        for name in names {
            if self.attach.contains(&name) {
                continue;
            }
            self.attach.push(name.clone());
            if let Err(error) = self.attach(&name) {
                self.keep(&stays);
                return Err(error);
            }
        }
        self.update_links();
        Ok(())
    }

    /// Whether the program is attached to an interface, or going to be.
    fn is_attached(&self, name: &str) -> bool {
        let names = [&self.attach, &self.expected];
        names
            .iter()
            .any(|names| names.iter().any(|other| other == name))
    }

    /// What carries frames of an interface; the interface itself where we cannot say.
    fn carrier(&self, link: &LinkInfo) -> Carrier {
        let is_attached = |name: &str| self.is_attached(name);
        vlans::carrier(link, &self.interfaces, &is_attached).unwrap_or_else(|| {
            tracing::warn!(
                interface = link.name,
                "a VLAN device with more than two tags, or over an interface that is not to be seen here"
            );
            Carrier {
                ifindex: link.ifindex,
                tags: [0; 2],
            }
        })
    }

    /// Writes what has changed of the interfaces that are in use, and of VLAN devices: one interface carries others.
    fn update_links(&mut self) {
        let in_use = self.interfaces.values();
        let in_use: Vec<LinkInfo> = in_use
            .filter(|link| self.links.contains(link))
            .cloned()
            .collect();
        for link in in_use {
            let carrier = self.carrier(&link);
            self.links.update(&link, carrier);
        }
        let names = [&self.attach, &self.expected];
        let is_attached = |name: &str| {
            names
                .iter()
                .any(|names| names.iter().any(|other| other == name))
        };
        for ifindex in self.vlans.update(&self.interfaces, &is_attached) {
            let Some(link) = self.interfaces.get(&ifindex) else {
                continue;
            };
            if is_attached(&link.name) && vlans::strips_tags(&link.name).unwrap_or(false) {
                tracing::warn!(
                    interface = link.name,
                    "the interface takes VLAN tags off before XDP sees them, so that frames are taken for untagged ones: \
                     `ethtool -K {} rxvlan off` leaves them on",
                    link.name
                );
            }
        }
    }

    fn keep(&mut self, names: &[String]) {
        let mut programs = lock(&self.programs);
        for name in programs.interfaces() {
            if !names.contains(&name) {
                programs.detach(&name);
                tracing::info!(interface = name, "XDP detached");
            }
        }
        drop(programs);
        self.attach.retain(|name| names.contains(name));
        self.expected.retain(|name| names.contains(name));
        self.vanished.retain(|name| names.contains(name));
        self.update_links();
    }

    /// What the kernel has told.
    fn take_messages(&mut self) {
        let mut messages = Vec::new();
        let result = self.monitor.receive(|message| messages.push(message));
        for message in messages {
            self.take_message(message);
        }
        if let Err(error) = result {
            tracing::warn!(%error, "lost events of rtnetlink: reading everything anew");
            match self.read_all() {
                Ok(()) => self.note_routes_changed(),
                Err(error) => tracing::error!(%error, "list interfaces and neighbours"),
            }
        }
    }

    fn take_message(&mut self, message: Message) {
        let mut effects = Effects::default();
        match message {
            Message::Link(link) => self.take_link(&link),
            Message::LinkGone(ifindex) => self.take_link_gone(ifindex),
            Message::Neighbour(neighbour) => self.hops.neighbour(neighbour, &mut effects),
            Message::NeighbourGone(neighbour) => {
                self.hops
                    .neighbour_gone((neighbour.ifindex, neighbour.addr), &mut effects);
            }
            Message::RoutesChanged | Message::Address(_) => self.note_routes_changed(),
            Message::Route(_) | Message::Ack(_) | Message::Done => {}
        }
        self.apply(effects);
    }

    fn note_routes_changed(&mut self) {
        let now = Instant::now();
        let first = self.routes_changed.map_or(now, |(first, _)| first);
        self.routes_changed = Some((first, now));
    }

    fn take_link(&mut self, link: &LinkInfo) {
        let before = self.interfaces.insert(link.ifindex, link.clone());
        if before.as_ref() == Some(link) {
            return;
        }
        self.update_links();
        let is_new = before.is_none_or(|before| before.name != link.name);
        if is_new && self.attach.contains(&link.name) {
            self.reattach(&link.name);
        }
        self.note_routes_changed();
    }

    fn take_link_gone(&mut self, ifindex: u32) {
        let Some(link) = self.interfaces.remove(&ifindex) else {
            return;
        };
        if self.attach.contains(&link.name) {
            tracing::error!(
                interface = link.name,
                "the interface has gone; waiting for it to come back"
            );
            lock(&self.programs).detach(&link.name);
            self.vanished.insert(link.name);
        }
        self.update_links();
        let mut effects = Effects::default();
        self.hops.interface_gone(ifindex, &mut effects);
        self.apply(effects);
        self.note_routes_changed();
    }

    fn reattach(&mut self, name: &str) {
        match self.attach(name) {
            Ok(()) => {
                self.vanished.remove(name);
                tracing::info!(interface = name, "the interface is back");
            }
            Err(error) => {
                tracing::error!(interface = name, %error, "the interface is back, but not attached; trying again");
                self.vanished.insert(name.to_owned());
            }
        }
    }

    fn attach(&mut self, name: &str) -> Result<(), Error> {
        let Some(link) = self
            .interfaces
            .values()
            .find(|link| link.name == name)
            .cloned()
        else {
            return Err(Error::NoInterface {
                interface: name.to_owned(),
            });
        };
        let carrier = self.carrier(&link);
        self.links.ensure(&link, carrier).ok_or(Error::TooMany {
            what: "interfaces",
            max: INTERFACES_MAX,
        })?;
        let mode = self.mode;
        lock(&self.programs).attach(name, mode)?;
        for family in ["ipv4", "ipv6"] {
            if !forwards(family, name) {
                tracing::warn!(
                    interface = name,
                    "net.{family}.conf.{name}.forwarding is 0: the kernel does not tell the way to clients, so that replies \
                     of {family} go back the way the requests came"
                );
            }
        }
        Ok(())
    }

    /// Addresses of backends that came or went.
    fn take_news(&mut self) {
        self.news.extend(self.backends.news());
        for _ in 0..NEWS_AT_ONCE {
            let Some((addr, here)) = self.news.pop_front() else {
                return;
            };
            if here {
                self.ask_route(addr);
            } else {
                let mut effects = Effects::default();
                self.hops.remove(addr, &mut effects);
                self.complained.remove(&addr);
                self.apply(effects);
            }
        }
    }

    /// What the program has told.
    fn take_events(&mut self) {
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            events.extend(event(&record));
        }
        for event in events {
            match EventKind::from_number(event.kind) {
                Some(EventKind::NeighbourWanted) => {
                    let mut effects = Effects::default();
                    self.hops
                        .want((event.ifindex, address(event.addr)), &mut effects);
                    self.apply(effects);
                }
                Some(EventKind::PortsExhausted) => {
                    self.log_event(event, "no local port is free for a new session");
                }
                Some(EventKind::TableFull) => {
                    self.log_event(event, "the session table has no room for a new session");
                }
                None => {}
            }
        }
    }

    fn log_event(&mut self, event: Event, what: &'static str) {
        let now = Instant::now();
        let (last, count) = self
            .logged
            .entry(event.kind)
            .or_insert((now - EVENT_LOG_INTERVAL, 0));
        *count += 1;
        if now - *last >= EVENT_LOG_INTERVAL {
            tracing::error!(vip = %address(event.addr), listener = event.listener, times = *count, "{what}");
            (*last, *count) = (now, 0);
        }
    }

    /// Lists interfaces and neighbours.
    fn read_all(&mut self) -> io::Result<()> {
        self.read_links()?;
        let neighbours = self.questions.neighbours()?;
        self.hops.forget_neighbours();
        for neighbour in neighbours {
            let mut effects = Effects::default();
            self.hops.neighbour(neighbour, &mut effects);
            self.apply(effects);
        }
        Ok(())
    }

    fn read_links(&mut self) -> io::Result<()> {
        let links = self.questions.links()?;
        let here: HashSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> = self
            .interfaces
            .keys()
            .filter(|ifindex| !here.contains(ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            self.take_link_gone(ifindex);
        }
        let first = self.interfaces.is_empty();
        for link in links {
            if first {
                self.interfaces.insert(link.ifindex, link);
            } else {
                self.take_link(&link);
            }
        }
        Ok(())
    }

    fn ask_all_routes(&mut self) {
        for addr in self.hops.addresses() {
            self.ask_route(addr);
        }
        // Ways to clients may have changed as well.
        self.refresh_wanted = true;
    }

    fn ask_route(&mut self, addr: IpAddr) {
        match self.questions.route(addr) {
            Ok(route) => {
                let mut effects = Effects::default();
                self.hops.route(addr, route, &mut effects);
                self.apply(effects);
            }
            Err(error) => tracing::error!(backend = %addr, %error, "ask the kernel for the way"),
        }
    }

    fn retry(&mut self) {
        for (ifindex, addr) in self.hops.unknown() {
            self.ask_neighbour(ifindex, addr, Keep::Managed);
        }
        let unresolved: Vec<(IpAddr, bool)> = self.hops.unresolved().collect();
        let mut told = 0;
        for &(addr, has_route) in &unresolved {
            if self.complained.insert(addr) {
                told += 1;
                if told > COMPLAINTS_AT_ONCE {
                    continue;
                }
                if has_route {
                    tracing::warn!(backend = %addr, "the next hop does not answer: no new session until it does");
                } else {
                    tracing::warn!(backend = %addr, "no way to the backend, or it is this machine: packets to it are dropped");
                }
            }
        }
        if told > COMPLAINTS_AT_ONCE {
            let more = told - COMPLAINTS_AT_ONCE;
            tracing::warn!(more, "more backends without a next hop");
        }
        let unresolved: HashSet<IpAddr> = unresolved.into_iter().map(|(addr, _)| addr).collect();
        self.complained.retain(|addr| unresolved.contains(addr));
        for name in self.vanished.clone() {
            if self.interfaces.values().any(|link| link.name == name) {
                self.reattach(&name);
            }
        }
    }

    /// Writes what has changed, then tells the program.
    fn apply(&mut self, effects: Effects) {
        for addr in effects.lost {
            self.backends.lose_hop(addr);
        }
        for (addr, hop) in effects.changed {
            if !self.interfaces.contains_key(&hop.ifindex)
                && let Err(error) = self.read_links()
            {
                tracing::error!(%error, "list interfaces");
            }
            // Gone again already: its routes are asked for anew in a moment.
            let Some(link) = self.interfaces.get(&hop.ifindex) else {
                continue;
            };
            let carrier = self.carrier(link);
            let carried_by = self.interfaces.get(&carrier.ifindex).unwrap_or(link);
            if !self.links.contains(link) && !self.is_attached(&carried_by.name) {
                tracing::warn!(
                    backend = %addr, interface = link.name,
                    "packets leave by an interface that is not in [l4] interfaces: they arrive only if its driver sends \
                     what XDP redirects to it"
                );
            }
            match self.links.ensure(link, carrier) {
                Some(slot) => {
                    tracing::debug!(backend = %addr, interface = link.name, mac = ?hop.mac, "next hop");
                    self.backends.set_hop(
                        addr,
                        Hop {
                            mac: hop.mac,
                            link: slot,
                        },
                    );
                }
                None => {
                    tracing::error!(backend = %addr, interface = link.name, "packets leave by too many interfaces");
                }
            }
        }
        if effects.refresh {
            self.refresh_wanted = true;
        }
        for key in effects.ask {
            let keep = if self.hops.is_in_use(&key) {
                Keep::Managed
            } else {
                Keep::Unmanaged
            };
            self.ask_neighbour(key.0, key.1, keep);
        }
        for (ifindex, addr) in effects.leave {
            self.ask_neighbour(ifindex, addr, Keep::Unmanaged);
        }
    }

    fn ask_neighbour(&mut self, ifindex: u32, addr: IpAddr, keep: Keep) {
        // Asking would take the mark off it that it is permanent (net/core/neighbour.c, `__neigh_update`).
        if self.hops.is_fixed(&(ifindex, addr)) {
            return;
        }
        if let Err(error) = self.questions.ask_neighbour(ifindex, addr, keep) {
            tracing::debug!(neighbour = %addr, ifindex, %error, "ask for a neighbour");
        }
    }
}

fn event(record: &[u8]) -> Option<Event> {
    let word = |at: usize| {
        record
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    };
    Some(Event {
        kind: word(0)?,
        ifindex: word(4)?,
        addr: [word(8)?, word(12)?, word(16)?, word(20)?],
        listener: word(24)?,
    })
}

fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (octets, word) in octets.chunks_exact_mut(4).zip(words) {
        octets.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Whether the kernel passes packets on that come in by this interface.
fn forwards(family: &str, interface: &str) -> bool {
    let path = Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(interface)
        .join("forwarding");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}
