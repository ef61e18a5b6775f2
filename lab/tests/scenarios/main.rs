//! Scenarios: the built binary between real programs, in networks made and removed by each test.
//!
//! One program, so that it is linked once. Without root, or without a program that it needs, a scenario prints why it
//! is skipped.
#![allow(clippy::unwrap_used)]

mod client;
mod demo;
mod l4_failure;
mod l4_families;
mod l4_floods;
mod l4_forwarding;
mod l4_host;
mod l4_life;
mod l4_packets;
mod l4_reload;
mod l4_removal;
mod l4_schedule;
mod l4_sessions;
mod l4_spread;
mod l7_differences;
mod l7_failure;
mod l7_http2;
mod l7_proxying;
mod l7_reload;
mod scene;
mod topology;
