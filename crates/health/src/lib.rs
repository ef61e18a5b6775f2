//! weir-health.
