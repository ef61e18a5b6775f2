//! Which interface and MAC address a backend is reached by, from what the kernel says of routes and neighbours.
//!
//! No I/O here: messages go in, questions and changes come out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use crate::netlink::{Neighbour, Route};

/// Where packets to an address are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
}

/// What came of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Addresses with another next hop.
    pub(crate) changed: Vec<(IpAddr, NextHop)>,
    /// Addresses that had a next hop and have none now.
    pub(crate) lost: Vec<IpAddr>,
    /// Neighbours to ask for, by interface.
    pub(crate) ask: BTreeSet<(u32, IpAddr)>,
    /// Neighbours that nobody needs any more.
    pub(crate) leave: BTreeSet<(u32, IpAddr)>,
    /// Sessions must take their next hops anew.
    pub(crate) refresh: bool,
}

/// What is known of the addresses that packets are sent to.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    targets: HashMap<IpAddr, Target>,
    /// Addresses behind each neighbour.
    behind: HashMap<(u32, IpAddr), HashSet<IpAddr>>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Neighbours that the program has asked for: clients and their routers.
    wanted: HashSet<(u32, IpAddr)>,
    /// The same, of the time before this one.
    wanted_before: HashSet<(u32, IpAddr)>,
    /// MAC addresses of neighbours that the kernel has forgotten: sessions may still use them.
    former: HashMap<(u32, IpAddr), [u8; 6]>,
}

#[derive(Debug, Default)]
struct Target {
    route: Option<Route>,
    hop: Option<NextHop>,
    /// Sessions may have taken that there is no next hop.
    was_lost: bool,
}

/// Neighbours that the program waits for at most; beyond that they are asked for and not waited for.
const WANTED_MAX: usize = 4096;
/// Forgotten neighbours whose MAC address is remembered at most; which ones, is left to chance.
const FORMER_MAX: usize = 4096;

