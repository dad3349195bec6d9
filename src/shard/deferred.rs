//! One value to come: [`Deferred`] is awaited, [`Resolver`] gives it its value.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt::{self, Display};
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::core::Core;

/// A value to come, and the one who may give it: the local, one-shot channel of a shard. One allocation.
///
/// ```
/// use futures_util::FutureExt;
/// use waterwheel::shard::deferred;
///
/// let (resolver, mut deferred) = deferred();
/// assert_eq!((&mut deferred).now_or_never(), None);
/// resolver.resolve("at last");
/// assert_eq!(deferred.now_or_never(), Some(Ok("at last")));
/// ```
///
/// Giving it twice does not compile:
///
/// ```compile_fail,E0382
/// let (resolver, _deferred) = waterwheel::shard::deferred();
/// resolver.resolve(1);
/// resolver.resolve(2);
/// ```
///
/// For a value that may be an error, [`deferred_result`] is the one that notices when nobody looks at it.
#[track_caller]
pub fn deferred<T>() -> (Resolver<T>, Deferred<T>) {
    pair(None, Location::caller())
}

/// As [`deferred`], for what may fail: an error that arrived and was dropped without anybody having looked at it is
/// reported, with where the deferred was made and where it was resolved.
///
/// The report is a `tracing` event of level `WARN` and target `waterwheel::deferred` with the fields `error`, `made` and
/// `resolved` (each `file:line:column`). It comes at once, when the [`Deferred`] is dropped. What arrives after that is
/// late and not reported: who dropped the deferred had stopped waiting.
///
/// ```
/// let (resolver, deferred) = waterwheel::shard::deferred_result::<(), &str>();
/// resolver.resolve(Err("the disk is full"));
/// drop(deferred); // warns: an error that nobody looked at: the disk is full
/// ```
#[track_caller]
#[expect(
    clippy::type_complexity,
    reason = "it is `deferred` with its value written out, as the reader expects"
)]
pub fn deferred_result<T, E: Display>() -> (Resolver<Result<T, E>>, Deferred<Result<T, E>>) {
    fn report<T, E: Display>(value: &Result<T, E>, made: &Location<'_>, resolved: &Location<'_>) {
        if let Err(error) = value {
            tracing::warn!(
                target: "waterwheel::deferred",
                %error, %made, %resolved,
                "an error that nobody looked at"
            );
        }
    }
    pair(Some(report), Location::caller())
}

fn pair<T>(unread: Option<Unread<T>>, made: Place) -> (Resolver<T>, Deferred<T>) {
    let shared = Rc::new(Shared {
        stage: Cell::new(Stage::Pending),
        value: Cell::new(None),
        waiting: Cell::new(None),
        watching: Cell::new(None),
        unread,
        made,
    });
    Core::count_resolvers(1);
    (Resolver { shared: shared.clone() }, Deferred { shared })
}

/// The resolver of a [`Deferred`] was dropped without having given it a value: a bug of whoever held it, or its task
/// ended, panicked or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left to resolve the deferred made at {made}")]
pub struct Abandoned {
    made: Place,
}

impl Abandoned {
    /// Where the deferred was made: the call of [`deferred`] or [`deferred_result`].
    pub fn made(&self) -> &'static Location<'static> {
        self.made
    }
}

/// Gives one value to a [`Deferred`]. Stays on its shard; another shard is answered with a call over a port.
///
/// Kinds of methods: [`resolve`](Resolver::resolve) ends it; [`is_cancelled`](Resolver::is_cancelled),
/// [`poll_cancelled`](Resolver::poll_cancelled) and [`cancelled`](Resolver::cancelled) tell whether the value is still
/// wanted. Dropping it makes the deferred fail with [`Abandoned`] at once.
#[must_use = "a dropped resolver makes its deferred fail"]
pub struct Resolver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Resolver<T> {
    /// Gives the value. Whoever waits is woken, and sees it in a later poll of its task, never inside this call.
    ///
    /// Drops the value if the deferred has been dropped; ask [`is_cancelled`](Resolver::is_cancelled) before, where it
    /// is worth keeping.
    #[track_caller]
    pub fn resolve(self, value: T) {
        if !self.is_cancelled() {
            self.shared.value.set(Some((value, Location::caller())));
            self.shared.end(Stage::Resolved);
        }
    }

