//! What the XDP program and user space share: the bytes of the maps, and the packet logic.
//!
//! The same code runs in the kernel, in tests and in fuzzers. It does no I/O and reads no clock. Addresses, ports
//! and checksums are kept in network byte order, as they stand in the packet, and never converted on the way; a
//! name that ends in `_be` says so where it is not obvious from the type.
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod across;
pub mod aes;
pub mod checksum;
pub mod client;
pub mod decap;
pub mod drop;
pub mod env;
pub mod event;
pub mod family;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod hash;
pub mod icmp;
pub mod link;
pub mod listeners;
pub mod load;
pub mod mss;
pub mod open;
pub mod packet;
pub mod parse;
pub mod ping;
pub mod quic;
pub mod record;
pub mod refusal;
pub mod reset;
pub mod service;
pub mod session;
pub mod spread;
pub mod table;
pub mod tunnel;
pub mod unusual;
pub mod vlan;
pub mod walk;
