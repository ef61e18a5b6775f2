//! The maps `LINKS` and `LINK_OF`: interfaces that packets leave by.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::maps::{Array, MapData, MapError};
use weir_l4_common::link::{IFINDEX_MAX, LINK_NOWHERE, LINKS_MAX, Link, TAGGED};

use crate::netlink::LinkInfo;
use crate::record::Records;
use crate::vlans::Carrier;

/// The program drops packets of sessions that lead there as `no_next_hop`.
pub(crate) const NOWHERE: u8 = LINK_NOWHERE;
/// Interfaces that packets may leave by.
pub(crate) const INTERFACES_MAX: u32 = NOWHERE as u32;

/// Which interface has which index in `LINKS`. An interface keeps its index by its name, also when it goes and comes
/// back with another number of the kernel's: session lines carry the index.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<(String, u32)>,
}

/// What has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) slot: u8,
    /// The interface's former number, if it had another one.
    pub(crate) replaces: Option<u32>,
}

impl Slots {
    /// Interfaces that had their places before; which of them are there, is not known yet.
    fn restored(names: Vec<String>) -> Self {
        let slots = names.into_iter().map(|name| (name, 0)).collect();
        Self { slots }
    }

    /// The place of an interface; `None` if all are taken.
    pub(crate) fn place(&mut self, name: &str, ifindex: u32) -> Option<Placed> {
        if let Some(slot) = self.slots.iter().position(|(other, _)| other == name) {
            let before = std::mem::replace(&mut self.slots[slot].1, ifindex);
            return Some(Placed {
                slot: slot as u8,
                replaces: Some(before).filter(|before| *before != 0 && *before != ifindex),
            });
        }
        if self.slots.len() >= INTERFACES_MAX as usize {
            return None;
        }
        self.slots.push((name.to_owned(), ifindex));
        Some(Placed {
            slot: (self.slots.len() - 1) as u8,
            replaces: None,
        })
    }

    /// Whether an interface has a place.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.slots.iter().any(|(other, _)| other == name)
    }
}

/// The bytes of `LINKS`.
type Bytes = [u8; size_of::<Link>() * LINKS_MAX as usize];

/// The maps.
pub(crate) struct Links {
    links: Array<MapData, Bytes>,
    /// What `links` holds: it is written as a whole.
    bytes: Box<Bytes>,
    link_of: Array<MapData, u32>,
    slots: Slots,
    written: BTreeMap<u8, Link>,
    generation: u32,
    records: Arc<Records>,
}

impl Links {
    pub(crate) fn new(
        links: Array<MapData, Bytes>,
        link_of: Array<MapData, u32>,
        records: Arc<Records>,
    ) -> Self {
        let mut links = Self {
            links,
            bytes: Box::new([0; size_of::<Bytes>()]),
            link_of,
            slots: Slots::restored(records.links()),
            // Its generation is kept up, so that sessions that lead there ask again.
            written: BTreeMap::from([(NOWHERE, Link::default())]),
            generation: records.generation(),
            records,
        };
        // While nobody followed the kernel's routes, they may have changed.
        links.refresh_sessions();
        links
    }

    /// The index of an interface in `LINKS`, which is written if it is not up to date; `None` if there is no room.
    pub(crate) fn ensure(&mut self, info: &LinkInfo, carrier: Carrier) -> Option<u8> {
        if info.ifindex > IFINDEX_MAX {
            return None;
        }
        let placed = self.slots.place(&info.name, info.ifindex)?;
        self.records.name_link(placed.slot, &info.name);
        let is_tagged = carrier.tags[0] != 0;
        let link = Link {
            ifindex: carrier.ifindex | if is_tagged { TAGGED } else { 0 },
            route_generation: self.generation,
            mac: info.mac,
            mtu: u16::try_from(info.mtu).unwrap_or(u16::MAX),
            tags: carrier.tags,
            zero: [0; 2],
        };
        if self.written.insert(placed.slot, link) != Some(link) {
            self.place(placed.slot, &link);
            self.write();
            logged(
                "LINK_OF",
                self.link_of
                    .set(info.ifindex, u32::from(placed.slot) + 1, 0),
            );
        }
        if let Some(before) = placed.replaces {
            logged("LINK_OF", self.link_of.set(before, 0, 0));
        }
        Some(placed.slot)
    }

