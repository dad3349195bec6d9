//! From the start of a child to its end, which is seen once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::process::ExitStatus;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_os::is_shortage;
use waterwheel_reactor::Watched;

use super::orphans;
use crate::net::quota::Taken;
use crate::runtime::Signal;
use crate::shard::Shard;

/// Where descriptors or memory are short, it is tried again after so long.
pub(super) const SHORT_OF: Duration = Duration::from_millis(50);

/// Nobody can say how a child ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody can say how child process {id} ended: {reason}")]
pub struct EndUnknown {
    id: u32,
    reason: String,
}

/// What is known of a child, shared by whoever holds it and the task that waits for its end.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) id: u32,
    pub(super) own_group: bool,
    pub(super) kill_on_drop: Cell<bool>,
    /// The kernel will kill it when the shard has ended; so do that at once, and see its end.
    pub(super) dies_with_shard: Cell<bool>,
    /// Kill the rest of its group when it has ended.
    pub(super) group_ends_with_it: Cell<bool>,
    /// Ready once it has ended; `None` from then on.
    watched: RefCell<Option<Box<dyn Watched>>>,
    end: RefCell<Option<Result<ExitStatus, EndUnknown>>>,
    waiting: RefCell<Option<Waker>>,
    /// Of the shard's quota of descriptors, those of its pipes included.
    pub(super) places: RefCell<Vec<Taken>>,
}

impl Life {
    /// Waits for its end from now on, in a task of the shard's.
    pub(super) fn begin(shard: &Shard, life: Life) -> Rc<Life> {
        let life = Rc::new(life);
        let (ending, own) = (Ending(life.clone()), shard.clone());
        shard.spawn_detached("child process", async move { ending.0.see_end(&own).await });
        life
    }

    pub(super) fn new(id: u32, own_group: bool, watched: Box<dyn Watched>) -> Life {
        Life {
            id,
            own_group,
            kill_on_drop: Cell::new(false),
            dies_with_shard: Cell::new(false),
            group_ends_with_it: Cell::new(false),
            watched: RefCell::new(Some(watched)),
            end: RefCell::new(None),
            waiting: RefCell::new(None),
            places: RefCell::default(),
        }
    }

    async fn see_end(&self, shard: &Shard) {
        while self.end.borrow().is_none() {
            let ready = poll_fn(|cx| match &mut *self.watched.borrow_mut() {
                Some(watched) => watched.poll_readable(cx),
                None => Poll::Ready(Ok(())),
            });
            if let Err(error) = ready.await {
                if is_shortage(&error) {
                    shard.sleep(SHORT_OF).await;
                } else {
                    // What comes after this task tells those who wait.
                    tracing::debug!(id = self.id, "a child process is not watched any more: {error}");
                    return;
                }
            }
            self.look();
        }
    }

    /// Takes its end from the kernel, if it has come.
    fn look(&self) {
        let reaped = match &*self.watched.borrow() {
            Some(watched) => waterwheel_os::reap(watched.descriptor(), || self.end_group()),
            None => return,
        };
        let end = match reaped {
            Ok(None) => return,
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(EndUnknown { id: self.id, reason: error.to_string() }),
        };
        self.watched.take();
        self.end.replace(Some(end));
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// It has ended, and nobody else can have its number yet.
    fn end_group(&self) {
        if self.group_ends_with_it.get() && self.own_group {
            // None may be left.
            let _ = waterwheel_os::signal_group(self.id, Signal::Kill.number());
        }
    }

    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Result<ExitStatus, EndUnknown>> {
        match &*self.end.borrow() {
            Some(end) => Poll::Ready(end.clone()),
            None => {
                self.waiting.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    pub(super) fn end(&self) -> Option<Result<ExitStatus, EndUnknown>> {
        self.end.borrow().clone()
    }

    pub(super) fn signal(&self, signal: Signal, group: bool) -> io::Result<()> {
        let watched = self.watched.borrow();
        let over = || io::Error::new(io::ErrorKind::NotFound, "the child process has ended");
        let descriptor = watched.as_ref().ok_or_else(over)?.descriptor();
        if group && self.own_group {
            let sent = waterwheel_os::signal_group(self.id, signal.number());
            if waterwheel_os::leads_group(self.id) {
                return sent;
            }
            // It has gone to another group, and was not reached.
        }
        waterwheel_os::signal_child(descriptor, signal.number())
    }

    pub(super) fn kill(&self) {
        if let Some(watched) = &*self.watched.borrow() {
            orphans::kill(self.id, self.own_group, watched.descriptor());
        }
    }
}

/// The task that waits for a child's end. Dropped before, with its shard, it leaves the child to others.
struct Ending(Rc<Life>);

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(watched) = self.0.watched.take() else { return };
        // Nobody on this shard will know more.
        let reason = "it is not watched any more".to_owned();
        self.0.end.borrow_mut().get_or_insert(Err(EndUnknown { id: self.0.id, reason }));
        if let Some(waiting) = self.0.waiting.take() {
            waiting.wake();
        }
        let kill = self.0.kill_on_drop.get() || self.0.dies_with_shard.get();
        if kill {
            orphans::kill(self.0.id, self.0.own_group, watched.descriptor());
        }
        // Its own, since there may be no other left.
        match watched.into_descriptor() {
            Ok(descriptor) => orphans::adopt(descriptor),
            Err(error) => tracing::warn!(id = self.0.id, "a child process will be left as a zombie: {error}"),
        }
    }
}
