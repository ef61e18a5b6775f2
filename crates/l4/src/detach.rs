//! Removes what a daemon left in the kernel: `weir detach`.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapData;
use weir_l4_common::record::BackendRecord;
use weir_l4_common::service::BACKENDS_MAX;

use crate::error::Error;
use crate::memory::{BackendRecordCell, Mapped};
use crate::netlink::{Keep, Questions};
use crate::pin::Pins;
use crate::record::backends;

/// What [`detach`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces that the program was attached to, those included that have gone.
    pub interfaces: usize,
    /// Maps.
    pub maps: usize,
}

/// Removes everything that a node has in the kernel: its program from all interfaces, its sessions, its counters.
/// `None`: there was nothing. An error if the node runs.
pub fn detach(pin_dir: &Path, node: &str) -> Result<Option<Detached>, Error> {
    let Some(pins) = Pins::take_existing(pin_dir, node)? else {
        return Ok(None);
    };
    let addresses = addresses(&pins);
    let (interfaces, maps) = pins.remove()?;
    leave_neighbours(&addresses);
    Ok(Some(Detached { interfaces, maps }))
}

/// Addresses of backends; none where they cannot be read.
fn addresses(pins: &Pins) -> Vec<IpAddr> {
    let Ok(map) = MapData::from_pin(pins.map("BACKEND_RECORDS")) else {
        return Vec::new();
    };
    let fits = map.info().is_ok_and(|info| {
        info.value_size() as usize == size_of::<BackendRecord>()
            && info.max_entries() == BACKENDS_MAX + 1
    });
    if !fits {
        return Vec::new();
    }
    let records: Result<Mapped<BackendRecordCell>, _> =
        Mapped::new(map.fd().as_fd(), BACKENDS_MAX as usize + 1);
    let ids = records
        .map(|records| backends(&records))
        .unwrap_or_default();
    let mut addresses: Vec<IpAddr> = ids.into_iter().map(|(_, id, _)| id.address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The kernel need not keep the neighbours fresh any more that lead to backends. Where it cannot be told, it forgets them
/// with their interfaces.
fn leave_neighbours(addresses: &[IpAddr]) {
    let Ok(mut questions) = Questions::open() else {
        return;
    };
    for address in addresses {
        if let Ok(Some(route)) = questions.route(*address) {
            let _ = questions.ask_neighbour(route.ifindex, route.via, Keep::Unmanaged);
        }
    }
}
