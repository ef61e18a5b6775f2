//! `weir detach`: the end of what a node has in the kernel.

use std::process::ExitCode;

use anyhow::Result;
use weir_l4::Detached;
use weir_model::L4;

use crate::cli::DetachArgs;
use crate::{check, node};

/// Removes programs, sessions and counters, and says what there was.
pub(crate) fn detach(args: &DetachArgs) -> Result<ExitCode> {
    let config = args.config.as_deref().map(check::load).transpose()?;
    let configured = config.as_ref().map(|config| node::name(&config.node));
    let name = args
        .name
        .clone()
        .or(configured)
        .unwrap_or_else(node::host_name);
    let l4 = config.as_ref().and_then(|config| config.l4.as_ref());
    let pin_dir = args
        .pin_dir
        .clone()
        .or_else(|| l4.map(|l4| l4.pin_dir.clone()))
        .unwrap_or_else(|| L4::DEFAULT_PIN_DIR.into());
    match weir_l4::detach(&pin_dir, &name)? {
        Some(Detached { interfaces, maps }) => {
            println!("{name}: detached from {interfaces} interfaces; {maps} maps removed");
        }
        None => println!("{name}: nothing is attached"),
    }
    Ok(ExitCode::SUCCESS)
}
