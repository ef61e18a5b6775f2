//! `cargo xtask bench`: one benchmark of the lab, `bench l4|l7|scale [--quick] [--only TEXT] [--json FILE]`.
#![forbid(unsafe_code)]

use std::env;

use anyhow::{Context, Result, bail};
use weir_lab::bench::Options;

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    match args.next().as_deref() {
        Some("l7") => {
            let weir = env::var_os("WEIR_BIN").context("WEIR_BIN names no weir")?;
            weir_lab::bench_l7::run(weir.as_ref(), &Options::parse(args)?)
        }
        Some("l4") => weir_lab::bench_l4::run(&Options::parse(args)?),
        Some("scale") => weir_lab::bench_scale::run(&Options::parse(args)?),
        _ => bail!("usage: bench l4|l7|scale [--quick] [--only TEXT] [--json FILE]"),
    }
}
