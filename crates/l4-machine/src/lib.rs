//! The packet logic without a kernel: its machine in memory, packets to feed it, and a harness for fuzzers that says what
//! must hold whatever comes. For tests and `fuzz/` alone.

#![allow(
    missing_docs,
    reason = "the names in the machine and of the packets say it"
)]
#![allow(clippy::unwrap_used)]

pub mod harness;
pub mod machine;
pub mod wire;

pub use machine::Machine;
