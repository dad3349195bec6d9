//! Sending datagrams, from any task of the shard.

use std::array;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{self as seam, Address, Outgoing, Via};

use super::group::DatagramGroup;
use super::socket::Received;
use super::stats::{CountedBy, Counters, DatagramStats};
use crate::net::quota::Taken;
use crate::shard::Shard;
use crate::shard::waiters::Waiters;

/// Segments of one size in one call, together: what fits one datagram of IPv4 (65 535 bytes less both headers).
const SEGMENTED_BYTES_MAX: usize = 65_507;
/// Segments that are sent one by one go so many to a call.
const SINGLES: usize = 16;

/// Sends datagrams through a socket, from any task of its shard.
///
/// Each datagram goes whole or not at all, and is with the network when the call is back; whether it arrives nobody says.
/// Sending waits while the socket's buffer is full.
///
/// A socket of one shard alone stays open until its last sender is dropped. One of a [`DatagramGroup`] closes with the
/// [`DatagramSocket`](super::DatagramSocket) that receives there, since the kernel goes on placing peers at it as long as it
/// is open: who sends then, or waits for room, is answered with [`SocketEnded`].
#[derive(Clone)]
pub struct DatagramSender {
    pub(super) shared: Rc<Shared>,
}

/// Why a sender sends no more: who received through its socket, which was one of a [`DatagramGroup`], has ended, and the
/// socket with it. Inside an [`io::Error`] of the kind `BrokenPipe`; nothing of what was to be sent then has gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datagram socket at {local} has ended with who received there")]
pub struct SocketEnded {
    /// Where it was bound.
    pub local: Address,
}

/// What a socket's senders and who receives through it share.
pub(super) struct Shared {
    pub(super) shard: Shard,
    /// `None` once it has ended.
    open: RefCell<Option<Open>>,
    /// Who waits for room. The socket wakes the latest alone, who wakes the others.
    waiters: RefCell<Waiters>,
    local: Address,
    /// Whose part it is.
    group: Option<DatagramGroup>,
    pub(super) counters: Rc<Counters>,
}

struct Open {
    socket: Box<dyn seam::DatagramSocket>,
    /// Of the shard's quota of descriptors.
    _places: Vec<Taken>,
}

impl Shared {
    pub(super) fn new(
        shard: &Shard,
        socket: Box<dyn seam::DatagramSocket>,
        group: Option<DatagramGroup>,
        places: Vec<Taken>,
    ) -> io::Result<Rc<Shared>> {
        let local = socket.local()?;
        let open = RefCell::new(Some(Open { socket, _places: places }));
        let own = shard.id().index();
        let told = group.as_ref().and_then(|group| group.discarded(own));
        let discarded = told.map_or(0, |told| told.load(Relaxed));
        let counters = Counters::new(shard, group.as_ref().and_then(DatagramGroup::traffic), discarded);
        let (shard, waiters) = (shard.clone(), RefCell::default());
        let shared = Rc::new(Shared { shard, open, waiters, local, group, counters });
        if let Some(group) = &shared.group {
            CountedBy::of(&shared.shard).add(&shared, group.traffic());
        }
        Ok(shared)
    }

    pub(super) fn local(&self) -> &Address {
        &self.local
    }

    /// Counts what the kernel has thrown away since it was asked last.
    pub(super) fn ask_discarded(&self) {
        let own = self.shard.id().index();
        let told = self.group.as_ref().map(|group| group.discarded(own));
        if let Some(None) = told {
            return;
        }
        let Some(now) = self.with(|socket| socket.discarded()).flatten() else { return };
        self.counters.discarded(now);
        told.flatten().iter().for_each(|told| told.store(now, Relaxed));
    }

    /// Nobody receives here any more. A group's socket ends with that: the kernel would go on placing peers at it, whom
    /// nobody would hear.
    pub(super) fn receiver_ends(&self) {
        let Some(group) = &self.group else { return };
        self.ask_discarded();
        let Some(Open { socket, .. }) = self.open.take() else { return };
        let own = self.shard.id().index();
        // Who fails may come again, and its part is kept for that.
        match fails(&self.shard) {
            true => match socket.release() {
                Ok(bound) => group.put_back(own, bound),
                Err(_) => group.give_up(own),
            },
            false => {
                group.give_up(own);
                drop(socket);
            }
        }
        self.waiters.borrow_mut().wake_all();
    }

