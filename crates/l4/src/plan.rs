//! What the maps should hold, and the difference that a snapshot makes.
//!
//! [`Plan::prepare`] works out the difference and takes the numbers and regions that it needs; nothing that the
//! program sees changes. [`Plan::commit`] writes it, values before what points at them, and cannot fail.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use weir_l4_common::quic::QUIC_CONFIGS_MAX;
use weir_l4_common::service;
use weir_l4_common::service::{
    BACKENDS_MAX, LISTENERS_MAX, LOCALS_MAX, Listener as Entry, ListenerKey, Mode, PERSISTENT,
    POOLS_MAX, Pick, SCHEDULE_LANES,
};
use weir_model::{
    BackendId, Config, Encapsulation, Forward, IpPrefix, L4, Listener, Name, OnRemoval,
    Persistence, Pool, Snapshot, Tunnel,
};

use crate::error::Error;
use crate::maps::octets;
use crate::number::Numbers;
use crate::policies::Policies;
use crate::quic::QuicPool;
use crate::record::Records;
use crate::region::{Region, Regions};
use crate::schedule::{self, Member};
use crate::schedulers::name_hash;

/// Where the plan is written to: the kernel's maps, or a model of them in tests.
pub(crate) trait Maps {
    /// A listener has this number from now on.
    fn name_listener(&mut self, number: u16, name: &Name);
    /// A backend has this number from now on.
    fn name_backend(&mut self, number: u16, id: &BackendId);
    /// Writes a backend; its next hop stays what it is, or becomes known later.
    fn write_backend(&mut self, number: u16, address: SocketAddr, accepts: bool);
    /// Writes what a backend weighs in its pool, which is told by the hash of its name.
    fn write_load(&mut self, number: u16, weight: u32, pool: u64);
    /// Writes how a pool remembers clients.
    fn write_pool(&mut self, number: u16, name: &Name, persistence: Option<&Persistence>);
    /// How connection ids of a pool are read, and which backends they name; empty: not at all.
    fn write_quic(&mut self, number: u16, quic: &QuicPool);
    /// Writes a scheduling table into a region that no listener points at.
    fn write_table(&mut self, region: Region, numbers: &[u16]);
    /// Writes the local addresses.
    fn write_locals(&mut self, locals: &[IpAddr]);
    /// Writes what a listener's outer sources of IPv6 are taken from, for packets of IPv4.
    fn write_tunnel_source(&mut self, listener: u16, source: [u32; 4]);
    /// Adds a listener, or replaces it whole.
    fn write_listener(&mut self, key: ListenerKey, entry: Entry);
    /// Removes a listener.
    fn remove_listener(&mut self, key: ListenerKey);
    /// Adds the address of listeners.
    fn add_vip(&mut self, vip: IpAddr);
    /// Removes the address of listeners.
    fn remove_vip(&mut self, vip: IpAddr);
    /// What holds for sessions that are there.
    fn policies(&mut self) -> impl DerefMut<Target = Policies>;
}

/// What the maps hold.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What was committed last.
    snapshot: Option<Arc<Snapshot>>,
    /// Counts what makes changes that are prepared, and not committed, out of date.
    revision: u64,
    /// The sections that do not change while the plane runs.
    l4: L4,
    listeners: HashMap<Name, Served>,
    /// Listeners of each pool, those included whose pool it backs up.
    users: HashMap<Name, HashSet<Name>>,
    /// Pools with listeners.
    pools: HashMap<Name, Filled>,
    /// Listeners on each address.
    vips: HashMap<IpAddr, u32>,
    listener_numbers: Numbers<Name>,
    backend_numbers: Numbers<BackendId>,
    pool_numbers: Numbers<Name>,
    regions: Regions,
}

/// A listener in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    number: u16,
    key: ListenerKey,
    forward: Forward,
    mode: Mode,
    tunnel: Tunnel,
    /// Its pool, then that pool's backups: the first that has a backend for new work gets it. At least one.
    pools: Vec<Name>,
    idle_timeout: Option<Duration>,
}

/// A pool in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filled {
    number: u16,
    persistence: Option<Persistence>,
    on_removal: OnRemoval,
    quic: Option<QuicPool>,
    pick: Pick,
    backends: Vec<Filling>,
    /// The scheduling table; `None`: no backend takes new work.
    region: Option<Region>,
    table_len: u32,
}

/// A backend of a pool in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filling {
    id: BackendId,
    member: Member,
    accepts: bool,
}

/// A difference that is ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Change {
    snapshot: Option<Arc<Snapshot>>,
    /// What it is the difference to.
    revision: u64,
    backends: Vec<(u16, SocketAddr, bool)>,
    loads: Vec<(u16, u32, u64)>,
    persistences: Vec<(u16, Name, Option<Persistence>)>,
    quics: Vec<(u16, QuicPool)>,
    tables: Vec<(Region, Vec<u16>)>,
    locals: Option<Vec<IpAddr>>,
    /// Listeners that are new, changed (with what they were) or gone.
    listeners: HashMap<Name, (Option<Served>, Option<Served>)>,
    /// The new and changed ones by their pool.
    arrivals: HashMap<Name, Vec<Name>>,
    /// Listeners that stay and whose pool has another table.
    moved: Vec<Name>,
    /// Pools that are new, changed or gone.
    pools: HashMap<Name, Option<Filled>>,
    /// Taken for this change; given back when it is not committed.
    fresh_listeners: Vec<Name>,
    fresh_backends: Vec<BackendId>,
    fresh_pools: Vec<Name>,
    fresh_regions: Vec<Region>,
}

impl Change {
    /// Addresses of backends that are new, or that change.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.backends.iter().map(|(_, address, _)| address.ip())
    }
}

impl Plan {
    /// Empty maps; the map of scheduling tables has so many elements.
    pub(crate) fn new(l4: L4, schedule_elements: u32) -> Self {
        Self {
            snapshot: None,
            revision: 0,
            l4,
            listeners: HashMap::new(),
            users: HashMap::new(),
            pools: HashMap::new(),
            vips: HashMap::new(),
            listener_numbers: Numbers::new(LISTENERS_MAX as u16),
            backend_numbers: Numbers::new(BACKENDS_MAX as u16),
            pool_numbers: Numbers::new(POOLS_MAX as u16),
            regions: Regions::new(schedule_elements),
        }
    }

    /// The numbers of listeners, and of those whose sessions still run.
    pub(crate) fn listener_numbers(&mut self) -> &mut Numbers<Name> {
        &mut self.listener_numbers
    }

    /// The numbers of backends, and of those whose sessions still run.
    pub(crate) fn backend_numbers(&mut self) -> &mut Numbers<BackendId> {
        &mut self.backend_numbers
    }

    /// Listeners and backends that had numbers before: sessions carry them.
    pub(crate) fn restore(&mut self, records: &Records) {
        self.listener_numbers.restore(records.listeners());
        let backends = records.backends().into_iter();
        self.backend_numbers
            .restore(backends.map(|(number, id, _)| (number, id)));
    }

    /// When room for scheduling tables comes back that was given up a moment ago.
    pub(crate) fn room_comes_at(&self) -> Option<Duration> {
        self.regions.wakes_at()
    }

