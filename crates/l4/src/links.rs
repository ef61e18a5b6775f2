//! The maps `LINKS` and `LINK_OF`: interfaces that packets leave by.

use std::collections::HashMap;

use aya::maps::{Array, MapData};
use weir_l4_common::link::{IFINDEX_MAX, LINKS_MAX, Link};

use crate::netlink::LinkInfo;

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
    /// The place of an interface; `None` if all are taken.
    pub(crate) fn place(&mut self, name: &str, ifindex: u32) -> Option<Placed> {
        if let Some(slot) = self.slots.iter().position(|(other, _)| other == name) {
            let before = std::mem::replace(&mut self.slots[slot].1, ifindex);
            return Some(Placed {
                slot: slot as u8,
                replaces: Some(before).filter(|before| *before != ifindex),
            });
        }
        if self.slots.len() >= LINKS_MAX as usize {
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

/// The maps.
pub(crate) struct Links {
    links: Array<MapData, [u8; size_of::<Link>()]>,
    link_of: Array<MapData, u32>,
    slots: Slots,
    written: HashMap<u8, Link>,
}

impl Links {
    pub(crate) fn new(
        links: Array<MapData, [u8; size_of::<Link>()]>,
        link_of: Array<MapData, u32>,
    ) -> Self {
        Self {
            links,
            link_of,
            slots: Slots::default(),
            written: HashMap::new(),
        }
    }

    /// The index of an interface in `LINKS`, which is written if it is not up to date.
    pub(crate) fn ensure(&mut self, info: &LinkInfo) -> Option<u8> {
        if info.ifindex > IFINDEX_MAX {
            tracing::error!(
                interface = info.name,
                index = info.ifindex,
                "the interface's index is beyond {IFINDEX_MAX}"
            );
            return None;
        }
        let placed = self.slots.place(&info.name, info.ifindex)?;
        let link = Link {
            ifindex: info.ifindex,
            mtu: u16::try_from(info.mtu).unwrap_or(u16::MAX),
            mac: info.mac,
            reserved: [0; 4],
        };
        if self.written.insert(placed.slot, link) != Some(link) {
            let result = self.links.set(u32::from(placed.slot), bytes(&link), 0);
            let result = result.and_then(|()| {
                self.link_of
                    .set(info.ifindex, u32::from(placed.slot) + 1, 0)
            });
            if let Err(error) = result {
                tracing::error!(interface = info.name, %error, "write the interface to the maps");
            }
        }
        if let Some(before) = placed.replaces {
            // It may be gone already.
            let _ = self.link_of.set(before, 0, 0);
        }
        Some(placed.slot)
    }

    /// Writes what has changed of an interface that is in use.
    pub(crate) fn update(&mut self, info: &LinkInfo) {
        if self.slots.contains(&info.name) {
            self.ensure(info);
        }
    }
}

/// The bytes of a link, in the order of its fields.
fn bytes(link: &Link) -> [u8; size_of::<Link>()] {
    let mut bytes = [0; size_of::<Link>()];
    bytes[..4].copy_from_slice(&link.ifindex.to_ne_bytes());
    bytes[4..6].copy_from_slice(&link.mtu.to_ne_bytes());
    bytes[6..12].copy_from_slice(&link.mac);
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
    fn there_are_no_more_places_than_a_line_can_name() {
        let mut slots = Slots::default();
        for i in 0..LINKS_MAX {
            assert!(slots.place(&format!("eth{i}"), i + 1).is_some());
        }
        assert_eq!(slots.place("one-more", 1000), None);
        assert!(slots.place("eth0", 1).is_some());
    }

    #[test]
    fn a_link_has_the_bytes_that_the_program_reads() {
        use std::mem::offset_of;
        assert_eq!(
            (
                offset_of!(Link, ifindex),
                offset_of!(Link, mtu),
                offset_of!(Link, mac)
            ),
            (0, 4, 6)
        );
        let link = Link {
            ifindex: 0x0403_0201,
            mtu: 1500,
            mac: [1, 2, 3, 4, 5, 6],
            reserved: [0; 4],
        };
        assert_eq!(bytes(&link)[6..12], [1, 2, 3, 4, 5, 6]);
        assert_eq!(bytes(&link)[..4], 0x0403_0201u32.to_ne_bytes());
    }
}
