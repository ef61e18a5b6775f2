//! The generator as a sender of live frames, for benchmarks beside this one.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use weir_l4_common::family::V4;
use weir_netns::{Link, Namespace};

use super::{ACK, FRAME_LEN, SYN, clients, cpu_time, xdp};

/// Frames that the kernel makes at a time; its default.
const BATCH: u32 = 64;

/// Where frames are sent from, by which interface, and to which MAC address.
pub(crate) struct Way {
    pub(crate) from: Namespace,
    pub(crate) by: u32,
    pub(crate) to: [u8; 6],
}

/// A generator that sends.
pub(crate) struct Generator {
    generator: super::Generator,
    way: Way,
}

impl Generator {
    /// With room for so many flows at a time.
    pub(crate) fn load(flows: u32, way: Way) -> Result<Self> {
        let mut generator = super::Generator::load(flows, 1)?;
        xdp(&mut generator.ebpf, "bench_answer")?
            .load()
            .context("load bench_answer")?;
        let send = xdp(&mut generator.ebpf, "bench_send")?.fd()?.try_clone()?;
        ProgramArray::<&mut MapData>::try_from(generator.map("NEXT")?)?.set(0, &send, 0)?;
        Ok(Self { generator, way })
    }

    /// Attaches one of its programs to an interface.
    pub(crate) fn attach(&mut self, program: &str, at: &Link, mode: XdpMode) -> Result<()> {
        let xdp = xdp(&mut self.generator.ebpf, program)?;
        at.namespace()
            .run(|| xdp.attach_to_if_index(at.index(), mode))
            .with_context(|| format!("attach {program} to {}", at.name()))?;
        Ok(())
    }

    /// Opens sessions of clients with these numbers: SYNs, and what follows the answers to them.
    pub(crate) fn open(&mut self, numbers: Range<u32>) -> Result<()> {
        let count = numbers.len() as u32;
        for flags in [SYN, ACK] {
            self.generator
                .fill(&clients::<V4>(numbers.clone(), flags, 0))?;
            self.send(count)?;
        }
        Ok(())
    }

    /// Takes these clients for [`Generator::packet_ns`].
    pub(crate) fn take(&mut self, numbers: Range<u32>) -> Result<()> {
        self.generator.fill(&clients::<V4>(numbers, ACK, 1))
    }

    /// Sends packets of established sessions; processor time of each, in nanoseconds.
    pub(crate) fn packet_ns(&mut self, packets: u32) -> Result<f64> {
        Ok(self.send(packets)?.as_nanos() as f64 / f64::from(packets))
    }

    fn send(&mut self, packets: u32) -> Result<Duration> {
        let mut plan = [0u8; 24];
        plan[4..8].copy_from_slice(&self.generator.count.to_ne_bytes());
        plan[8..12].copy_from_slice(&FRAME_LEN.to_ne_bytes());
        plan[12..16].copy_from_slice(&self.way.by.to_ne_bytes());
        plan[16..22].copy_from_slice(&self.way.to);
        Array::<_, [u8; 24]>::try_from(self.generator.map("PLAN")?)?.set(0, plan, 0)?;
        let mut frame = [0u8; FRAME_LEN as usize];
        frame[38..40].copy_from_slice(&(FRAME_LEN as u16 - 34).to_be_bytes());
        let program: &Xdp = xdp(&mut self.generator.ebpf, "bench_generate")?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        // The interface is looked for in the namespace of the caller.
        self.way.from.run(|| {
            let before = cpu_time()?;
            program.test_run(options).context("send live frames")?;
            let took = cpu_time()?.saturating_sub(before);
            ensure!(took > Duration::ZERO, "no time has passed");
            Ok(took)
        })
    }
}
