//! Connections that were accepted and that nobody serves yet.

use std::sync::Arc;

use waterwheel_reactor::{Address, Incoming};

use super::places::{Counted, Parts};

/// An accepted connection on its way to whoever serves it: in a queue, in a lane, in somebody's hands. Dropped on the
/// way, whatever the reason, it is reset: closed in order, it would look like one that was served and had nothing to
/// say.
#[derive(Debug)]
pub(crate) struct Offered {
    /// `None` once it was taken.
    incoming: Option<Incoming>,
    /// The shard that it is meant for counts it.
    counted: Option<Counted>,
}

impl Offered {
    pub(super) fn new(incoming: Incoming) -> Offered {
        Offered { incoming: Some(incoming), counted: None }
    }

    /// The peer's address if it is known.
    pub(super) fn peer(&self) -> Option<&Address> {
        self.incoming.as_ref()?.peer.as_ref()
    }

    /// It is meant for this shard, and for no other that it may have been meant for before.
    pub(super) fn count_for(&mut self, parts: &Arc<Parts>, shard: usize) {
        self.counted = Counted::new(parts, shard);
    }

    /// To be served now; with what counts it, to be kept as long as it is.
    pub(super) fn take(mut self) -> Option<(Incoming, Option<Counted>)> {
        Some((self.incoming.take()?, self.counted.take()))
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            waterwheel_os::reset(incoming.handle);
        }
    }
}