    pub(super) fn ended(&self) -> io::Error {
        io::Error::new(ErrorKind::BrokenPipe, SocketEnded { local: self.local.clone() })
    }

    pub(super) fn with<T>(&self, use_it: impl FnOnce(&mut dyn seam::DatagramSocket) -> T) -> Option<T> {
        self.open.borrow_mut().as_mut().map(|open| use_it(&mut *open.socket))
    }

    fn poll_send(&self, cx: &mut Context<'_>, outgoing: &[Outgoing<'_>]) -> Poll<io::Result<usize>> {
        let Some(polled) = self.with(|socket| socket.poll_send(cx, outgoing)) else {
            return Poll::Ready(Err(self.ended()));
        };
        match &polled {
            Poll::Ready(Ok(count)) => self.counters.sent(&outgoing[..*count]),
            // That is how the reactor says that segments have to go one by one.
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::Unsupported => {}
            Poll::Ready(Err(_)) => self.counters.count(|counted| counted.send_errors += 1),
            Poll::Pending => {}
        }
        polled
    }

    /// Where an answer comes from: needed only where the socket has several addresses.
    fn answers_from(&self, via: Option<Via>) -> Option<Via> {
        let Address::Inet(local) = &self.local else { return None };
        let Via { address, interface } = via.filter(|_| local.ip().is_unspecified())?;
        let interface = match address {
            _ if address.is_multicast() || address.is_unspecified() => return None,
            IpAddr::V4(four) if four.is_broadcast() => return None,
            // Only these mean nothing without their interface; for others the routes know better.
            IpAddr::V6(six) if six.is_unicast_link_local() => interface,
            _ => 0,
        };
        Some(Via { address, interface })
    }
}

/// Whether what is dropped now goes with a shard or a task that fails.
fn fails(shard: &Shard) -> bool {
    shard.is_clearing() || std::thread::panicking()
}

/// A place among those who wait for room; leaves it, and wakes the others, when it is dropped.
struct Wait<'a> {
    shared: &'a Shared,
    place: Option<usize>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            let mut waiters = self.shared.waiters.borrow_mut();
            waiters.leave(&mut self.place);
            waiters.wake_all();
        }
    }
}

impl DatagramSender {
    /// Where the socket is bound.
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// Whether the socket has ended with who received there ([`SocketEnded`]): a group's may, another never does before its
    /// last sender.
    pub fn has_ended(&self) -> bool {
        self.shared.open.borrow().is_none()
    }

    /// What this socket has received and sent, what of it went to other shards, and what got lost.
    pub fn stats(&self) -> DatagramStats {
        self.shared.ask_discarded();
        self.shared.counters.copy()
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As sendmsg(2): too large for one (`EMSGSIZE`), no way there (`NetworkUnreachable`), forbidden here
    /// (`PermissionDenied`); over Unix names nobody there, or no room there (`ResourceBusy`). `BrokenPipe`: the socket has
    /// ended ([`SocketEnded`]).
    pub async fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<()> {
        self.send_some(&[Outgoing::new(bytes, to)]).await.map(drop)
    }

    /// Sends one datagram to whom the socket is connected.
    ///
    /// # Errors
    /// As [`send_to`](DatagramSender::send_to); also `ConnectionRefused`, which tells of one sent before. `NotConnected`,
    /// or `EDESTADDRREQ`, if it is not.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_some(&[Outgoing::to_peer(bytes)]).await.map(drop)
    }

