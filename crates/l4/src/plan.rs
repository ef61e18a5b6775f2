//! What the maps should hold, and the difference that a snapshot makes.
//!
//! [`Plan::prepare`] works out the difference and takes the numbers and regions that it needs; nothing that the
//! program sees changes. [`Plan::commit`] writes it, values before what points at them, and cannot fail.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use weir_l4_common::service::{
    BACKENDS_MAX, LISTENERS_MAX, LOCALS_MAX, Listener as Entry, ListenerKey, Mode, Pick,
    SCHEDULE_LANES,
};
use weir_model::{BackendId, Config, Forward, L4, Listener, Name, Pool, Snapshot};

use crate::error::Error;
use crate::number::Numbers;
use crate::region::{Region, Regions};
use crate::schedule::{self, Member};

/// Where the plan is written to: the kernel's maps, or a model of them in tests.
pub(crate) trait Maps {
    /// Writes a backend; its next hop stays what it is, or becomes known later.
    fn write_backend(&mut self, number: u16, address: SocketAddrV4, accepts: bool);
    /// Writes a scheduling table into a region that no listener points at.
    fn write_table(&mut self, region: Region, numbers: &[u16]);
    /// Writes the local addresses.
    fn write_locals(&mut self, locals: &[Ipv4Addr]);
    /// Adds a listener, or replaces it whole.
    fn write_listener(&mut self, key: ListenerKey, entry: Entry);
    /// Removes a listener.
    fn remove_listener(&mut self, key: ListenerKey);
    /// Adds the address of listeners.
    fn add_vip(&mut self, vip: Ipv4Addr);
    /// Removes the address of listeners.
    fn remove_vip(&mut self, vip: Ipv4Addr);
}

/// What the maps hold.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What was committed last.
    snapshot: Option<Arc<Snapshot>>,
    /// The sections that do not change while the plane runs.
    l4: L4,
    listeners: HashMap<Name, Served>,
    /// Listeners of each pool.
    users: HashMap<Name, HashSet<Name>>,
    /// Pools with listeners.
    pools: HashMap<Name, Filled>,
    /// Listeners on each address.
    vips: HashMap<Ipv4Addr, u32>,
    listener_numbers: Numbers<Name>,
    backend_numbers: Numbers<BackendId>,
    regions: Regions,
}

/// A listener in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    number: u16,
    key: ListenerKey,
    mode: Mode,
    pool: Name,
}

/// A pool in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filled {
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
    backends: Vec<(u16, SocketAddrV4, bool)>,
    tables: Vec<(Region, Vec<u16>)>,
    locals: Option<Vec<Ipv4Addr>>,
    /// Listeners that are new, changed (with what they were) or gone.
    listeners: HashMap<Name, (Option<Served>, Option<Served>)>,
    /// Listeners that stay and whose pool has another table.
    moved: Vec<Name>,
    /// Pools that are new, changed or gone.
    pools: HashMap<Name, Option<Filled>>,
    /// Taken for this change; given back when it is not committed.
    fresh_listeners: Vec<Name>,
    fresh_backends: Vec<BackendId>,
    fresh_regions: Vec<Region>,
}

impl Change {
    /// Addresses of backends that are new, or that change.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.backends.iter().map(|(_, address, _)| *address.ip())
    }
}

