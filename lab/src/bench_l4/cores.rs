//! How forwarding grows with cores: the same program and the same session table, on one core and on two.
//!
//! Each core has flows of its own and a generator of its own. What a packet costs is CPU time of the core's thread, with
//! the generator's own cost, measured on both cores at once as well, taken off.

use std::sync::Barrier;
use std::{fmt, thread};

use anyhow::{Context, Result, anyhow};
use aya::programs::ProgramFd;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use weir_l4_common::hash;
use weir_l4_common::service::Mode;

use super::{ACK, Flow, Forward, Generator, SEED, SYN, client, minimum, shuffle};

pub(super) const NAME: &str = "two cores beside one";
const CORES: usize = 2;

/// Which flows a core has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// Those whose hash says so: each core has a part of the table for itself.
    ByHash,
    /// Any, as queues of a NIC give them: lines of both cores lie side by side.
    ByQueue,
}

impl Spread {
    fn name(self) -> &'static str {
        match self {
            Self::ByHash => "by the flow's hash",
            Self::ByQueue => "by queues",
        }
    }

    /// The flows of a core: clients that have not opened their sessions yet.
    fn flows(self, core: u32, sessions: u32) -> Vec<Flow> {
        let all = 0..sessions * CORES as u32 * 2;
        let mine = |flow: &Flow| match self {
            Self::ByHash => hash::core(flow.key.hash(SEED), CORES as u32) == core,
            Self::ByQueue => u32::from_be(flow.key.src) % CORES as u32 == core,
        };
        let mut flows: Vec<Flow> = all.map(|n| client(n, SYN)).filter(mine).collect();
        flows.truncate(sessions as usize);
        shuffle(&mut flows, 0);
        flows
    }
}

/// What a packet costs while one core works, and while both do; nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Row {
    spread: Spread,
    /// Sessions of each core.
    sessions: u32,
    alone: f64,
    together: [f64; CORES],
}

impl Row {
    /// Packets in the same time, two cores beside one.
    fn speedup(&self) -> f64 {
        self.together.iter().map(|ns| self.alone / ns).sum()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "spread": self.spread.name(),
            "sessions_per_core": self.sessions,
            "alone_ns": self.alone,
            "together_ns": self.together,
            "speedup": self.speedup(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fullnat, established, {} sessions a core, {}: {:.1} ns alone, {:.1} and {:.1} together: {:.2} times",
            self.sessions,
            self.spread.name(),
            self.alone,
            self.together[0],
            self.together[1],
            self.speedup()
        )
    }
}

/// One core's generator, and the times that it measured.
struct Core {
    number: usize,
    generator: Generator,
    nothing: Vec<f64>,
    ours: Vec<f64>,
}

impl Core {
    /// Measures the generator alone and the program, each at the same time as whoever else waits for `ready`.
    fn round(&mut self, weir: &ProgramFd, packets: u32, ready: &Barrier) -> Result<()> {
        let mut core = CpuSet::new();
        core.set(self.number)?;
        sched_setaffinity(Pid::from_raw(0), &core).context("stay on a core")?;
        self.generator.aim("bench_nothing")?;
        ready.wait();
        self.nothing.push(self.generator.run(packets)?);
        self.generator.aim_at_program(weir)?;
        ready.wait();
        self.ours.push(self.generator.run(packets)?);
        Ok(())
    }

    fn cost(&mut self) -> f64 {
        let cost = minimum(&self.ours) - minimum(&self.nothing);
        self.nothing.clear();
        self.ours.clear();
        cost
    }
}

/// Measures one core and both of them, in turn, several times.
pub(super) fn measure(spread: Spread, sessions: u32, quick: bool) -> Result<Row> {
    let all = sessions * CORES as u32;
    let mut weir = Forward::load(Mode::Fullnat, all)?;
    let program = weir.program()?;
    let mut cores = Vec::new();
    for number in 0..CORES {
        let mut flows = spread.flows(number as u32, sessions);
        let mut generator = Generator::load(sessions, 1)?;
        generator.fill(&flows)?;
        generator.aim_at_program(&program)?;
        generator.run(sessions)?;
        shuffle(&mut flows, 1);
        for flow in &mut flows {
            flow.flags = ACK;
        }
        generator.fill(&flows)?;
        cores.push(Core {
            number,
            generator,
            nothing: Vec::new(),
            ours: Vec::new(),
        });
    }
    let packets = if quick { 400_000 } else { 2_000_000u32 }.max(sessions);
    let rounds = if quick { 3 } else { 7 };
    let alone = Barrier::new(1);
    for _ in 0..rounds {
        thread::scope(|scope| {
            let core = &mut cores[0];
            scope.spawn(|| core.round(&program, packets, &alone)).join()
        })
        .map_err(|_| anyhow!("a core's thread panicked"))??;
    }
    let alone = cores[0].cost();
    let ready = Barrier::new(CORES);
    for _ in 0..rounds {
        thread::scope(|scope| {
            let threads: Vec<_> = cores
                .iter_mut()
                .map(|core| scope.spawn(|| core.round(&program, packets, &ready)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow!("a core's thread panicked"))?
            })
        })?;
    }
    weir.ensure_no_drops()?;
    let mut together = [0.0; CORES];
    for (cost, core) in together.iter_mut().zip(&mut cores) {
        *cost = core.cost();
    }
    Ok(Row {
        spread,
        sessions,
        alone,
        together,
    })
}
