//! Which shard owns a connection: one stable hash from the peer's address to a shard, the same here and in the kernel.
//!
//! The shard that accepts a connection asks [`owner`]; if another shard owns it, the connection is handed over. In
//! mode [`Mode::Kernel`] nothing is compared.

mod hash;
mod mode;
mod owner;
#[cfg(test)]
mod vectors;

pub use hash::{hash, jump};
pub use mode::{Mode, UnknownMode};
pub use owner::{owner, random_seed};
