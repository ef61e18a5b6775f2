//! The kernel's maps that commits write.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use weir_l4_common::service::{Listener as Entry, ListenerKey, SCHEDULE_LANES};

use crate::backends::Backends;
use crate::memory::{Mapped, ScheduleCell};
use crate::plan::Maps;
use crate::region::Region;

/// The maps that commits write.
pub(crate) struct KernelMaps {
    pub(crate) backends: Arc<Backends>,
    pub(crate) schedule: Mapped<ScheduleCell>,
    pub(crate) settings: Array<MapData, u32>,
    pub(crate) locals: Array<MapData, u32>,
    pub(crate) listeners:
        BpfHashMap<MapData, [u8; size_of::<ListenerKey>()], [u8; size_of::<Entry>()]>,
    pub(crate) vips: BpfHashMap<MapData, u32, u32>,
}

impl Maps for KernelMaps {
    fn write_backend(&mut self, number: u16, address: SocketAddrV4, accepts: bool) {
        self.backends.write(number, address, accepts);
    }

    fn write_table(&mut self, region: Region, numbers: &[u16]) {
        let cells = &self.schedule[region.start as usize..][..region.len as usize];
        for (cell, numbers) in cells.iter().zip(numbers.chunks(SCHEDULE_LANES as usize)) {
            let mut lanes = [0; SCHEDULE_LANES as usize];
            lanes[..numbers.len()].copy_from_slice(numbers);
            let mut bytes = [0; size_of::<ScheduleCell>()];
            for (bytes, lane) in bytes.chunks_exact_mut(2).zip(lanes) {
                bytes.copy_from_slice(&lane.to_ne_bytes());
            }
            cell.store(u64::from_ne_bytes(bytes), Release);
        }
    }

    fn write_locals(&mut self, locals: &[Ipv4Addr]) {
        for (index, local) in (0..).zip(locals) {
            logged(
                "LOCALS",
                self.locals
                    .set(index, u32::from_ne_bytes(local.octets()), 0),
            );
        }
        logged("CONFIG", self.settings.set(0, locals.len() as u32, 0));
    }

    fn write_listener(&mut self, key: ListenerKey, entry: Entry) {
        logged(
            "LISTENERS",
            self.listeners
                .insert(key_bytes(&key), entry_bytes(&entry), 0),
        );
    }

    fn remove_listener(&mut self, key: ListenerKey) {
        logged("LISTENERS", self.listeners.remove(&key_bytes(&key)));
    }

    fn add_vip(&mut self, vip: Ipv4Addr) {
        logged(
            "VIPS",
            self.vips.insert(u32::from_ne_bytes(vip.octets()), 1, 0),
        );
    }

    fn remove_vip(&mut self, vip: Ipv4Addr) {
        logged("VIPS", self.vips.remove(&u32::from_ne_bytes(vip.octets())));
    }
}

/// A commit cannot fail: capacity was checked before it, and the maps have their memory from the start.
fn logged(map: &str, result: Result<(), aya::maps::MapError>) {
    if let Err(error) = result {
        tracing::error!(map, %error, "write to a map");
    }
}

fn key_bytes(key: &ListenerKey) -> [u8; size_of::<ListenerKey>()] {
    let mut bytes = [0; size_of::<ListenerKey>()];
    bytes[..4].copy_from_slice(&key.addr.to_ne_bytes());
    bytes[4..6].copy_from_slice(&key.port.to_ne_bytes());
    bytes[6] = key.proto;
    bytes
}

fn entry_bytes(entry: &Entry) -> [u8; size_of::<Entry>()] {
    let mut bytes = [0; size_of::<Entry>()];
    bytes[..2].copy_from_slice(&entry.id.to_ne_bytes());
    bytes[2] = entry.mode;
    bytes[3] = entry.pick;
    bytes[4..8].copy_from_slice(&entry.table_base.to_ne_bytes());
    bytes[8..12].copy_from_slice(&entry.table_len.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::mem::transmute;

    use super::*;

    #[test]
    fn keys_and_entries_have_the_bytes_that_the_program_reads() {
        let key = ListenerKey {
            addr: 0x0102_0304,
            port: 0x0506,
            proto: 17,
            zero: 0,
        };
        // SAFETY: same size, and every bit pattern is a key.
        let read = unsafe { transmute::<[u8; 8], ListenerKey>(key_bytes(&key)) };
        assert_eq!(read, key);
        let entry = Entry {
            id: 0x0102,
            mode: 3,
            pick: 2,
            table_base: 0x0304_0506,
            table_len: 0x0708_090a,
            zero: 0,
        };
        // SAFETY: same size, and every bit pattern is an entry.
        let read = unsafe { transmute::<[u8; 16], Entry>(entry_bytes(&entry)) };
        assert_eq!(read, entry);
    }
}
