//! The `waterwheel` command.
#![forbid(unsafe_code)]

fn main() {}
