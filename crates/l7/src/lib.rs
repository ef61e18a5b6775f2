//! weir-l7.
