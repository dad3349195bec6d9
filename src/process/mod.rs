//! Child processes of a shard: their streams, their end, and programs that are kept running.

mod child;
mod command;
mod error;
mod life;
mod orphans;
mod pipe;
mod spawner;

pub use child::{Child, Output};
pub use command::{Command, Stdio};
pub use error::{CommandFault, SpawnError};
pub use life::EndUnknown;
