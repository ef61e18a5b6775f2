//! `cargo xtask bench`: one benchmark of the lab, `bench l4|l7 [--quick] [--json FILE]`.
#![forbid(unsafe_code)]

use std::env;

use anyhow::{Result, bail};
use weir_lab::bench::Options;

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    match args.next().as_deref() {
        Some("l4") => weir_lab::bench_l4::run(&Options::parse(args)?),
        _ => bail!("usage: bench l4|l7 [--quick] [--json FILE]"),
    }
}
