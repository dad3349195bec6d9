//! The waker of a shard's root: it brings glommio's loop back when it sleeps, and only then.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use waterwheel_reactor::Doorbell;

/// Decides by a [`Doorbell`] when glommio must be woken at all.
///
/// glommio counts the clones of a task's waker in an `i16` and panics at the 32 768th; it also queues one clone for
/// every wake from another thread, in a queue without a bound. So its waker is cloned once per life and kept here, and
/// at most one wake per sleep reaches it. What the world clones is an `Arc` of this.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    pub(crate) door: Doorbell,
    /// glommio's waker of the task that drives the root, from its first poll until the life is over.
    driver: Mutex<Option<Waker>>,
}

impl Bell {
    /// From here on a ring wakes `driver`.
    pub(crate) fn install(&self, driver: &Waker) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver.clone());
    }

    /// From here on a ring does nothing, and glommio's waker is gone: it must be dropped on the thread of its
    /// executor while that runs, or glommio does not free the task.
    pub(crate) fn remove(&self) {
        drop(self.driver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        if self.door.ring() {
            // Under the lock, so that no clone of glommio's waker is made once `remove` returned.
            if let Some(driver) = &*self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
                driver.wake_by_ref();
            }
        }
    }
}
