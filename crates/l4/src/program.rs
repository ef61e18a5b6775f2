//! The BPF objects that `build.rs` made.

/// Bytes with the alignment that an ELF parser wants.
#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized>(Bytes);

macro_rules! object {
    ($name:literal) => {{
        static OBJECT: &Aligned<[u8]> =
            &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".o")));
        &OBJECT.0
    }};
}

/// `weir_forward`, `weir_clock` and their maps.
pub static FORWARD: &[u8] = object!("forward");
/// `weir_decap` and its maps.
pub static DECAP: &[u8] = object!("decap");
/// The benchmark's generator and references.
pub static BENCH: &[u8] = object!("bench");