    /// Works out what has to be written. `now` is any clock that only goes forward, the same in all calls.
    pub(crate) fn prepare(
        &mut self,
        snapshot: &Arc<Snapshot>,
        now: Duration,
    ) -> Result<Change, Error> {
        let mut change = Change {
            snapshot: Some(snapshot.clone()),
            revision: self.revision,
            ..Change::default()
        };
        match self.fill(&mut change, snapshot, now) {
            Ok(()) => Ok(change),
            Err(error) => {
                self.abandon(change);
                Err(error)
            }
        }
    }

    /// Gives back what a change took that is not committed.
    pub(crate) fn abandon(&mut self, change: Change) {
        // Another change may count on the numbers.
        self.revision += 1;
        for name in &change.fresh_listeners {
            self.listener_numbers.release(name);
        }
        for id in &change.fresh_backends {
            self.backend_numbers.release(id);
        }
        for name in &change.fresh_pools {
            self.free_pool_number(name);
        }
        for region in change.fresh_regions {
            self.regions.free(region);
        }
    }

    /// Writes a change: backends and tables, then the listeners that point at them, then what is gone. A change that
    /// is out of date, because another one was committed or abandoned since it was prepared, is worked out anew.
    pub(crate) fn commit(&mut self, change: Change, maps: &mut impl Maps, now: Duration) {
        let change = match &change.snapshot {
            Some(snapshot) if change.revision != self.revision => {
                let snapshot = snapshot.clone();
                self.abandon(change);
                match self.prepare(&snapshot, now) {
                    Ok(change) => change,
                    Err(error) => {
                        tracing::error!(%error, "a snapshot that was prepared is out of date and cannot be followed");
                        return;
                    }
                }
            }
            _ => change,
        };
        self.revision += 1;
        // Whose a number is stands written before any session can carry it.
        for name in &change.fresh_listeners {
            if let Some(number) = self.listener_numbers.number(name) {
                maps.name_listener(number, name);
                maps.policies().end_listener(number, false);
            }
        }
        for id in &change.fresh_backends {
            if let Some(number) = self.backend_numbers.number(id) {
                maps.name_backend(number, id);
                maps.policies().end_backend(number, false);
            }
        }
        let snapshot = change.snapshot.as_deref();
        for (old, new) in change.listeners.values() {
            if let (Some(old), None) = (old, new)
                && let Some(pool) = old.pools.first()
                && self.resets(snapshot, pool)
            {
                maps.policies().end_listener(old.number, true);
            }
        }
        for &(number, address, accepts) in &change.backends {
            maps.write_backend(number, address, accepts);
        }
        for &(number, weight, pool) in &change.loads {
            maps.write_load(number, weight, pool);
        }
        for (number, name, persistence) in &change.persistences {
            maps.write_pool(*number, name, persistence.as_ref());
        }
        for (number, quic) in &change.quics {
            maps.write_quic(*number, quic);
        }
        for (region, numbers) in &change.tables {
            maps.write_table(*region, numbers);
        }
        if let Some(locals) = &change.locals {
            maps.write_locals(locals);
        }
        let mut gone_pools = Vec::new();
        for (name, filled) in change.pools {
            let resets = self.resets(change.snapshot.as_deref(), &name);
            let old = match filled {
                Some(filled) => self.pools.insert(name.clone(), filled),
                None => self.pools.remove(&name),
            };
            gone_pools.extend(old.map(|old| (name, old, resets)));
        }
        let mut written = HashSet::new();
        for served in change
            .listeners
            .values()
            .filter_map(|(_, new)| new.as_ref())
        {
            maps.policies()
                .set_idle_timeout(served.number, served.idle_timeout);
            written.insert(served.key);
            if let Some(source) = served.tunnel.source {
                maps.write_tunnel_source(served.number, words(source.address()));
            }
            maps.write_listener(served.key, self.entry(served));
        }
        for served in change
            .moved
            .iter()
            .filter_map(|name| self.listeners.get(name))
        {
            maps.write_listener(served.key, self.entry(served));
        }
        self.commit_vips(&change.listeners, maps);
        for (name, (old, new)) in change.listeners {
            if let Some(old) = &old {
                if !written.contains(&old.key) {
                    maps.remove_listener(old.key);
                }
                for pool in &old.pools {
                    if let Some(users) = self.users.get_mut(pool) {
                        users.remove(&name);
                    }
                }
            }
            match new {
                Some(new) => {
                    for pool in &new.pools {
                        self.users
                            .entry(pool.clone())
                            .or_default()
                            .insert(name.clone());
                    }
                    self.listeners.insert(name, new);
                }
                None => {
                    self.listeners.remove(&name);
                    self.listener_numbers.release(&name);
                }
            }
        }
        self.users.retain(|_, users| !users.is_empty());
        for (name, old, resets) in gone_pools {
            if old.quic.is_some() && !self.pools.contains_key(&name) {
                maps.write_quic(old.number, &QuicPool::default());
            }
            self.commit_gone(&name, &old, resets, maps, now);
        }
        if let Some(snapshot) = change.snapshot {
            if self.snapshot.is_none() {
                self.end_former(&snapshot, maps);
            }
            if let Some(l4) = &snapshot.config.l4 {
                maps.policies().set_timeouts(&l4.timeouts);
                self.l4 = l4.clone();
            }
            self.snapshot = Some(snapshot);
        }
    }

    fn commit_vips(
        &mut self,
        listeners: &HashMap<Name, (Option<Served>, Option<Served>)>,
        maps: &mut impl Maps,
    ) {
        for served in listeners.values().filter_map(|(_, new)| new.as_ref()) {
            let count = self.vips.entry(vip(&served.key)).or_default();
            *count += 1;
            if *count == 1 {
                maps.add_vip(vip(&served.key));
            }
        }
        for served in listeners.values().filter_map(|(old, _)| old.as_ref()) {
            let vip = vip(&served.key);
            if let Some(count) = self.vips.get_mut(&vip) {
                *count -= 1;
                if *count == 0 {
                    self.vips.remove(&vip);
                    maps.remove_vip(vip);
                }
            }
        }
    }

    /// Gives up what a pool had and has no more.
    fn commit_gone(
        &mut self,
        name: &Name,
        old: &Filled,
        resets: bool,
        maps: &mut impl Maps,
        now: Duration,
    ) {
        let new = self.pools.get(name);
        let kept: HashSet<u16> = new
            .into_iter()
            .flat_map(|new| &new.backends)
            .map(|backend| backend.member.number)
            .collect();
        let same_region = new.is_some_and(|new| new.region == old.region);
        for backend in old
            .backends
            .iter()
            .filter(|backend| !kept.contains(&backend.member.number))
        {
            // Its sessions go on, if they are not to end, and none begins.
            maps.write_backend(backend.member.number, backend.member.address, false);
            if resets {
                maps.policies().end_backend(backend.member.number, true);
            }
            self.backend_numbers.release(&backend.id);
        }
        if new.is_none() {
            maps.write_pool(old.number, name, None);
            self.free_pool_number(name);
        }
        if let Some(region) = old.region
            && !same_region
        {
            self.regions.retire(region, now);
        }
    }

    /// Whether sessions of a pool end with what is removed: as a config says that has it, or else as it was before it went.
    fn resets(&self, snapshot: Option<&Snapshot>, name: &Name) -> bool {
        let says = snapshot.and_then(|snapshot| snapshot.config.pool(name));
        let said = || self.pools.get(name).map(|filled| filled.on_removal);
        says.map(|pool| pool.on_removal).or_else(said) == Some(OnRemoval::Reset)
    }

