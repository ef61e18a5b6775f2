//! weir: a load balancer in one binary.
//!
//! Commands are in [`cli`]. `run` is [`run`]: it reads the config, starts the data planes, and hands everything to
//! the one owner of the node's state, [`control`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cause;
mod check;
mod cli;
mod client;
mod control;
mod decap;
mod demo;
mod demo_l4;
mod detach;
mod difference;
mod get;
mod inbox;
mod limits;
mod logging;
mod node;
mod notify;
mod order;
mod overrides;
mod planes;
mod procfs;
mod restart;
mod run;
mod sessions;
mod slow_start;
mod table;
mod view;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => logging::start(&args.log).and_then(|()| run::run(&args.config)),
        Command::Check(args) => check::check(&args.file),
        Command::Demo(args) if args.l4 => demo_l4::run().map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => logging::start(&args.log).and_then(|()| demo::demo(&args)),
        Command::Decap(args) => logging::start(&args.log).and_then(|()| decap::decap(&args)),
        Command::Detach(args) => detach::detach(&args),
        Command::Get(args) => get::get(&args),
        Command::Drain(args) => order::drain(&args),
        Command::Disable(args) => order::disable(&args),
        Command::Weight(args) => order::weight(&args),
        Command::Clear(args) => order::clear(&args),
        Command::Sessions(args) => get::sessions(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("weir: {}", cause::told(&error));
        ExitCode::FAILURE
    })
}
