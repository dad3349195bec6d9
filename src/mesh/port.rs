//! Ports: what is declared before the shards start, and shared by all of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waterwheel_reactor::Time;

use super::hub::{AnyPort, Mesh, drop_contained};
use super::lane::Lanes;
use super::lease::LIMIT_MAX;
use super::sync::AtomicBool;

/// A typed channel over all shards. Declared before the shards start, handed to each by clone, and opened there once:
/// [`Shard::open`](crate::shard::Shard::open) gives that shard's [`Mailbox`](super::Mailbox), and
/// [`Shard::sender`](crate::shard::Shard::sender) a way to send for a shard that receives nothing.
///
/// Messages are first-in first-out per source, target and port, and nothing more. Each ordered pair of shards has a
/// lane of its own, made on first use; it holds at most [`PortOptions::capacity`] messages, inline.
pub struct Port<M> {
    pub(super) shared: Arc<PortShared<M>>,
}

/// The limits of a port. Every field has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Messages that one shard may have on the way to one other: 1 to 1 048 576, default 256. A lane takes this many
    /// times the size of a message from its first use on.
    pub capacity: usize,
}

impl Default for PortOptions {
    fn default() -> PortOptions {
        PortOptions { capacity: 256 }
    }
}

/// Above this a bound is none: memory for that many messages would be taken at once.
const CAPACITY_MAX: usize = 1 << 20;

impl PortOptions {
    pub(super) fn check(self, name: &'static str) -> Result<usize, DeclareError> {
        let capacity = self.capacity;
        if (1..=CAPACITY_MAX).contains(&capacity) {
            Ok(capacity)
        } else {
            Err(DeclareError::Capacity { name, capacity })
        }
    }
}

/// Why a port could not be declared: a bug of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// Names are what reports and errors know a port by, so each is used once in a runtime.
    #[error("a port named {0:?} is declared already")]
    NameTaken(&'static str),
    /// A capacity or a number of credits that makes no sense.
    #[error("port {name:?}: {capacity} is not between 1 and {CAPACITY_MAX}")]
    Capacity {
        /// The port's name.
        name: &'static str,
        /// What was asked for.
        capacity: usize,
    },
    /// A limit that lets nothing through, or that is none.
    #[error("lease {name:?}: {limit} is not between 1 and {LIMIT_MAX}")]
    Limit {
        /// The lease's name.
        name: &'static str,
        /// What was asked for.
        limit: u64,
    },
}

/// Why a shard could not open a port: a bug of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A port is opened (or served) once per shard, since its messages are received once.
    #[error("port {0:?} is open on this shard already")]
    AlreadyOpen(&'static str),
    /// The port was declared for another runtime.
    #[error("port {0:?} belongs to another runtime")]
    Foreign(&'static str),
}

/// What all shards share of a port.
pub(super) struct PortShared<M> {
    pub(super) name: &'static str,
    pub(super) id: usize,
    /// Tells this runtime's ports from another's.
    pub(super) mesh: u64,
    pub(super) lanes: Lanes<Envelope<M>>,
    /// By shard: its mailbox was dropped. Told to senders by a ring.
    closed: Box<[AtomicBool]>,
    undelivered: AtomicU64,
}

/// A message in its lane.
pub(super) struct Envelope<M> {
    /// Not before this; [`Time::ZERO`]: at once.
    pub(super) at: Time,
    pub(super) message: M,
}

impl<M: Send + 'static> Port<M> {
    /// A port between all shards of a runtime, before they start.
    ///
    /// # Errors
    /// The name is taken, or a limit makes no sense.
    pub fn declare(mesh: &Mesh, name: &'static str, options: PortOptions) -> Result<Port<M>, DeclareError> {
        let capacity = options.check(name)?;
        let shards = mesh.shards();
        let shared = mesh.declare(name, |id| PortShared {
            name,
            id,
            mesh: mesh.id(),
            lanes: Lanes::new(shards, capacity),
            closed: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            undelivered: AtomicU64::new(0),
        })?;
        Ok(Port { shared })
    }
}

impl<M> Port<M> {
    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Messages that were accepted and never received, because the target ended or dropped its mailbox. Counted by
    /// whoever found them, over all shards; complete once all shards ended.
    pub fn undelivered(&self) -> u64 {
        self.shared.undelivered.load(Relaxed)
    }
}

impl<M> PortShared<M> {
    /// Counts and drops what nobody will receive.
    pub(super) fn fail(&self, messages: impl IntoIterator<Item = Envelope<M>>) {
        for message in messages {
            self.undelivered.fetch_add(1, Relaxed);
            drop_contained(message);
        }
    }

    pub(super) fn is_closed(&self, target: usize) -> bool {
        self.closed[target].load(Relaxed)
    }

    /// The target dropped its mailbox. Senders learn of it by a ring; until then the target fails what they send.
    pub(super) fn close(&self, target: usize) {
        self.closed[target].store(true, Relaxed);
    }

    /// The target has a mailbox again.
    pub(super) fn open(&self, target: usize) {
        self.closed[target].store(false, Relaxed);
    }
}

impl<M: Send + 'static> AnyPort for PortShared<M> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sweep_to(&self, target: usize) {
        self.fail(self.lanes.sweep_to(target));
    }

    fn sweep_between(&self, source: usize, target: usize) {
        self.fail(self.lanes.between(source, target).sweep());
    }

    fn reopen(&self, shard: usize) {
        self.open(shard);
    }

    #[cfg(feature = "sim")]
    fn lost(&self) -> u64 {
        self.undelivered.load(Relaxed)
    }
}

impl<M> Clone for Port<M> {
    fn clone(&self) -> Port<M> {
        Port { shared: self.shared.clone() }
    }
}

impl<M> fmt::Debug for Port<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<M> fmt::Debug for PortShared<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("name", &self.name).field("capacity", &self.lanes.capacity()).finish()
    }
}

/// Why [`try_send`](super::Sender::try_send) did not take a message; it comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<M> {
    /// The lane has no room, or others wait for room already.
    #[error("the lane is full")]
    Full(M),
    /// The target ended or dropped its mailbox.
    #[error("the target receives no more")]
    Closed(M),
}

impl<M> TrySendError<M> {
    /// The message.
    pub fn into_inner(self) -> M {
        match self {
            TrySendError::Full(message) | TrySendError::Closed(message) => message,
        }
    }
}

impl<M> fmt::Debug for TrySendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "Full",
            TrySendError::Closed(_) => "Closed",
        })
    }
}

/// The target ended or dropped its mailbox, so that the message was not sent; it comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the target receives no more")]
pub struct Closed<M>(pub M);

impl<M> fmt::Debug for Closed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed")
    }
}