    /// The first snapshot is in force: a backend that sessions carry from before, and that its pool has no more, was removed
    /// while no daemon ran.
    fn end_former(&self, snapshot: &Snapshot, maps: &mut impl Maps) {
        for (id, number, configured) in self.backend_numbers.iter() {
            if !configured && self.resets(Some(snapshot), &id.pool) {
                maps.policies().end_backend(number, true);
            }
        }
    }

    /// No session carries the number of a pool: it can be given out again at once. An entry of a client that is left
    /// over names a backend, which is looked at before it is used.
    fn free_pool_number(&mut self, name: &Name) {
        if let Some(number) = self.pool_numbers.number(name) {
            self.pool_numbers.free(number);
        }
    }

    fn entry(&self, served: &Served) -> Entry {
        let mut pools = served.pools.iter().filter_map(|name| self.pools.get(name));
        let first = pools.clone().next();
        let filled = pools.find(|filled| filled.table_len > 0).or(first);
        Entry {
            id: served.number,
            mode: served.mode as u8,
            pick: filled.map_or(Pick::Next, |filled| filled.pick) as u8
                | filled
                    .and_then(|filled| filled.persistence.as_ref())
                    .map_or(0, |_| PERSISTENT),
            table_base: filled
                .and_then(|filled| filled.region)
                .map_or(0, |region| region.start * SCHEDULE_LANES),
            table_len: filled.map_or(0, |filled| filled.table_len),
            encapsulation: encapsulation(served.tunnel.encapsulation) as u8,
            source_bits: served.tunnel.source.map_or(0, source_bits),
            tunnel_port: served.tunnel.port.to_be(),
            source: served
                .tunnel
                .source
                .map_or([0; 4], |source| words(source.address())),
            pool: filled.map_or(0, |filled| u32::from(filled.number)),
            quic: filled.map_or(0, |filled| filled.quic.is_some().into()),
        }
    }

    fn fill(
        &mut self,
        change: &mut Change,
        snapshot: &Arc<Snapshot>,
        now: Duration,
    ) -> Result<(), Error> {
        let config = &snapshot.config;
        self.fill_locals(change, config)?;
        self.fill_listeners(change, config)?;
        for name in self.touched_pools(change, snapshot) {
            self.fill_pool(change, snapshot, &name, now)?;
        }
        // Adding comes before removing, so there must be room for both.
        let key = |served: &Option<Served>| served.as_ref().map(|served| served.key);
        let come = change
            .listeners
            .values()
            .filter(|(old, new)| new.is_some() && key(old) != key(new))
            .count();
        if self.listeners.len() + come > LISTENERS_MAX as usize {
            return Err(Error::TooMany {
                what: "listeners at layer 4",
                max: LISTENERS_MAX,
            });
        }
        Ok(())
    }

    fn fill_locals(&self, change: &mut Change, config: &Config) -> Result<(), Error> {
        let l4 = config.l4.as_ref().ok_or(Error::NeedsRestart("section"))?;
        if l4.xdp_mode != self.l4.xdp_mode {
            return Err(Error::NeedsRestart("xdp_mode"));
        }
        if l4.max_sessions != self.l4.max_sessions {
            return Err(Error::NeedsRestart("max_sessions"));
        }
        if l4.persistent_clients != self.l4.persistent_clients {
            return Err(Error::NeedsRestart("persistent_clients"));
        }
        // Without the key it follows from the rest of the config; room that was made is not given back.
        if l4.max_sessions_ipv6 > self.l4.max_sessions_ipv6 {
            return Err(Error::NeedsRestart("max_sessions_ipv6"));
        }
        let locals = &l4.local_addresses;
        for (family, is_of) in FAMILIES {
            if locals.iter().filter(|local| is_of(local)).count() > LOCALS_MAX as usize {
                return Err(Error::TooMany {
                    what: match family {
                        "IPv4" => "IPv4 local addresses",
                        _ => "IPv6 local addresses",
                    },
                    max: LOCALS_MAX,
                });
            }
        }
        if self.snapshot.is_none() || self.l4.local_addresses != *locals {
            change.locals = Some(locals.clone());
        }
        Ok(())
    }

    fn fill_listeners(&mut self, change: &mut Change, config: &Config) -> Result<(), Error> {
        let before = self.snapshot.clone();
        let old: &[Arc<Listener>] = before
            .as_ref()
            .map_or(&[], |snapshot| &snapshot.config.listeners);
        let (gone, come) = difference(old, &config.listeners);
        let mut come: Vec<&Arc<Listener>> = come
            .iter()
            .filter(|listener| listener.forward.is_xdp())
            .collect();
        let names: HashSet<&Name> = come.iter().map(|listener| &listener.name).collect();
        for listener in gone
            .iter()
            .filter(|listener| !names.contains(&listener.name))
        {
            if let Some(served) = self.listeners.get(&listener.name) {
                change
                    .listeners
                    .insert(listener.name.clone(), (Some(served.clone()), None));
            }
        }
        let elsewhere = self.backed_up_elsewhere(config);
        let elsewhere = elsewhere.iter().filter(|name| !names.contains(name));
        come.extend(elsewhere.filter_map(|name| config.listener(name)));
        for listener in &come {
            let served = self.serve(&mut change.fresh_listeners, config, listener)?;
            let old = self.listeners.get(&listener.name);
            if old != Some(&served) {
                for pool in &served.pools {
                    let arrivals = change.arrivals.entry(pool.clone()).or_default();
                    arrivals.push(listener.name.clone());
                }
                change
                    .listeners
                    .insert(listener.name.clone(), (old.cloned(), Some(served)));
            }
        }
        Ok(())
    }

    /// Listeners whose pool, or a backup of it, has another backup now.
    fn backed_up_elsewhere(&self, config: &Config) -> HashSet<Name> {
        let before: &[Arc<Pool>] = self
            .snapshot
            .as_ref()
            .map_or(&[], |snapshot| &snapshot.config.pools);
        let (gone, _) = difference(before, &config.pools);
        let changed = gone.iter().filter(|old| {
            config
                .pool(&old.name)
                .is_some_and(|new| new.backup != old.backup)
        });
        changed
            .filter_map(|pool| self.users.get(&pool.name))
            .flatten()
            .cloned()
            .collect()
    }

    fn serve(
        &mut self,
        fresh: &mut Vec<Name>,
        config: &Config,
        listener: &Listener,
    ) -> Result<Served, Error> {
        let name = &listener.name;
        let pool = listener
            .pool
            .clone()
            .ok_or_else(|| Error::NoPool(name.clone()))?;
        let mode = match listener.forward {
            Forward::Fullnat => Mode::Fullnat,
            Forward::Nat => Mode::Nat,
            Forward::Dr => Mode::Dr,
            Forward::Tunnel | Forward::Proxy => Mode::Tunnel,
        };
        let (number, is_fresh) = self.listener_numbers.assign(name).ok_or(Error::TooMany {
            what: "listeners at layer 4",
            max: LISTENERS_MAX,
        })?;
        if is_fresh {
            fresh.push(name.clone());
        }
        let key = ListenerKey {
            addr: words(listener.bind.ip()),
            port: listener.bind.port().to_be(),
            proto: if listener.protocol.is_udp() { 17 } else { 6 },
            zero: 0,
        };
        Ok(Served {
            number,
            key,
            forward: listener.forward,
            mode,
            tunnel: listener.tunnel,
            pools: with_backups(config, pool),
            idle_timeout: listener.idle_timeout,
        })
    }

