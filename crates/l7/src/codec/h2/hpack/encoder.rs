//! Writing header blocks.
//!
//! Strings go as they are: Huffman code would save a quarter of bytes that are few, at the cost of time for each. What
//! saves more are the fields that answers repeat: a field that is seen a second time within a short while goes into the
//! table, and is one byte from then on. One that never comes again costs no room there.

use super::table::{Entry, STATIC, Table, static_name};
use super::{ENTRY_OVERHEAD, TABLE_BYTES_DEFAULT};

/// Fields that are remembered by their hash. A power of two; an answer has fewer.
const REMEMBERED: usize = 32;

/// A field that was sent lately.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    hash: u32,
    /// Its number among all entries ever made, from 1; 0 while it is not in the table.
    entry: u32,
}

/// Encodes the header blocks of one direction of a connection, in their order.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// Entries that were ever made.
    made: u32,
    seen: Option<Box<[Seen; REMEMBERED]>>,
    /// The table's size has changed, and the peer is to be told in the next block.
    tells_size: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_BYTES_DEFAULT),
            made: 0,
            seen: None,
            tells_size: false,
        }
    }
}

impl Encoder {
    /// The peer's decoder keeps so many bytes. More than the default are not used.
    pub fn set_table_bytes(&mut self, bytes: usize) {
        let bytes = bytes.min(TABLE_BYTES_DEFAULT);
        if bytes != self.table.size_max() {
            self.table.resize(bytes);
            self.tells_size = true;
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.tells_size) {
            integer(self.table.size_max(), 5, 0x20, out);
        }
    }

    /// The field `:status`.
    pub fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let number = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100 % 10, status / 10 % 10, status % 10]
                    .map(|digit| b'0' + digit as u8);
                return self.field(b":status", &digits, out);
            }
        };
        out.push(0x80 | number);
    }

    /// A field. The name is in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let name_number = static_name(name);
        if matches!(name_number, 2..=7) {
            let first = usize::from(name_number) - 1;
            for (number, (other, known)) in STATIC.iter().enumerate().skip(first).take(2) {
                if *other == name && *known == value {
                    out.push(0x80 | (number + 1) as u8);
                    return;
                }
            }
        }
        // Never in a table, here or further on: guesses at them could be seen by their length (RFC 7541, section 7.1.3).
        if matches!(name_number, 23 | 32 | 49 | 55) {
            return literal(0x10, 4, name_number, name, value, out);
        }
        if name.len() + value.len() + ENTRY_OVERHEAD > self.table.size_max() / 4 {
            return literal(0, 4, name_number, name, value, out);
        }
        let hash = hash(name, value);
        let seen = self
            .seen
            .get_or_insert_with(|| Box::new([Seen::default(); REMEMBERED]));
        let slot = &mut seen[hash as usize % REMEMBERED];
        if slot.hash != hash {
            *slot = Seen { hash, entry: 0 };
            return literal(0, 4, name_number, name, value, out);
        }
        let place = self.made.wrapping_sub(slot.entry) as usize;
        if slot.entry != 0
            && let Some(entry) = self.table.get(place)
            && entry.name() == name
            && entry.value() == value
        {
            return integer(STATIC.len() + 1 + place, 7, 0x80, out);
        }
        self.made = self.made.wrapping_add(1).max(1);
        slot.entry = self.made;
        self.table.insert(Entry::new(name, value));
        literal(0x40, 6, name_number, name, value, out);
    }
}

/// A literal, its name by number where it has one.
fn literal(
    pattern: u8,
    prefix_bits: u32,
    name_number: u8,
    name: &[u8],
    value: &[u8],
    out: &mut Vec<u8>,
) {
    integer(usize::from(name_number), prefix_bits, pattern, out);
    if name_number == 0 {
        integer(name.len(), 7, 0, out);
        out.extend_from_slice(name);
    }
    integer(value.len(), 7, 0, out);
    out.extend_from_slice(value);
}

/// A number with a prefix of so many bits; `pattern` are the bits before it.
fn integer(value: usize, prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Eight bytes at a time; what collides is compared, and only costs a byte or two.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (name.len() as u64) << 32 | value.len() as u64;
    for part in [name, value] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            state = (state.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = (state.rotate_left(5) ^ u64::from_le_bytes(last)).wrapping_mul(PRIME);
    }
    (state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;
    use proptest::prelude::*;

    fn send(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), &mut block);
        }
        block
    }

    fn receive(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder
            .decode(block, |name, value| fields.push((text(name), text(value))))
            .unwrap();
        fields
    }

    #[test]
    fn what_repeats_is_one_byte_from_the_third_time_on() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields = [
            ("server", "origin"),
            ("x-own", "value"),
            ("content-type", "text/html"),
        ];
        let lengths: Vec<usize> = (0..4)
            .map(|_| {
                let block = send(&mut encoder, &fields);
                assert_eq!(receive(&mut decoder, &block).len(), 3);
                block.len()
            })
            .collect();
        assert_eq!(lengths[2..], [3, 3], "{lengths:?}");
    }

    #[test]
    fn secrets_are_never_in_a_table() {
        let mut encoder = Encoder::default();
        for _ in 0..3 {
            for name in [
                "set-cookie",
                "cookie",
                "authorization",
                "proxy-authorization",
            ] {
                let block = send(&mut encoder, &[(name, "secret")]);
                assert_eq!(block[0] & 0xf0, 0x10, "{name}");
            }
        }
        assert_eq!(encoder.table.len(), 0);
    }

    #[test]
    fn a_smaller_table_is_told_and_kept() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for round in 0..8 {
            if round == 4 {
                encoder.set_table_bytes(64);
            }
            let block = send(
                &mut encoder,
                &[("a", "b"), (":method", "POST"), (":status", "201")],
            );
            let fields = receive(&mut decoder, &block);
            assert_eq!(fields[0], ("a".to_owned(), "b".to_owned()));
            assert_eq!(fields[1].1, "POST");
            assert_eq!(fields[2].1, "201");
        }
        encoder.set_table_bytes(0);
        for _ in 0..4 {
            let block = send(&mut encoder, &[("a", "b")]);
            receive(&mut decoder, &block);
        }
        assert_eq!(encoder.table.len(), 0);
    }

    proptest! {
        #[test]
        fn a_decoder_reads_what_an_encoder_writes(
            blocks in proptest::collection::vec(
                proptest::collection::vec(("[a-z:-]{1,12}", "[ -~]{0,200}"), 0..12), 0..40),
            repeats in 1usize..4,
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for fields in &blocks {
                for _ in 0..repeats {
                    let borrowed: Vec<(&str, &str)> =
                        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                    let block = send(&mut encoder, &borrowed);
                    prop_assert_eq!(&receive(&mut decoder, &block), fields);
                }
            }
        }
    }
}
