//! A shard's place for its instance: empty, in the making, taken, or being cleared.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Instance;
use crate::shard::Shard;
use crate::shard::waiters::{Waiters, wait_until};

/// A use of this shard's instance: as good as a reference to it, and free to be held over an await. Cheap to clone.
/// The instance stays as long as one of these is about, so that a stop waits for whoever keeps one: let it go.
pub struct Local<S> {
    held: Rc<Held<S>>,
}

impl<S> Deref for Local<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.held.instance
    }
}

/// An instance, and who waits until nobody uses it.
struct Held<S> {
    instance: S,
    // Fields are dropped in order, so when this tells, the instance has been dropped.
    tell: Tell,
}

/// Whether the instance is gone, and the stop that waits for it.
#[derive(Default)]
struct Last {
    gone: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

struct Tell(Rc<Last>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.gone.set(true);
        if let Some(waiting) = self.0.waiting.take() {
            waiting.wake();
        }
    }
}

enum State<S> {
    Empty,
    Starting,
    Running(Local<S>),
    Stopping,
}

/// One shard's.
pub(super) struct Place<S> {
    name: &'static str,
    shard: Shard,
    state: RefCell<State<S>>,
    /// How often it became empty again: who waits for an instance gives up then.
    cleared: Cell<u64>,
    /// Who waits for another state.
    waiting: RefCell<Waiters>,
}

impl<S: Instance> Place<S> {
    pub(super) fn new(name: &'static str, shard: &Shard) -> Place<S> {
        Place {
            name,
            shard: shard.clone(),
            state: RefCell::new(State::Empty),
            cleared: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    pub(super) fn shard(&self) -> Shard {
        self.shard.clone()
    }

    pub(super) fn local(&self) -> Option<Local<S>> {
        match &*self.state.borrow() {
            State::Running(local) => Some(local.clone()),
            _ => None,
        }
    }

    /// Waits for an instance; `None`: the place became empty meanwhile.
    pub(super) async fn started(&self) -> Option<Local<S>> {
        let cleared = self.cleared.get();
        wait_until(&self.waiting, || match self.local() {
            None if self.cleared.get() == cleared => None,
            found => Some(found),
        })
        .await
    }

    /// Takes the place for an instance that is to be made; `None`: it is not empty.
    pub(super) fn begin(&self) -> Option<Clears<'_, S>> {
        let empty = matches!(&*self.state.borrow(), State::Empty);
        empty.then(|| {
            self.set(State::Starting);
            Clears { place: self, armed: true }
        })
    }

    /// Ends the instance, if there is one or will be.
    pub(super) async fn stop(&self) {
        let running = wait_until(&self.waiting, || match &*self.state.borrow() {
            State::Empty => Some(None),
            State::Running(local) => Some(Some(local.clone())),
            State::Starting | State::Stopping => None,
        });
        let Some(local) = running.await else { return };
        self.set(State::Stopping);
        let _clears = Clears { place: self, armed: true };
        local.stop().await;
        let last = local.held.tell.0.clone();
        drop(local);
        poll_fn(|cx| {
            *last.waiting.borrow_mut() = Some(cx.waker().clone());
            if last.gone.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn set(&self, state: State<S>) {
        if matches!(state, State::Empty) {
            self.cleared.set(self.cleared.get() + 1);
        }
        // What it drops may ask for the state.
        let before = self.state.replace(state);
        drop(before);
        self.waiting.borrow_mut().wake_all();
    }
}

/// Empties the place when it is dropped, whatever happened; until an instance is [`done`](Clears::done).
pub(super) struct Clears<'a, S: Instance> {
    place: &'a Place<S>,
    armed: bool,
}

impl<S: Instance> Clears<'_, S> {
    pub(super) fn done(mut self, instance: S) {
        self.armed = false;
        let held = Rc::new(Held { instance, tell: Tell(Rc::default()) });
        self.place.set(State::Running(Local { held }));
    }
}

impl<S: Instance> Drop for Clears<'_, S> {
    fn drop(&mut self) {
        if self.armed {
            self.place.set(State::Empty);
        }
    }
}

impl<S> Clone for Local<S> {
    fn clone(&self) -> Local<S> {
        Local { held: self.held.clone() }
    }
}

impl<S> fmt::Debug for Local<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("uses", &Rc::strong_count(&self.held)).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Place<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("name", &self.name).finish_non_exhaustive()
    }
}