    /// Whether packets leave by an interface.
    pub(crate) fn contains(&self, info: &LinkInfo) -> bool {
        self.slots.contains(&info.name)
    }

    /// Writes what has changed of an interface that is in use.
    pub(crate) fn update(&mut self, info: &LinkInfo, carrier: Carrier) {
        if self.contains(info) {
            self.ensure(info, carrier);
        }
    }

    /// Has every session take its next hop anew, at its next packet.
    pub(crate) fn refresh_sessions(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.records.set_generation(self.generation);
        for (slot, mut link) in std::mem::take(&mut self.written) {
            link.route_generation = self.generation;
            self.place(slot, &link);
            self.written.insert(slot, link);
        }
        self.write();
    }

    fn place(&mut self, slot: u8, link: &Link) {
        self.bytes[usize::from(slot) * size_of::<Link>()..][..size_of::<Link>()]
            .copy_from_slice(&bytes(link));
    }

    fn write(&mut self) {
        logged("LINKS", self.links.set(0, *self.bytes, 0));
    }
}

/// Indices are inside the maps, so that writing does not fail.
fn logged(map: &str, result: Result<(), MapError>) {
    if let Err(error) = result {
        tracing::error!(map, %error, "write to a map");
    }
}

/// The bytes of a link, in the order of its fields.
fn bytes(link: &Link) -> [u8; size_of::<Link>()] {
    let mut bytes = [0; size_of::<Link>()];
    bytes[..4].copy_from_slice(&link.ifindex.to_ne_bytes());
    bytes[4..8].copy_from_slice(&link.route_generation.to_ne_bytes());
    bytes[8..14].copy_from_slice(&link.mac);
    bytes[14..16].copy_from_slice(&link.mtu.to_ne_bytes());
    bytes[16..20].copy_from_slice(&link.tags[0].to_ne_bytes());
    bytes[20..24].copy_from_slice(&link.tags[1].to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_keeps_its_place_by_name() {
        let mut slots = Slots::default();
        assert_eq!(
            slots.place("eth0", 2),
            Some(Placed {
                slot: 0,
                replaces: None
            })
        );
        assert_eq!(
            slots.place("eth1", 3),
            Some(Placed {
                slot: 1,
                replaces: None
            })
        );
        assert_eq!(
            slots.place("eth0", 2),
            Some(Placed {
                slot: 0,
                replaces: None
            })
        );
        assert_eq!(
            slots.place("eth0", 9),
            Some(Placed {
                slot: 0,
                replaces: Some(2)
            })
        );
        assert!(slots.contains("eth1") && !slots.contains("eth2"));
    }

    #[test]
    fn an_interface_from_before_has_its_place_whatever_its_number_is_now() {
        let mut slots = Slots::restored(vec!["eth0".to_owned(), "eth1".to_owned()]);
        let placed = |slot| {
            Some(Placed {
                slot,
                replaces: None,
            })
        };
        assert!(slots.contains("eth1"));
        assert_eq!(slots.place("eth2", 2), placed(2));
        assert_eq!(slots.place("eth1", 7), placed(1));
    }

    #[test]
    fn there_are_no_more_places_than_a_line_can_name() {
        let mut slots = Slots::default();
        for i in 0..INTERFACES_MAX {
            assert!(slots.place(&format!("eth{i}"), i + 1).is_some());
        }
        assert_eq!(slots.place("one-more", 1000), None);
        assert!(slots.place("eth0", 1).is_some());
    }

    #[test]
    fn a_link_has_the_bytes_that_the_program_reads() {
        let link = Link {
            ifindex: 0x0403_0201,
            route_generation: 7,
            mac: [1, 2, 3, 4, 5, 6],
            mtu: 1500,
            tags: [0x6400_0081, 0x0700_a888],
            zero: [0; 2],
        };
        // SAFETY: same size, and every bit pattern is a link.
        let read = unsafe { std::mem::transmute::<[u8; size_of::<Link>()], Link>(bytes(&link)) };
        assert_eq!(read, link);
    }
}
