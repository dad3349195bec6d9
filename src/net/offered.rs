//! Connections that were accepted and that nobody serves yet.

use waterwheel_reactor::{Address, Incoming};

/// An accepted connection on its way to whoever serves it: in a queue, in a lane, in somebody's hands. Dropped on the
/// way, whatever the reason, it is reset: closed in order, it would look like one that was served and had nothing to
/// say.
#[derive(Debug)]
pub(crate) struct Offered {
    /// `None` once it was taken.
    incoming: Option<Incoming>,
}

impl Offered {
    pub(super) fn new(incoming: Incoming) -> Offered {
        Offered { incoming: Some(incoming) }
    }

    /// The peer's address if it is known.
    pub(super) fn peer(&self) -> Option<&Address> {
        self.incoming.as_ref()?.peer.as_ref()
    }

    /// To be served now.
    pub(super) fn take(mut self) -> Option<Incoming> {
        self.incoming.take()
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            waterwheel_os::reset(incoming.handle);
        }
    }
}
