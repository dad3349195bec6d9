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
    /// Has a descriptor in reserve that was taken before the shards ran, when others could not have taken them all; takes
    /// later ones with `spare`: [`Reactor::spare`].
    ///
    /// [`Reactor::spare`]: waterwheel_reactor::Reactor::spare
    pub(super) fn new(held: Handle, spare: F) -> Reserve<F> {
        Reserve { spare, held: Some(held) }
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
        let left = Cell::new(1_u32);
        let socket = || Handle::Virtual(Virtual::new(Nothing));
        let mut reserve = Reserve::new(socket(), || {
            left.set(left.get().checked_sub(1).ok_or(io::ErrorKind::OutOfMemory)?);
            Ok(socket())
        });
        assert!(reserve.refill(), "it is full from the start");
        assert_eq!(left.get(), 1, "and takes no second one");
        assert!(reserve.spend());
        assert!(!reserve.spend(), "there was only one");
        assert!(reserve.refill() && reserve.spend());
        assert!(!reserve.refill() && !reserve.spend(), "none is left");
    }
}
