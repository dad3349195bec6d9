//! How much memory the connections of one reactor hold.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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
    /// Whether there is anything in `elsewhere`: mostly there is not, and it is asked for often.
    counts_elsewhere: Cell<bool>,
    /// What other threads hold for this one: one for each group of datagram sockets.
    elsewhere: RefCell<Vec<Arc<AtomicUsize>>>,
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
            counts_elsewhere: Cell::new(false),
            elsewhere: RefCell::default(),
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
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.get() + if self.counts_elsewhere.get() { self.bytes_elsewhere() } else { 0 }
    }

    #[cold]
    fn bytes_elsewhere(&self) -> usize {
        self.elsewhere.borrow().iter().map(|bytes| bytes.load(Relaxed)).sum()
    }

    /// From now on what is counted there is held here, too: memory that other threads have taken for this one. Whoever
    /// makes it less on this thread says so ([`look_again`](Buffered::look_again)).
    pub fn count_also(&self, elsewhere: &Arc<AtomicUsize>) {
        let mut known = self.elsewhere.borrow_mut();
        if !known.iter().any(|other| Arc::ptr_eq(other, elsewhere)) {
            known.push(elsewhere.clone());
        }
        self.counts_elsewhere.set(true);
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
        self.look_again();
    }

    /// Fewer may be held than before. May wake who waits, so borrow nothing meanwhile.
    #[inline]
    pub fn look_again(&self) {
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
        self.most.get().saturating_sub(self.bytes())
    }

    /// Whether so many more may be held.
    #[inline]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let most = self.ceiling.get();
        most == usize::MAX || self.bytes() + bytes <= most
    }

    /// Whether as many are held as may be.
    #[inline]
    pub fn is_full(&self) -> bool {
        let most = self.most.get();
        most < usize::MAX && self.bytes() >= most
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
    fn what_others_hold_for_this_thread_is_held_here_too() {
        let (buffered, counts) = (Buffered::default(), Arc::new(Counts::default()));
        let waker = Waker::from(counts.clone());
        let cx = Context::from_waker(&waker);
        let (one, other) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        // Whoever says so twice is one.
        [&one, &other, &one].into_iter().for_each(|elsewhere| buffered.count_also(elsewhere));
        one.store(30, SeqCst);
        other.store(1 << 40, SeqCst);
        assert!(buffered.has_room_for(1 << 62) && !buffered.is_full(), "there is no limit");
        buffered.set_limit(Some(100));
        assert!(buffered.is_full() && !buffered.has_room_for(0) && buffered.left() == 0);
        other.store(40, SeqCst);
        buffered.take(20);
        assert_eq!((buffered.bytes(), buffered.left()), (90, 10));
        assert!(buffered.has_room_for(10) && !buffered.has_room_for(11));
        buffered.take(10);
        assert!(buffered.poll_room(&cx).is_pending());
        other.store(39, SeqCst);
        assert_eq!(counts.0.load(SeqCst), 0, "nobody has said so");
        buffered.look_again();
        assert_eq!(counts.0.load(SeqCst), 1);
        buffered.give_back(30);
        assert_eq!(buffered.bytes(), 69);
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
