//! Where packets are spread over cores: `weir_spread` is attached in the place of `weir_forward` and hands each packet on;
//! `weir_forward_core` is the same as `weir_forward` on the core that it is handed to.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use weir_l4_common::env::{Env, Verdict};
use weir_l4_common::forward::forward;
use weir_l4_common::hash;
use weir_l4_common::spread::{self, CORES_MAX, HANDED, TAKEN};

use crate::env::{Kernel, action};
use crate::maps;

/// Hands packets that may be of layer 4 to the core that their flow's hash names; all others go to the kernel at once.
#[xdp]
pub fn weir_spread(ctx: XdpContext) -> u32 {
    let Some(hash) = spread::hash(Kernel::new(&ctx)) else {
        return xdp_action::XDP_PASS;
    };
    count(HANDED);
    // SAFETY: variables of the program that the loader sets before it runs; volatile, as the compiler does not know of
    // that. The index is inside: it is masked.
    let core = unsafe {
        let cores = (&raw const maps::SPREAD_CORES).read_volatile();
        let index = hash::core(hash, cores) as usize & (CORES_MAX - 1);
        (&raw const maps::SPREAD_TO)
            .cast::<u32>()
            .add(index)
            .read_volatile()
    };
    // Every core of the list is in the map, so that the answer for one that is not is never given.
    match maps::CORES.redirect(core, u64::from(xdp_action::XDP_DROP)) {
        Ok(action) | Err(action) => action,
    }
}

/// Forwards packets that another core has received.
#[xdp(map = "cpumap")]
pub fn weir_forward_core(ctx: XdpContext) -> u32 {
    count(TAKEN);
    let kernel: Kernel = Kernel::new(&ctx);
    match forward(kernel) {
        // The driver that has received it is not there any more to send it by itself.
        Verdict::Transmit => action(Verdict::Redirect(kernel.port_ifindex())),
        verdict => action(verdict),
    }
}

#[inline(always)]
fn count(element: u32) {
    if let Some(count) = maps::SPREAD.get_ptr_mut(element) {
        // SAFETY: this core's element; nobody else writes it.
        unsafe { *count += 1 };
    }
}
