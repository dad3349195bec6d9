//! Lanes: for one port, one bounded ring per ordered pair of shards, made when its sender first uses it.
//!
//! A [`Lane`] is what both ends share. The producer lives with the sending shard and the consumer with the receiving
//! one; the consumer gets there through the lane's slot, and goes back into it when the receiver ends, so that
//! whoever finds what is left can fail it. Two may find it, the shard that ends and a sender that pushed meanwhile;
//! the slot's lock makes sure that each message is failed by one of them.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::sync::{AtomicBool, AtomicUsize, Consumer, Mutex, Producer, ring};
#[cfg(loom)]
use crate::shard::broken::{Break, broken};

/// What the two ends of one ring share.
pub(super) struct Lane<T> {
    slot: Mutex<Slot<T>>,
    /// The ring exists. Spares the target a lock for each lane that nobody ever used.
    made: AtomicBool,
    /// The sender found the lane full and waits for room. Set before it rings; cleared by the target when there is
    /// room and it will ring back.
    waiting: AtomicBool,
    /// Messages that the target took out and holds until their time; they still count against the capacity.
    /// Written by the target only.
    held: AtomicUsize,
}

/// The consumer while nobody receives: before the target first looked, and after it ended.
struct Slot<T> {
    consumer: Option<Consumer<T>>,
    /// The life of the sender that made the ring last.
    life: u32,
}

/// The lanes of one port: from each shard to each, also to itself.
pub(super) struct Lanes<T> {
    shards: usize,
    capacity: usize,
    /// Some ring exists: many ports of a program are hardly ever used.
    used: AtomicBool,
    lanes: Box<[Lane<T>]>,
}

impl<T> Lanes<T> {
    /// Lanes of `capacity` messages between `shards` shards. No ring is made yet.
    pub(super) fn new(shards: usize, capacity: usize) -> Lanes<T> {
        let lanes = (0..shards * shards).map(|_| Lane::new()).collect();
        Lanes { shards, capacity, used: AtomicBool::new(false), lanes }
    }

    /// The sender's first use of a lane in this life of it: makes its ring and leaves the consumer for the target.
    pub(super) fn make(&self, source: usize, target: usize, life: u32) -> Producer<T> {
        #[cfg(loom)]
        if broken(Break::UsedUnset) {
            return self.between(source, target).make(self.capacity, life);
        }
        self.used.store(true, Relaxed);
        self.between(source, target).make(self.capacity, life)
    }

    /// The target: the consumer of a lane, if its ring was made and nobody holds it. Not one of a later life of the source
    /// than the target knows of: what came through that would be taken for what the life before had sent. It is rung for it.
    pub(super) fn take_consumer(&self, source: usize, target: usize, known: u32) -> Option<Consumer<T>> {
        // Stored before the bell is rung, as all that is to be found is.
        if self.used.load(Relaxed) { self.between(source, target).take_consumer(known) } else { None }
    }

    /// The lane from one shard to one other.
    pub(super) fn between(&self, source: usize, target: usize) -> &Lane<T> {
        assert!(source < self.shards && target < self.shards, "no such shard in this runtime");
        &self.lanes[source * self.shards + target]
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes out what is left in the lanes to `target`, which ended.
    pub(super) fn sweep_to(&self, target: usize) -> Vec<T> {
        (0..self.shards).flat_map(|source| self.between(source, target).sweep()).collect()
    }
}

impl<T> Lane<T> {
    fn new() -> Lane<T> {
        Lane {
            slot: Mutex::new(Slot { consumer: None, life: 0 }),
            made: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            held: AtomicUsize::new(0),
        }
    }

    fn make(&self, capacity: usize, life: u32) -> Producer<T> {
        let (mut producer, consumer) = ring(capacity);
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        // What a former life of the sender sent and the target has not looked at yet. It fits: the ring is as large.
        let before = slot.consumer.take();
        #[cfg(loom)]
        let before = before.filter(|_| !broken(Break::LaneBeforeDropped));
        let mut before = before;
        while let Some(message) = before.as_mut().and_then(Consumer::pop) {
            let pushed = producer.push(message);
            debug_assert!(pushed.is_ok(), "a ring as large as the one before");
        }
        *slot = Slot { consumer: Some(consumer), life };
        drop(slot);
        #[cfg(loom)]
        if broken(Break::MadeUnset) {
            return producer;
        }
        self.made.store(true, Relaxed);
        producer
    }

    fn take_consumer(&self, known: u32) -> Option<Consumer<T>> {
        if !self.made.load(Relaxed) {
            return None;
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(loom)]
        let known = if broken(Break::LaneTooSoon) { u32::MAX } else { known };
        if slot.life <= known { slot.consumer.take() } else { None }
    }

    /// The target, when it ends. Answers what nobody will receive: the sender may have made a new ring meanwhile, in a new
    /// life, and then this one is of no use any more.
    #[must_use]
    pub(super) fn give_consumer(&self, mut consumer: Consumer<T>) -> Vec<T> {
        #[cfg(loom)]
        if broken(Break::ConsumersKept) {
            return Vec::new();
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.consumer.is_none() {
            slot.consumer = Some(consumer);
            return Vec::new();
        }
        std::iter::from_fn(|| consumer.pop()).collect()
    }

    /// After the target's bell said STOPPED, by the target or by the sender: takes out what nobody will receive.
    /// The caller drops it, with no lock held, and counts it.
    pub(super) fn sweep(&self) -> Vec<T> {
        let mut left = Vec::new();
        if let Some(consumer) = &mut self.slot.lock().unwrap_or_else(PoisonError::into_inner).consumer {
            while let Some(message) = consumer.pop() {
                left.push(message);
            }
        }
        left
    }

    /// The sender: whether one more message fits, counting those that the target holds until their time.
    pub(super) fn has_room(&self, producer: &Producer<T>) -> bool {
        #[cfg(loom)]
        if broken(Break::HeldReadFirst) {
            let held = self.held();
            return producer.room() > held;
        }
        // A message is counted as held before its slot is free, so of a free slot that was seen the count is known.
        producer.room_at_least() > self.held() || producer.room() > self.held()
    }

    /// Messages that the target holds until their time.
    pub(super) fn held(&self) -> usize {
        #[cfg(loom)]
        if broken(Break::HeldUncounted) {
            return 0;
        }
        self.held.load(Relaxed)
    }

    /// The target: holds `count` messages now.
    pub(super) fn set_held(&self, count: usize) {
        self.held.store(count, Relaxed);
    }

    /// The sender found no room and will ring the target.
    pub(super) fn wait(&self) {
        self.waiting.store(true, Relaxed);
    }

    /// Whether the sender waits. The target may be wrong about what that means for the lane, unless it was rung: see
    /// `Ends::look_out` for what mends it.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// The target has room for a sender that waits, and will ring it.
    pub(super) fn end_waiting(&self) {
        self.waiting.store(false, Relaxed);
    }
}

impl<T> fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("made", &self.made.load(Relaxed))
            .field("waiting", &self.waiting.load(Relaxed))
            .field("held", &self.held.load(Relaxed))
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("shards", &self.shards)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
