//! The command line `pintle`.
fn main() {}
