//! The kernel's maps that commits write.

use std::net::{IpAddr, SocketAddr};
use std::ops::DerefMut;
use std::sync::atomic::Ordering::Release;
use std::sync::{Arc, Mutex};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use weir_l4_common::client::Pool;
use weir_l4_common::service::{Listener, ListenerKey, SCHEDULE_LANES};
use weir_model::{BackendId, Name, Persistence};

use crate::backends::Backends;
use crate::listeners::ListenerTable;
use crate::lock::lock;
use crate::memory::{Mapped, ScheduleCell};
use crate::plan::Maps;
use crate::policies::Policies;
use crate::quic::{QuicMaps, QuicPool};
use crate::record::Records;
use crate::region::Region;
use crate::schedulers::Schedulers;

/// The maps that commits write.
pub(crate) struct KernelMaps {
    pub(crate) records: Arc<Records>,
    pub(crate) backends: Arc<Backends>,
    pub(crate) schedule: Mapped<ScheduleCell>,
    pub(crate) settings: Array<MapData, [u32; 2]>,
    pub(crate) locals4: Array<MapData, u32>,
    pub(crate) locals6: Array<MapData, [u8; 16]>,
    pub(crate) tunnel_sources: Array<MapData, [u8; 16]>,
    pub(crate) listeners: ListenerTable,
    pub(crate) vips: BpfHashMap<MapData, [u8; 16], u32>,
    pub(crate) pools: Array<MapData, [u8; size_of::<Pool>()]>,
    pub(crate) quic: QuicMaps,
    pub(crate) schedulers: Arc<Schedulers>,
    pub(crate) policies: Arc<Mutex<Policies>>,
}

impl Maps for KernelMaps {
    fn name_listener(&mut self, number: u16, name: &Name) {
        self.records.name_listener(number, name);
    }

    fn name_backend(&mut self, number: u16, id: &BackendId) {
        self.records.name_backend(number, id);
    }

    fn write_backend(&mut self, number: u16, address: SocketAddr, accepts: bool) {
        self.records.set_accepts(number, accepts);
        self.backends.write(number, address, accepts);
    }

    fn write_load(&mut self, number: u16, weight: u32, pool: u64) {
        self.schedulers.write_load(number, weight, pool);
    }

    fn write_pool(&mut self, number: u16, name: &Name, persistence: Option<&Persistence>) {
        let pool = self.schedulers.write_pool(name, persistence);
        let bytes = pool_bytes(pool);
        logged("POOLS", self.pools.set(number.into(), bytes, 0));
    }

    fn write_quic(&mut self, number: u16, quic: &QuicPool) {
        self.quic.write(number, quic);
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

    fn write_locals(&mut self, locals: &[IpAddr]) {
        let mut counts = [0; 2];
        for local in locals {
            match local {
                IpAddr::V4(local) => {
                    let word = u32::from_ne_bytes(local.octets());
                    logged("LOCALS", self.locals4.set(counts[0], word, 0));
                    counts[0] += 1;
                }
                IpAddr::V6(local) => {
                    logged("LOCALS6", self.locals6.set(counts[1], local.octets(), 0));
                    counts[1] += 1;
                }
            }
        }
        logged("CONFIG", self.settings.set(0, counts, 0));
    }

    fn write_tunnel_source(&mut self, listener: u16, source: [u32; 4]) {
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(source) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let index = u32::from(listener);
        logged("TUNNEL_SOURCES", self.tunnel_sources.set(index, bytes, 0));
    }

    fn write_listener(&mut self, key: ListenerKey, listener: Listener) {
        self.listeners.write(key, listener);
    }

    fn remove_listener(&mut self, key: ListenerKey) {
        self.listeners.remove(&key);
    }

    fn add_vip(&mut self, vip: IpAddr) {
        logged("VIPS", self.vips.insert(octets(vip), 1, 0));
    }

    fn remove_vip(&mut self, vip: IpAddr) {
        logged("VIPS", self.vips.remove(&octets(vip)));
    }

    fn policies(&mut self) -> impl DerefMut<Target = Policies> {
        lock(&self.policies)
    }
}

/// An address as the program has it; IPv4 as mapped.
pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A commit cannot fail: capacity was checked before it, and the maps have their memory from the start.
fn logged(map: &str, result: Result<(), aya::maps::MapError>) {
    if let Err(error) = result {
        tracing::error!(map, %error, "write to a map");
    }
}

fn pool_bytes(pool: Pool) -> [u8; size_of::<Pool>()] {
    // SAFETY: the same size, and no padding: the fields fill it.
    unsafe { std::mem::transmute::<Pool, [u8; size_of::<Pool>()]>(pool) }
}
