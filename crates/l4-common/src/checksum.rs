//! Internet checksums, whole and by difference (RFC 1071, RFC 1624).
//!
//! Sums are over 16-bit words in memory order, so that no byte is ever swapped (RFC 1071, section 2(B)).

use core::hint::black_box;

use crate::frame::Frame;

/// Folds a sum of 16-bit words into 16 bits.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What changing the 32-bit word `old` to `new` adds to a sum, not folded.
#[inline(always)]
pub fn difference32(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// What changing the 16-bit word `old` to `new` adds to a sum, not folded.
#[inline(always)]
pub fn difference16(old: u16, new: u16) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// The checksum after a change whose folded sum of differences is `delta` (RFC 1624, equation 3).
#[inline(always)]
pub fn apply(checksum: u16, delta: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(delta);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of a frame from `offset` to its end, not folded: of whole words of 32 bits, `WORDS` at most. They have the
/// same sum as their halves (RFC 1071, section 2(C)).
#[inline(always)]
pub(crate) fn sum_to_end<const WORDS: usize>(frame: &Frame, offset: usize) -> u64 {
    let mut total = 0u64;
    let mut word = 0;
    while word < WORDS {
        // The optimizer must not compute with the frame's end in place of the offset: the kernel's verifier refuses it.
        let at = black_box(offset + word * 4);
        let Some(part) = frame.far_part::<4>(at) else {
            break;
        };
        total += u64::from(part.load::<0, u32>());
        word += 1;
    }
    total
}

/// The sum of `bytes` as 16-bit words in memory order, not folded; an odd last byte is padded with zero.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}
