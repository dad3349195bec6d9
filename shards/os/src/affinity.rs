//! Where a thread may run.

use std::fmt;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs of a thread, as sched_getaffinity(2) says; up to 1 024.
#[derive(Clone)]
pub struct Affinity(Option<CpuSet>);

impl Affinity {
    /// That of the calling thread, which threads that it starts inherit.
    pub fn of_this_thread() -> Affinity {
        // It fails where there are more CPUs than fit: then nothing is known, and nothing changed.
        Affinity(sched_getaffinity(None).ok())
    }

    /// Gives the calling thread the same.
    ///
    /// # Errors
    /// As sched_setaffinity(2): none of these CPUs is there any more.
    pub fn set_for_this_thread(&self) -> io::Result<()> {
        match &self.0 {
            Some(cpus) => Ok(sched_setaffinity(None, cpus)?),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map(CpuSet::count);
        f.debug_struct("Affinity").field("cpus", &count).finish()
    }
}
