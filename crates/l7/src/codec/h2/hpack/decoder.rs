//! Reading header blocks.

use super::table::{Entry, STATIC, Table};
use super::{Error, TABLE_BYTES_DEFAULT, huffman};

/// What is kept of the memory for literals from one block to the next.
const KEPT_SCRATCH_BYTES_MAX: usize = 512;

/// Decodes the header blocks of one direction of a connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The size that the peer may give the table: what we have said, as far as the peer knows it.
    table_bytes_max: usize,
    /// A literal as it was before Huffman; kept for its memory while a block is decoded.
    scratch: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_BYTES_DEFAULT),
            table_bytes_max: TABLE_BYTES_DEFAULT,
            scratch: Vec::new(),
        }
    }
}

impl Decoder {
    /// Decodes a whole block; `field` gets each name and value in turn.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        let mut input = Input(block);
        let mut is_first = true;
        while let Some(first) = input.0.first().copied() {
            if first & 0x80 != 0 {
                let index = input.integer(7)?;
                let (name, value) = self.entry(index)?;
                field(name, value);
            } else if first & 0xe0 == 0x20 {
                let size = input.integer(5)?;
                if !is_first || size > self.table_bytes_max {
                    return Err(Error::TableSize);
                }
                self.table.resize(size);
                // Several may stand at the beginning (RFC 7541, section 4.2).
                continue;
            } else {
                let is_kept = first & 0x40 != 0;
                self.literal(&mut input, is_kept, &mut field)?;
            }
            is_first = false;
        }
        // One long literal must not stay as memory.
        if self.scratch.capacity() > KEPT_SCRATCH_BYTES_MAX {
            self.scratch = Vec::new();
        }
        Ok(())
    }

    fn literal(
        &mut self,
        input: &mut Input<'_>,
        is_kept: bool,
        field: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        let index = input.integer(if is_kept { 6 } else { 4 })?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        // Both strings may be in the scratch, the name before the value.
        let literal_name = if index == 0 {
            Some(input.string(&mut scratch)?)
        } else {
            None
        };
        let name_end = scratch.len();
        let literal_value = input.string(&mut scratch)?;
        let name = match literal_name {
            None => self.entry(index)?.0,
            Some(Some(plain)) => plain,
            Some(None) => &scratch[..name_end],
        };
        let value = literal_value.unwrap_or(&scratch[name_end..]);
        field(name, value);
        if is_kept {
            let entry = Entry::new(name, value);
            self.table.insert(entry);
        }
        self.scratch = scratch;
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Error> {
        if (1..=STATIC.len()).contains(&index) {
            return Ok(STATIC[index - 1]);
        }
        let place = index.checked_sub(STATIC.len() + 1).ok_or(Error::Index)?;
        let entry = self.table.get(place).ok_or(Error::Index)?;
        Ok((entry.name(), entry.value()))
    }
}

/// What is left of a block.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn byte(&mut self) -> Result<u8, Error> {
        let (first, rest) = self.0.split_first().ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number with a prefix of so many bits (RFC 7541, section 5.1). Four more bytes are enough for any length that
    /// fits a block and any index that a table has.
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, Error> {
        let mask = (1u8 << prefix_bits) - 1;
        let prefix = self.byte()? & mask;
        if prefix < mask {
            return Ok(usize::from(prefix));
        }
        let mut value = usize::from(mask);
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Integer)
    }

    /// A string, where it is plain; one in Huffman code is appended to `decoded`.
    fn string(&mut self, decoded: &mut Vec<u8>) -> Result<Option<&'b [u8]>, Error> {
        let is_huffman = self.0.first().ok_or(Error::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        if !is_huffman {
            return Ok(Some(bytes));
        }
        huffman::decode(bytes, decoded)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Result<String, Error> {
        let mut text = String::new();
        decoder.decode(&bytes(hex), |name, value| {
            text += &String::from_utf8_lossy(name);
            text += "=";
            text += &String::from_utf8_lossy(value);
            text += "\n";
        })?;
        Ok(text)
    }

    #[test]
    fn decodes_the_requests_of_the_rfc() {
        // RFC 7541, sections C.3 and C.4: the same three requests, plain and in Huffman code.
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let texts = blocks.map(|block| decode(&mut decoder, block).unwrap());
            assert_eq!(
                texts[0],
                ":method=GET\n:scheme=http\n:path=/\n:authority=www.example.com\n"
            );
            assert_eq!(
                texts[1],
                ":method=GET\n:scheme=http\n:path=/\n:authority=www.example.com\ncache-control=no-cache\n"
            );
            assert_eq!(
                texts[2],
                ":method=GET\n:scheme=https\n:path=/index.html\n:authority=www.example.com\ncustom-key=custom-value\n"
            );
            assert_eq!(decoder.table.len(), 3);
        }
    }

    #[test]
    fn refuses_what_no_encoder_sends() {
        for (hex, error) in [
            ("80", Error::Index),
            ("be", Error::Index),
            ("ff ffffff ffff", Error::Integer),
            ("40", Error::Truncated),
            ("4003 6162", Error::Truncated),
            ("82 20", Error::TableSize),
            ("3f e2 1f", Error::TableSize),
            ("0082 00 00", Error::Huffman),
        ] {
            assert_eq!(decode(&mut Decoder::default(), hex), Err(error), "{hex}");
        }
    }

    #[test]
    fn a_smaller_table_evicts() {
        let mut decoder = Decoder::default();
        decode(&mut decoder, "4001 6101 62").unwrap();
        assert_eq!(decode(&mut decoder, "be").unwrap(), "a=b\n");
        decode(&mut decoder, "20").unwrap();
        assert_eq!(decode(&mut decoder, "be"), Err(Error::Index));
    }

    proptest! {
        #[test]
        fn no_block_panics(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.decode(&block, |_, _| {});
                prop_assert!(decoder.table.len() * 32 <= TABLE_BYTES_DEFAULT);
            }
        }
    }
}
