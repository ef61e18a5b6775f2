//! HPACK: the compression of fields (RFC 7541).
//!
//! Blocks are decoded whole, and each field is handed on as it is found: what a field costs is counted before anything
//! is kept of it, so that a small block that names large fields over and over fills no memory.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub use decoder::Decoder;
pub use encoder::Encoder;

/// What a table counts for each entry beside its bytes (RFC 7541, section 4.1), and a header list for each field (RFC
/// 9113, section 6.5.2).
pub const ENTRY_OVERHEAD: usize = 32;

/// The size of a dynamic table that nobody has said anything about (RFC 9113, section 6.5.2).
pub const TABLE_BYTES_DEFAULT: usize = 4096;

/// Why a block cannot be decoded. The tables of both sides differ from then on: the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The block ends in the middle of something.
    #[error("the block is cut off")]
    Truncated,
    /// A number that is larger than any that has a meaning.
    #[error("a number is too large")]
    Integer,
    /// A number that no table has an entry for.
    #[error("an index is in no table")]
    Index,
    /// A string's Huffman code is not one, or its padding is not.
    #[error("a string is not Huffman code")]
    Huffman,
    /// The table is made larger than was allowed, or not at the block's beginning.
    #[error("the table's size is not allowed")]
    TableSize,
}
