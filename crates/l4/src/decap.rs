//! The backend's end of tunnels: `weir decap`, for kernels without a tunnel device.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use aya::EbpfLoader;
use aya::maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_model::XdpMode;

use crate::attach::{Attachment, Programs};
use crate::error::Error;
use crate::maps::octets;
use crate::netlink::{Message, Monitor, Questions};
use crate::program;
use crate::wake::Wake;

/// Takes packets to this machine's addresses out of their tunnel (IPIP, GUE or GRE, over IPv4 or IPv6) and gives them to
/// the kernel; other packets pass. Detaches when dropped. The kernel must have the VIP on an interface of its own, and not refuse
/// clients that it would answer by another way (`rp_filter`).
pub struct Decap {
    interface: String,
    attachment: Attachment,
    programs: Programs,
    decapsulated: PerCpuArray<MapData, u64>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Decap {
    /// Attaches to an interface of the calling thread's network namespace; GUE is expected on this port.
    pub fn attach(interface: &str, mode: XdpMode, gue_port: u16) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new()
            .override_global("GUE_PORT", &gue_port.to_be(), true)
            .load(program::DECAP)
            .map_err(Error::Load)?;
        let mut take = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let (ends, counter) = (take("TUNNEL_ENDS")?, take("DECAPSULATED")?);
        let decapsulated = PerCpuArray::try_from(counter).map_err(Error::map("DECAPSULATED"))?;
        let mut ends = Ends::new(ends)?;
        ends.follow()?;
        let mut programs = Programs::load(ebpf, "weir_decap", &[])?;
        let attachment = programs.attach(interface, mode)?;
        let wake = Arc::new(Wake::new().map_err(Error::system("make an eventfd"))?);
        let stop = wake.clone();
        let thread = std::thread::Builder::new()
            .name("weir-decap".to_owned())
            .spawn(move || ends.run(&stop))
            .map_err(Error::system("start a thread"))?;
        Ok(Self {
            interface: interface.to_owned(),
            attachment,
            programs,
            decapsulated,
            wake,
            thread: Some(thread),
        })
    }

    /// How the program is attached.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Packets taken out of tunnels so far.
    pub fn decapsulated(&self) -> Result<u64, Error> {
        let values = self
            .decapsulated
            .get(&0, 0)
            .map_err(Error::map("DECAPSULATED"))?;
        Ok(values.iter().sum())
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        self.programs.detach(&self.interface);
        self.wake.stop();
        if let Some(thread) = self.thread.take() {
            // It has said why on standard error.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decap")
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

/// The addresses where tunnels end: all of this machine's.
struct Ends {
    map: BpfHashMap<MapData, [u8; 16], u32>,
    written: HashSet<IpAddr>,
    monitor: Monitor,
    questions: Questions,
}

impl Ends {
    fn new(map: Map) -> Result<Self, Error> {
        Ok(Self {
            map: BpfHashMap::try_from(map).map_err(Error::map("TUNNEL_ENDS"))?,
            written: HashSet::new(),
            monitor: Monitor::open().map_err(Error::system("listen to rtnetlink"))?,
            questions: Questions::open().map_err(Error::system("open rtnetlink"))?,
        })
    }

    /// Writes the addresses that the machine has now.
    fn follow(&mut self) -> Result<(), Error> {
        let addresses = self
            .questions
            .addresses()
            .map_err(Error::system("list this machine's addresses"))?;
        let now: HashSet<IpAddr> = addresses
            .into_iter()
            .filter(|address| !address.is_loopback())
            .collect();
        for address in now.difference(&self.written) {
            self.map
                .insert(octets(*address), 1, 0)
                .map_err(Error::map("TUNNEL_ENDS"))?;
        }
        for address in self.written.difference(&now) {
            self.map
                .remove(&octets(*address))
                .map_err(Error::map("TUNNEL_ENDS"))?;
        }
        self.written = now;
        Ok(())
    }

    fn run(mut self, stop: &Wake) {
        while !stop.take() {
            let mut changed = false;
            let result = self.monitor.receive(|message| {
                changed |= matches!(message, Message::Address(_) | Message::RoutesChanged);
            });
            if let Err(error) = &result {
                tracing::warn!(%error, "lost events of rtnetlink: reading the addresses anew");
            }
            if (changed || result.is_err())
                && let Err(error) = self.follow()
            {
                tracing::error!(%error, "follow this machine's addresses");
            }
            let mut sources = [
                PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            // Interrupted: the loop comes back here.
            let _ = poll(&mut sources, PollTimeout::NONE);
        }
    }
}
