//! `weir decap`: the backend's end of tunnels.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use weir_l4::Decap;
use weir_model::XdpMode;

use crate::cli::{DecapArgs, Mode};
use crate::{notify, procfs};

/// Takes tunnels off until it is told to stop.
pub(crate) fn decap(args: &DecapArgs) -> Result<ExitCode> {
    procfs::require_capabilities().context("XDP")?;
    // Held back and waited for, so that the program is detached then. Threads inherit this.
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    ends.thread_block().context("hold back signals")?;
    let mut attached = Vec::new();
    for interface in &args.interface {
        let decap = Decap::attach(interface, args.mode.into(), args.gue_port)?;
        tracing::info!(
            interface,
            mode = decap.attachment().as_str(),
            "attached: tunnels end here"
        );
        if filters_strictly(interface) {
            tracing::warn!(
                interface,
                "rp_filter is strict: clients whose way back leads through another interface are refused; set it to 0 or 2"
            );
        }
        attached.push((interface, decap));
    }
    notify::ready();
    ends.wait().context("wait for signals")?;
    for (interface, decap) in attached {
        let packets = decap.decapsulated().unwrap_or_default();
        drop(decap);
        tracing::info!(interface, packets, "detached");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the kernel wants the way back to lead through the interface: the stricter of its own setting and that
/// of all (Documentation/networking/ip-sysctl.rst, rp_filter).
fn filters_strictly(interface: &str) -> bool {
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"))
            .unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    setting("all").max(setting(interface)) == 1
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}
