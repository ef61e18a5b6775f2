//! weir-api.
