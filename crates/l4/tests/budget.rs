//! How much of the verifier's budget the program takes.
#![allow(clippy::unwrap_used)]

use aya::programs::{ProgramError, Xdp};
use aya::{EbpfLoader, VerifierLogLevel};

#[test]
fn the_program_leaves_the_verifier_room() {
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: loading BPF programs needs root");
        return;
    }
    let mut ebpf = EbpfLoader::new()
        .override_global("SETS", &64u32, true)
        .override_global("SETS6", &64u32, true)
        .map_max_entries("SESSIONS4", 64)
        .map_max_entries("SESSIONS6", 64)
        .map_max_entries("SCHEDULE", 64)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(weir_l4::program::FORWARD)
        .unwrap();
    let program: &mut Xdp = ebpf
        .program_mut("weir_forward")
        .unwrap()
        .try_into()
        .unwrap();
    if let Err(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = program.load()
    {
        panic!("{io_error}: {verifier_log}");
    }
    let verified = program
        .info()
        .unwrap()
        .verified_instruction_count()
        .unwrap();
    eprintln!("{verified} instructions of a million");
    assert!(verified < 800_000, "{verified}");
}