    /// Pools whose backends, tables or users may have changed.
    fn touched_pools(&self, change: &Change, snapshot: &Snapshot) -> HashSet<Name> {
        let mut touched = HashSet::new();
        for (old, new) in change.listeners.values() {
            touched.extend(
                [old, new]
                    .into_iter()
                    .flatten()
                    .flat_map(|served| served.pools.clone()),
            );
        }
        let Some(before) = &self.snapshot else {
            return touched;
        };
        if change.locals.is_some() {
            // Each has to be asked whether it can do with the new ones.
            touched.extend(self.pools.keys().cloned());
        }
        let (gone, come) = difference(&before.config.pools, &snapshot.config.pools);
        touched.extend(gone.iter().chain(come).map(|pool| pool.name.clone()));
        let differs = |id: &BackendId| {
            let part =
                |snapshot: &Snapshot| (snapshot.takes_new_work(id), snapshot.state(id).share);
            part(before) != part(snapshot)
        };
        let mut known = 0;
        for (id, state) in &snapshot.backends {
            let old = before.backends.get(id);
            known += usize::from(old.is_some());
            if old != Some(state) && differs(id) {
                touched.insert(id.pool.clone());
            }
        }
        if known < before.backends.len() {
            let gone = before
                .backends
                .keys()
                .filter(|id| !snapshot.backends.contains_key(id));
            touched.extend(gone.filter(|id| differs(id)).map(|id| id.pool.clone()));
        }
        touched
    }

    fn fill_pool(
        &mut self,
        change: &mut Change,
        snapshot: &Snapshot,
        name: &Name,
        now: Duration,
    ) -> Result<(), Error> {
        let users = self.users_after(change, name);
        let Some(user) = users.first() else {
            if self.pools.contains_key(name) {
                change.pools.insert(name.clone(), None);
            }
            return Ok(());
        };
        let pool = snapshot
            .config
            .pool(name)
            .ok_or_else(|| Error::NoPool(user.clone()))?;
        let pick = schedule::pick(pool);
        let backends = self.fillings(change, snapshot, pool)?;
        self.check_families(change, snapshot, &users, &backends)?;
        let (number, fresh) = self.pool_numbers.assign(name).ok_or(Error::TooMany {
            what: "pools at layer 4",
            max: POOLS_MAX,
        })?;
        if fresh {
            change.fresh_pools.push(name.clone());
        }
        let members = backends
            .iter()
            .map(|backend| (backend.id.address, backend.member.number));
        let quic = QuicPool::read(pool, members)?;
        if let Some(quic) = &quic {
            let others = self.pools.iter().filter(|(other, _)| *other != name);
            let others = others.filter_map(|(_, filled)| filled.quic.as_ref());
            let fresh = change.quics.iter().map(|(_, quic)| quic);
            let formats: usize = others.chain(fresh).map(QuicPool::formats).sum();
            if formats + quic.formats() > QUIC_CONFIGS_MAX as usize {
                return Err(Error::TooMany {
                    what: "configurations of connection ids",
                    max: QUIC_CONFIGS_MAX,
                });
            }
        }
        let old = self.pools.get(name);
        if old.is_some_and(|old| {
            old.pick == pick
                && old.backends == backends
                && old.persistence == pool.persistence
                && old.on_removal == pool.on_removal
                && old.quic == quic
        }) {
            return Ok(());
        }
        if old.is_none_or(|old| old.persistence != pool.persistence) {
            change
                .persistences
                .push((number, name.clone(), pool.persistence.clone()));
        }
        if old.and_then(|old| old.quic.as_ref()) != quic.as_ref() {
            let quic = quic.clone().unwrap_or_default();
            change.quics.push((number, quic));
        }
        let known: HashMap<u16, (bool, u32)> = old
            .into_iter()
            .flat_map(|old| &old.backends)
            .map(|backend| {
                (
                    backend.member.number,
                    (backend.accepts, backend.member.weight),
                )
            })
            .collect();
        for backend in &backends {
            let before = known.get(&backend.member.number);
            if before.map(|(_, weight)| *weight) != Some(backend.member.weight) {
                let Member { number, weight, .. } = backend.member;
                change.loads.push((number, weight, name_hash(name)));
            }
            if before.map(|(accepts, _)| *accepts) != Some(backend.accepts) {
                change.backends.push((
                    backend.member.number,
                    backend.member.address,
                    backend.accepts,
                ));
            }
        }
        let members = accepting(&backends);
        let table_len = schedule::table_len(pick, &members);
        let region =
            if old.is_some_and(|old| old.pick == pick && accepting(&old.backends) == members) {
                old.and_then(|old| old.region)
            } else if table_len == 0 {
                None
            } else {
                let region = self
                    .regions
                    .allocate(table_len.div_ceil(SCHEDULE_LANES), now)
                    .ok_or_else(|| Error::ScheduleFull {
                        pool: name.clone(),
                        slots: table_len,
                        capacity: u64::from(self.regions.capacity()) * u64::from(SCHEDULE_LANES),
                    })?;
                change.fresh_regions.push(region);
                change
                    .tables
                    .push((region, schedule::table(pick, &members)));
                Some(region)
            };
        let filled = Filled {
            number,
            persistence: pool.persistence.clone(),
            on_removal: pool.on_removal,
            quic,
            pick,
            backends,
            region,
            table_len,
        };
        let is_same = |old: &Filled| {
            (old.pick, old.region, old.table_len) == (pick, region, table_len)
                && old.persistence.is_some() == filled.persistence.is_some()
                && old.quic.is_some() == filled.quic.is_some()
        };
        if !old.is_some_and(is_same) {
            change.moved.extend(
                users
                    .into_iter()
                    .filter(|user| !change.listeners.contains_key(user)),
            );
        }
        change.pools.insert(name.clone(), Some(filled));
        Ok(())
    }

    /// Whether the listeners of a pool can send to its backends: what they need of local addresses, and of families.
    fn check_families(
        &self,
        change: &Change,
        snapshot: &Snapshot,
        users: &[Name],
        backends: &[Filling],
    ) -> Result<(), Error> {
        let locals = snapshot
            .config
            .l4
            .as_ref()
            .map_or(&[][..], |l4| &l4.local_addresses);
        for (family, is_of) in FAMILIES {
            let Some(backend) = backends
                .iter()
                .find(|backend| is_of(&backend.id.address.ip()))
            else {
                continue;
            };
            let has_local = locals.iter().any(is_of);
            for name in users {
                let Some(served) = self.served_after(change, name) else {
                    continue;
                };
                let forward = served.forward;
                if !is_of(&vip(&served.key)) && matches!(forward, Forward::Nat | Forward::Dr) {
                    return Err(Error::TwoFamilies {
                        listener: name.clone(),
                        forward: forward.as_str(),
                        backend: backend.id.clone(),
                    });
                }
                let needs_local = match forward {
                    Forward::Fullnat => true,
                    Forward::Tunnel => served.tunnel.source.is_none(),
                    _ => false,
                };
                if needs_local && !has_local {
                    let listener = name.clone();
                    return Err(Error::NoLocalAddress { listener, family });
                }
            }
        }
        Ok(())
    }

