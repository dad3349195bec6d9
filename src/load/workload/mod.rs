//! What one request is: the part of the harness that a user replaces to load a protocol of their own.

mod echo;
mod http;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;

use waterwheel_reactor::Time;

use super::account::Outcome;
use crate::net::Connection;
use crate::shard::Shard;

pub use echo::{Echo, EchoClient, MESSAGE_BYTES_MAX};
pub use http::{BodyLength, HttpClient, HttpGet};

/// One exchange on an established connection: a request, and the answer checked.
///
/// The harness plans requests, keeps connections, measures, limits the time and counts; a workload only talks. It is
/// shared by all shards; what belongs to one connection is its [`Client`](Workload::Client).
///
/// ```
/// use std::future::Future;
/// use waterwheel::load::workload::{Answer, Failure, Marks, Workload};
/// use waterwheel::net::Connection;
///
/// /// Sends a line and expects `+PONG`.
/// #[derive(Debug)]
/// struct Ping;
///
/// impl Workload for Ping {
///     type Client = ();
///     fn client(&self, _number: u64) {}
///     async fn exchange(&self, _: &mut (), connection: &mut Connection, marks: &Marks) -> Result<Answer, Failure> {
///         marks.sent();
///         connection.write_all(b"PING\r\n").await?;
///         let mut answer = [0; 7];
///         connection.read_exact(&mut answer).await?;
///         marks.first_byte();
///         if &answer == b"+PONG\r\n" { Ok(Answer::ok(7)) } else { Err(Failure::Wrong("not a PONG".into())) }
///     }
/// }
/// ```
pub trait Workload: fmt::Debug + Send + Sync + 'static {
    /// What one connection remembers from exchange to exchange. Made anew for each connection.
    type Client: fmt::Debug + 'static;

    /// The state of a new connection; `number` is different for each connection of a run.
    fn client(&self, number: u64) -> Self::Client;

    /// Sends one request and receives its answer in full. Says through `marks` when it begins to send and when the
    /// first byte came. Nothing of the answer may be left unread if the connection is to be used again.
    ///
    /// It is dropped when the time is up; the connection is then reset. It should not allocate once warm.
    fn exchange(
        &self,
        client: &mut Self::Client,
        connection: &mut Connection,
        marks: &Marks,
    ) -> impl Future<Output = Result<Answer, Failure>>;
}

/// What came back, in full and understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it said yes.
    pub accepted: bool,
    /// Whether the connection may be used again.
    pub reuse: bool,
    /// How many bytes of content it had.
    pub content_bytes: u64,
}

impl Answer {
    /// A good answer on a connection that may be used again.
    pub const fn ok(content_bytes: u64) -> Answer {
        Answer { accepted: true, reuse: true, content_bytes }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection broke.
    #[error(transparent)]
    Connection(#[from] io::Error),
    /// What came is not a right answer.
    #[error("{0}")]
    Wrong(Cow<'static, str>),
}

impl Failure {
    /// The connection ended where an answer, or the rest of it, should have come.
    pub fn ended() -> Failure {
        Failure::Connection(io::ErrorKind::UnexpectedEof.into())
    }
}

/// When things happened in one exchange. Each mark reads the clock; only the first call of each counts.
#[derive(Debug)]
pub struct Marks {
    shard: Shard,
    sent: Cell<Option<Time>>,
    first_byte: Cell<Option<Time>>,
}

impl Marks {
    pub(super) fn new(shard: Shard) -> Marks {
        Marks { shard, sent: Cell::new(None), first_byte: Cell::new(None) }
    }

    /// To be called right before the first byte is handed to the connection: on loopback, the peer's part of the
    /// transfer runs inside that call.
    pub fn sent(&self) {
        Marks::mark(&self.sent, &self.shard);
    }

    /// To be called when the first byte of the answer is there.
    pub fn first_byte(&self) {
        Marks::mark(&self.first_byte, &self.shard);
    }

    fn mark(at: &Cell<Option<Time>>, shard: &Shard) {
        if at.get().is_none() {
            at.set(Some(shard.now()));
        }
    }

    pub(super) fn clear(&self) {
        self.sent.set(None);
        self.first_byte.set(None);
    }

    pub(super) fn sent_at(&self) -> Option<Time> {
        self.sent.get()
    }

    pub(super) fn first_byte_at(&self) -> Option<Time> {
        self.first_byte.get()
    }
}

impl From<&Result<Answer, Failure>> for Outcome {
    fn from(result: &Result<Answer, Failure>) -> Outcome {
        match result {
            Ok(answer) if answer.accepted => Outcome::Ok,
            Ok(_) => Outcome::HttpError,
            Err(_) => Outcome::TransportError,
        }
    }
}
