//! weir: a load balancer in one binary.
fn main() {}
