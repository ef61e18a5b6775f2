//! PROXY headers, of both versions: what must hold is said in `crates/l7/src/fuzz`, whose tests run the same for a second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_l7::fuzz::proxy_protocol;

fuzz_target!(|bytes: &[u8]| proxy_protocol::headers(bytes));
