//! Which shard owns a connection: one stable hash from the peer's address to a shard, the same here and in the kernel.
//!
//! The shard that accepts a connection asks [`owner`]; if another shard owns it, the connection is handed over. In
//! mode [`Mode::Kernel`] nothing is compared.

mod hash;
mod mode;
mod owner;
mod program;
#[cfg(test)]
mod vectors;

pub use hash::{hash, hash_bytes, jump};
pub use mode::{Mode, UnknownMode};
pub use owner::{owner, random_seed};
pub use program::program;
