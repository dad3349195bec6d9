//! What code that several threads run is made of, through one module: the standard library's, or models of it that
//! [loom](https://docs.rs/loom) explores. The floor above adds its rings and queues.

#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

    /// As the standard library's `thread_local`. loom runs all threads of a model on one thread of the system, so they need its own.
    macro_rules! per_thread {
        ($(#[$docs:meta])* static $name:ident: $type:ty = const { $value:expr };) => {
            loom::thread_local! { $(#[$docs])* static $name: $type = $value; }
        };
    }
    pub(crate) use per_thread;
}

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::Mutex;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use std::thread_local as per_thread;
}

#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use real::*;
