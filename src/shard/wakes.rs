//! Wakers for tests, that write down which of them was woken.

use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

/// What was woken, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakes(Arc<Mutex<Vec<usize>>>);

impl Wakes {
    /// A waker of this name.
    pub(crate) fn waker(&self, name: usize) -> Waker {
        struct Named(usize, Wakes);
        impl Wake for Named {
            fn wake(self: Arc<Self>) {
                self.1.0.lock().unwrap().push(self.0);
            }
        }
        Waker::from(Arc::new(Named(name, self.clone())))
    }

    /// What was woken since the last time.
    pub(crate) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Whether no waker is left.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}
