//! Datagrams: UDP and the Unix family's, on one shard or on all.
//!
//! | for | use |
//! |---|---|
//! | a server on every shard | [`Runtime::datagrams`](crate::runtime::Runtime::datagrams), then [`Shard::datagrams_on`] on each |
//! | a socket of one shard | [`Shard::bind_datagrams`], [`Shard::connect_datagrams`] |
//! | receiving | [`DatagramSocket::receive`], or all that came at once: [`DatagramSocket::receive_batch`] |
//! | sending, from any task of the shard | [`DatagramSender`]: one, several, or many of one size in one call |
//! | answering, as Twisted's users know it | [`DatagramProtocol`], run by [`DatagramSocket::serve`] |
//! | answering in a task of its own | [`DatagramSocket::serve_each`] |
//!
//! A server's sockets share one port. Which of them a peer's datagrams come to is decided by the same hash as for connections
//! ([`crate::steer`]) where the kernel takes the program, else by one of the kernel's; both keep a peer on one shard. Nothing
//! is handed over.
//!
//! An error concerns one datagram or one peer, never the socket: receive or send again. A peer that is not there is
//! `ConnectionRefused`, on connected sockets only; what is too large for the way is `EMSGSIZE`.
//!
//! Several datagrams go through one system call where they can: those that wait are received together, and what the kernel
//! merged (UDP GRO) is taken apart here; [`DatagramSender::send_segments`] has the kernel cut (UDP GSO), or cuts itself.
//!
//! Limits: a socket receives at most 16 datagrams, merged ones of up to 64 KiB, at once, into memory that it keeps
//! ([`DatagramSocket::with_room`]); it takes memory as far as it was ever used. What waits beyond that is in the kernel's
//! buffer ([`DatagramOptions`](waterwheel_reactor::DatagramOptions)), and what finds no room there is lost.

mod endpoint;
mod group;
mod protocol;
mod sender;
mod socket;

#[cfg(doc)]
use crate::shard::Shard;
pub use endpoint::DatagramEndpoint;
pub use group::DatagramGroup;
pub use protocol::{DatagramProtocol, Request};
pub use sender::DatagramSender;
pub use socket::{Batch, DatagramSocket, Received};
