//! The server names of TLS ClientHellos: what must hold is said in `crates/l7/src/fuzz`, whose tests run the same for a second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_l7::fuzz::client_hello;

fuzz_target!(|bytes: &[u8]| client_hello::names(bytes));
