//! The waker of a root, and how it interrupts a shard that sleeps in its ring.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::Wake;

use waterwheel_os::Interrupt;
use waterwheel_reactor::Doorbell;

use crate::core::ring_from_this_thread;

/// The waker of the root. Whoever keeps it after the reactor's end keeps no descriptor open and wakes nobody.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) door: Doorbell,
    way: Weak<Way>,
}

/// The ways in to a shard that sleeps.
#[derive(Debug)]
pub(crate) struct Way {
    /// For everybody.
    pub(crate) interrupt: Interrupt,
    /// The ring, for shards that send it messages; `None` where that is slower, or does not work.
    pub(crate) ring: Option<OwnedFd>,
}

impl Bell {
    pub(crate) fn new(way: &Arc<Way>) -> Bell {
        Bell { door: Doorbell::default(), way: Arc::downgrade(way) }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.door.ring()
            && let Some(way) = self.way.upgrade()
        {
            if way.ring.is_some() && ring_from_this_thread(&way) {
                return;
            }
            way.interrupt.raise();
        }
    }
}