impl NextHops {
    /// Every address that packets are sent to.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.targets.keys().copied().collect()
    }

    /// Packets are no longer sent to this address.
    pub(crate) fn remove(&mut self, addr: IpAddr, effects: &mut Effects) {
        if let Some(Target {
            route: Some(route), ..
        }) = self.targets.remove(&addr)
        {
            self.leave(addr, route, effects);
        }
    }

    /// The kernel's answer to the question for the way to an address; the first one adds the address.
    pub(crate) fn route(&mut self, addr: IpAddr, route: Option<Route>, effects: &mut Effects) {
        let target = self.targets.entry(addr).or_default();
        let before = std::mem::replace(&mut target.route, route);
        if before == route {
            return;
        }
        if let Some(before) = before {
            self.leave(addr, before, effects);
        }
        if let Some(route) = route {
            self.behind
                .entry((route.ifindex, route.via))
                .or_default()
                .insert(addr);
            self.resolve(addr, route, effects);
        } else {
            self.lose_hop(addr, effects);
        }
    }

    /// An interface has gone, and with it all ways and neighbours there.
    pub(crate) fn interface_gone(&mut self, ifindex: u32, effects: &mut Effects) {
        let addresses: Vec<(IpAddr, bool)> = self
            .targets
            .iter()
            .map(|(addr, target)| {
                let routed = target.route.is_some_and(|route| route.ifindex == ifindex);
                (
                    *addr,
                    routed,
                    target.hop.is_some_and(|hop| hop.ifindex == ifindex),
                )
            })
            .filter(|(_, routed, used)| *routed || *used)
            .map(|(addr, routed, _)| (addr, routed))
            .collect();
        for (addr, routed) in addresses {
            if routed {
                self.route(addr, None, effects);
            } else {
                self.lose_hop(addr, effects);
            }
        }
        effects.leave.retain(|key| key.0 != ifindex);
        self.neighbours.retain(|key, _| key.0 != ifindex);
        self.former.retain(|key, _| key.0 != ifindex);
    }

    /// A neighbour is there, or has changed.
    pub(crate) fn neighbour(&mut self, neighbour: Neighbour, effects: &mut Effects) {
        let key = (neighbour.ifindex, neighbour.addr);
        let before = self.neighbours.insert(key, neighbour);
        let mac_before = before.and_then(|before| before.mac);
        let Some(mac) = neighbour.mac else {
            // While the kernel asks again the last known MAC address serves.
            if let Some(before) = mac_before
                && let Some(entry) = self.neighbours.get_mut(&key)
            {
                entry.mac = Some(before);
            }
            return;
        };
        if mac_before == Some(mac) {
            return;
        }
        // Replies may be on their way to the old MAC address, or by the way that the request came.
        let former = self.former.remove(&key);
        let moved = mac_before.or(former).is_some_and(|before| before != mac);
        let waited = [&mut self.wanted, &mut self.wanted_before].map(|wanted| wanted.remove(&key));
        effects.refresh |= moved || waited.contains(&true);
        self.update_behind(key, mac, effects);
    }

    /// The kernel has forgotten a neighbour.
    pub(crate) fn neighbour_gone(&mut self, key: (u32, IpAddr), effects: &mut Effects) {
        if let Some(mac) = self.neighbours.remove(&key).and_then(|gone| gone.mac) {
            self.remember(key, mac);
        }
        if self.behind.contains_key(&key) {
            effects.ask.insert(key);
        }
    }

    /// The program wants to know a neighbour.
    pub(crate) fn want(&mut self, key: (u32, IpAddr), effects: &mut Effects) {
        if self.wanted.len() < WANTED_MAX && self.wanted.insert(key) {
            effects.ask.insert(key);
        }
    }

    /// What has not answered since the last call may be asked for again; what has not since the call before that is
    /// waited for no more.
    pub(crate) fn rotate_wanted(&mut self) {
        self.wanted_before = std::mem::take(&mut self.wanted);
    }

    /// Forgets all neighbours, as before the kernel's whole list is read.
    pub(crate) fn forget_neighbours(&mut self) {
        for (key, neighbour) in std::mem::take(&mut self.neighbours) {
            if let Some(mac) = neighbour.mac {
                self.remember(key, mac);
            }
        }
    }

    fn remember(&mut self, key: (u32, IpAddr), mac: [u8; 6]) {
        if self.former.len() >= FORMER_MAX
            && let Some(any) = self.former.keys().next().copied()
        {
            self.former.remove(&any);
        }
        self.former.insert(key, mac);
    }

    /// Neighbours without a MAC address that packets should be sent to: to be asked for again.
    pub(crate) fn unknown(&self) -> BTreeSet<(u32, IpAddr)> {
        self.behind
            .keys()
            .filter(|key| self.mac(key).is_none())
            .copied()
            .collect()
    }

    /// Addresses that nothing can be sent to, and whether there is a way to them at all.
    pub(crate) fn unresolved(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        self.targets
            .iter()
            .filter(|(_, target)| target.hop.is_none())
            .map(|(addr, target)| (*addr, target.route.is_some()))
    }

    /// Neighbours that packets are sent to.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.behind.keys().copied()
    }

    /// Whether packets are sent to a neighbour.
    pub(crate) fn is_in_use(&self, key: &(u32, IpAddr)) -> bool {
        self.behind.contains_key(key)
    }

    /// Whether the kernel keeps a neighbour as it is, whatever we do.
    pub(crate) fn is_fixed(&self, key: &(u32, IpAddr)) -> bool {
        self.neighbours
            .get(key)
            .is_some_and(|neighbour| neighbour.fixed)
    }

    fn mac(&self, key: &(u32, IpAddr)) -> Option<[u8; 6]> {
        self.neighbours.get(key).and_then(|neighbour| neighbour.mac)
    }

    /// The next hop of an address that has a new route.
    fn resolve(&mut self, addr: IpAddr, route: Route, effects: &mut Effects) {
        let key = (route.ifindex, route.via);
        effects.ask.insert(key);
        if let Some(mac) = self.mac(&key) {
            self.set_hop(
                addr,
                NextHop {
                    ifindex: route.ifindex,
                    mac,
                },
                effects,
            );
        }
    }

    fn update_behind(&mut self, key: (u32, IpAddr), mac: [u8; 6], effects: &mut Effects) {
        let addresses: Vec<IpAddr> = self
            .behind
            .get(&key)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for addr in addresses {
            self.set_hop(
                addr,
                NextHop {
                    ifindex: key.0,
                    mac,
                },
                effects,
            );
        }
    }

    fn set_hop(&mut self, addr: IpAddr, hop: NextHop, effects: &mut Effects) {
        let Some(target) = self.targets.get_mut(&addr) else {
            return;
        };
        let before = target.hop.replace(hop);
        if before != Some(hop) {
            effects.changed.push((addr, hop));
            effects.refresh |= before.is_some() || target.was_lost;
            target.was_lost = false;
        }
    }

    fn lose_hop(&mut self, addr: IpAddr, effects: &mut Effects) {
        if let Some(target) = self.targets.get_mut(&addr)
            && target.hop.take().is_some()
        {
            target.was_lost = true;
            effects.lost.push(addr);
            effects.refresh = true;
        }
    }

    fn leave(&mut self, addr: IpAddr, route: Route, effects: &mut Effects) {
        let key = (route.ifindex, route.via);
        if let Some(behind) = self.behind.get_mut(&key) {
            behind.remove(&addr);
            if behind.is_empty() {
                self.behind.remove(&key);
                effects.leave.insert(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    /// A way of IPv4 may lead through a neighbour of IPv6.
    const GATEWAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const MAC2: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn neighbour(addr: IpAddr, mac: Option<[u8; 6]>) -> Neighbour {
        Neighbour {
            ifindex: 3,
            addr,
            mac,
            fixed: false,
        }
    }

    fn route(via: IpAddr) -> Option<Route> {
        Some(Route { ifindex: 3, via })
    }

    fn effects(work: impl FnOnce(&mut Effects)) -> Effects {
        let mut effects = Effects::default();
        work(&mut effects);
        effects
    }

    #[test]
    fn an_unknown_neighbour_is_asked_for_and_used_when_it_answers() {
        let mut hops = NextHops::default();
        let asked = effects(|e| hops.route(ADDR, route(ADDR), e));
        assert_eq!(asked.ask, BTreeSet::from([(3, ADDR)]));
        assert_eq!(hops.unknown(), BTreeSet::from([(3, ADDR)]));
        let incomplete = effects(|e| hops.neighbour(neighbour(ADDR, None), e));
        assert_eq!(incomplete, Effects::default());
        let answered = effects(|e| hops.neighbour(neighbour(ADDR, Some(MAC)), e));
        assert_eq!(
            answered.changed,
            [(
                ADDR,
                NextHop {
                    ifindex: 3,
                    mac: MAC
                }
            )]
        );
        assert!(!answered.refresh, "no session has used the address before");
        assert!(hops.unknown().is_empty());
        assert_eq!(hops.unresolved().count(), 0);
    }

    #[test]
    fn a_gateway_serves_all_addresses_behind_it() {
        let mut hops = NextHops::default();
        effects(|e| hops.neighbour(neighbour(GATEWAY, Some(MAC)), e));
        for addr in [ADDR, OTHER] {
            let known = effects(|e| hops.route(addr, route(GATEWAY), e));
            assert_eq!(
                known.changed,
                [(
                    addr,
                    NextHop {
                        ifindex: 3,
                        mac: MAC
                    }
                )]
            );
        }
        let moved = effects(|e| hops.neighbour(neighbour(GATEWAY, Some(MAC2)), e));
        assert_eq!(moved.changed.len(), 2);
        assert!(moved.refresh);
        let left = effects(|e| hops.remove(ADDR, e));
        assert_eq!(left.leave, BTreeSet::new());
        let left = effects(|e| hops.remove(OTHER, e));
        assert_eq!(left.leave, BTreeSet::from([(3, GATEWAY)]));
    }

    #[test]
    fn a_flip_between_states_of_a_neighbour_changes_nothing() {
        let mut hops = NextHops::default();
        effects(|e| hops.route(ADDR, route(ADDR), e));
        effects(|e| hops.neighbour(neighbour(ADDR, Some(MAC)), e));
        for mac in [Some(MAC), None, Some(MAC)] {
            assert_eq!(
                effects(|e| hops.neighbour(neighbour(ADDR, mac), e)),
                Effects::default()
            );
        }
        assert!(effects(|e| hops.neighbour(neighbour(ADDR, Some(MAC2)), e)).refresh);
    }

    #[test]
    fn a_lost_route_takes_the_next_hop_away_until_one_is_back() {
        let mut hops = NextHops::default();
        effects(|e| hops.neighbour(neighbour(ADDR, Some(MAC)), e));
        effects(|e| hops.route(ADDR, route(ADDR), e));
        let lost = effects(|e| hops.route(ADDR, None, e));
        assert_eq!(lost.lost, [ADDR]);
        assert!(lost.refresh);
        assert_eq!(hops.unresolved().collect::<Vec<_>>(), [(ADDR, false)]);
        let back = effects(|e| hops.route(ADDR, route(GATEWAY), e));
        assert_eq!((back.changed.len(), back.refresh), (0, false));
        let known = effects(|e| hops.neighbour(neighbour(GATEWAY, Some(MAC2)), e));
        let hop = NextHop {
            ifindex: 3,
            mac: MAC2,
        };
        assert_eq!(known.changed, [(ADDR, hop)]);
        assert!(known.refresh, "sessions have taken that there is none");
        assert_eq!(hops.unresolved().count(), 0);
    }

    #[test]
    fn next_hops_go_with_their_interface() {
        let mut hops = NextHops::default();
        effects(|e| hops.neighbour(neighbour(GATEWAY, Some(MAC)), e));
        effects(|e| hops.route(ADDR, route(GATEWAY), e));
        effects(|e| hops.route(OTHER, route(GATEWAY), e));
        let by_another = Some(Route {
            ifindex: 4,
            via: OTHER,
        });
        effects(|e| hops.route(OTHER, by_another, e));
        assert_eq!(effects(|e| hops.interface_gone(7, e)), Effects::default());
        let mut gone = effects(|e| hops.interface_gone(3, e));
        gone.lost.sort_unstable();
        assert_eq!(gone.lost, [ADDR, OTHER], "OTHER's new way has no MAC yet");
        assert!(gone.refresh && gone.leave.is_empty());
        assert_eq!(hops.in_use().collect::<Vec<_>>(), [(4, OTHER)]);
    }

    #[test]
    fn a_neighbour_that_comes_back_with_another_mac_refreshes_sessions() {
        let mut hops = NextHops::default();
        for (mac, refresh) in [(MAC, false), (MAC, false), (MAC2, true)] {
            let learned = effects(|e| hops.neighbour(neighbour(OTHER, Some(mac)), e));
            assert_eq!(learned.refresh, refresh, "{mac:?}");
            effects(|e| hops.neighbour_gone((3, OTHER), e));
            effects(|e| hops.neighbour(neighbour(OTHER, None), e));
        }
        for low in 0..=FORMER_MAX as u32 {
            let addr = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + low));
            effects(|e| hops.neighbour(neighbour(addr, Some(MAC)), e));
            effects(|e| hops.neighbour_gone((3, addr), e));
        }
        assert_eq!(hops.former.len(), FORMER_MAX);
    }

    #[test]
    fn a_forgotten_neighbour_in_use_is_asked_for_again() {
        let mut hops = NextHops::default();
        effects(|e| hops.route(ADDR, route(GATEWAY), e));
        assert_eq!(
            effects(|e| hops.neighbour_gone((3, GATEWAY), e)).ask,
            BTreeSet::from([(3, GATEWAY)])
        );
        assert_eq!(
            effects(|e| hops.neighbour_gone((3, OTHER), e)),
            Effects::default()
        );
    }

    #[test]
    fn what_the_program_wants_is_asked_for_once_and_refreshes_sessions() {
        let mut hops = NextHops::default();
        assert_eq!(effects(|e| hops.want((3, OTHER), e)).ask.len(), 1);
        assert_eq!(effects(|e| hops.want((3, OTHER), e)).ask.len(), 0);
        assert!(effects(|e| hops.neighbour(neighbour(OTHER, Some(MAC)), e)).refresh);
        assert!(
            !effects(|e| hops.neighbour(neighbour(ADDR, Some(MAC)), e)).refresh,
            "nobody wanted it"
        );
        effects(|e| hops.want((3, GATEWAY), e));
        hops.rotate_wanted();
        assert_eq!(effects(|e| hops.want((3, GATEWAY), e)).ask.len(), 1);
        hops.rotate_wanted();
        let late = effects(|e| hops.neighbour(neighbour(GATEWAY, Some(MAC)), e));
        assert!(late.refresh, "it answered after the tick");
        effects(|e| hops.want((3, OTHER), e));
        hops.rotate_wanted();
        hops.rotate_wanted();
        assert!(hops.wanted.is_empty() && hops.wanted_before.is_empty());
    }
}
