//! Running out of descriptors on purpose.

use std::any::Any;

use super::surroundings;

/// A limit on how many descriptors may be open, lifted again when dropped. A law has a process to itself, so it disturbs
/// nobody.
#[derive(Debug)]
pub struct DescriptorLimit {
    _guard: Box<dyn Any + Send>,
}

impl DescriptorLimit {
    /// Leaves room for `spare` more descriptors, the reactor's and the peers' together.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn leave(spare: usize) -> DescriptorLimit {
        DescriptorLimit { _guard: surroundings().leave_descriptors(spare) }
    }

    /// Makes room for `wanted` descriptors in all, where the hard limit allows it.
    pub fn raise(wanted: u64) -> Option<DescriptorLimit> {
        surroundings().raise_descriptors(wanted).map(|guard| DescriptorLimit { _guard: guard })
    }
}
