//! bare
fn main() {}
