//! `weir_decap`, attached to a backend's interface.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use weir_l4_common::decap::{DecapEnv, decap};
use weir_l4_common::frame::Frame;

use crate::env::{Kernel, action};
use crate::maps::{DECAPSULATED, GUE_PORT, TUNNEL_ENDS};

/// Takes packets out of tunnels that end here; all others go to the kernel.
#[xdp]
pub fn weir_decap(ctx: XdpContext) -> u32 {
    action(decap(Kernel::new(&ctx)))
}

impl DecapEnv for Kernel {
    #[inline(always)]
    fn frame(&self) -> Frame {
        self.frame()
    }

    #[inline(always)]
    fn shrink(&self, bytes: u32) -> bool {
        self.move_start(bytes as i32)
    }

    #[inline(always)]
    fn ends_here(&self, addr: &[u32; 4]) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { TUNNEL_ENDS.get(addr).is_some() }
    }

    #[inline(always)]
    fn gue_port(&self) -> u16 {
        // SAFETY: a read-only map of the program; volatile, as the loader sets the value after it was compiled.
        unsafe { (&raw const GUE_PORT).read_volatile() }
    }

    #[inline(always)]
    fn count(&self) {
        if let Some(count) = DECAPSULATED.get_ptr_mut(0) {
            // SAFETY: this core's element; nobody else writes it.
            unsafe { *count += 1 };
        }
    }
}
