//! Spreading packets over cores, where the config asks for it: the kernel's map of cores (cpumap), each of which runs a
//! program of ours on what it is handed.

use std::io;

use aya::Ebpf;
use aya::maps::{CpuMap, MapData};
use weir_l4_common::spread::CORES_MAX;
use weir_model::Spread;

use crate::attach::Programs;
use crate::error::{Error, chain};
use crate::object::take;

/// Frames that wait for a core. At a million packets a second, as fast as a core forwards, the last of them waits two
/// milliseconds: longer queues would hide that there is too much.
const QUEUE: u32 = 2048;
const FORWARD: &str = "weir_forward_core";

/// The cores that packets are spread over, at least two; none where a packet is forwarded on the core that receives it.
pub(crate) fn cores(spread: Spread) -> Result<Vec<u32>, Error> {
    if spread == Spread::Queues {
        return Ok(Vec::new());
    }
    let mut cores = aya::util::online_cpus().map_err(|(_, source)| Error::System {
        what: "list the cores",
        source,
    })?;
    cores.truncate(CORES_MAX);
    if cores.len() < 2 {
        tracing::info!("spread = \"cpus\" has no effect: there is one core");
        cores.clear();
    }
    Ok(cores)
}

/// Loads the programs of layer 4. Where there are `cores`, every one of them is ready to be handed packets.
pub(crate) fn load(mut ebpf: Ebpf, cores: &[u32]) -> Result<Programs, Error> {
    if cores.is_empty() {
        return Programs::load(ebpf, "weir_forward", &["weir_clock"]);
    }
    // The programs hold the map, so that it need not be kept here.
    let mut map: CpuMap<MapData> = take(&mut ebpf, "CORES")?;
    let mut programs = Programs::load(ebpf, "weir_spread", &["weir_clock", FORWARD])?;
    let forward = programs.fd(FORWARD)?;
    for core in cores {
        map.set(*core, QUEUE, Some(&forward), 0)
            .map_err(|error| Error::System {
                what: "prepare a core for packets of others",
                source: io::Error::other(chain(&error)),
            })?;
    }
    Ok(programs)
}
