//! Closing without destroying what is in flight: a socket that is closed with unread input resets its connection.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::select;
use waterwheel_reactor::{Source, Transport};

use crate::shard::Shard;

/// How much a closing connection reads and throws away, so that the response in flight is not destroyed by a reset.
const LINGER_BYTES: usize = 1 << 20;
/// And for how long.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// The longest that a connection is kept whose peer takes what it was sent bit by bit, before it is reset.
const LINGER_MOST: Duration = Duration::from_secs(60);
/// How long between two looks at what the peer has taken, at first and at most: the kernel tells nobody.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_MOST: Duration = Duration::from_millis(64);

/// Reads and throws away, behind everybody's back, until the end, an error, or a limit; then drops `escort`.
pub(super) fn linger(shard: &Shard, mut source: Box<dyn Source>, escort: Option<Rc<dyn Any>>) {
    let held = Lingering::of(shard).enter();
    let sleep = shard.sleep_until(shard.turn_time() + LINGER);
    let mut left = LINGER_BYTES;
    shard.spawn_detached("linger", async move {
        let drained = poll_fn(|cx| {
            loop {
                match source.poll_fill(cx) {
                    Poll::Ready(Ok(lent)) if !lent.is_empty() && left > 0 => {
                        let count = lent.len();
                        source.consume(count);
                        left = left.saturating_sub(count);
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        select(pin!(drained), sleep).await;
        drop((held, escort));
    });
}

/// Waits, behind everybody's back, until the peer's kernel has all that was sent to it; then resets the connection. A
/// reset at once would destroy what is on its way. Gives up after [`LINGER`] without progress and after
/// [`LINGER_MOST`]; then drops `escort`.
pub(super) fn abort_when_sent(shard: &Shard, transport: Transport, escort: Option<Rc<dyn Any>>) {
    let mut doomed = Doomed(transport);
    let Some(mut left) = doomed.unacknowledged() else { return };
    let (held, shard) = (Lingering::of(shard).enter(), shard.clone());
    shard.clone().spawn_detached("linger", async move {
        let (began, mut look) = (shard.now(), LOOK);
        let mut progress = began;
        while shard.now().since(progress) < LINGER && shard.now().since(began) < LINGER_MOST {
            shard.sleep(look).await;
            look = (look * 2).min(LOOK_MOST);
            let Some(now) = doomed.unacknowledged() else { break };
            if now < left {
                progress = shard.now();
            }
            left = now;
        }
        drop((doomed, held, escort));
    });
}

/// A connection that is reset when this is dropped, whatever the reason: it must not look as if it had ended in order.
struct Doomed(Transport);

impl Doomed {
    /// How much of what was sent the peer's kernel does not have yet; `None`: nothing, or it is broken.
    fn unacknowledged(&mut self) -> Option<usize> {
        let flushed = self.0.sink.poll_flush(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(_)) = flushed {
            return None;
        }
        // What the reactor itself still queues, if it does.
        let least = usize::from(flushed.is_pending());
        // The sink knows what the reactor itself still queues; the kernel does not.
        let left = match (self.0.sink.unacknowledged(), self.0.source.descriptor()) {
            (Some(left), _) => left,
            (None, Some(descriptor)) => waterwheel_os::unacknowledged(descriptor).ok()?,
            // Where nobody can tell (no descriptor is left), it has its time.
            (None, None) => usize::MAX,
        };
        Some(left.max(least)).filter(|left| *left > 0)
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.0.source.abort();
        self.0.sink.abort();
    }
}

/// How many closed connections of a shard linger, and who waits until none does.
#[derive(Debug, Default)]
struct Lingering {
    count: Cell<usize>,
    waiter: RefCell<Option<Waker>>,
}

/// One that lingers.
struct Held(Rc<Lingering>);

impl Lingering {
    fn of(shard: &Shard) -> Rc<Lingering> {
        shard.kept().unwrap_or_else(|| {
            let fresh = Rc::<Lingering>::default();
            shard.keep(fresh.clone());
            fresh
        })
    }

    fn enter(self: Rc<Self>) -> Held {
        self.count.set(self.count.get() + 1);
        Held(self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waiter) = self.0.waiter.borrow_mut().take()
        {
            waiter.wake();
        }
    }
}

/// Waits until no closed connection of this shard lingers, no longer than the longest of them may: ending before would
/// destroy what is in flight. The end of a drain ends this too.
pub(crate) async fn lingered(shard: &Shard) {
    let Some(lingering) = shard.kept::<Lingering>() else { return };
    let none = poll_fn(|cx| {
        *lingering.waiter.borrow_mut() = Some(cx.waker().clone());
        if lingering.count.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    // Whatever lingers after that began to do so when its shard was over.
    let _ = shard.timeout(LINGER_MOST, none).await;
}
