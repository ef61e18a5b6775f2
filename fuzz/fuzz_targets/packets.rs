//! The packet logic of layer 4: scripts of packets, and what must hold for each. The same runs, for a few seconds and with
//! bytes that are always the same, in `crates/l4-common/tests/scripts.rs`; what is found here becomes a test there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_l4_machine::harness;

fuzz_target!(|script: &[u8]| {
    let _ = harness::run(script);
});
