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
//! A server's sockets share one port. Which of them a peer's datagrams come to the kernel decides: by the same hash as for
//! connections ([`crate::steer`]) where it takes the program, else by one of its own.
//!
//! | mode | a peer's datagrams are received by |
//! |---|---|
//! | `flow` | the shard that owns its address and port |
//! | `source` | the shard that owns its address |
//! | `cpu` | the shard on whose CPU they are handled |
//! | `kernel`, `least`, `key` | one shard of the kernel's choice, until a shard ends for good; then any peer may move |
//!
//! In `flow` and `source` that holds whatever the kernel does. The shard that receives a datagram from the kernel computes the
//! owner, and hands it over if that is another one: where the kernel was given no program, would not take it, or does not see
//! the port behind IPv6 headers that it walks over; and when a socket of the group was closed, after which the kernel counts
//! the others anew. It costs a message and a copy; [`DatagramSender::stats`] counts them. What others hold for a shard is part of
//! its quota of buffered bytes ([`Quotas`](crate::runtime::Quotas)), and bounded: 128 datagrams on the way from each of them,
//! together 2 MiB or an eighth of that quota.
//!
//! A shard that fails keeps its part of the port. What comes to its socket meanwhile, and up to 128 datagrams that others would
//! hand over to it, are received by its next life. What it had received is lost with it. If it has no next life, or drops its
//! [`DatagramSocket`], its part is closed, whoever has a sender left ([`SocketEnded`]): its peers have another owner, the next
//! shard by number that receives, and nobody else's peers move.
//!
//! Nothing gets lost silently here: what was received and given to no program is in [`DatagramStats::lost`], by the reason.
//! For groups it is told by shard at the admin endpoint ([`crate::metrics`]), with a label `socket`, as in `udp:0.0.0.0:53`:
//!
//! | `waterwheel_datagrams_…` | counts |
//! |---|---|
//! | `received_total`, `received_bytes_total`, `cut_total`, `receive_errors_total` | what the kernel gave; datagrams, bytes, datagrams, attempts |
//! | `discarded_total` | datagrams that the kernel threw away: no room in the socket's buffer, or damaged |
//! | `sent_total`, `sent_bytes_total`, `send_errors_total` | what the kernel took; datagrams, bytes, attempts |
//! | `handed_over_total`, `taken_over_total`, `kept_total` | datagrams that came to another shard than their owner |
//! | `lost_total`, with a label `reason` | datagrams that came to no program: `crowded`, `ownerless`, `undelivered`, `unread` |
//!
//! An error concerns one datagram or one peer, never the socket: receive or send again. A peer that is not there is
//! `ConnectionRefused`, on connected sockets only; what is too large for the way is `EMSGSIZE`.
//!
//! Several datagrams go through one system call where they can: those that wait are received together, and what the kernel
//! merged (UDP GRO) is taken apart here; [`DatagramSender::send_segments`] has the kernel cut (UDP GSO), or cuts itself.
//!
//! Limits: a socket receives at most 16 datagrams, merged ones of up to 64 KiB, at once, into memory that it keeps
//! ([`DatagramSocket::with_room`]); it takes memory as far as it was ever used. What waits beyond that is in the kernel's
//! buffer ([`DatagramOptions`](waterwheel_reactor::DatagramOptions)), and what finds no room there is lost, and
//! [counted](DatagramStats::discarded).

mod endpoint;
mod group;
mod hand_over;
mod handed;
mod protocol;
mod sender;
mod socket;
mod stats;

#[cfg(doc)]
use crate::shard::Shard;
pub use endpoint::DatagramEndpoint;
pub use group::DatagramGroup;
pub(crate) use hand_over::HandingOver;
pub use protocol::{DatagramProtocol, Request};
pub use sender::{DatagramSender, SocketEnded};
pub use socket::{Batch, DatagramSocket, Received};
pub(crate) use stats::CountedBy;
pub use stats::DatagramStats;
