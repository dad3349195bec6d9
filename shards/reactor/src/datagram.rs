//! Datagrams: sockets that keep the bounds of what was sent, and promise nothing else.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::task::{Context, Poll};

use crate::{Address, DatagramOptions, Handle, UnixName};

/// The most bytes that a datagram has, or several that the kernel merged: the 16 bits of IP's length field, rounded up.
/// What has as much room cuts nothing.
pub const DATAGRAM_BYTES_MAX: usize = 65_536;

/// A datagram socket that no shard serves yet, or no longer. Dropping it closes it, with what waits in it.
#[derive(Debug)]
pub struct BoundDatagrams {
    /// Where it is bound, port 0 resolved.
    pub local: Address,
    /// The socket.
    pub handle: Handle,
    /// What was asked for.
    pub options: DatagramOptions,
}

/// Makes datagram sockets of one shard. Internet addresses mean UDP (RFC 768), Unix names `SOCK_DGRAM` of unix(7).
pub trait Datagrams: fmt::Debug {
    /// Serves a socket that [`Backend::bind_datagrams`](crate::Backend::bind_datagrams) made, or that was
    /// [released](DatagramSocket::release).
    ///
    /// # Errors
    /// A handle of another backend's kind, or the kernel's reason. The socket is closed then.
    fn serve(&self, bound: BoundDatagrams) -> io::Result<Box<dyn DatagramSocket>>;

    /// Binds a socket of this shard alone: `reuse_port` is not looked at.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    fn bind(&self, at: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>>;

    /// A socket that receives from one peer alone, sends to it without being told where, and learns that it is not
    /// there (ICMP). Returns at once: there is nothing to wait for. Its own address is the kernel's choice; a Unix
    /// socket gets an abstract name, so that its peer can answer.
    ///
    /// # Errors
    /// As socket(2) and connect(2); over Unix names also `ConnectionRefused`.
    fn connect(&self, to: &Address, options: &DatagramOptions) -> io::Result<Box<dyn DatagramSocket>>;
}

/// A datagram socket on one shard. Dropping it closes it.
///
/// An error concerns one attempt, or one peer: `ConnectionRefused` (an ICMP answer to what was sent before, on connected
/// sockets), `PermissionDenied` (a local firewall), too large (`EMSGSIZE`). The socket goes on.
pub trait DatagramSocket: fmt::Debug {
    /// Receives what waits, each into a buffer of its own, and writes what is known of it to the same place in `found`;
    /// answers how many. At most as many as the shorter of the two has places. What does not fit its buffer is cut, and its
    /// [size](Datagram::size) tells so.
    ///
    /// # Errors
    /// As recvmsg(2). `InvalidInput` without room for one.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        found: &mut [Datagram],
    ) -> Poll<io::Result<usize>>;

    /// Sends some of them in order, each whole or not at all; answers how many, at least one. Pending while the kernel
    /// has no room for one.
    ///
    /// # Errors
    /// As sendmsg(2), of the first: the others were not tried. `Unsupported`: its segments cannot be sent in one call, but
    /// one by one.
    fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &[Outgoing<'_>]) -> Poll<io::Result<usize>>;

    /// How many segments one [`Outgoing`] may have; 1: they cannot be sent in one call.
    fn segments_max(&self) -> usize;

    /// Whether the kernel may merge datagrams of one peer that came one after the other (UDP GRO); false if there is no
    /// such thing here. Off at first. When on, buffers should be of [`DATAGRAM_BYTES_MAX`], since what is merged is cut as a
    /// whole.
    fn merge(&mut self, on: bool) -> bool;

    /// How many datagrams that came for it were thrown away since it was bound, over all who served it: for want of room in its
    /// buffer, or since they were damaged. Begins at 0 again after `u32::MAX`. `None`: nobody knows.
    fn discarded(&self) -> Option<u32> {
        None
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local(&self) -> io::Result<Address>;

    /// Gives the socket back, for whoever serves it next; what waits in it stays there.
    ///
    /// # Errors
    /// No descriptor is left. It is closed then.
    fn release(self: Box<Self>) -> io::Result<BoundDatagrams>;
}

/// What is known of a datagram that was received, or of several of one peer that were merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: Address,
    /// Its bytes as sent; more than the buffer holds if it was cut.
    pub size: usize,
    /// Merged datagrams have so many bytes each, but for the last, which may be shorter; `None`: it is one.
    pub segment: Option<usize>,
    /// Where it came to: what an answer should come from. `None` if the kernel does not say, as of Unix sockets.
    pub via: Option<Via>,
    /// What the network said of its load.
    pub congestion: Congestion,
}

impl Default for Datagram {
    /// From nobody, empty: a place for one that is received.
    fn default() -> Datagram {
        Datagram {
            from: Address::Unix(UnixName::Unnamed),
            size: 0,
            segment: None,
            via: None,
            congestion: Congestion::NotCapable,
        }
    }
}

/// One of this machine's addresses, and the interface that a datagram came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// The address that it was sent to, or is sent from.
    pub address: IpAddr,
    /// The interface's number (if_nametoindex(3)); 0: whichever the routes say.
    pub interface: u32,
}

/// Explicit congestion notification: the two bits of RFC 3168, section 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// The sender does not take part: 00.
    #[default]
    NotCapable,
    /// The sender listens to it: 10, ECT(0).
    Capable,
    /// The same with another mark, which low-latency transports use (RFC 9331): 01, ECT(1).
    Scalable,
    /// A router on the way was congested: 11, CE.
    Experienced,
}

impl Congestion {
    /// Of IP's traffic class, of which the upper six bits are something else.
    pub fn from_class(class: u8) -> Congestion {
        match class & 3 {
            0 => Congestion::NotCapable,
            1 => Congestion::Scalable,
            2 => Congestion::Capable,
            _ => Congestion::Experienced,
        }
    }

    /// The two bits.
    pub fn bits(self) -> u8 {
        match self {
            Congestion::NotCapable => 0,
            Congestion::Scalable => 1,
            Congestion::Capable => 2,
            Congestion::Experienced => 3,
        }
    }
}

/// A datagram to be sent, or several of one size to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What is sent. Empty is a datagram, too.
    pub bytes: &'a [u8],
    /// To whom; `None`: to whom the socket is connected.
    pub to: Option<&'a Address>,
    /// Cut into datagrams of so many bytes, but for the last (UDP GSO, Linux 4.18); `None`: it is one. At most
    /// [`segments_max`](DatagramSocket::segments_max) of them.
    pub segment: Option<usize>,
    /// Which of this machine's addresses it comes from, for sockets that are bound to all of them; `None`: the routes say.
    pub from: Option<Via>,
    /// What to tell the network.
    pub congestion: Congestion,
}

impl<'a> Outgoing<'a> {
    /// One datagram to one peer.
    pub fn new(bytes: &'a [u8], to: &'a Address) -> Outgoing<'a> {
        Outgoing { to: Some(to), ..Outgoing::to_peer(bytes) }
    }

    /// One datagram to whom the socket is connected.
    pub fn to_peer(bytes: &'a [u8]) -> Outgoing<'a> {
        Outgoing { bytes, to: None, segment: None, from: None, congestion: Congestion::NotCapable }
    }
}
