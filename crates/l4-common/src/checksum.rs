//! Internet checksums, whole and by difference (RFC 1071, RFC 1624).
//!
//! Sums are over 16-bit words in memory order, so that no byte is ever swapped (RFC 1071, section 2(B)).

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

/// The checksum after a change whose folded sum of differences is `delta` (RFC 1624, equation 3).
#[inline(always)]
pub fn apply(checksum: u16, delta: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(delta);
    !((sum & 0xffff) + (sum >> 16)) as u16
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