    fn served_after<'a>(&'a self, change: &'a Change, name: &Name) -> Option<&'a Served> {
        match change.listeners.get(name) {
            Some((_, new)) => new.as_ref(),
            None => self.listeners.get(name),
        }
    }

    /// The listeners that will use a pool.
    fn users_after(&self, change: &Change, pool: &Name) -> Vec<Name> {
        let users = self.users.get(pool).into_iter().flatten();
        let stay = users.filter(|name| !change.listeners.contains_key(*name));
        let come = change.arrivals.get(pool).into_iter().flatten();
        stay.chain(come).cloned().collect()
    }

    fn fillings(
        &mut self,
        change: &mut Change,
        snapshot: &Snapshot,
        pool: &Pool,
    ) -> Result<Vec<Filling>, Error> {
        let mut fillings = Vec::with_capacity(pool.backends.len());
        for backend in &pool.backends {
            let id = BackendId {
                pool: pool.name.clone(),
                address: backend.address,
            };
            let address = backend.address;
            let (number, fresh) = self.backend_numbers.assign(&id).ok_or(Error::TooMany {
                what: "backends at layer 4",
                max: BACKENDS_MAX,
            })?;
            if fresh {
                change.fresh_backends.push(id.clone());
            }
            let weight = snapshot.weight(&id, backend);
            fillings.push(Filling {
                id,
                member: Member {
                    number,
                    address,
                    weight,
                },
                accepts: weight > 0,
            });
        }
        Ok(fillings)
    }
}

/// A pool and its backups, in the order in which they are asked.
fn with_backups(config: &Config, pool: Name) -> Vec<Name> {
    let mut pools = vec![pool];
    // A config has no chains of backups that lead back.
    while let Some(backup) = pools
        .last()
        .and_then(|last| config.pool(last)?.backup.clone())
        .filter(|backup| !pools.contains(backup))
    {
        pools.push(backup);
    }
    pools
}

/// The members of a scheduling table.
fn accepting(backends: &[Filling]) -> Vec<Member> {
    backends
        .iter()
        .filter(|backend| backend.accepts)
        .map(|backend| backend.member)
        .collect()
}

/// The families by their names.
const FAMILIES: [(&str, IsOf); 2] = [("IPv4", IpAddr::is_ipv4), ("IPv6", IpAddr::is_ipv6)];

/// Whether an address is of a family.
type IsOf = fn(&IpAddr) -> bool;

fn encapsulation(encapsulation: Encapsulation) -> service::Encapsulation {
    match encapsulation {
        Encapsulation::Ipip => service::Encapsulation::Ipip,
        Encapsulation::Gue => service::Encapsulation::Gue,
        Encapsulation::Gre => service::Encapsulation::Gre,
    }
}

/// Low bits of an address that are free in this range, as far as the program fills them.
fn source_bits(range: IpPrefix) -> u8 {
    let bits = if range.address().is_ipv4() { 32 } else { 128 };
    (bits - range.length()).min(32)
}

/// An address as keys have it.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = octets(address);
    std::array::from_fn(|word| {
        let octets: [u8; 4] = std::array::from_fn(|byte| octets[word * 4 + byte]);
        u32::from_ne_bytes(octets)
    })
}

fn vip(key: &ListenerKey) -> IpAddr {
    let octets: [u8; 16] = std::array::from_fn(|byte| key.addr[byte / 4].to_ne_bytes()[byte % 4]);
    Ipv6Addr::from(octets).to_canonical()
}

