//! weir-l4.
