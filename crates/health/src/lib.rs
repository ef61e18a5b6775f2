//! Active health checks: the one truth about every backend, for layer 4, layer 7 and the API.
//!
//! A [`Checker`] runs one task for every (address, [`HealthCheck`](weir_model::HealthCheck)). A backend that
//! stands in several pools with the same check is asked once, and the answer counts for all of them.
//! What a row of results means is decided in [`verdict`], which knows no clock and no socket; [`probe`] asks one
//! backend once; [`schedule`] says when.
//!
//! A check that could not be made for want of our own resources (file descriptors, ports) says nothing about the
//! backend and changes no verdict.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checker;
pub mod probe;
pub mod schedule;
mod tls;
pub mod verdict;

pub use checker::{Checker, HealthEvent, HealthReport, Reports, Wanted};
pub use probe::Outcome;
