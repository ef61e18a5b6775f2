//! The fuzzers' harness, for a few seconds and always the same: `fuzz/` runs it for as long as one likes.

use weir_l4_machine::harness::{self, Tally};

/// xorshift64 (Marsaglia, Journal of Statistical Software 8(14), 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn no_script_of_packets_breaks_what_must_hold() {
    let mut random = Random(0x5eed_0001);
    let mut all = Tally::default();
    for _ in 0..30_000 {
        let len = random.next() % 600;
        let script: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let tally = harness::run(&script);
        all.passed += tally.passed;
        all.dropped += tally.dropped;
        all.refused += tally.refused;
        all.forwarded += tally.forwarded;
        all.icmp += tally.icmp;
    }
    // The scripts come to everything that there is.
    let Tally {
        passed,
        dropped,
        refused,
        forwarded,
        icmp,
    } = all;
    let least = [passed, dropped, refused, forwarded, icmp]
        .into_iter()
        .min();
    assert!(least > Some(1000), "{all:?}");
}
