//! What the laws are written with: roots on shards, peers on plain threads, mail between them, counts of what the
//! process holds, and the [`Surroundings`] that all of it goes through.
//!
//! A shard has one alarm, so at most one of [`sleep`] and [`with_deadline`] may be under way in a root at a time.

pub(crate) mod allocations;
mod census;
mod confined;
pub(crate) mod full;
mod kernel;
mod limit;
mod long;
mod mail;
pub(crate) mod pattern;
pub(crate) mod peer;
mod run;
pub(crate) mod stream;
mod surroundings;
mod thread;
mod wanted;

pub use allocations::set_allocation_counter;
pub use census::Census;
pub use confined::{Confined, lock_at_most};
pub use kernel::Kernel;
pub use limit::DescriptorLimit;
pub use long::{LongStream, Reader};
pub use mail::Mail;
pub use run::{
    Shard, accept, bind_local, close_listener, launch, local, on_each, on_one, shard, sleep, try_each,
    with_deadline,
};
pub use stream::turn;
pub(crate) use surroundings::surround;
pub use surroundings::{PeerListener, PeerSocket, Surroundings, surroundings};
pub use thread::{Thread, pause, thread};
pub use wanted::wanted;
