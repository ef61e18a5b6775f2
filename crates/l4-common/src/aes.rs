//! AES with 128-bit keys, one block at a time (FIPS 197), for connection ids of QUIC.
//!
//! By tables, since BPF has nothing better. Tables leak through the cache to who shares the core; the key hides from the
//! outside which connection ids belong together, and nobody else runs here.

/// Rounds with a 128-bit key.
const ROUNDS: usize = 10;
/// Words of an expanded key.
const KEY_WORDS: usize = 4 * (ROUNDS + 1);

/// An expanded key, as words of the key schedule in reading order.
pub type Schedule = [u32; KEY_WORDS];

/// A block: four columns, the first byte topmost.
pub type Block = [u32; 4];

/// Multiplication by x in GF(2^8).
const fn double(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

/// Multiplication in GF(2^8).
const fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

/// The substitution of section 5.1.1, and its inverse.
const SUBSTITUTIONS: ([u8; 256], [u8; 256]) = {
    let (mut forth, mut back) = ([0; 256], [0; 256]);
    let mut x = 0;
    while x < 256 {
        // The inverse is the 254th power.
        let mut power = 1u8;
        let mut times_left = 254;
        while times_left > 0 {
            power = times(power, x as u8);
            times_left -= 1;
        }
        let inverse = if x == 0 { 0 } else { power };
        let s = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4)
            ^ 0x63;
        forth[x] = s;
        back[s as usize] = x as u8;
        x += 1;
    }
    (forth, back)
};

static FORTH: [u8; 256] = SUBSTITUTIONS.0;
static BACK: [u8; 256] = SUBSTITUTIONS.1;

/// A column of MixColumns for each substituted byte; the columns of the other rows are this one, rotated.
const fn mixed(substitution: &[u8; 256], factors: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        let s = substitution[x];
        table[x] = u32::from_be_bytes([
            times(s, factors[0]),
            times(s, factors[1]),
            times(s, factors[2]),
            times(s, factors[3]),
        ]);
        x += 1;
    }
    table
}

static MIXED_FORTH: [u32; 256] = mixed(&SUBSTITUTIONS.0, [2, 1, 1, 3]);
static MIXED_BACK: [u32; 256] = mixed(&SUBSTITUTIONS.1, [14, 9, 13, 11]);

/// Byte `row` of a column.
#[inline(always)]
fn byte(column: u32, row: u32) -> usize {
    (column >> (24 - 8 * row) & 0xff) as usize
}

/// The key schedule for encryption (section 5.2).
pub fn encryption(key: [u8; 16]) -> Schedule {
    let mut words = [0; KEY_WORDS];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let mut constant = 1u8;
    for i in 4..KEY_WORDS {
        let mut word = words[i - 1];
        if i % 4 == 0 {
            word = substitute(word.rotate_left(8)) ^ u32::from(constant) << 24;
            constant = double(constant);
        }
        words[i] = words[i - 4] ^ word;
    }
    words
}

/// The key schedule for decryption, by the equivalent inverse cipher (section 5.3.5).
pub fn decryption(key: [u8; 16]) -> Schedule {
    let forth = encryption(key);
    let mut words = [0; KEY_WORDS];
    for round in 0..=ROUNDS {
        for column in 0..4 {
            let word = forth[4 * (ROUNDS - round) + column];
            words[4 * round + column] = if round == 0 || round == ROUNDS {
                word
            } else {
                let s = substitute(word);
                MIXED_BACK[byte(s, 0)]
                    ^ MIXED_BACK[byte(s, 1)].rotate_right(8)
                    ^ MIXED_BACK[byte(s, 2)].rotate_right(16)
                    ^ MIXED_BACK[byte(s, 3)].rotate_right(24)
            };
        }
    }
    words
}

fn substitute(word: u32) -> u32 {
    u32::from_be_bytes(word.to_be_bytes().map(|byte| FORTH[usize::from(byte)]))
}

/// Encrypts a block.
#[inline(always)]
pub fn encrypt(key: &Schedule, block: Block) -> Block {
    rounds(key, block, &MIXED_FORTH, &FORTH, 1)
}

/// Decrypts a block; the schedule is that for [`decryption`].
#[inline(always)]
pub fn decrypt(key: &Schedule, block: Block) -> Block {
    rounds(key, block, &MIXED_BACK, &BACK, 3)
}

/// All rounds. In each, a column is made of four others, one for each row: that `step` further for every row.
#[inline(always)]
fn rounds(
    key: &Schedule,
    block: Block,
    mixed: &[u32; 256],
    substitution: &[u8; 256],
    step: usize,
) -> Block {
    let mut state = [
        block[0] ^ key[0],
        block[1] ^ key[1],
        block[2] ^ key[2],
        block[3] ^ key[3],
    ];
    let mut round = 1;
    while round < ROUNDS {
        let column = |i: usize| {
            mixed[byte(state[i], 0)]
                ^ mixed[byte(state[(i + step) & 3], 1)].rotate_right(8)
                ^ mixed[byte(state[(i + 2 * step) & 3], 2)].rotate_right(16)
                ^ mixed[byte(state[(i + 3 * step) & 3], 3)].rotate_right(24)
                ^ key[4 * round + i]
        };
        state = [column(0), column(1), column(2), column(3)];
        round += 1;
    }
    let column = |i: usize| {
        u32::from(substitution[byte(state[i], 0)]) << 24
            ^ u32::from(substitution[byte(state[(i + step) & 3], 1)]) << 16
            ^ u32::from(substitution[byte(state[(i + 2 * step) & 3], 2)]) << 8
            ^ u32::from(substitution[byte(state[(i + 3 * step) & 3], 3)])
            ^ key[4 * ROUNDS + i]
    };
    [column(0), column(1), column(2), column(3)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(bytes: u128) -> Block {
        [96, 64, 32, 0].map(|shift| (bytes >> shift) as u32)
    }

    #[test]
    fn blocks_are_as_in_the_standard() {
        // FIPS 197, appendices B and C.1.
        let cases = [
            (
                0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128,
                0x3243_f6a8_885a_308d_3131_98a2_e037_0734,
                0x3925_841d_02dc_09fb_dc11_8597_196a_0b32,
            ),
            (
                0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f,
                0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
                0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a,
            ),
        ];
        for (key, plain, cipher) in cases {
            let key = key.to_be_bytes();
            assert_eq!(encrypt(&encryption(key), block(plain)), block(cipher));
            assert_eq!(decrypt(&decryption(key), block(cipher)), block(plain));
        }
    }

    proptest! {
        #[test]
        fn decryption_undoes_encryption(key: [u8; 16], plain: u128) {
            let cipher = encrypt(&encryption(key), block(plain));
            prop_assert_eq!(decrypt(&decryption(key), cipher), block(plain));
        }
    }
}
