//! The project tasks: test, ci, bench.
fn main() {}
