//! The calls that a shard waits for: a slab whose slots carry generations, so that a reply finds its call or nobody.

use std::task::{Poll, Waker};

use super::CallError;

/// Names one call for good: a slot of the caller's slab and which of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mesh) struct Ticket {
    slot: u32,
    generation: u32,
}

/// The calls of one shard through one port. Bounded by the calls that its tasks hold and, for those cancelled, by
/// their credits.
#[derive(Debug)]
pub(super) struct Slots<R> {
    slots: Vec<Slot<R>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<R> {
    generation: u32,
    state: State<R>,
    /// That of the latest poll of whichever call was here. Kept, so that a task that calls again and again costs no
    /// count of references; a task that has ended is silent.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State<R> {
    Free,
    /// On its way; polled once, if so, by the slot's waker.
    Waiting {
        target: usize,
        polled: bool,
    },
    /// Nobody wants the reply any more, but the credit is not back yet.
    Cancelled {
        target: usize,
    },
    /// The outcome waits to be fetched.
    Done(Result<R, CallError>),
}

impl<R> Slot<R> {
    fn wake(&self, polled: bool) {
        if polled && let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl<R> Slots<R> {
    pub(super) fn new() -> Slots<R> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }

    /// A new call to `target`.
    pub(super) fn insert(&mut self, target: usize) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Free, waker: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 calls at once")
        });
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Waiting { target, polled: false };
        Ticket { slot, generation: entry.generation }
    }

    /// The reply came; its credit is free. Gives it back if nobody wants it any more.
    pub(super) fn complete(
        &mut self,
        ticket: Ticket,
        outcome: Result<R, CallError>,
    ) -> Option<Result<R, CallError>> {
        let Some(entry) = self.entry(ticket) else { return Some(outcome) };
        match std::mem::replace(&mut entry.state, State::Free) {
            State::Waiting { polled, .. } => {
                entry.state = State::Done(outcome);
                entry.wake(polled);
                None
            }
            State::Cancelled { .. } => {
                self.vacate(ticket.slot);
                Some(outcome)
            }
            other => {
                entry.state = other;
                Some(outcome)
            }
        }
    }

    /// `target` ended, and every reply that it sent was completed: its other calls fail.
    pub(super) fn fail_all_to(&mut self, ended: usize) {
        for slot in 0..self.slots.len() {
            let entry = &mut self.slots[slot];
            match entry.state {
                State::Waiting { target, polled } if target == ended => {
                    entry.state = State::Done(Err(CallError::Closed));
                    entry.wake(polled);
                }
                State::Cancelled { target } if target == ended => {
                    self.vacate(slot as u32);
                }
                _ => {}
            }
        }
    }

    /// Whose reply this waker waits for; for reports.
    pub(super) fn target_of(&self, waker: &Waker) -> Option<usize> {
        self.slots.iter().find_map(|slot| match slot.state {
            State::Waiting { target, polled: true } => {
                slot.waker.as_ref().filter(|own| own.will_wake(waker)).map(|_| target)
            }
            _ => None,
        })
    }

    /// Fetches the outcome, or waits for it.
    pub(super) fn poll(&mut self, ticket: Ticket, polled_by: &Waker) -> Poll<Result<R, CallError>> {
        let Some(entry) = self.entry(ticket) else { return Poll::Ready(Err(CallError::Closed)) };
        match &mut entry.state {
            State::Waiting { polled, .. } => {
                *polled = true;
                match &mut entry.waker {
                    Some(waker) => waker.clone_from(polled_by),
                    none => *none = Some(polled_by.clone()),
                }
                Poll::Pending
            }
            State::Done(_) => match self.vacate(ticket.slot) {
                State::Done(outcome) => Poll::Ready(outcome),
                _ => Poll::Ready(Err(CallError::Closed)),
            },
            State::Free | State::Cancelled { .. } => Poll::Ready(Err(CallError::Closed)),
        }
    }

    /// The caller went away. Gives back an outcome that it did not fetch, to be dropped with nothing borrowed.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<Result<R, CallError>> {
        let entry = self.entry(ticket)?;
        match entry.state {
            State::Waiting { target, .. } => {
                entry.state = State::Cancelled { target };
                None
            }
            State::Done(_) => match self.vacate(ticket.slot) {
                State::Done(outcome) => Some(outcome),
                _ => None,
            },
            State::Free | State::Cancelled { .. } => None,
        }
    }

    // The call that a ticket names, unless its slot has been used again since.
    fn entry(&mut self, ticket: Ticket) -> Option<&mut Slot<R>> {
        self.slots.get_mut(ticket.slot as usize).filter(|entry| entry.generation == ticket.generation)
    }

    // Frees a slot under a new generation.
    fn vacate(&mut self, slot: u32) -> State<R> {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        std::mem::replace(&mut entry.state, State::Free)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::shard::wakes::Wakes;
    use proptest::prelude::*;

    fn noop() -> &'static Waker {
        Waker::noop()
    }

    #[test]
    fn a_reply_finds_its_call_once() {
        let mut slots = Slots::new();
        let ticket = slots.insert(1);
        assert!(slots.poll(ticket, noop()).is_pending());
        assert!(slots.complete(ticket, Ok(7)).is_none());
        assert!(slots.complete(ticket, Ok(8)).is_some(), "a second reply finds nobody");
        assert_eq!(slots.poll(ticket, noop()), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_slot_is_used_again_only_after_the_late_reply_and_under_a_new_generation() {
        let mut slots = Slots::new();
        let first = slots.insert(1);
        assert!(slots.cancel(first).is_none());
        let second = slots.insert(1);
        assert_ne!(first.slot, second.slot, "a cancelled call keeps its slot until its reply");
        assert!(slots.complete(first, Ok("late")).is_some());
        let third = slots.insert(1);
        assert_eq!(first.slot, third.slot);
        assert!(slots.complete(first, Ok("later")).is_some(), "an old ticket reached a new call");
        assert!(slots.poll(third, noop()).is_pending());
    }

    #[test]
    fn an_end_fails_the_calls_to_it_and_no_other() {
        let mut slots = Slots::<u32>::new();
        let (gone, cancelled, stays) = (slots.insert(1), slots.insert(1), slots.insert(2));
        slots.cancel(cancelled);
        slots.fail_all_to(1);
        assert_eq!(slots.poll(gone, noop()), Poll::Ready(Err(CallError::Closed)));
        assert!(slots.poll(stays, noop()).is_pending());
        assert_eq!(slots.free.len(), 2);
    }

    #[test]
    fn an_outcome_that_nobody_fetched_comes_back_to_be_dropped() {
        let mut slots = Slots::new();
        let ticket = slots.insert(1);
        slots.complete(ticket, Ok(5));
        assert_eq!(slots.cancel(ticket), Some(Ok(5)));
        assert_eq!(slots.free.len(), 1);
    }

    /// What became of a call, and the waker of its latest poll.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Fate {
        Waits { target: usize, waker: Option<usize> },
        Cancelled { target: usize },
        Done(Result<usize, CallError>),
        Gone,
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert { target: usize },
        Complete { which: usize },
        Cancel { which: usize },
        Poll { which: usize },
        Fail { target: usize },
    }

    fn acts() -> impl Strategy<Value = Act> {
        prop_oneof![
            5 => (0..3usize).prop_map(|target| Act::Insert { target }),
            4 => any::<usize>().prop_map(|which| Act::Complete { which }),
            3 => any::<usize>().prop_map(|which| Act::Cancel { which }),
            4 => any::<usize>().prop_map(|which| Act::Poll { which }),
            1 => (0..3usize).prop_map(|target| Act::Fail { target }),
        ]
    }

    /// The slab, and beside it every call that ever was.
    struct Pair {
        slots: Slots<usize>,
        calls: Vec<(Ticket, Fate)>,
        wakes: Wakes,
        peak: usize,
    }

    impl Pair {
        /// `number` is different each time: an outcome or a waker.
        fn act(&mut self, act: &Act, number: usize) {
            let which = |which: &usize| which.checked_rem(self.calls.len());
            let mut woken = Vec::new();
            match act {
                Act::Insert { target } => {
                    let ticket = self.slots.insert(*target);
                    assert!(self.calls.iter().all(|(other, _)| *other != ticket), "a ticket was given twice");
                    self.calls.push((ticket, Fate::Waits { target: *target, waker: None }));
                }
                Act::Complete { which: at } => {
                    let Some(at) = which(at) else { return };
                    let (ticket, fate) = &mut self.calls[at];
                    let unwanted = self.slots.complete(*ticket, Ok(number));
                    assert_eq!(unwanted.is_none(), matches!(fate, Fate::Waits { .. }));
                    match fate {
                        Fate::Waits { waker, .. } => {
                            woken.extend(*waker);
                            *fate = Fate::Done(Ok(number));
                        }
                        Fate::Cancelled { .. } => *fate = Fate::Gone,
                        Fate::Done(_) | Fate::Gone => {}
                    }
                }
                Act::Cancel { which: at } => {
                    let Some(at) = which(at) else { return };
                    let (ticket, fate) = &mut self.calls[at];
                    let unfetched = self.slots.cancel(*ticket);
                    let (after, expected) = match fate.clone() {
                        Fate::Waits { target, .. } => (Fate::Cancelled { target }, None),
                        Fate::Done(outcome) => (Fate::Gone, Some(outcome)),
                        other => (other, None),
                    };
                    assert_eq!(unfetched, expected);
                    *fate = after;
                }
                Act::Poll { which: at } => {
                    let Some(at) = which(at) else { return };
                    let (ticket, fate) = &mut self.calls[at];
                    let polled = self.slots.poll(*ticket, &self.wakes.waker(number));
                    let expected = match fate {
                        Fate::Waits { waker, .. } => {
                            *waker = Some(number);
                            Poll::Pending
                        }
                        Fate::Done(outcome) => {
                            let outcome = *outcome;
                            *fate = Fate::Gone;
                            Poll::Ready(outcome)
                        }
                        Fate::Cancelled { .. } | Fate::Gone => Poll::Ready(Err(CallError::Closed)),
                    };
                    assert_eq!(polled, expected);
                }
                Act::Fail { target: ended } => {
                    self.slots.fail_all_to(*ended);
                    for (_, fate) in &mut self.calls {
                        match fate {
                            Fate::Waits { target, waker } if target == ended => {
                                woken.extend(*waker);
                                *fate = Fate::Done(Err(CallError::Closed));
                            }
                            Fate::Cancelled { target } if target == ended => *fate = Fate::Gone,
                            _ => {}
                        }
                    }
                }
            }
            self.check(woken);
        }

        fn check(&mut self, mut expected: Vec<usize>) {
            let mut woken = self.wakes.take();
            woken.sort_unstable();
            expected.sort_unstable();
            assert_eq!(woken, expected);
            let held = self.calls.iter().filter(|(_, fate)| *fate != Fate::Gone).count();
            self.peak = self.peak.max(held);
            assert_eq!(self.slots.slots.len() - self.slots.free.len(), held);
            assert_eq!(self.slots.slots.len(), self.peak, "slots are used again before there are more");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_ticket_reaches_its_own_call_and_no_other(acts in prop::collection::vec(acts(), 1..150)) {
            let (slots, wakes) = (Slots::new(), Wakes::default());
            let mut pair = Pair { slots, calls: Vec::new(), wakes, peak: 0 };
            for (number, act) in acts.iter().enumerate() {
                pair.act(act, number);
            }
        }
    }
}
