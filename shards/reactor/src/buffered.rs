//! How much memory the connections of one reactor hold.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Counts the memory that connections of one shard hold outside the kernel: what was received and nobody has consumed, and what
/// was taken to be sent and the kernel has not. Whoever takes memory for it counts it here, by the buffer and not by the message.
///
/// With a limit it also says when to hold back: who has no [room](Buffered::has_room_for) takes no more than [`FLOOR`] for
/// each half of a connection, so that each of them goes on however much the others hold.
///
/// [`FLOOR`]: Buffered::FLOOR
#[derive(Debug)]
pub struct Buffered {
    bytes: Cell<usize>,
    most: Cell<usize>,
    /// The same but for what the kernel may take without being asked.
    ceiling: Cell<usize>,
    waits: Cell<bool>,
    /// Who waits for less: one for each that accepts.
    waiters: RefCell<Vec<Waker>>,
}

impl Default for Buffered {
    /// Nothing, without a limit.
    fn default() -> Buffered {
        Buffered {
            bytes: Cell::new(0),
            most: Cell::new(usize::MAX),
            ceiling: Cell::new(usize::MAX),
            waits: Cell::new(false),
            waiters: RefCell::default(),
        }
    }
}

impl Buffered {
    /// What each half of a connection may hold whatever the others hold, in bytes.
    pub const FLOOR: usize = 16 << 10;

    /// From now on no more than so many bytes, floors aside; `None`: no limit.
    pub fn set_limit(&self, most: Option<usize>) {
        self.most.set(most.unwrap_or(usize::MAX));
        self.promise(0);
        self.wake();
    }

    /// The limit.
    pub fn limit(&self) -> Option<usize> {
        Some(self.most.get()).filter(|most| *most < usize::MAX)
    }

    /// How many bytes are held.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// So many more are held.
    #[inline]
    pub fn take(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// So many fewer are held. May wake who waits, so borrow nothing meanwhile.
    ///
    /// # Panics
    /// If that is more than is held, in builds that check arithmetic.
    #[inline]
    pub fn give_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        if self.waits.get() {
            self.wake();
        }
    }

    /// So many bytes may become held without being asked for, as buffers that the kernel fills by itself: they leave less room,
    /// and are not held.
    pub fn promise(&self, bytes: usize) {
        let most = self.limit().map_or(usize::MAX, |most| most.saturating_sub(bytes));
        self.ceiling.set(most);
    }

    /// How many more may be held.
    pub fn left(&self) -> usize {
        self.most.get().saturating_sub(self.bytes.get())
    }

    /// Whether so many more may be held.
    #[inline]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.get() + bytes <= self.ceiling.get()
    }

    /// Whether as many are held as may be.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.bytes.get() >= self.most.get()
    }

    /// Ready when fewer are held than may be.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_full() {
            return Poll::Ready(());
        }
        let known = self.waiters.borrow().iter().any(|waiter| waiter.will_wake(cx.waker()));
        if !known {
            // What is cloned may run anything, so nothing is borrowed then.
            let waker = cx.waker().clone();
            self.waiters.borrow_mut().push(waker);
        }
        self.waits.set(true);
        Poll::Pending
    }

    #[cold]
    fn wake(&self) {
        if !self.is_full() {
            self.waits.set(false);
            self.waiters.take().into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Counts>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let buffered = Buffered::default();
        buffered.take(1 << 40);
        buffered.promise(1 << 40);
        assert!(buffered.has_room_for(1 << 62) && !buffered.is_full());
        assert_eq!((buffered.limit(), buffered.bytes()), (None, 1 << 40));
    }

    #[test]
    fn who_waits_is_woken_once_there_is_room_again() {
        let (buffered, counts) = (Buffered::default(), Arc::new(Counts::default()));
        let waker = Waker::from(counts.clone());
        let cx = Context::from_waker(&waker);
        buffered.set_limit(Some(100));
        assert!(buffered.poll_room(&cx).is_ready());
        buffered.take(150);
        // Whoever asks twice is one who waits.
        assert!(buffered.poll_room(&cx).is_pending() && buffered.poll_room(&cx).is_pending());
        buffered.give_back(50);
        assert_eq!(counts.0.load(SeqCst), 0, "it is full still");
        buffered.give_back(1);
        assert_eq!(counts.0.load(SeqCst), 1);
        assert!(buffered.poll_room(&cx).is_ready());
        buffered.take(1);
        assert!(buffered.poll_room(&cx).is_pending());
        buffered.set_limit(None);
        assert_eq!(counts.0.load(SeqCst), 2, "a wider limit makes room");
    }

    #[test]
    fn what_is_promised_leaves_less_room_and_is_not_held() {
        let buffered = Buffered::default();
        buffered.set_limit(Some(100));
        buffered.promise(60);
        assert!(buffered.has_room_for(40) && !buffered.has_room_for(41));
        assert_eq!((buffered.bytes(), buffered.left()), (0, 100));
        assert!(!buffered.is_full());
    }
}
