//! The heads of HTTP/1 answers: what must hold is said in `crates/l7/src/fuzz`, whose tests run the same for a second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_l7::fuzz::h1;

fuzz_target!(|bytes: &[u8]| h1::answers(bytes));