    /// Answers a datagram: sends to where it came from, from where it came to.
    ///
    /// # Errors
    /// As [`send_to`](DatagramSender::send_to).
    pub async fn answer(&self, question: &Received<'_>, bytes: &[u8]) -> io::Result<()> {
        self.send_some(&[self.answer_to(question.from, question.via, bytes)]).await.map(drop)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// As [`try_send`](DatagramSender::try_send).
    pub fn try_answer(&self, question: &Received<'_>, bytes: &[u8]) -> io::Result<()> {
        self.try_send(&self.answer_to(question.from, question.via, bytes))
    }

    pub(super) fn answer_to<'a>(&self, to: &'a Address, via: Option<Via>, bytes: &'a [u8]) -> Outgoing<'a> {
        let from = self.shared.answers_from(via);
        Outgoing { from, ..Outgoing::new(bytes, to) }
    }

    /// Sends one datagram, or some segments, now or not at all.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; else as [`send_to`](DatagramSender::send_to), and for segments as
    /// [`send_some`](DatagramSender::send_some).
    pub fn try_send(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let nobody = &mut Context::from_waker(Waker::noop());
        match self.shared.poll_send(nobody, std::slice::from_ref(outgoing)) {
            Poll::Ready(sent) => sent.map(drop),
            Poll::Pending => {
                // Those who wait are to ask again, in the place of nobody.
                self.shared.waiters.borrow_mut().wake_all();
                Err(ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Sends some of several datagrams, to one peer or to many, in one system call, and answers how many of them: at least the
    /// first.
    ///
    /// # Errors
    /// As [`send_to`](DatagramSender::send_to), of the first; the others were not tried. `Unsupported` if it has segments
    /// that cannot be sent in one call; [`send_segments`](DatagramSender::send_segments) knows what to do then.
    pub async fn send_some(&self, outgoing: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut wait = Wait { shared: &self.shared, place: None };
        poll_fn(|cx| {
            let polled = self.shared.poll_send(cx, outgoing);
            if polled.is_pending() {
                wait.shared.waiters.borrow_mut().wait(&mut wait.place, cx.waker());
            }
            polled
        })
        .await
    }

    /// Sends datagrams of `segment` bytes each, the last one shorter, to one peer or, without `to`, to whom the socket is
    /// connected; in as few calls as the kernel allows. Nothing is sent of no bytes.
    ///
    /// # Errors
    /// As [`send_to`](DatagramSender::send_to); some may have been sent before. `InvalidInput` for segments of no bytes.
    pub async fn send_segments(&self, bytes: &[u8], segment: usize, to: Option<&Address>) -> io::Result<()> {
        let whole = Outgoing { to, segment: Some(segment), ..Outgoing::to_peer(bytes) };
        self.send_in_segments(whole).await
    }

    /// The same of a datagram with all that can be said of it.
    ///
    /// # Errors
    /// As [`send_segments`](DatagramSender::send_segments).
    pub async fn send_in_segments(&self, whole: Outgoing<'_>) -> io::Result<()> {
        let segment = whole.segment.unwrap_or(whole.bytes.len().max(1));
        if segment == 0 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "segments of no bytes"));
        }
        let mut rest = whole.bytes;
        while !rest.is_empty() {
            let most = self.shared.with(|socket| socket.segments_max()).unwrap_or(1);
            let together = most.min(SEGMENTED_BYTES_MAX / segment).max(1) * segment;
            let bytes = &rest[..together.min(rest.len())];
            if bytes.len() > segment {
                match self.send_some(&[Outgoing { bytes, segment: Some(segment), ..whole }]).await {
                    Ok(_) => rest = &rest[bytes.len()..],
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        rest = self.send_singles(whole, rest, segment, bytes.len().div_ceil(segment)).await?;
                    }
                    Err(error) => return Err(error),
                }
            } else {
                rest = self.send_singles(whole, rest, segment, SINGLES).await?;
            }
            self.shared.shard.yield_if_needed().await;
        }
        Ok(())
    }

    /// Sends so many segments, each a datagram to the kernel; answers what is left.
    async fn send_singles<'a>(
        &self,
        whole: Outgoing<'_>,
        mut rest: &'a [u8],
        segment: usize,
        mut count: usize,
    ) -> io::Result<&'a [u8]> {
        while count > 0 && !rest.is_empty() {
            let mut pieces = rest.chunks(segment);
            let some = count.min(SINGLES).min(rest.len().div_ceil(segment));
            let singles: [_; SINGLES] = array::from_fn(|_| Outgoing {
                bytes: pieces.next().unwrap_or_default(),
                segment: None,
                ..whole
            });
            let sent = self.send_some(&singles[..some]).await?;
            rest = &rest[(sent * segment).min(rest.len())..];
            count -= sent.min(count);
        }
        Ok(rest)
    }
}

impl fmt::Debug for DatagramSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSender").field("local", &self.shared.local).finish_non_exhaustive()
    }
}