impl Plan {
    /// Empty maps; the map of scheduling tables has so many elements.
    pub(crate) fn new(l4: L4, schedule_elements: u32) -> Self {
        Self {
            snapshot: None,
            l4,
            listeners: HashMap::new(),
            users: HashMap::new(),
            pools: HashMap::new(),
            vips: HashMap::new(),
            listener_numbers: Numbers::new(LISTENERS_MAX as u16),
            backend_numbers: Numbers::new(BACKENDS_MAX as u16),
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
        for name in &change.fresh_listeners {
            self.listener_numbers.release(name);
        }
        for id in &change.fresh_backends {
            self.backend_numbers.release(id);
        }
        for region in change.fresh_regions {
            self.regions.free(region);
        }
    }

    /// Writes a change: backends and tables, then the listeners that point at them, then what is gone.
    pub(crate) fn commit(&mut self, change: Change, maps: &mut impl Maps, now: Duration) {
        for &(number, address, accepts) in &change.backends {
            maps.write_backend(number, address, accepts);
        }
        for (region, numbers) in &change.tables {
            maps.write_table(*region, numbers);
        }
        if let Some(locals) = &change.locals {
            maps.write_locals(locals);
        }
        let mut gone_pools = Vec::new();
        for (name, filled) in change.pools {
            let old = match filled {
                Some(filled) => self.pools.insert(name.clone(), filled),
                None => self.pools.remove(&name),
            };
            gone_pools.extend(old.map(|old| (name, old)));
        }
        let mut written = HashSet::new();
        for served in change
            .listeners
            .values()
            .filter_map(|(_, new)| new.as_ref())
        {
            written.insert(served.key);
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
                if let Some(users) = self.users.get_mut(&old.pool) {
                    users.remove(&name);
                }
            }
            match new {
                Some(new) => {
                    self.users
                        .entry(new.pool.clone())
                        .or_default()
                        .insert(name.clone());
                    self.listeners.insert(name, new);
                }
                None => {
                    self.listeners.remove(&name);
                    self.listener_numbers.release(&name);
                }
            }
        }
        self.users.retain(|_, users| !users.is_empty());
        for (name, old) in gone_pools {
            self.commit_gone(&name, old, maps, now);
        }
        if let Some(snapshot) = change.snapshot {
            if let Some(l4) = &snapshot.config.l4 {
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
    fn commit_gone(&mut self, name: &Name, old: Filled, maps: &mut impl Maps, now: Duration) {
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
            // Its sessions go on, and none begins.
            maps.write_backend(backend.member.number, backend.member.address, false);
            self.backend_numbers.release(&backend.id);
        }
        if let Some(region) = old.region
            && !same_region
        {
            self.regions.retire(region, now);
        }
    }

    fn entry(&self, served: &Served) -> Entry {
        let filled = self.pools.get(&served.pool);
        Entry {
            id: served.number,
            mode: served.mode as u8,
            pick: filled.map_or(Pick::Next, |filled| filled.pick) as u8,
            table_base: filled
                .and_then(|filled| filled.region)
                .map_or(0, |region| region.start * SCHEDULE_LANES),
            table_len: filled.map_or(0, |filled| filled.table_len),
            zero: 0,
        }
    }

    fn fill(
        &mut self,
        change: &mut Change,
        snapshot: &Arc<Snapshot>,
        now: Duration,
    ) -> Result<(), Error> {
        let config = &snapshot.config;
        let locals = self.fill_locals(change, config)?;
        self.fill_listeners(change, config, &locals)?;
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

    fn fill_locals(&self, change: &mut Change, config: &Config) -> Result<Vec<Ipv4Addr>, Error> {
        let l4 = config.l4.as_ref().ok_or(Error::NeedsRestart("section"))?;
        if l4.interfaces != self.l4.interfaces {
            return Err(Error::NeedsRestart("interfaces"));
        }
        if l4.xdp_mode != self.l4.xdp_mode {
            return Err(Error::NeedsRestart("xdp_mode"));
        }
        if l4.max_sessions != self.l4.max_sessions {
            return Err(Error::NeedsRestart("max_sessions"));
        }
        let locals = ipv4(&l4.local_addresses);
        if locals.len() > LOCALS_MAX as usize {
            return Err(Error::TooMany {
                what: "IPv4 local addresses",
                max: LOCALS_MAX,
            });
        }
        if self.snapshot.is_none() || ipv4(&self.l4.local_addresses) != locals {
            change.locals = Some(locals.clone());
        }
        Ok(locals)
    }

    fn fill_listeners(
        &mut self,
        change: &mut Change,
        config: &Config,
        locals: &[Ipv4Addr],
    ) -> Result<(), Error> {
        let before = self.snapshot.clone();
        let old: &[Arc<Listener>] = before
            .as_ref()
            .map_or(&[], |snapshot| &snapshot.config.listeners);
        let (gone, come) = difference(old, &config.listeners);
        let come: Vec<&Arc<Listener>> = come
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
        for listener in &come {
            let served = self.serve(&mut change.fresh_listeners, listener, locals)?;
            let old = self.listeners.get(&listener.name);
            if old != Some(&served) {
                change
                    .listeners
                    .insert(listener.name.clone(), (old.cloned(), Some(served)));
            }
        }
        if locals.is_empty()
            && change.locals.is_some()
            && let Some(name) = self.needs_local(change)
        {
            return Err(Error::NoLocalAddress(name));
        }
        Ok(())
    }

    /// A listener that stays and cannot do without a local address.
    fn needs_local(&self, change: &Change) -> Option<Name> {
        let stays = |(name, served): &(&Name, &Served)| {
            matches!(served.mode, Mode::Fullnat | Mode::Tunnel)
                && !change.listeners.contains_key(*name)
        };
        self.listeners
            .iter()
            .find(stays)
            .map(|(name, _)| name.clone())
    }

    fn serve(
        &mut self,
        fresh: &mut Vec<Name>,
        listener: &Listener,
        locals: &[Ipv4Addr],
    ) -> Result<Served, Error> {
        let name = &listener.name;
        let SocketAddr::V4(bind) = listener.bind else {
            return Err(Error::Ipv6Listener {
                listener: name.clone(),
                bind: listener.bind,
            });
        };
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
        if matches!(mode, Mode::Fullnat | Mode::Tunnel) && locals.is_empty() {
            return Err(Error::NoLocalAddress(name.clone()));
        }
        let (number, is_fresh) = self.listener_numbers.assign(name).ok_or(Error::TooMany {
            what: "listeners at layer 4",
            max: LISTENERS_MAX,
        })?;
        if is_fresh {
            fresh.push(name.clone());
        }
        let key = ListenerKey {
            addr: u32::from(*bind.ip()).to_be(),
            port: bind.port().to_be(),
            proto: if listener.protocol.is_udp() { 17 } else { 6 },
            zero: 0,
        };
        Ok(Served {
            number,
            key,
            mode,
            pool,
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
                    .map(|served| served.pool.clone()),
            );
        }
        let Some(before) = &self.snapshot else {
            return touched;
        };
        let (gone, come) = difference(&before.config.pools, &snapshot.config.pools);
        touched.extend(gone.iter().chain(come).map(|pool| pool.name.clone()));
        let differs = |id: &BackendId| before.takes_new_work(id) != snapshot.takes_new_work(id);
        let states = before.backends.keys().chain(snapshot.backends.keys());
        touched.extend(states.filter(|id| differs(id)).map(|id| id.pool.clone()));
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
        let pick = schedule::pick(pool.scheduler).ok_or_else(|| Error::Scheduler {
            pool: name.clone(),
            scheduler: pool.scheduler.as_str(),
        })?;
        let backends = self.fillings(change, snapshot, pool)?;
        let old = self.pools.get(name);
        if old.is_some_and(|old| old.pick == pick && old.backends == backends) {
            return Ok(());
        }
        let known: HashMap<u16, bool> = old
            .into_iter()
            .flat_map(|old| &old.backends)
            .map(|backend| (backend.member.number, backend.accepts))
            .collect();
        for backend in &backends {
            if known.get(&backend.member.number) != Some(&backend.accepts) {
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
            pick,
            backends,
            region,
            table_len,
        };
        if old.is_none_or(|old| (old.pick, old.region, old.table_len) != (pick, region, table_len))
        {
            change.moved.extend(
                users
                    .into_iter()
                    .filter(|user| !change.listeners.contains_key(user)),
            );
        }
        change.pools.insert(name.clone(), Some(filled));
        Ok(())
    }

    /// The listeners that will use a pool.
    fn users_after(&self, change: &Change, pool: &Name) -> Vec<Name> {
        let stay = self
            .users
            .get(pool)
            .into_iter()
            .flatten()
            .filter(|name| !change.listeners.contains_key(*name));
        let come = change
            .listeners
            .iter()
            .filter(|(_, (_, new))| new.as_ref().is_some_and(|new| new.pool == *pool))
            .map(|(name, _)| name);
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
            let SocketAddr::V4(address) = backend.address else {
                return Err(Error::Ipv6Backend(id));
            };
            let (number, fresh) = self.backend_numbers.assign(&id).ok_or(Error::TooMany {
                what: "backends at layer 4",
                max: BACKENDS_MAX,
            })?;
            if fresh {
                change.fresh_backends.push(id.clone());
            }
            let accepts = backend.weight > 0 && snapshot.takes_new_work(&id);
            fillings.push(Filling {
                id,
                member: Member {
                    number,
                    address,
                    weight: backend.weight,
                },
                accepts,
            });
        }
        Ok(fillings)
    }
}

/// The members of a scheduling table.
fn accepting(backends: &[Filling]) -> Vec<Member> {
    backends
        .iter()
        .filter(|backend| backend.accepts)
        .map(|backend| backend.member)
        .collect()
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

fn vip(key: &ListenerKey) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be(key.addr))
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
