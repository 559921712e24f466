//! The `sluice-perf` binary.

fn main() {}
