//! A descriptor kept in hand for the moment when there are no others.

use std::fmt;
use std::io;

use waterwheel_reactor::Handle;

/// One spare descriptor of a reactor's.
///
/// At the limit accept(2) fails and leaves the client in the queue, connected as far as it knows, waiting. So
/// [`spend`](Reserve::spend) the reserve, accept, close what was accepted, and [`refill`](Reserve::refill): the client
/// is told. Another thread may take the number in between; then accept fails again, and one tries again later.
pub(super) struct Reserve<F> {
    spare: F,
    held: Option<Handle>,
}

impl<F: Fn() -> io::Result<Handle>> Reserve<F> {
    /// Takes a descriptor into reserve, and later ones the same way: [`Reactor::spare`]. Where none is left, other shards
    /// that began before this one may have taken them all: it is tried again with each connection.
    ///
    /// [`Reactor::spare`]: waterwheel_reactor::Reactor::spare
    pub(super) fn new(spare: F) -> Reserve<F> {
        let held = spare().ok();
        Reserve { spare, held }
    }

    /// Gives the descriptor back, for the next one who asks. Answers whether there was one.
    pub(super) fn spend(&mut self) -> bool {
        self.held.take().is_some()
    }

    /// Takes a descriptor into reserve if there is none. Answers whether there is one now.
    pub(super) fn refill(&mut self) -> bool {
        if self.held.is_none() {
            self.held = (self.spare)().ok();
        }
        self.held.is_some()
    }
}

impl<F> fmt::Debug for Reserve<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("held", &self.held.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use waterwheel_reactor::{Virtual, VirtualSocket};

    struct Nothing;
    impl VirtualSocket for Nothing {}

    #[test]
    fn the_reserve_is_one_descriptor() {
        let mut reserve = Reserve::new(|| Ok(Handle::Virtual(Virtual::new(Nothing))));
        assert!(reserve.refill(), "it is full from the start");
        assert!(reserve.spend());
        assert!(!reserve.spend(), "there was only one");
        assert!(reserve.refill());
        assert!(reserve.spend());
    }

    /// Found by simulation: a shard that began when others had taken all descriptors failed, and stopped the program.
    #[test]
    fn a_reserve_that_cannot_be_had_at_first_is_had_later() {
        let left = Cell::new(0_u32);
        let mut reserve = Reserve::new(|| {
            left.set(left.get().checked_sub(1).ok_or(io::ErrorKind::OutOfMemory)?);
            Ok(Handle::Virtual(Virtual::new(Nothing)))
        });
        assert!(!reserve.spend() && !reserve.refill());
        left.set(1);
        assert!(reserve.refill() && reserve.spend());
    }
}
