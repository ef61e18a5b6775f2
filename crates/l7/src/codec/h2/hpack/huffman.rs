//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: the lengths of appendix B give the codes. Ten bits at a time are looked up, which finds every
//! symbol that occurs in ordinary fields; longer codes take the canonical way, a comparison for each length.

use super::Error;

/// Bits of each symbol's code; the last is the end of the string, which no string may contain.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const END: u16 = 256;
const LONGEST: usize = 30;
/// Bits that are looked up at once.
const QUICK_BITS: usize = 10;

/// The code, in the forms that decoding wants.
struct Code {
    /// By the next ten bits: the symbol, and above it the bits of its code; 0 where the code is longer.
    quick: [u16; 1 << QUICK_BITS],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the first code, aligned to the left of 32 bits, that is longer; and where its symbols begin.
    limit: [u64; LONGEST + 1],
    first_code: [u32; LONGEST + 1],
    first_symbol: [u16; LONGEST + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut made = Code {
        quick: [0; 1 << QUICK_BITS],
        symbols: [0; 257],
        limit: [0; LONGEST + 1],
        first_code: [0; LONGEST + 1],
        first_symbol: [0; LONGEST + 1],
    };
    let mut next: u32 = 0;
    let mut placed = 0;
    let mut length = 1;
    while length <= LONGEST {
        next <<= 1;
        made.first_code[length] = next;
        made.first_symbol[length] = placed as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                made.symbols[placed] = symbol as u16;
                placed += 1;
                if length <= QUICK_BITS {
                    let spare = QUICK_BITS - length;
                    let mut at = (next as usize) << spare;
                    let end = (next as usize + 1) << spare;
                    while at < end {
                        made.quick[at] = (length as u16) << 8 | symbol as u16;
                        at += 1;
                    }
                }
                next += 1;
            }
            symbol += 1;
        }
        made.limit[length] = (next as u64) << (32 - length);
        length += 1;
    }
    made
}

/// Decodes `input` and appends what comes out.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    // Eight bits of code are at least one symbol of at most eight bits for every five.
    out.reserve(input.len() * 8 / 5);
    let mut rest = input.iter();
    // The next bits, from the left, and how many there are.
    let mut window: u64 = 0;
    let mut filled = 0;
    loop {
        while filled <= 56
            && let Some(byte) = rest.next()
        {
            window |= u64::from(*byte) << (56 - filled);
            filled += 8;
        }
        let quick = CODE.quick[(window >> (64 - QUICK_BITS)) as usize];
        let (symbol, length) = if quick != 0 {
            (quick & 0xff, usize::from(quick >> 8))
        } else {
            long_code((window >> 32) as u32)
        };
        if length > filled {
            break;
        }
        if symbol == END {
            return Err(Error::Huffman);
        }
        out.push(symbol as u8);
        window <<= length;
        filled -= length;
    }
    // What fills the last byte are the first bits of the end's code: ones.
    let padding_is_good =
        filled < 8 && (filled == 0 || window >> (64 - filled) == (1 << filled) - 1);
    padding_is_good.then_some(()).ok_or(Error::Huffman)
}

/// The symbol of a code of more than ten bits, and its length.
#[cold]
fn long_code(bits: u32) -> (u16, usize) {
    let mut length = QUICK_BITS + 1;
    while length < LONGEST && u64::from(bits) >= CODE.limit[length] {
        length += 1;
    }
    let offset = (bits >> (32 - length)) - CODE.first_code[length];
    let at = usize::from(CODE.first_symbol[length]) + offset as usize;
    (CODE.symbols[at], length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What encoders send; ours sends literals as they are.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut window, mut filled) = (0u64, 0);
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let at = CODE
                .symbols
                .iter()
                .position(|symbol| *symbol == u16::from(*byte))
                .unwrap();
            let code = CODE.first_code[length] + (at as u32 - u32::from(CODE.first_symbol[length]));
            window |= u64::from(code) << (64 - filled - length);
            filled += length;
            while filled >= 8 {
                out.push((window >> 56) as u8);
                window <<= 8;
                filled -= 8;
            }
        }
        if filled > 0 {
            out.push((window >> 56) as u8 | (0xff >> filled));
        }
        out
    }

    #[test]
    fn the_code_is_complete() {
        let sum: u64 = LENGTHS.iter().map(|length| 1u64 << (32 - length)).sum();
        assert_eq!(sum, 1 << 32);
    }

    #[test]
    fn decodes_the_examples_of_the_rfc() {
        for (hex, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            (
                "d07abe941054d444a8200595040b8166e082a62d1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let mut out = Vec::new();
            decode(&bytes, &mut out).unwrap();
            assert_eq!(out, text.as_bytes());
            assert_eq!(encode(text.as_bytes()), bytes);
        }
    }

    #[test]
    fn refuses_bad_padding_and_the_end() {
        let mut out = Vec::new();
        for bytes in [
            // A whole byte of padding; zeros as padding; the end itself, with and without something before it.
            &[0x1f, 0xff, 0xff][..],
            &[0x00],
            &[0xff, 0xff, 0xff, 0xff],
            &[0x1f, 0xff, 0xff, 0xff, 0xff],
            &[0xff],
        ] {
            assert_eq!(decode(bytes, &mut out), Err(Error::Huffman), "{bytes:x?}");
        }
        decode(&[], &mut out).unwrap();
    }

    proptest! {
        #[test]
        fn every_string_comes_back(text: Vec<u8>) {
            let mut out = Vec::new();
            decode(&encode(&text), &mut out).unwrap();
            prop_assert_eq!(out, text);
        }

        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes, &mut Vec::new());
        }
    }
}
