//! `weir_forward`, attached to interfaces where clients and backends are; `weir_clock`, run by user space.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use weir_l4_common::env::Verdict;
use weir_l4_common::forward::forward;

use crate::env::{Kernel, action};
use crate::maps::CLOCK;

/// Forwards packets of listeners and sessions; all others go to the kernel.
#[xdp]
pub fn weir_forward(ctx: XdpContext) -> u32 {
    action(forward(Kernel::new(&ctx)))
}

/// Writes the kernel's clocks to `CLOCK`: jiffies, then nanoseconds since boot.
#[xdp]
pub fn weir_clock(_: XdpContext) -> u32 {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: the element lives as long as the map; the helpers take no arguments.
        unsafe { clock.write_volatile([bpf_jiffies64(), bpf_ktime_get_ns()]) };
    }
    action(Verdict::Drop)
}
