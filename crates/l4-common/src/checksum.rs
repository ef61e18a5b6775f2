//! Internet checksums, whole and by difference (RFC 1071, RFC 1624).
//!
//! Sums are over 16-bit words in memory order, so that no byte is ever swapped (RFC 1071, section 2(B)).

use core::hint::black_box;

use crate::env::Env;
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

/// Words that [`range`] adds at most.
const RANGE_WORDS: u32 = 512;
/// In place of a sum: the frame is shorter, or it is too much.
pub const NO_SUM: u32 = u32::MAX;

/// The folded sum of a frame's bytes from `from` up to `to`, as 16-bit words in memory order, an odd last byte padded with
/// zero; or [`NO_SUM`]. For the environment to call, which has the kernel's verifier look at this loop once.
#[inline(always)]
pub fn range(frame: &Frame, from: u32, to: u32) -> u32 {
    let mut total = 0u64;
    let mut word = 0;
    let mut at = from as usize & 0x7ff;
    let to = to as usize;
    while word < RANGE_WORDS && at + 4 <= to {
        // As above.
        let Some(part) = frame.far_part::<4>(black_box(at)) else {
            return NO_SUM;
        };
        total += u64::from(part.load::<0, u32>());
        at += 4;
        word += 1;
    }
    if at + 2 <= to {
        let Some(part) = frame.far_part::<2>(black_box(at)) else {
            return NO_SUM;
        };
        total += u64::from(part.load::<0, u16>());
        at += 2;
    }
    if at < to {
        // With the byte before it: of a single one the verifier loses sight.
        let Some(part) = frame.far_part::<2>(black_box(at.wrapping_sub(1))) else {
            return NO_SUM;
        };
        total += u64::from(u16::from_ne_bytes([part.load::<1, u8>(), 0]));
        at += 1;
    }
    if at < to || to > 0x7ff {
        return NO_SUM;
    }
    u32::from(fold(total))
}

/// [`range`], by the environment.
#[inline(always)]
pub(crate) fn sum_range(env: impl Env, from: usize, to: usize) -> Option<u64> {
    let sum = env.sum(from as u32, to as u32);
    (sum != NO_SUM).then_some(u64::from(sum))
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
