//! What must hold for the codecs, whatever bytes come: the fuzzers' harness.
//!
//! Each function takes a fuzzer's bytes and panics where something does not hold. `fuzz/` runs them for as long as one
//! likes, the tests here for a second, with messages that were damaged always in the same way. What a fuzzer finds is
//! mended and becomes a test beside the codec.
#![allow(clippy::missing_panics_doc, reason = "to panic is what it is for")]

pub mod client_hello;
pub mod h1;
pub mod proxy_protocol;

#[cfg(test)]
mod tests;

/// What a parser says of the bytes, and that it says so as soon as it says anything: an answer to a beginning is the answer
/// to all that begins so.
fn at_every_split<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    mut parse: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut said = None;
    for end in 0..=bytes.len() {
        let answer = parse(&bytes[..end]);
        if said.is_some() {
            assert_eq!(answer, said, "of {end} bytes, and of fewer");
        }
        said = answer;
    }
    said
}
