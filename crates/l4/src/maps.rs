//! The kernel's maps that commits write.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::DerefMut;
use std::sync::atomic::Ordering::Release;
use std::sync::{Arc, Mutex};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use weir_l4_common::service::{Listener, ListenerKey, SCHEDULE_LANES};

use crate::backends::Backends;
use crate::listeners::ListenerTable;
use crate::lock::lock;
use crate::memory::{Mapped, ScheduleCell};
use crate::plan::Maps;
use crate::policies::Policies;
use crate::region::Region;

/// The maps that commits write.
pub(crate) struct KernelMaps {
    pub(crate) backends: Arc<Backends>,
    pub(crate) schedule: Mapped<ScheduleCell>,
    pub(crate) settings: Array<MapData, u32>,
    pub(crate) locals: Array<MapData, u32>,
    pub(crate) listeners: ListenerTable,
    pub(crate) vips: BpfHashMap<MapData, [u8; 16], u32>,
    pub(crate) policies: Arc<Mutex<Policies>>,
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

    fn write_listener(&mut self, key: ListenerKey, listener: Listener) {
        self.listeners.write(key, listener);
    }

    fn remove_listener(&mut self, key: ListenerKey) {
        self.listeners.remove(&key);
    }

    fn add_vip(&mut self, vip: Ipv4Addr) {
        logged(
            "VIPS",
            self.vips.insert(vip.to_ipv6_mapped().octets(), 1, 0),
        );
    }

    fn remove_vip(&mut self, vip: Ipv4Addr) {
        logged("VIPS", self.vips.remove(&vip.to_ipv6_mapped().octets()));
    }

    fn policies(&mut self) -> impl DerefMut<Target = Policies> {
        lock(&self.policies)
    }
}

/// A commit cannot fail: capacity was checked before it, and the maps have their memory from the start.
fn logged(map: &str, result: Result<(), aya::maps::MapError>) {
    if let Err(error) = result {
        tracing::error!(map, %error, "write to a map");
    }
}