    /// Whether the deferred has been dropped, so that nobody waits for the value.
    pub fn is_cancelled(&self) -> bool {
        self.shared.stage.get() == Stage::Cancelled
    }

    /// Ready once the deferred has been dropped. Wakes the waker of its latest call.
    pub fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        remember(&self.shared.watching, cx.waker());
        Poll::Pending
    }

    /// Waits until the deferred is dropped; to be raced against the work that the value takes.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }
}

impl<T> Drop for Resolver<T> {
    fn drop(&mut self) {
        Core::count_resolvers(-1);
        // Also after `resolve`, which has ended it already.
        if self.shared.stage.get() == Stage::Pending {
            self.shared.end(Stage::Abandoned);
        }
        drop(self.shared.watching.take());
    }
}

impl<T> fmt::Debug for Resolver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("Resolver", f)
    }
}

/// A value to come: a future of the value, or of [`Abandoned`] if nobody is left to give it. It never hangs for want of
/// a resolver. Dropping it is cancellation, which the [`Resolver`] can see.
///
/// # Panics
/// If polled again after it was ready.
#[must_use = "a dropped deferred is cancelled"]
pub struct Deferred<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Future for Deferred<T> {
    type Output = Result<T, Abandoned>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.shared;
        match shared.stage.get() {
            Stage::Pending => {
                remember(&shared.waiting, cx.waker());
                return Poll::Pending;
            }
            Stage::Abandoned => {
                shared.stage.set(Stage::Seen);
                return Poll::Ready(Err(Abandoned { made: shared.made }));
            }
            Stage::Resolved | Stage::Seen | Stage::Cancelled => {}
        }
        shared.stage.set(Stage::Seen);
        let (value, _) = shared.value.take().expect("a deferred was polled after it was ready");
        Poll::Ready(Ok(value))
    }
}

impl<T> Drop for Deferred<T> {
    fn drop(&mut self) {
        let shared = &self.shared;
        if shared.stage.replace(Stage::Cancelled) == Stage::Pending
            && let Some(resolver) = shared.watching.take()
        {
            resolver.wake();
        }
        if let Some((value, resolved)) = shared.value.take()
            && let Some(report) = shared.unread
        {
            report(&value, shared.made, resolved);
        }
        drop(shared.waiting.take());
    }
}

impl<T> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("Deferred", f)
    }
}

type Place = &'static Location<'static>;

/// Looks at a value that nobody else did: made where, resolved where.
type Unread<T> = fn(&T, &Location<'_>, &Location<'_>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Both halves are there and nothing happened.
    Pending,
    /// There is a value.
    Resolved,
    /// The resolver is gone without a value.
    Abandoned,
    /// The deferred was ready.
    Seen,
    /// The deferred is gone, whatever was before.
    Cancelled,
}

/// What the two halves share. Cells, so that nothing is borrowed while a waker or a value runs code of its own.
struct Shared<T> {
    stage: Cell<Stage>,
    /// Between `Resolved` and `Seen` or `Cancelled`, with where it was given.
    value: Cell<Option<(T, Place)>>,
    /// Who waits for the value.
    waiting: Cell<Option<Waker>>,
    /// Who waits for the deferred to be dropped.
    watching: Cell<Option<Waker>>,
    unread: Option<Unread<T>>,
    made: Place,
}

impl<T> Shared<T> {
    /// The resolver is done, one way or the other.
    fn end(&self, stage: Stage) {
        self.stage.set(stage);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("stage", &self.stage.get())
            .field("made", &format_args!("{}", self.made))
            .finish()
    }
}

/// Keeps the waker of the latest poll; cloned only if it is another one.
fn remember(slot: &Cell<Option<Waker>>, waker: &Waker) {
    let known = slot.take();
    let same = known.as_ref().is_some_and(|known| known.will_wake(waker));
    slot.set(if same { known } else { Some(waker.clone()) });
}
