//! The binary as operators meet it: started, asked, signalled, stopped.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod check;
mod demo;
mod fixture;
mod forward;
mod overrides;
mod reload;
mod start;
mod stop;
mod support;
