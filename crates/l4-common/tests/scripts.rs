//! The fuzzers' harness, for a few seconds and always the same: `fuzz/` runs it for as long as one likes.

use weir_l4_machine::harness::{self, Tally, WAYS};

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
    for (way, name) in (0..).zip(WAYS) {
        let (mut forwarded, mut forwarded6) = (0, 0);
        for _ in 0..5_000 {
            let len = random.next() % 600;
            let mut script: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            script.insert(0, way);
            let tally = harness::run(&script);
            all.passed += tally.passed;
            all.dropped += tally.dropped;
            all.refused += tally.refused;
            all.forwarded += tally.forwarded;
            all.icmp += tally.icmp;
            forwarded += tally.forwarded;
            forwarded6 += tally.forwarded6;
        }
        // Either family, each way.
        let least = forwarded6.min(forwarded - forwarded6);
        assert!(least > 1000, "{name:?}: {forwarded}, {forwarded6} of IPv6");
    }
    // The scripts come to everything that there is.
    let least = [all.passed, all.dropped, all.refused, all.icmp]
        .into_iter()
        .min();
    assert!(least > Some(1000), "{all:?}");
}

/// Scripts in which a fuzzer has found something, and what it was.
const FOUND: &[(&str, &[u8])] = &[(
    "a later fragment that is longer than its frame was sent on",
    &[
        0x02, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x06, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x28, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8,
        0xf8, 0xf8, 0xf8, 0xf0, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8,
        0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0x0e, 0x4a, 0x76, 0x0e, 0x76, 0x76, 0x2a, 0x0e, 0x76, 0x0e,
        0x26, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x0e, 0x03, 0x25,
    ],
)];

#[test]
fn what_a_fuzzer_found_holds_now() {
    for (what, script) in FOUND {
        println!("{what}");
        harness::run(script);
    }
}
