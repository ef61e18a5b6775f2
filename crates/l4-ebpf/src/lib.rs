//! The XDP programs: entry points and maps. What they do is in `weir-l4-common`.
//!
//! Built by `crates/l4/build.rs`: compiled to LLVM bitcode for the host, linked into one BPF object for each program.
#![no_std]

mod bench;
mod decap;
mod env;
mod forward;
mod maps;
mod spread;

/// No path of the programs panics; the verifier would refuse the loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only programs of GPL-compatible licences use `bpf_fib_lookup`'s neighbours and others.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
