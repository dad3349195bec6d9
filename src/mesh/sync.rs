//! The atomics, locks and queues of this floor, through one module: the standard library's and two crates', or models
//! of them that [loom](https://docs.rs/loom) explores. The models keep the orderings of what they stand for.

pub(super) use crate::shard::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex};

/// Counts what nothing depends on; not modelled.
pub(super) use std::sync::atomic::AtomicU64 as Counter;

#[cfg(not(loom))]
mod real {
    use std::fmt;
    use std::sync::atomic::Ordering::{self, Relaxed};

    use crate::shard::sync::AtomicU64;

    /// `fetch_or` for a word that is mostly 0: tries that first. x86 has no such instruction that answers the old
    /// value, so that `fetch_or` itself is a load and an exchange: the line would come from the other core twice.
    pub(crate) fn or(word: &AtomicU64, bits: u64, ordering: Ordering) -> u64 {
        let mut old = 0;
        // Ends when no other thread changed the word between two steps, as `fetch_or` does.
        while let Err(found) = word.compare_exchange(old, old | bits, ordering, Relaxed) {
            old = found;
        }
        old
    }

    /// The sending end of a lane's ring: `rtrb`, bounded, one producer, one consumer, slots inline.
    pub(crate) struct Producer<T>(rtrb::Producer<T>);
    /// The receiving end.
    pub(crate) struct Consumer<T>(rtrb::Consumer<T>);

    /// A ring of `capacity` slots.
    pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let (producer, consumer) = rtrb::RingBuffer::new(capacity);
        (Producer(producer), Consumer(consumer))
    }

    impl<T> Producer<T> {
        /// Gives the value back if there is no room.
        pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
            self.0.push(value).map_err(|rtrb::PushError::Full(value)| value)
        }

        /// Free slots, at least; costs no look at the other core's line.
        pub(crate) fn room_at_least(&self) -> usize {
            self.0.cached_slots()
        }

        /// Free slots.
        pub(crate) fn room(&self) -> usize {
            self.0.slots()
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn pop(&mut self) -> Option<T> {
            self.0.pop().ok()
        }

        /// Looks at the oldest value without taking it.
        pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
            self.0.peek().ok().map(look)
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        /// How many values wait.
        pub(crate) fn len(&self) -> usize {
            self.0.slots()
        }

        /// Nothing waits, and nothing will ever come: its producer is gone.
        pub(crate) fn is_spent(&self) -> bool {
            self.0.is_abandoned() && self.0.is_empty()
        }
    }

    impl<T> fmt::Debug for Consumer<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Consumer({} waiting)", self.len())
        }
    }

    /// A bounded queue from many threads to one shard: `flume`, a mutex and a deque. It keeps what is in it when its
    /// reader goes, so whoever finds the reader gone must [`pop`](Queue::pop) until it is empty.
    #[derive(Debug)]
    pub(crate) struct Queue<T> {
        sender: flume::Sender<T>,
        receiver: flume::Receiver<T>,
    }

    impl<T> Queue<T> {
        pub(crate) fn new(capacity: usize) -> Queue<T> {
            let (sender, receiver) = flume::bounded(capacity);
            Queue { sender, receiver }
        }

        /// Gives the value back if there is no room.
        pub(crate) fn push(&self, value: T) -> Result<(), T> {
            self.sender.try_send(value).map_err(flume::TrySendError::into_inner)
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.receiver.try_recv().ok()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.receiver.is_empty()
        }
    }
}

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::{self, Acquire, Release};

    use crate::shard::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex};

    /// One step of the model, which is what the real one comes to.
    pub(crate) fn or(word: &AtomicU64, bits: u64, ordering: Ordering) -> u64 {
        word.fetch_or(bits, ordering)
    }

    /// A ring whose indices are loom's, with `rtrb`'s orderings and its cached indices. What the slots hold is kept
    /// outside the model: loom decides whether a message is *seen*, which is all that this floor relies on.
    struct Ring<T> {
        capacity: usize,
        /// Next slot to read; written by the consumer.
        head: AtomicUsize,
        /// Next slot to write; written by the producer.
        tail: AtomicUsize,
        /// The producer was dropped.
        abandoned: AtomicBool,
        values: std::sync::Mutex<VecDeque<T>>,
    }

    pub(crate) struct Producer<T> {
        ring: Arc<Ring<T>>,
        tail: usize,
        head: std::cell::Cell<usize>,
    }

    pub(crate) struct Consumer<T> {
        ring: Arc<Ring<T>>,
        head: usize,
        tail: std::cell::Cell<usize>,
    }

    pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let ring = Arc::new(Ring {
            capacity,
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            values: std::sync::Mutex::new(VecDeque::new()),
        });
        (
            Producer { ring: ring.clone(), tail: 0, head: std::cell::Cell::new(0) },
            Consumer { ring, head: 0, tail: std::cell::Cell::new(0) },
        )
    }

    impl<T> Drop for Producer<T> {
        fn drop(&mut self) {
            // A model that failed is over.
            if !std::thread::panicking() {
                self.ring.abandoned.store(true, Release);
            }
        }
    }

    impl<T> Producer<T> {
        pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
            if self.room_at_least() == 0 && self.room() == 0 {
                return Err(value);
            }
            self.ring.values.lock().expect("no model panics with it").push_back(value);
            self.tail += 1;
            self.ring.tail.store(self.tail, Release);
            Ok(())
        }

        pub(crate) fn room_at_least(&self) -> usize {
            self.ring.capacity - (self.tail - self.head.get())
        }

        pub(crate) fn room(&self) -> usize {
            self.head.set(self.ring.head.load(Acquire));
            self.room_at_least()
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn pop(&mut self) -> Option<T> {
            if self.is_empty() {
                return None;
            }
            let value = self.ring.values.lock().expect("no model panics with it").pop_front();
            self.head += 1;
            self.ring.head.store(self.head, Release);
            assert!(value.is_some(), "the index says that a value is there");
            value
        }

        pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
            if self.is_empty() {
                return None;
            }
            self.ring.values.lock().expect("no model panics with it").front().map(look)
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.tail.get() == self.head && self.len() == 0
        }

        pub(crate) fn is_spent(&self) -> bool {
            self.ring.abandoned.load(Acquire) && self.is_empty()
        }

        pub(crate) fn len(&self) -> usize {
            self.tail.set(self.ring.tail.load(Acquire));
            self.tail.get() - self.head
        }
    }

    impl<T> fmt::Debug for Consumer<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Consumer")
        }
    }

    /// `flume`'s bounded queue: a mutex and a deque.
    #[derive(Debug)]
    pub(crate) struct Queue<T> {
        capacity: usize,
        values: Mutex<VecDeque<T>>,
    }

    impl<T> Queue<T> {
        pub(crate) fn new(capacity: usize) -> Queue<T> {
            Queue { capacity, values: Mutex::new(VecDeque::new()) }
        }

        pub(crate) fn push(&self, value: T) -> Result<(), T> {
            let mut values = self.values.lock().expect("no model panics with it");
            if values.len() == self.capacity {
                return Err(value);
            }
            values.push_back(value);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.values.lock().expect("no model panics with it").pop_front()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.values.lock().expect("no model panics with it").is_empty()
        }
    }
}

#[cfg(loom)]
pub(super) use model::*;
#[cfg(not(loom))]
pub(super) use real::*;
