//! An echo server as a process of its own: `echo NAME ADDRESS`. Runs until it is killed.
#![forbid(unsafe_code)]

use std::env;
use std::thread;

use anyhow::{Context, Result};
use weir_lab::TcpEcho;

fn main() -> Result<()> {
    let [name, address] = env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .context("usage: echo NAME ADDRESS")?;
    let address = address
        .parse()
        .with_context(|| format!("{address} is not an address"))?;
    let _server = TcpEcho::start_here(&name, address);
    loop {
        thread::park();
    }
}
