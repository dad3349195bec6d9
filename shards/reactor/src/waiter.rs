//! Who waits for one thing, such as one direction of a connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};

/// Somebody who may wait for something: at most one, the latest. The waker is kept when it is woken, so that waiting again costs
/// no reference count. Any waker may be woken here, also one that runs code which comes back here.
#[derive(Default)]
pub struct Waiter {
    waker: RefCell<Option<Waker>>,
    waits: Cell<bool>,
    /// Whether a waker that was woken may be put back: nobody forgot it meanwhile.
    kept: Cell<bool>,
}

impl Waiter {
    /// Remembers who waits; the latest wins.
    pub fn wait(&self, cx: &Context<'_>) {
        // What is cloned, and dropped for it, may run anything, so nothing is borrowed then.
        let known = self.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            let new = cx.waker().clone();
            drop(self.waker.replace(Some(new)));
        }
        self.waits.set(true);
    }

    /// Whether somebody waits.
    pub fn waits(&self) -> bool {
        self.waits.get()
    }

    /// Wakes whoever waits. Borrow nothing meanwhile: a waker may run anything. One that panics is kept from whoever wakes,
    /// who has others to wake.
    pub fn wake(&self) {
        if !self.waits.replace(false) {
            return;
        }
        if let Some(waker) = self.waker.take() {
            self.kept.set(true);
            // It has been heard of by the panic hook, and is nothing that this connection could do something about.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake_by_ref()));
            // Whoever came meanwhile is later, and stays.
            let mut now = self.waker.borrow_mut();
            if now.is_none() && self.kept.get() {
                *now = Some(waker);
            }
        }
    }

    /// Forgets who waited.
    pub fn forget(&self) {
        self.waits.set(false);
        self.kept.set(false);
        drop(self.waker.take());
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiter").field(&self.waits.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    thread_local! {
        static WAITER: Waiter = Waiter::default();
    }

    struct Forgets;

    impl Wake for Forgets {
        fn wake(self: Arc<Self>) {
            WAITER.with(Waiter::forget);
        }
    }

    #[test]
    fn a_waker_that_is_forgotten_while_it_is_woken_is_not_kept() {
        let forgets = Arc::new(Forgets);
        WAITER.with(|waiter| {
            waiter.wait(&Context::from_waker(&Waker::from(forgets.clone())));
            assert!(waiter.waits());
            waiter.wake();
            assert!(!waiter.waits());
        });
        assert_eq!(Arc::strong_count(&forgets), 1);
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the test's");
        }
    }

    #[test]
    fn a_waker_that_panics_is_kept_from_whoever_wakes() {
        let waiter = Waiter::default();
        let waker = Waker::from(Arc::new(Panics));
        for _ in 0..2 {
            waiter.wait(&Context::from_waker(&waker));
            waiter.wake();
            assert!(!waiter.waits());
        }
    }
}
