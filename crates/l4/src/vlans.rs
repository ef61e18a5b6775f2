//! VLAN devices: which interface carries their frames, with which tags; and the map `VLANS`, which says whose a frame is.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use aya::maps::{HashMap as BpfHashMap, MapData};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use weir_l4_common::vlan::{Tags, VLANS_MAX, VlanKey};

use crate::netlink::LinkInfo;

/// What frames of an interface travel by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// Kernel's index of the interface that they leave and come in by.
    pub(crate) ifindex: u32,
    /// The tags that they have there; zeros: none.
    pub(crate) tags: Tags,
}

/// What carries frames of `link`: itself, or the interface under a VLAN device, unless the program is attached to the
/// device. `None` where frames would have three tags, or the kernel does not show what is under the device.
pub(crate) fn carrier(
    link: &LinkInfo,
    interfaces: &HashMap<u32, LinkInfo>,
    is_attached: &impl Fn(&str) -> bool,
) -> Option<Carrier> {
    let mut carrier = Carrier {
        ifindex: link.ifindex,
        tags: [0; 2],
    };
    let mut link = link;
    while let Some(vlan) = link.vlan {
        if is_attached(&link.name) {
            break;
        }
        let [outer, inner] = carrier.tags;
        if inner != 0 {
            return None;
        }
        link = interfaces.get(&vlan.parent?)?;
        carrier = Carrier {
            ifindex: link.ifindex,
            tags: [vlan.tag, outer],
        };
    }
    Some(carrier)
}

/// The map.
pub(crate) struct Vlans {
    map: BpfHashMap<MapData, [u8; size_of::<VlanKey>()], u32>,
    written: HashMap<VlanKey, u32>,
}

impl Vlans {
    pub(crate) fn new(map: BpfHashMap<MapData, [u8; size_of::<VlanKey>()], u32>) -> Self {
        Self {
            map,
            written: HashMap::new(),
        }
    }

    /// Writes what the VLAN devices of these interfaces are that are up, and gives the interfaces that are new as carriers.
    pub(crate) fn update(
        &mut self,
        interfaces: &HashMap<u32, LinkInfo>,
        is_attached: &impl Fn(&str) -> bool,
    ) -> Vec<u32> {
        let wanted = devices(interfaces, is_attached);
        let mut carriers = Vec::new();
        for key in self.written.keys().copied().collect::<Vec<_>>() {
            if !wanted.contains_key(&key) {
                self.written.remove(&key);
                logged(self.map.remove(&bytes(&key)));
            }
        }
        for (key, device) in wanted {
            if self.written.get(&key) == Some(&device) {
                continue;
            }
            if self.written.len() >= VLANS_MAX as usize {
                tracing::error!(
                    max = VLANS_MAX,
                    "too many VLAN devices: the kernel gets the frames of the others"
                );
                break;
            }
            if self
                .written
                .keys()
                .all(|other| other.ifindex != key.ifindex)
            {
                carriers.push(key.ifindex);
            }
            self.written.insert(key, device);
            logged(self.map.insert(bytes(&key), device, 0));
        }
        carriers
    }
}

/// The VLAN devices that are up, by interface and tags.
fn devices(
    interfaces: &HashMap<u32, LinkInfo>,
    is_attached: &impl Fn(&str) -> bool,
) -> HashMap<VlanKey, u32> {
    let up = interfaces.values().filter(|link| link.is_up);
    up.filter_map(|link| {
        let Carrier { ifindex, tags } = carrier(link, interfaces, is_attached)?;
        (tags[0] != 0).then_some((VlanKey { ifindex, tags }, link.ifindex))
    })
    .collect()
}

/// Room is looked after, so that writing does not fail.
fn logged(result: Result<(), aya::maps::MapError>) {
    if let Err(error) = result {
        tracing::error!(map = "VLANS", %error, "write to a map");
    }
}

