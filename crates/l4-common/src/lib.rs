//! weir-l4-common.
