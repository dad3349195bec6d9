//! What must hold for whatever an operator writes or a peer sends, each as a function of any bytes.
//!
//! | target | bytes |
//! |---|---|
//! | [`endpoint`] | where to listen or connect |
//! | [`environment`] | the environment of a process, as `/proc/PID/environ` has it: `NAME=VALUE`, a zero byte, and so on |
//! | [`file`] | the file of a proxy, in TOML |
//! | [`flags`] | the value of a flag: rates, times, sizes, thresholds, networks, names of servers |
//! | [`frames`] | a codec's kind and limit in a byte each, a line whose bytes say how the rest is cut, then what a peer sends |
//! | [`header`] | a PROXY header, and what follows |
//! | [`hello`] | a line whose bytes say how the rest is cut, then what a TLS client says |
//! | [`target`] | what to load: a URL or an endpoint |
//! | [`response`] | a line whose bytes say how the rest is cut, then what an HTTP server answers |
//!
//! `cargo test` feeds each function the files of `corpus/TARGET/`; it needs no fuzzer. To look for more, from the
//! repository's root, with a nightly compiler or one that is told to behave like it:
//!
//! ```text
//! cargo install cargo-fuzz
//! cp Cargo.lock shards/fuzz/    # the versions that are shipped
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir shards/fuzz endpoint -- -max_total_time=120 -dict=shards/fuzz/words
//! RUSTC_BOOTSTRAP=1 cargo fuzz cmin --fuzz-dir shards/fuzz endpoint
//! ```
//!
//! What breaks a property lies in `artifacts/` then. Mend the code, give the hazard a test of its own beside it, and
//! keep the input in the corpus under a name that says what it was. `cmin` leaves those files that reach some code
//! which no other does, under names of its own; only a few small ones belong into the repository.
//!
//! This is the one package in `shards/` that may depend on the one in the root: it is part of no program, and lies
//! here, beside the workspace, so that the root's Cargo.toml does not need a fuzzer.
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod environment;
pub mod file;
pub mod flags;
pub mod frames;
pub mod header;
pub mod hello;
mod line;
pub mod response;
pub mod target;