/// The bytes of a key, in the order of its fields.
fn bytes(key: &VlanKey) -> [u8; size_of::<VlanKey>()] {
    let mut bytes = [0; size_of::<VlanKey>()];
    bytes[..4].copy_from_slice(&key.ifindex.to_ne_bytes());
    bytes[4..8].copy_from_slice(&key.tags[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&key.tags[1].to_ne_bytes());
    bytes
}

/// Whether an interface takes tags off frames before a program sees them (ethtool's `rxvlan`).
pub(crate) fn strips_tags(name: &str) -> io::Result<bool> {
    /// `ETHTOOL_GFLAGS` and `ETH_FLAG_RXVLAN` (include/uapi/linux/ethtool.h).
    const GET_FLAGS: u32 = 0x25;
    const RXVLAN: u32 = 1 << 8;

    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }

    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = Value {
        command: GET_FLAGS,
        data: 0,
    };
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface and a value of the size that the command has; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    match result {
        0 => Ok(value.data & RXVLAN != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use weir_l4_common::vlan::{TPID_CUSTOMER, TPID_SERVICE, tag};

    use super::*;
    use crate::netlink::Vlan;

    fn link(ifindex: u32, vlan: Option<(u32, u32)>) -> LinkInfo {
        LinkInfo {
            name: format!("if{ifindex}"),
            vlan: vlan.map(|(parent, tag)| Vlan {
                parent: Some(parent),
                tag,
            }),
            ..LinkInfo::new(ifindex)
        }
    }

    /// An interface, a device of one tag, one of two, one of three.
    fn interfaces() -> (HashMap<u32, LinkInfo>, [u32; 2]) {
        let (outer, inner) = (tag(TPID_SERVICE, 7), tag(TPID_CUSTOMER, 100));
        let links = [
            link(2, None),
            link(3, Some((2, outer))),
            link(4, Some((3, inner))),
            link(5, Some((4, inner))),
        ];
        (
            links.into_iter().map(|link| (link.ifindex, link)).collect(),
            [outer, inner],
        )
    }

    #[test]
    fn tags_add_up_from_the_interface_to_the_device() {
        let (interfaces, [outer, inner]) = interfaces();
        let on = |attached: &'static str, ifindex: u32| {
            carrier(&interfaces[&ifindex], &interfaces, &|name: &str| {
                name == attached
            })
        };
        let carried = |ifindex, tags| Some(Carrier { ifindex, tags });
        assert_eq!(on("if2", 2), carried(2, [0, 0]));
        assert_eq!(on("if2", 3), carried(2, [outer, 0]));
        assert_eq!(on("if2", 4), carried(2, [outer, inner]));
        assert_eq!(on("if2", 5), None);
        assert_eq!(on("if3", 3), carried(3, [0, 0]));
        assert_eq!(on("if3", 4), carried(3, [inner, 0]));
        assert_eq!(on("if3", 5), carried(3, [inner, inner]));
    }

    #[test]
    fn a_device_whose_parent_is_not_to_be_seen_has_no_carrier() {
        let (mut interfaces, _) = interfaces();
        interfaces.remove(&2);
        assert_eq!(
            carrier(&interfaces[&4], &interfaces, &|_: &str| false),
            None
        );
        let mut elsewhere = link(9, Some((2, 1)));
        elsewhere.vlan.as_mut().unwrap().parent = None;
        assert_eq!(carrier(&elsewhere, &interfaces, &|_: &str| false), None);
    }

    #[test]
    fn frames_of_devices_that_are_down_are_the_kernels() {
        let (mut interfaces, [outer, inner]) = interfaces();
        interfaces.get_mut(&4).unwrap().is_up = false;
        let tags = [outer, 0];
        let found = devices(&interfaces, &|name: &str| name == "if2");
        assert_eq!(found, HashMap::from([(VlanKey { ifindex: 2, tags }, 3)]));
        let found = devices(&interfaces, &|name: &str| name == "if4");
        let key = VlanKey {
            ifindex: 4,
            tags: [inner, 0],
        };
        assert_eq!(found.get(&key), Some(&5));
    }

    #[test]
    fn the_loopback_interface_has_no_tags_to_take_off() {
        assert!(!strips_tags("lo").unwrap());
        assert!(strips_tags("no-such-interface").is_err());
    }
}
