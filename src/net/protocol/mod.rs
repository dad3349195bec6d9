//! A protocol as a type: connected, received, closed, and a wire to write to that never blocks.
//!
//! For protocols that answer what they are told, and for those who know Twisted's. A [`Protocol`] is one connection's
//! state; its methods are called one at a time, on its shard, and none of them waits. What it writes goes into a bounded
//! queue of its [`Wire`] and is sent when it returns, so nothing is ever called back inside a call of the wire.
//! [`Connection::speak`] runs it; [`Factory`] makes one for each connection of a listener
//! ([`Runtime::serve_protocol`](crate::runtime::Runtime::serve_protocol)).
//!
//! ```text
//! connected  →  received, received, …  →  ended (by the peer)  →  closed(why)
//!                  resumed, stopping, malformed                   once, last, whatever happens
//! ```
//!
//! Code that waits for several things in turn is easier to read as an `async fn` over a
//! [`Connection`] or a [`Framed`](super::codec::Framed) one; the two ways mix, since a wire can be
//! cloned and written to from any task of the shard.

mod speaking;
mod wire;

use std::future::Future;
use std::io;
use std::rc::Rc;

use waterwheel_reactor::Address;

use super::codec::{Codec, FrameError, Pieces};
use super::connection::Connection;
use crate::shard::Shard;
pub use speaking::Speaking;
pub use wire::{Flow, QueueLimits, Wire, WriteError};

/// One connection's state, and what it does about what happens.
///
/// An error of a method resets the connection; [`closed`](Protocol::closed) gets it as the reason. A method that panics
/// ends the connection's task, as everywhere: then the state is not to be trusted, and is dropped without a call.
pub trait Protocol: Sized + 'static {
    /// What the stream's frames are; the bytes as they come, if it does not say. Asked twice at the beginning, for one
    /// that decodes and one that encodes; [`Wire::set_codec`] changes it.
    fn codec(&self) -> Box<dyn Codec> {
        Box::new(Pieces)
    }

    /// What the wire's queue holds.
    fn queue(&self) -> QueueLimits {
        QueueLimits::default()
    }

    /// The connection stands; called once, before anything else.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn connected(&mut self, _wire: &Wire) -> anyhow::Result<()> {
        Ok(())
    }

    /// A frame came. Not called while the wire's queue is [full](Flow::Full) or receiving is
    /// [paused](Wire::pause_receiving), nor after [`Wire::lose_connection`], also for frames that had come before.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn received(&mut self, wire: &Wire, frame: &[u8]) -> anyhow::Result<()>;

    /// The queue of the wire was full, and has room again.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn resumed(&mut self, _wire: &Wire) -> anyhow::Result<()> {
        Ok(())
    }

    /// The peer sent what is no frame. What is written now still goes; then the connection is closed.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn malformed(&mut self, _wire: &Wire, _error: FrameError) -> anyhow::Result<()> {
        Ok(())
    }

    /// The peer ended its stream, and may still read. Closes, unless it is written otherwise.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn ended(&mut self, wire: &Wire) -> anyhow::Result<()> {
        wire.lose_connection();
        Ok(())
    }

    /// The shard is to stop, and waits for its connections. Closes, unless it is written otherwise.
    ///
    /// # Errors
    /// Whatever is to reset the connection.
    fn stopping(&mut self, wire: &Wire) -> anyhow::Result<()> {
        wire.lose_connection();
        Ok(())
    }

    /// It is over; called once, and nothing after it. Where [`connected`](Protocol::connected) was never called, since
    /// nobody awaited the [`Speaking`], neither is this.
    fn closed(self, _reason: Reason) {}
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// [`Wire::lose_connection`]: all that was written was sent, and the end behind it.
    #[error("closed here")]
    Closed,
    /// The peer ended its stream; what was written was sent, and the end behind it.
    #[error("the peer ended its stream")]
    PeerEnded,
    /// [`Wire::abort`].
    #[error("reset here")]
    Aborted,
    /// The network, the peer or a layer broke it, or the peer did not take what was left to send.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The peer sent what is no frame.
    #[error(transparent)]
    Malformed(FrameError),
    /// A method of the protocol failed, and the connection was reset.
    #[error("the protocol failed: {0:#}")]
    Failed(anyhow::Error),
    /// The task was ended in the midst of it: the time of the shard's stop was up, or somebody dropped it. Reset if
    /// something was left to send.
    #[error("ended in the midst of it")]
    Cancelled,
}

impl Reason {
    /// Whether all that was written was sent, and both sides know of the end.
    pub fn is_clean(&self) -> bool {
        matches!(self, Reason::Closed | Reason::PeerEnded)
    }
}

impl Connection {
    /// Lets a protocol have this connection, to its end. Dropping the future ends it with [`Reason::Cancelled`].
    pub fn speak<P: Protocol>(self, protocol: P) -> Speaking<P> {
        Speaking::new(self, protocol)
    }
}

/// Makes the protocols of a listener's connections: one instance per shard, so that what they share needs no lock.
pub trait Factory: Sized + 'static {
    /// What an instance is made of; shared by all shards, given to each.
    type Settings: Clone + Send + Sync + 'static;
    /// What it makes.
    type Protocol: Protocol;

    /// Makes this shard's instance. Nothing is accepted before it is there.
    fn start(shard: &Shard, settings: &Self::Settings) -> impl Future<Output = anyhow::Result<Self>>;

    /// A protocol for a new connection; `None`: it is closed.
    fn build(self: &Rc<Self>, peer: Option<&Address>) -> Option<Self::Protocol>;

    /// Puts [layers](super::layer) on a new connection.
    ///
    /// # Errors
    /// Whatever speaks against it; it is logged at the debug level, and there is no protocol.
    fn layer(&self, connection: Connection) -> anyhow::Result<Connection> {
        Ok(connection)
    }

    /// The most connections that an instance serves at once; as [`Acceptor::serve`](super::Acceptor::serve).
    fn limit(&self) -> usize {
        usize::MAX
    }

    /// The shard is to stop and the connections have ended, or their time is up: a last word.
    fn stop(&self) {}
}
