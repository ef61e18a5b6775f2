//! The engine over loopback: one test for each behaviour.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod access_log;
mod backup;
mod balance;
mod bodies;
mod change;
mod h2;
mod h2_backends;
mod harness;
mod limits;
mod metrics;
mod outlier;
mod pki;
mod proxy_protocol;
mod refusal;
mod request;
mod retry;
mod routing;
mod sticky;
mod timeout;
mod tls;
mod tls_backends;
mod tls_clients;
mod tunnel;
mod udp;