/// What two lists have not in common at their beginning and end. One change in a long list costs comparing pointers.
fn difference<'a, T: PartialEq>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
) -> (&'a [Arc<T>], &'a [Arc<T>]) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b) || a == b;
    let prefix = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[prefix..], &new[prefix..]);
    let suffix = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(same)
        .count();
    (&old[..old.len() - suffix], &new[..new.len() - suffix])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::path::Path;

    use proptest::prelude::*;
    use weir_model::{BackendState, Health, Share};

    use super::*;
    use crate::region::GRACE;

    /// The kernel's maps; refuses what would disturb packets.
    #[derive(Default)]
    struct FakeMaps {
        now: Duration,
        backends: HashMap<u16, (SocketAddr, bool)>,
        schedule: HashMap<u32, [u16; SCHEDULE_LANES as usize]>,
        locals: Vec<IpAddr>,
        listeners: HashMap<ListenerKey, Entry>,
        vips: HashSet<IpAddr>,
        policies: Policies,
        named_listeners: HashMap<u16, Name>,
        named_backends: HashMap<u16, BackendId>,
        /// Weight and hash of the pool's name by backend.
        loads: HashMap<u16, (u32, u64)>,
        persistences: HashMap<u16, Option<Persistence>>,
        /// When programs may last have seen an element in use.
        seen: HashMap<u32, Duration>,
        writes: usize,
    }

    impl FakeMaps {
        fn elements(entry: &Entry) -> std::ops::Range<u32> {
            let start = entry.table_base / SCHEDULE_LANES;
            start..start + entry.table_len.div_ceil(SCHEDULE_LANES)
        }

        fn table(&self, entry: &Entry) -> Vec<u16> {
            (entry.table_base..entry.table_base + entry.table_len)
                .map(|slot| {
                    self.schedule[&(slot / SCHEDULE_LANES)][(slot % SCHEDULE_LANES) as usize]
                })
                .collect()
        }

        fn note_seen(&mut self, key: &ListenerKey) {
            if let Some(entry) = self.listeners.get(key) {
                for element in Self::elements(entry) {
                    self.seen.insert(element, self.now);
                }
            }
        }
    }

    impl Maps for FakeMaps {
        fn name_listener(&mut self, number: u16, name: &Name) {
            self.named_listeners.insert(number, name.clone());
            self.writes += 1;
        }

        fn name_backend(&mut self, number: u16, id: &BackendId) {
            self.named_backends.insert(number, id.clone());
            self.writes += 1;
        }

        fn write_backend(&mut self, number: u16, address: SocketAddr, accepts: bool) {
            assert!(
                self.named_backends.contains_key(&number),
                "a number is nobody's"
            );
            self.backends.insert(number, (address, accepts));
            self.writes += 1;
        }

        fn write_load(&mut self, number: u16, weight: u32, pool: u64) {
            self.loads.insert(number, (weight, pool));
        }

        fn write_pool(&mut self, number: u16, _: &Name, persistence: Option<&Persistence>) {
            self.persistences.insert(number, persistence.cloned());
        }

        fn write_quic(&mut self, _: u16, _: &QuicPool) {
            self.writes += 1;
        }

        fn write_table(&mut self, region: Region, numbers: &[u16]) {
            assert_eq!(
                numbers.len().div_ceil(SCHEDULE_LANES as usize),
                region.len as usize
            );
            for entry in self.listeners.values() {
                let used = Self::elements(entry);
                assert!(
                    used.end <= region.start || region.start + region.len <= used.start,
                    "a table in use is written"
                );
            }
            for (element, lanes) in (region.start..).zip(numbers.chunks(SCHEDULE_LANES as usize)) {
                let rested = self
                    .seen
                    .get(&element)
                    .is_none_or(|seen| *seen + GRACE <= self.now);
                assert!(rested, "a table is written that programs may still read");
                let mut value = [0; SCHEDULE_LANES as usize];
                value[..lanes.len()].copy_from_slice(lanes);
                self.schedule.insert(element, value);
            }
            self.writes += 1;
        }

        fn write_locals(&mut self, locals: &[IpAddr]) {
            self.locals = locals.to_vec();
            self.writes += 1;
        }

        fn write_tunnel_source(&mut self, _: u16, _: [u32; 4]) {
            self.writes += 1;
        }

        fn write_listener(&mut self, key: ListenerKey, entry: Entry) {
            for number in self.table(&entry) {
                assert!(
                    self.backends[&number].1,
                    "a table names a backend that takes no sessions"
                );
            }
            assert!(
                self.named_listeners.contains_key(&entry.id),
                "a number is nobody's"
            );
            self.note_seen(&key);
            self.listeners.insert(key, entry);
            self.writes += 1;
        }

        fn remove_listener(&mut self, key: ListenerKey) {
            self.note_seen(&key);
            assert!(self.listeners.remove(&key).is_some());
            self.writes += 1;
        }

        fn add_vip(&mut self, vip: IpAddr) {
            assert!(self.vips.insert(vip));
            self.writes += 1;
        }

        fn remove_vip(&mut self, vip: IpAddr) {
            assert!(self.vips.remove(&vip));
            self.writes += 1;
        }

        fn policies(&mut self) -> impl DerefMut<Target = Policies> {
            &mut self.policies
        }
    }

    const ELEMENTS: u32 = 1 << 17;

    /// A pool of the test: scheduler, backends by host number with weight, and those that are down.
    #[derive(Clone, Debug, PartialEq)]
    struct TestPool {
        scheduler: &'static str,
        backends: Vec<(u8, u16)>,
        down: Vec<u8>,
        /// A pool behind it.
        backup: Option<usize>,
        /// The percentage that counts of the first backend's weight.
        share: u8,
        /// Whether it remembers clients.
        remembers: bool,
        /// Whether sessions end with what is removed.
        resets: bool,
    }

    impl TestPool {
        /// Host numbers and weights of those that take new work.
        fn takers(&self) -> Vec<(u8, u32)> {
            let share = |at: usize| if at == 0 { self.share } else { 100 };
            let backends = self.backends.iter().enumerate();
            backends
                .filter(|(_, (host, weight))| *weight > 0 && !self.down.contains(host))
                .map(|(at, &(host, weight))| (host, u32::from(weight) * u32::from(share(at))))
                .collect()
        }
    }

    /// A listener of the test: port, forward mode, pool.
    #[derive(Clone, Debug, PartialEq)]
    struct TestListener {
        host: u8,
        port: u16,
        forward: &'static str,
        pool: usize,
    }

    #[derive(Clone, Debug, Default, PartialEq)]
    struct TestConfig {
        locals: u8,
        pools: Vec<TestPool>,
        listeners: Vec<TestListener>,
    }

    impl TestConfig {
        /// The pool that gets the new work of a pool.
        fn taker(&self, pool: usize) -> usize {
            let mut at = pool;
            loop {
                match self.pools[at].backup {
                    _ if !self.pools[at].takers().is_empty() => return at,
                    Some(backup) => at = backup,
                    None => return pool,
                }
            }
        }

        fn snapshot(&self) -> Arc<Snapshot> {
            let mut text = String::from("[l4]\ninterfaces = [\"eth0\"]\nlocal_addresses = [");
            for local in 0..=self.locals {
                write!(text, "\"192.0.2.{local}\", ").unwrap();
            }
            text.push_str("]\n");
            for (name, listener) in self.listeners.iter().enumerate() {
                let TestListener {
                    host,
                    port,
                    forward,
                    pool,
                } = listener;
                write!(
                    text,
                    "[[listener]]\nname = \"l{name}\"\nbind = \"203.0.113.{host}:{port}\"\nprotocol = \"udp\"\n\
                     forward = \"{forward}\"\npool = \"p{pool}\"\n"
                )
                .unwrap();
            }
            for (name, pool) in self.pools.iter().enumerate() {
                write!(
                    text,
                    "[[pool]]\nname = \"p{name}\"\nscheduler = \"{}\"\n",
                    pool.scheduler
                )
                .unwrap();
                if let Some(backup) = pool.backup {
                    writeln!(text, "backup_pool = \"p{backup}\"").unwrap();
                }
                if pool.resets {
                    text.push_str("on_removal = \"reset\"\n");
                }
                if pool.remembers {
                    text.push_str("persistence = {}\n");
                }
                text.push_str("backend = [");
                for (host, weight) in &pool.backends {
                    write!(
                        text,
                        "{{ address = \"10.0.0.{host}:53\", weight = {weight} }}, "
                    )
                    .unwrap();
                }
                text.push_str("]\n");
            }
            let config = Config::parse(&text, Path::new("test.toml"))
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            let mut snapshot = Snapshot::new(Arc::new(config));
            for (name, pool) in self.pools.iter().enumerate() {
                for host in &pool.down {
                    let state = BackendState {
                        health: Health::Down,
                        ..BackendState::default()
                    };
                    snapshot.backends.insert(id(name, *host), state);
                }
                if let Some((host, _)) = pool.backends.first() {
                    let state = snapshot.backends.entry(id(name, *host)).or_default();
                    state.share = Share::percent(pool.share);
                }
            }
            Arc::new(snapshot)
        }
    }

    fn id(pool: usize, host: u8) -> BackendId {
        BackendId {
            pool: Name::from(format!("p{pool}").as_str()),
            address: SocketAddr::from(([10, 0, 0, host], 53)),
        }
    }

    struct World {
        plan: Plan,
        maps: FakeMaps,
    }

    impl World {
        fn new() -> Self {
            let l4 = TestConfig::default().snapshot().config.l4.clone().unwrap();
            Self {
                plan: Plan::new(l4, ELEMENTS),
                maps: FakeMaps::default(),
            }
        }

        fn wait(&mut self, time: Duration) {
            self.maps.now += time;
        }

        fn apply(&mut self, config: &TestConfig) {
            let now = self.maps.now;
            let change = self.plan.prepare(&config.snapshot(), now).unwrap();
            self.plan.commit(change, &mut self.maps, now);
        }

        /// Compares the maps with what the config says.
        fn check(&self, config: &TestConfig) {
            let mut vips = HashSet::new();
            let mut ids = BTreeSet::new();
            assert_eq!(self.maps.locals.len(), usize::from(config.locals) + 1);
            assert_eq!(self.maps.listeners.len(), config.listeners.len());
            for listener in &config.listeners {
                let taker = config.taker(listener.pool);
                let pool = &config.pools[taker];
                let vip = IpAddr::from([203, 0, 113, listener.host]);
                vips.insert(vip);
                let key = ListenerKey {
                    addr: words(vip),
                    port: listener.port.to_be(),
                    proto: 17,
                    zero: 0,
                };
                let entry = self.maps.listeners[&key];
                assert!(
                    entry.id > 0 && ids.insert(entry.id),
                    "every listener has its own number"
                );
                let (mode, pick) = (mode(listener.forward), scheduler(pool.scheduler));
                assert_eq!(
                    (entry.mode, entry.pick()),
                    (mode as u8, pick as u8),
                    "{listener:?}"
                );
                assert_eq!(entry.pick & PERSISTENT != 0, pool.remembers);
                let pool_name = Name::from(format!("p{taker}").as_str());
                let pool_number = self.plan.pool_numbers.number(&pool_name).unwrap();
                assert_eq!(entry.pool, u32::from(pool_number));
                assert_eq!(
                    self.maps
                        .persistences
                        .get(&pool_number)
                        .is_some_and(Option::is_some),
                    pool.remembers
                );
                let member = |(host, weight)| Member {
                    number: self.plan.backend_numbers.number(&id(taker, host)).unwrap(),
                    address: SocketAddr::from(([10, 0, 0, host], 53)),
                    weight,
                };
                let members: Vec<Member> = pool.takers().into_iter().map(member).collect();
                assert_eq!(
                    self.maps.table(&entry),
                    schedule::table(pick, &members),
                    "{listener:?}"
                );
                for (host, weight) in &pool.backends {
                    let number = self.plan.backend_numbers.number(&id(taker, *host)).unwrap();
                    let (address, accepts) = self.maps.backends[&number];
                    assert_eq!(address.ip(), IpAddr::from([10, 0, 0, *host]));
                    assert_eq!(accepts, *weight > 0 && !pool.down.contains(host));
                    let takers = pool.takers();
                    let weighs = takers.iter().find(|(taker, _)| taker == host);
                    assert_eq!(
                        self.maps.loads[&number],
                        (
                            weighs.map_or(0, |(_, weight)| *weight),
                            name_hash(&pool_name)
                        )
                    );
                }
            }
            assert_eq!(self.maps.vips, vips);
        }
    }

    fn mode(forward: &str) -> Mode {
        match forward {
            "fullnat" => Mode::Fullnat,
            "nat" => Mode::Nat,
            "dr" => Mode::Dr,
            _ => Mode::Tunnel,
        }
    }

    fn scheduler(name: &str) -> Pick {
        match name {
            "round_robin" => Pick::Next,
            "source_hash" => Pick::HashAddress,
            "least_conn" => Pick::LeastLoaded,
            "p2c" => Pick::TwoChoices,
            _ => Pick::HashAddressPort,
        }
    }

    fn pool() -> impl Strategy<Value = TestPool> {
        let scheduler = prop_oneof![6 => Just("round_robin"), 1 => Just("source_hash"), 1 => Just("maglev"), 2 => Just("least_conn"), 2 => Just("p2c")];
        let backends = prop::collection::btree_map(1u8..6, 0u16..4, 1..5);
        (
            scheduler,
            backends,
            prop::collection::btree_set(1u8..6, 0..3),
            any::<bool>(),
            prop_oneof![Just(100u8), 1u8..=100],
            any::<bool>(),
        )
            .prop_map(
                |(scheduler, backends, down, backup, share, remembers)| TestPool {
                    remembers,
                    resets: false,
                    scheduler,
                    // Made a pool's number where the config has so many.
                    backup: backup.then_some(0),
                    share,
                    down: down
                        .into_iter()
                        .filter(|host| backends.contains_key(host))
                        .collect(),
                    backends: backends.into_iter().collect(),
                },
            )
    }

    fn config() -> impl Strategy<Value = TestConfig> {
        // Tunnel and DR want the backend on the listener's port.
        let forward = prop_oneof![Just("fullnat"), Just("nat"), Just("dr"), Just("tunnel")];
        let listener = (1u8..4, 1u16..6, forward, any::<prop::sample::Index>());
        let listeners = prop::collection::vec(listener, 1..8);
        (0u8..3, prop::collection::vec(pool(), 1..4), listeners).prop_map(
            |(locals, mut pools, listeners)| {
                let last = pools.len() - 1;
                for (at, pool) in pools.iter_mut().enumerate() {
                    pool.backup = pool.backup.and((at < last).then_some(at + 1));
                }
                let mut binds = HashSet::new();
                let listeners = listeners
                    .into_iter()
                    .map(|(host, port, forward, pool)| {
                        let port = if matches!(forward, "dr" | "tunnel") {
                            53
                        } else {
                            port
                        };
                        TestListener {
                            host,
                            port,
                            forward,
                            pool: pool.index(pools.len()),
                        }
                    })
                    .filter(|listener| binds.insert((listener.host, listener.port)))
                    .collect();
                TestConfig {
                    locals,
                    pools,
                    listeners,
                }
            },
        )
    }

    #[derive(Clone, Debug)]
    enum Step {
        Apply(TestConfig),
        Abandon(TestConfig),
        Flip(usize, u8),
        Wait(u64),
        Sweep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => config().prop_map(Step::Apply),
            1 => config().prop_map(Step::Abandon),
            3 => (0usize..4, 1u8..6).prop_map(|(pool, host)| Step::Flip(pool, host)),
            2 => (0u64..12).prop_map(Step::Wait),
            1 => Just(Step::Sweep),
        ];
        prop::collection::vec(step, 1..16)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_maps_are_what_the_last_commit_says(steps in steps()) {
            let mut world = World::new();
            let mut present: Option<TestConfig> = None;
            for step in steps {
                match step {
                    Step::Apply(config) => {
                        world.apply(&config);
                        present = Some(config);
                    }
                    Step::Abandon(config) => {
                        let change = world.plan.prepare(&config.snapshot(), world.maps.now).unwrap();
                        world.plan.abandon(change);
                    }
                    Step::Flip(pool, host) => {
                        let Some(config) = &mut present else { continue };
                        let Some(pool) = config.pools.get_mut(pool) else { continue };
                        if !pool.backends.iter().any(|(other, _)| *other == host) {
                            continue;
                        }
                        match pool.down.iter().position(|down| *down == host) {
                            Some(at) => drop(pool.down.remove(at)),
                            None => pool.down.push(host),
                        }
                        let config = config.clone();
                        world.apply(&config);
                    }
                    Step::Wait(milliseconds) => world.wait(Duration::from_millis(milliseconds)),
                    Step::Sweep => {
                        for number in world.plan.listener_numbers().idle(|_| false) {
                            world.plan.listener_numbers().free(number);
                        }
                        for number in world.plan.backend_numbers().idle(|_| false) {
                            world.plan.backend_numbers().free(number);
                        }
                    }
                }
                if let Some(config) = &present {
                    world.check(config);
                }
            }
            // What everything took comes back.
            if present.is_some() {
                world.apply(&TestConfig { pools: vec![], listeners: vec![], locals: 0 });
                world.wait(GRACE);
                prop_assert!(world.plan.regions.allocate(ELEMENTS, world.maps.now).is_some());
                prop_assert!(world.maps.listeners.is_empty() && world.maps.vips.is_empty());
            }
        }
    }

    fn many(listeners: u16) -> TestConfig {
        let pool = TestPool {
            scheduler: "round_robin",
            backends: vec![(1, 1), (2, 1)],
            down: vec![],
            backup: None,
            share: 100,
            remembers: false,
            resets: false,
        };
        let listener = |n: u16| TestListener {
            host: 1,
            port: n + 1,
            forward: "fullnat",
            pool: usize::from(n),
        };
        TestConfig {
            locals: 0,
            pools: (0..listeners).map(|_| pool.clone()).collect(),
            listeners: (0..listeners).map(listener).collect(),
        }
    }

    #[test]
    fn a_change_writes_what_changed_and_nothing_else() {
        let mut config = many(50);
        let mut world = World::new();
        world.apply(&config);
        let writes = |world: &mut World, config: &TestConfig| {
            world.maps.writes = 0;
            world.wait(GRACE);
            world.apply(config);
            world.check(config);
            world.maps.writes
        };
        assert_eq!(writes(&mut world, &config), 0, "the same again");
        config.listeners[30].forward = "nat";
        assert_eq!(writes(&mut world, &config), 1, "another mode: one listener");
        config.pools[7].down.push(1);
        assert_eq!(
            writes(&mut world, &config),
            3,
            "a backend, a table, a listener"
        );
        config.pools[7].down.clear();
        assert_eq!(writes(&mut world, &config), 3);
        config.listeners[7].port = 999;
        assert_eq!(
            writes(&mut world, &config),
            2,
            "another port: a listener comes, one goes"
        );
        config.locals = 1;
        assert_eq!(writes(&mut world, &config), 1);
    }

    #[test]
    fn one_listener_of_ten_thousand_costs_what_one_of_ten_costs() {
        let writes = |listeners: u16| {
            let mut config = many(listeners);
            let mut world = World::new();
            world.apply(&config);
            let mut counts = Vec::new();
            let mut count = |config: &TestConfig| {
                world.maps.writes = 0;
                world.wait(GRACE);
                world.apply(config);
                counts.push(world.maps.writes);
            };
            config.listeners[7].forward = "nat";
            count(&config);
            config.pools[7].backends[0].1 += 1;
            count(&config);
            config.listeners.pop();
            count(&config);
            counts
        };
        assert_eq!(writes(10_000), writes(10));
    }

    #[test]
    fn a_backup_takes_the_new_work_while_the_first_is_down() {
        let mut config = many(1);
        config.pools.push(config.pools[0].clone());
        config.pools.push(config.pools[0].clone());
        config.pools[2].scheduler = "source_hash";
        (config.pools[0].backup, config.pools[1].backup) = (Some(1), Some(2));
        let mut world = World::new();
        let mut taker = |config: &TestConfig| {
            world.wait(GRACE);
            world.apply(config);
            world.check(config);
            config.taker(0)
        };
        assert_eq!(taker(&config), 0);
        config.pools[0].down = vec![1, 2];
        assert_eq!(taker(&config), 1);
        config.pools[1].down = vec![1, 2];
        assert_eq!(taker(&config), 2);
        config.pools[0].backup = Some(2);
        config.pools[1].down.clear();
        assert_eq!(taker(&config), 2, "another backup");
        config.pools[0].backup = None;
        assert_eq!(taker(&config), 0, "none any more: nobody gets it");
        config.pools[0].down = vec![2];
        config.pools[0].backup = Some(1);
        assert_eq!(taker(&config), 0, "one of the first is back");
    }

    #[test]
    fn what_is_removed_ends_where_its_pool_says_so() {
        for resets in [false, true] {
            let mut config = many(2);
            for pool in &mut config.pools {
                pool.resets = resets;
                pool.backends = vec![(1, 1), (2, 1)];
            }
            let mut world = World::new();
            world.apply(&config);
            let number = |world: &World, host| world.plan.backend_numbers.number(&id(0, host));
            let (first, second) = (number(&world, 1).unwrap(), number(&world, 2).unwrap());
            let has = |world: &World, listener: u16, backend: u16| {
                world.maps.policies.ending().has(listener, backend)
            };
            assert!(!has(&world, 1, first) && !has(&world, 1, second));
            // A backend goes, and comes back.
            config.pools[0].backends.remove(0);
            world.apply(&config);
            assert_eq!(has(&world, 0, first), resets);
            assert!(!has(&world, 1, second));
            config.pools[0].backends.insert(0, (1, 1));
            world.apply(&config);
            assert!(!has(&world, 1, first));
            // A backend that is down, or of no weight, is not removed.
            config.pools[0].backends[0].1 = 0;
            config.pools[0].down = vec![2];
            world.apply(&config);
            assert!(!has(&world, 1, first) && !has(&world, 1, second));
            // With its last listener the whole pool goes.
            let listener = world.plan.listener_numbers.number(&"l1".into()).unwrap();
            let backend = world.plan.backend_numbers.number(&id(1, 1)).unwrap();
            assert!(!has(&world, listener, backend));
            let removed = config.listeners.pop().unwrap();
            world.apply(&config);
            assert_eq!(has(&world, listener, 0), resets);
            assert_eq!(has(&world, 0, backend), resets);
            config.listeners.push(removed);
            world.apply(&config);
            assert!(!has(&world, listener, backend));
        }
    }

    #[test]
    fn a_change_that_is_out_of_date_is_worked_out_anew() {
        let (few, many) = (many(2), many(5));
        for first_is_committed in [true, false] {
            let mut world = World::new();
            let first = world.plan.prepare(&few.snapshot(), Duration::ZERO).unwrap();
            let second = world
                .plan
                .prepare(&many.snapshot(), Duration::ZERO)
                .unwrap();
            if first_is_committed {
                world.plan.commit(first, &mut world.maps, Duration::ZERO);
            } else {
                world.plan.abandon(first);
            }
            world.plan.commit(second, &mut world.maps, Duration::ZERO);
            world.check(&many);
            assert!(world.plan.listener_numbers().idle(|_| false).is_empty());
            assert!(
                world.plan.listener_numbers().idle(|_| false).is_empty(),
                "all numbers are in use"
            );
        }
    }

    #[test]
    fn listeners_of_one_pool_share_its_table() {
        let mut config = many(3);
        for listener in &mut config.listeners {
            listener.pool = 0;
        }
        config.pools[0].scheduler = "maglev";
        let mut world = World::new();
        world.apply(&config);
        world.check(&config);
        let bases: BTreeSet<u32> = world
            .maps
            .listeners
            .values()
            .map(|entry| entry.table_base)
            .collect();
        assert_eq!(bases.len(), 1);
        assert_eq!(world.maps.schedule.len(), 65_537usize.div_ceil(4));
    }

    #[test]
    fn numbers_stay_with_their_names() {
        let mut config = many(3);
        let mut world = World::new();
        world.apply(&config);
        let number = |world: &World, name: &str| {
            world
                .plan
                .listener_numbers
                .number(&Name::from(name))
                .unwrap()
        };
        let before: Vec<u16> = (0..3).map(|n| number(&world, &format!("l{n}"))).collect();
        config.listeners.truncate(2);
        config.listeners[0].pool = 1;
        world.apply(&config);
        config = many(3);
        world.apply(&config);
        let after: Vec<u16> = (0..3).map(|n| number(&world, &format!("l{n}"))).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused_and_leave_no_trace() {
        let mut config = many(9);
        for pool in &mut config.pools {
            pool.scheduler = "maglev";
        }
        let mut world = World::new();
        let few = many(2);
        world.apply(&few);
        let error = world
            .plan
            .prepare(&config.snapshot(), world.maps.now)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no room for its scheduling table of 65537 slots"),
            "{error}"
        );
        world.check(&few);
        config.pools.truncate(7);
        config.listeners.truncate(7);
        world.apply(&config);
        world.check(&config);
    }
}
