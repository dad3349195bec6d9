//! Child processes of a shard: their streams, their end, and programs that are kept running.

mod child;
mod command;
mod error;
mod keep;
mod life;
mod lines;
mod orphans;
mod pipe;
mod spawner;
mod told;

pub use child::{Child, Output};
pub use command::{Command, Stdio};
pub use error::{CommandFault, SpawnError};
pub use keep::{Again, Keep, KeepError, Kept, ProcessMonitor};
pub use life::EndUnknown;
pub use told::{Line, Stream};
