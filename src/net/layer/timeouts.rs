//! How long a connection may take, and which limit it met.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Time, Transport};

use super::timed::{TimedSink, TimedSource};
use crate::net::connection::Connection;
use crate::shard::Shard;

/// The longest that a connection may take for this and that; `None`: as long as it likes. Each counts by itself.
///
/// Looked at by whoever waits at the connection: a timeout is an error of that read, write or flush, of kind
/// `TimedOut`, and [`TimedOut::of`] tells which one it was. Where nobody waits, nobody is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a byte received or taken to send. Reading fails from then on; writing goes on, for a last word.
    pub idle: Option<Duration>,
    /// From the beginning to the first byte received. Reading fails, writing goes on.
    pub first_byte: Option<Duration>,
    /// From the beginning to the end. The connection is reset, and both halves fail.
    pub total: Option<Duration>,
    /// While something waits to be taken to send, without any of it taken: the peer does not read. The connection is
    /// reset, and both halves fail. Should be seconds: the kernel takes bytes in bulk, so a peer that reads slowly has long
    /// pauses too.
    pub stalled_write: Option<Duration>,
}

/// Which limit of [`Timeouts`] a connection met. Its peer was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimedOut {
    /// Nothing moved.
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
    /// Nothing came.
    #[error("the peer sent nothing within {0:?}")]
    FirstByte(Duration),
    /// All in all.
    #[error("the connection lasted for {0:?}")]
    Total(Duration),
    /// The peer does not read.
    #[error("the peer took nothing for {0:?}")]
    StalledWrite(Duration),
}

impl TimedOut {
    /// The timeout that an error of a connection is, if it is one of a layer.
    pub fn of(error: &io::Error) -> Option<TimedOut> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Whether it ends the connection, and not the reading alone.
    fn is_final(self) -> bool {
        matches!(self, TimedOut::Total(_) | TimedOut::StalledWrite(_))
    }
}

impl From<TimedOut> for io::Error {
    fn from(timed_out: TimedOut) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, timed_out)
    }
}

impl Connection {
    /// Limits how long it may take, from now on.
    #[must_use = "the connection with the layer is the answer"]
    pub fn timed(self, timeouts: Timeouts) -> Connection {
        let record = Rc::new(Record::new(self.shard().clone(), timeouts));
        self.layered(|Transport { source, sink }| Transport {
            source: Box::new(TimedSource::new(source, record.clone())),
            sink: Box::new(TimedSink::new(sink, record)),
        })
    }
}

/// What both halves know of their connection. Activity is only noted here; timers look at the note when they fire.
#[derive(Debug)]
pub(super) struct Record {
    shard: Shard,
    timeouts: Timeouts,
    began: Time,
    last: Cell<Time>,
    heard: Cell<bool>,
    ended: Cell<Option<TimedOut>>,
}

impl Record {
    fn new(shard: Shard, timeouts: Timeouts) -> Record {
        let began = shard.turn_time();
        let (last, heard, ended) = (Cell::new(began), Cell::new(false), Cell::new(None));
        Record { shard, timeouts, began, last, heard, ended }
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Something moved.
    pub(super) fn moved(&self) {
        self.last.set(self.shard.turn_time());
    }

    /// Something was received.
    pub(super) fn heard(&self) {
        self.heard.set(true);
        self.moved();
    }

    /// The timeout that ended both halves.
    pub(super) fn ended(&self) -> Option<TimedOut> {
        self.ended.get()
    }

    /// Takes note of a timeout. Answers whether it ends both halves.
    pub(super) fn met(&self, timed_out: TimedOut) -> bool {
        if timed_out.is_final() {
            self.ended.set(Some(timed_out));
        }
        timed_out.is_final()
    }

    /// The next limit for whoever waits for bytes.
    pub(super) fn due_to_receive(&self) -> Option<(Time, TimedOut)> {
        let Timeouts { idle, first_byte, total, .. } = self.timeouts;
        let first_byte = first_byte.filter(|_| !self.heard.get());
        first([
            idle.map(|limit| (self.last.get() + limit, TimedOut::Idle(limit))),
            first_byte.map(|limit| (self.began + limit, TimedOut::FirstByte(limit))),
            total.map(|limit| (self.began + limit, TimedOut::Total(limit))),
        ])
    }

    /// The next limit for whoever has waited since then for bytes to be taken.
    pub(super) fn due_to_send(&self, since: Time) -> Option<(Time, TimedOut)> {
        let Timeouts { total, stalled_write, .. } = self.timeouts;
        first([
            total.map(|limit| (self.began + limit, TimedOut::Total(limit))),
            stalled_write.map(|limit| (since + limit, TimedOut::StalledWrite(limit))),
            None,
        ])
    }
}

fn first(all: [Option<(Time, TimedOut)>; 3]) -> Option<(Time, TimedOut)> {
    all.into_iter().flatten().min_by_key(|(at, _)| *at)
}
