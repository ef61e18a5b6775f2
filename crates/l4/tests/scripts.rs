//! The fuzzers' scripts on the program in the kernel: no packet makes it misparse, leave a wrong checksum, or touch what
//! is not ours.
#![allow(clippy::unwrap_used)]

mod rig;

use rig::{Rig, privileged};
use weir_l4_common::drop::Drop;
use weir_l4_common::env::Verdict;
use weir_l4_common::service::Listener;
use weir_l4_machine::harness::{GUE_PORT, Subject, Tally, WAYS, run_on};

/// The least that the kernel's test run takes: an Ethernet header.
const LEAST: usize = 14;

impl Subject for Rig {
    fn run(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        if packet.len() < LEAST {
            return (Verdict::Pass, packet.to_vec());
        }
        let outcome = Rig::run(self, packet);
        (outcome.verdict, outcome.packet)
    }

    fn drops(&mut self) -> u64 {
        Drop::ALL
            .into_iter()
            .map(|reason| Rig::drops(self, reason))
            .sum()
    }

    fn wait(&mut self, _: u32) {}

    fn inspect(&mut self) {}
}

#[test]
fn no_script_of_packets_breaks_what_must_hold_in_the_kernel() {
    if !privileged() {
        return;
    }
    // xorshift64 (Marsaglia, Journal of Statistical Software 8(14), 2003).
    let mut state = 0x5eed_0002_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (mode, encapsulation) in WAYS {
        let mut rig = Rig::new(64);
        rig.tunnel = Listener {
            encapsulation: encapsulation as u8,
            tunnel_port: GUE_PORT.to_be(),
            ..Listener::default()
        };
        match mode {
            Some(mode) => rig.serve(mode),
            None => rig.serve_across(),
        }
        let mut all = Tally::default();
        for _ in 0..60 {
            let len = random() % 600;
            let script: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            let tally = run_on(&mut rig, &script);
            all.passed += tally.passed;
            all.dropped += tally.dropped;
            all.forwarded += tally.forwarded;
            all.forwarded6 += tally.forwarded6;
            all.icmp += tally.icmp;
        }
        let forwarded4 = all.forwarded - all.forwarded6;
        let least = [
            all.passed,
            all.dropped,
            forwarded4,
            all.forwarded6,
            all.icmp,
        ]
        .into_iter()
        .min();
        assert!(least > Some(0), "{mode:?}, {encapsulation:?}: {all:?}");
    }
}
