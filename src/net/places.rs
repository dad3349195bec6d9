//! How many connections a shard serves at once, and which shards have room.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use super::queue::Queue;
use crate::steer::Mode;

/// The places for connections that one shard serves at once. Clones share them, so that several acceptors of a shard
/// keep to one limit ([`Acceptor::serve_in`](super::Acceptor::serve_in)).
#[derive(Clone)]
pub struct Places {
    inner: Rc<Inner>,
}

struct Inner {
    most: Cell<usize>,
    taken: Cell<usize>,
    /// Connections that wait in the acceptors' queues: each will need a place.
    queued: Cell<usize>,
    /// Tasks that wait until fewer are taken: one for each acceptor.
    waiters: RefCell<Vec<Waker>>,
    /// The acceptors' queues, which tell other shards whether there is room here.
    queues: RefCell<Vec<Weak<Queue>>>,
}

impl Places {
    /// So many places. With none, a shard only hands connections on to others.
    pub fn new(most: usize) -> Places {
        let (waiters, queues) = Default::default();
        let most = Cell::new(most);
        Places { inner: Rc::new(Inner { most, taken: Cell::new(0), queued: Cell::new(0), waiters, queues }) }
    }

    /// So many from now on. If more are taken, the next ones wait until fewer are.
    pub fn set_most(&self, most: usize) {
        self.inner.most.set(most);
        self.inner.tell();
        self.inner.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.inner.taken.get()
    }

    /// Takes a place, also if none is left: the connection is there already.
    pub(crate) fn take(&self) -> Place {
        self.inner.taken.set(self.inner.taken.get() + 1);
        self.inner.tell();
        Place(self.inner.clone())
    }

    /// Whether a place is left.
    pub(crate) fn are_left(&self) -> bool {
        self.inner.taken.get() < self.inner.most.get()
    }

    /// Whether more wait than there are places left.
    pub(super) fn are_short(&self) -> bool {
        self.inner.taken.get().saturating_add(self.inner.queued.get()) > self.inner.most.get()
    }

    /// Whether one more may be accepted, and find a place behind those that wait already.
    pub(crate) fn are_left_for_more(&self) -> bool {
        self.inner.taken.get().saturating_add(self.inner.queued.get()) < self.inner.most.get()
    }

    /// Ready when a place is left.
    pub(crate) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_below(cx, self.inner.most.get())
    }

    /// Waits until all are free.
    pub(crate) async fn free(&self) {
        poll_fn(|cx| self.poll_below(cx, 1)).await;
    }

    fn poll_below(&self, cx: &Context<'_>, limit: usize) -> Poll<()> {
        if self.inner.taken.get() < limit {
            return Poll::Ready(());
        }
        let mut waiters = self.inner.waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether both are the same.
    pub(super) fn are(&self, other: &Places) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// A queue whose connections take places elsewhere from now on.
    pub(super) fn leave(&self, queue: &Rc<Queue>) {
        self.inner.queues.borrow_mut().retain(|other| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(queue)));
    }

    /// A queue whose connections will take places here.
    pub(super) fn join(&self, queue: &Rc<Queue>) {
        let mut queues = self.inner.queues.borrow_mut();
        // Those of acceptors that are gone.
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Rc::downgrade(queue));
    }

    /// So many more wait in a queue, or fewer.
    pub(super) fn queued(&self, change: isize) {
        self.inner.queued.set(self.inner.queued.get().saturating_add_signed(change));
        self.inner.tell();
    }
}

impl Inner {
    fn tell(&self) {
        for queue in self.queues.borrow().iter().filter_map(Weak::upgrade) {
            queue.tell();
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { most, taken, queued, .. } = &*self.inner;
        f.debug_struct("Places")
            .field("most", &most.get())
            .field("taken", taken)
            .field("queued", queued)
            .finish()
    }
}

/// A place that is taken, until this is dropped.
pub(crate) struct Place(Rc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.tell();
        self.0.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// How the parts of a listener stand, for all shards to see. A hint that may be a turn old; written only when it
/// changes.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Box<[AtomicU8]>,
    /// In mode `least`, how many connections each shard has or is about to get. Each on a cache line of its own.
    counts: Option<Box<[Count]>>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicUsize);

/// How one shard's part of a listener stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    /// The shard has not come to it: what is sent there waits.
    Unopened,
    /// It can take more.
    Open,
    /// It can take no more now.
    Full,
    /// It takes no more.
    Closed,
}

impl Parts {
    pub(super) fn new(shards: usize, mode: Mode) -> Parts {
        let parts = (0..shards).map(|_| AtomicU8::new(Part::Unopened as u8)).collect();
        let counts = (mode == Mode::Least).then(|| (0..shards).map(|_| Count::default()).collect());
        Parts { parts, counts }
    }

    /// The shard with the fewest connections of those that are open, and this one if it has no more than they; `None` in
    /// another mode than `least`.
    pub(super) fn least(&self, me: usize) -> Option<usize> {
        let counts = self.counts.as_ref()?;
        let count = |shard: usize| counts[shard].0.load(Relaxed);
        let others = (0..counts.len()).filter(|shard| *shard != me && self.is(*shard, Part::Open));
        // From the neighbour on, so that those who accept at once do not all choose the first.
        let next = |shard: &usize| (shard + counts.len() - me) % counts.len();
        let other = others.min_by_key(|shard| (count(*shard), next(shard)));
        Some(other.filter(|other| count(*other) < count(me)).unwrap_or(me))
    }

    pub(super) fn set(&self, shard: usize, part: Part) {
        self.parts[shard].store(part as u8, Relaxed);
    }

    /// Whether each part was opened, or given up, and one of them at least is not closed.
    pub(super) fn are_served(&self) -> bool {
        let all = || self.parts.iter().map(|part| part.load(Relaxed));
        all().all(|part| part != Part::Unopened as u8) && all().any(|part| part != Part::Closed as u8)
    }

    pub(super) fn is(&self, shard: usize, part: Part) -> bool {
        self.parts[shard].load(Relaxed) == part as u8
    }

    /// Whether a shard other than this one can take more.
    pub(super) fn another_is_open(&self, shard: usize) -> bool {
        (0..self.parts.len()).any(|other| other != shard && self.is(other, Part::Open))
    }
}

/// A connection in the count of a shard, in mode `least`, until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    parts: Arc<Parts>,
    shard: usize,
}

impl Counted {
    /// One more for this shard; `None` in other modes, where nobody counts.
    pub(super) fn new(parts: &Arc<Parts>, shard: usize) -> Option<Counted> {
        parts.counts.as_ref()?[shard].0.fetch_add(1, Relaxed);
        Some(Counted { parts: parts.clone(), shard })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(counts) = &self.parts.counts {
            counts[self.shard].0.fetch_sub(1, Relaxed);
        }
    }
}
