//! The largest segment that TCP's ends promise each other, lowered where our way is narrower (RFC 9293, section 3.7.1;
//! RFC 4821).

use crate::checksum::{apply, fold};
use crate::frame::Frame;

/// Options that are looked at; the maximum segment size is the first one of every stack that we know.
const OPTIONS_MAX: u32 = 8;
/// Kinds of options, and the length of the one that we look for.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const MAXIMUM_SEGMENT_SIZE_LEN: u8 = 4;
/// Bytes of a TCP header without options.
const HEADER_LEN: usize = 20;

/// Lowers the maximum segment size of the TCP header at `tcp` to `max` bytes, if it names a larger one. A header
/// without the option is left alone: it stands for 536 bytes, which every way carries. For the environment to call, which
/// has the kernel's verifier look at this loop once.
#[inline(always)]
pub fn clamp(frame: Frame, tcp: usize, max: u16) {
    let Some(header) = frame.part::<HEADER_LEN>(tcp) else {
        return;
    };
    let end = usize::from(header.load::<12, u8>() >> 4) * 4;
    let mut at = HEADER_LEN;
    let mut options = 0;
    while options < OPTIONS_MAX {
        if at + usize::from(MAXIMUM_SEGMENT_SIZE_LEN) > end {
            return;
        }
        let Some(option) = frame.part::<4>(tcp + at) else {
            return;
        };
        match option.load::<0, u8>() {
            END => return,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if option.load::<1, u8>() == MAXIMUM_SEGMENT_SIZE_LEN => {
                let old = option.load::<2, u16>();
                if u16::from_be(old) > max {
                    let new = max.to_be();
                    option.store::<2, u16>(new);
                    let delta = fold(u64::from(!old) + u64::from(new));
                    // At an odd place the bytes count in the other halves of their words (RFC 1071, section 2(B)).
                    let delta = if at & 1 == 0 {
                        delta
                    } else {
                        delta.swap_bytes()
                    };
                    let checksum = header.load::<16, u16>();
                    header.store::<16, u16>(apply(checksum, delta));
                }
                return;
            }
            _ => {
                let len = usize::from(option.load::<1, u8>());
                if len < 2 {
                    return;
                }
                at += len;
            }
        }
        at &= 0x3f;
        options += 1;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::checksum::sum;

    /// A TCP header with these options, padded, and a checksum that makes its sum all ones.
    fn header(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 2, 13, 14, 0, 0, 0, 0,
        ];
        bytes.extend(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[12] = (bytes.len() as u8 / 4) << 4;
        let sum = !fold(sum(&bytes));
        bytes[16..18].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    fn check(options: &[u8], max: u16, expected: &[u8]) {
        for offset in [0, 34] {
            let mut bytes = vec![0xaa; offset];
            bytes.extend(header(options));
            let range = bytes.as_mut_ptr_range();
            // SAFETY: `bytes` lives until the end of the loop's turn and nobody else refers to it meanwhile.
            clamp(unsafe { Frame::new(range.start, range.end) }, offset, max);
            assert_eq!(fold(sum(&bytes[offset..])), 0xffff, "{options:?}");
            assert_eq!(bytes[offset..], header(expected), "{options:?}");
        }
    }

    #[test]
    fn a_larger_size_is_lowered_wherever_the_option_is() {
        check(&[2, 4, 0x05, 0xb4], 1440, &[2, 4, 0x05, 0xa0]);
        check(&[1, 2, 4, 0x23, 0x00], 1440, &[1, 2, 4, 0x05, 0xa0]);
        check(
            &[1, 1, 2, 4, 0x23, 0x00, 4, 2],
            1200,
            &[1, 1, 2, 4, 0x04, 0xb0, 4, 2],
        );
        check(
            &[3, 3, 7, 2, 4, 0xff, 0xff],
            1200,
            &[3, 3, 7, 2, 4, 0x04, 0xb0],
        );
    }

    #[test]
    fn everything_else_is_left_alone() {
        for options in [
            &[2, 4, 0x05, 0xa0][..],
            &[],
            &[0, 2, 4, 0xff, 0xff],
            &[2, 3, 0xff, 0xff],
            &[3, 0, 2, 4, 0xff, 0xff],
            &[3, 200, 2, 4, 0xff, 0xff],
            &[2, 4],
            &[1; 40],
        ] {
            check(options, 1440, options);
        }
    }

    #[test]
    fn a_header_that_is_cut_off_is_left_alone() {
        let whole = header(&[2, 4, 0xff, 0xff]);
        for len in 0..whole.len() {
            let mut bytes = whole[..len].to_vec();
            let range = bytes.as_mut_ptr_range();
            // SAFETY: as above.
            clamp(unsafe { Frame::new(range.start, range.end) }, 0, 500);
            assert_eq!(bytes, &whole[..len]);
        }
    }
}
