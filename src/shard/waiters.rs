//! Wakers of tasks that wait for the same thing, each removed when its future goes.

use std::task::Waker;

/// A bag of wakers with stable places; bounded by the futures that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Waiters {
    /// Remembers `waker` at `place`, which is `None` before the first call.
    pub(crate) fn wait(&mut self, place: &mut Option<usize>, waker: &Waker) {
        let at = *place.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() - 1
            })
        });
        match &mut self.places[at] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Forgets a place; for the waiting future's drop.
    pub(crate) fn leave(&mut self, place: &mut Option<usize>) {
        if let Some(at) = place.take() {
            self.places[at] = None;
            self.free.push(at);
        }
    }

    /// Wakes everybody; the places stay taken until their futures leave.
    pub(crate) fn wake_all(&mut self) {
        self.places.iter().flatten().for_each(Waker::wake_by_ref);
    }
}
