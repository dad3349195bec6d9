//! Running out of descriptors on purpose.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Census;

/// A limit on this process's descriptors (`RLIMIT_NOFILE`), lifted again when dropped. A law has a process to itself,
/// so it disturbs nobody.
#[derive(Debug)]
pub struct DescriptorLimit {
    before: Rlimit,
}

impl DescriptorLimit {
    /// Leaves room for `spare` more descriptors.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn leave(spare: usize) -> DescriptorLimit {
        let open = Census::take().descriptors;
        // The limit is on the numbers, not on how many there are, so holes below it count as room.
        let limit = (0..).filter(|number| !open.contains_key(number)).nth(spare).expect("a free number");
        DescriptorLimit::set(limit as u64)
    }

    /// Makes room for `wanted` descriptors in all, where the hard limit allows it.
    pub fn raise(wanted: u64) -> Option<DescriptorLimit> {
        let now = getrlimit(Resource::Nofile);
        match (now.current, now.maximum) {
            (Some(current), _) if current >= wanted => Some(DescriptorLimit { before: now }),
            (Some(_), Some(maximum)) if maximum < wanted => None,
            _ => Some(DescriptorLimit::set(wanted)),
        }
    }

    fn set(limit: u64) -> DescriptorLimit {
        let before = getrlimit(Resource::Nofile);
        let lowered = Rlimit { current: Some(limit), maximum: before.maximum };
        setrlimit(Resource::Nofile, lowered).expect("a soft limit below the hard one");
        DescriptorLimit { before }
    }
}

impl Drop for DescriptorLimit {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).expect("the limit there was before");
    }
}
