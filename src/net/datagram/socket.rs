//! Receiving datagrams.

use std::array;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSliceMut};
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use waterwheel_reactor::{
    self as seam, Address, Congestion, DATAGRAM_BYTES_MAX, Datagram, DatagramOptions, Via,
};

use super::group::{DatagramGroup, not_offered};
use super::hand_over::Way;
use super::handed::Handed;
use super::sender::{DatagramSender, Shared};
use super::stats::number_in;
use crate::mesh::Receive;
use crate::net::quota::{Quota, Taken};
use crate::shard::Shard;

/// Datagrams, or merged ones, that are received in one call; more save little.
const ROOM: usize = 16;
/// The most that may be asked for: as many as the seam's reactors take from the kernel in one call.
const ROOM_MAX: usize = 32;

/// A datagram received, in the memory of its socket.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// What came of it; empty is a datagram, too.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub from: &'a Address,
    /// Its bytes as sent.
    pub size: usize,
    /// Where it came to.
    pub via: Option<Via>,
    /// What the network said of its load.
    pub congestion: Congestion,
}

impl Received<'_> {
    /// Whether its end is missing, for want of [room](DatagramSocket::with_room).
    pub fn is_cut(&self) -> bool {
        self.bytes.len() < self.size
    }
}

/// A datagram socket of one shard: receives, and sends as its [`DatagramSender`] does. Dropped, it receives no more; one of a
/// [`DatagramGroup`] is closed then, or left to who receives next there.
///
/// Receiving gives way to other tasks when the turn has used up its time, so a flood starves nobody.
pub struct DatagramSocket {
    sender: DatagramSender,
    buffers: Vec<Box<[u8]>>,
    found: Vec<Datagram>,
    /// What came to other shards and belongs here: given out in place of what is in the buffers, unless there is none.
    handed: Vec<Handed>,
    /// The most bytes of one.
    room: usize,
    next: Next,
    /// `None`: nobody hands anything over.
    way: Option<Way>,
}

/// What is given out next of what was received.
#[derive(Clone, Copy, Debug, Default)]
struct Next {
    datagram: usize,
    /// Bytes of it that were given out, in segments.
    offset: usize,
    received: usize,
}

/// What came at once; what is not taken of it comes first the next time.
#[derive(Debug)]
pub struct Batch<'a> {
    buffers: &'a [Box<[u8]>],
    found: &'a [Datagram],
    handed: &'a [Handed],
    /// The most bytes of one.
    room: usize,
    next: &'a mut Next,
}

impl<'a> Iterator for Batch<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let Next { datagram: at, offset, received } = *self.next;
        if at == received {
            return None;
        }
        let (datagram, buffer) = match self.handed.get(at) {
            Some(handed) => (&handed.datagram, &*handed.bytes),
            None => (&self.found[at], &*self.buffers[at]),
        };
        let end = datagram.segment.map_or(datagram.size, |segment| datagram.size.min(offset + segment));
        *self.next = if end == datagram.size {
            Next { datagram: at + 1, offset: 0, received }
        } else {
            Next { offset: end, ..*self.next }
        };
        Some(Received {
            bytes: &buffer[offset.min(buffer.len())..end.min(buffer.len()).min(offset + self.room)],
            from: &datagram.from,
            size: end - offset,
            via: datagram.via,
            congestion: datagram.congestion,
        })
    }
}

impl Shard {
    /// A datagram socket of this shard alone.
    ///
    /// # Errors
    /// As bind(2). `Unsupported` if the reactor has no datagrams.
    pub fn bind_datagrams(&self, at: &Address, options: &DatagramOptions) -> io::Result<DatagramSocket> {
        let datagrams = self.reactor().datagrams().ok_or_else(not_offered)?;
        let places = Quota::descriptors(self, 1)?;
        DatagramSocket::new(self, datagrams.bind(at, options)?, None, places)
    }

    /// A datagram socket of this shard with one peer: it receives from nobody else, sends without being told where
    /// ([`DatagramSender::send`]), and learns when nobody is there.
    ///
    /// # Errors
    /// As connect(2): no way there. `Unsupported` if the reactor has no datagrams.
    pub fn connect_datagrams(&self, to: &Address, options: &DatagramOptions) -> io::Result<DatagramSocket> {
        let datagrams = self.reactor().datagrams().ok_or_else(not_offered)?;
        let places = Quota::descriptors(self, 1)?;
        DatagramSocket::new(self, datagrams.connect(to, options)?, None, places)
    }
}

impl DatagramSocket {
    pub(super) fn new(
        shard: &Shard,
        mut socket: Box<dyn seam::DatagramSocket>,
        group: Option<DatagramGroup>,
        places: Vec<Taken>,
    ) -> io::Result<DatagramSocket> {
        socket.merge(true);
        let sender = DatagramSender { shared: Shared::new(shard, socket, group, places)? };
        let (buffers, found) = memory(ROOM, DATAGRAM_BYTES_MAX);
        let (handed, room, next, way) = (Vec::new(), DATAGRAM_BYTES_MAX, Next::default(), None);
        Ok(DatagramSocket { sender, buffers, found, handed, room, next, way })
    }

    /// A group's; `waiting` is what others had for this shard while nobody received here.
    pub(super) fn of(
        shard: &Shard,
        socket: Box<dyn seam::DatagramSocket>,
        group: &DatagramGroup,
        (waiting, places): (Vec<Handed>, Vec<Taken>),
    ) -> io::Result<DatagramSocket> {
        let mut opened = DatagramSocket::new(shard, socket, Some(group.clone()), places)?;
        opened.way = Way::open(shard, group)?;
        opened.handed = waiting;
        opened.sender.shared.take_over(&mut opened.handed);
        opened.next = Next { received: opened.handed.len(), ..Next::default() };
        Ok(opened)
    }

    /// With memory for `count` datagrams at once (1 to 32) of at most `bytes` each (1 to 65 536), of which longer ones are
    /// cut. With less than the most the kernel merges none: many small buffers suit many peers, few large ones a fast peer.
    /// What was received and not given out is lost. Shards that hand datagrams over to each other should have equal room.
    #[must_use]
    pub fn with_room(mut self, count: usize, bytes: usize) -> DatagramSocket {
        self.room = bytes.clamp(1, DATAGRAM_BYTES_MAX);
        self.sender.shared.with(|socket| socket.merge(self.room == DATAGRAM_BYTES_MAX));
        // What others had kept for this shard is elsewhere.
        if self.handed.is_empty() {
            self.forget_unread();
        }
        (self.buffers, self.found) = memory(count.clamp(1, ROOM_MAX), self.room);
        self
    }

    /// Counts what was received and will not be given out.
    fn forget_unread(&mut self) {
        let Next { datagram: at, offset, received } = std::mem::take(&mut self.next);
        if at == received {
            return;
        }
        let one = |at: usize| self.handed.get(at).map_or(&self.found[at], |handed| &handed.datagram);
        let numbers: u64 = (at..received).map(|at| number_in(one(at))).sum();
        let given_out = one(at).segment.map_or(0, |segment| offset / segment.max(1)) as u64;
        self.sender.shared.counters.count(|counted| counted.unread += numbers - given_out);
    }

    /// The sending side, for other tasks of this shard.
    pub fn sender(&self) -> DatagramSender {
        self.sender.clone()
    }

    /// The next datagram. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As recvmsg(2): of one attempt or one peer (`ConnectionRefused`); the next call goes on.
    pub async fn receive(&mut self) -> io::Result<Received<'_>> {
        while self.next.datagram == self.next.received {
            self.fill().await?;
        }
        self.batch().next().ok_or_else(|| ErrorKind::WouldBlock.into())
    }

    /// All that waits, in one system call, or what is left of an earlier call: at least one. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// As [`receive`](DatagramSocket::receive).
    pub async fn receive_batch(&mut self) -> io::Result<Batch<'_>> {
        while self.next.datagram == self.next.received {
            self.fill().await?;
        }
        Ok(self.batch())
    }

    fn batch(&mut self) -> Batch<'_> {
        let DatagramSocket { buffers, found, handed, room, next, .. } = self;
        Batch { buffers, found, handed, room: *room, next }
    }

    /// Receives what waits, here or with others; maybe nothing that belongs here.
    async fn fill(&mut self) -> io::Result<()> {
        let DatagramSocket { sender, buffers, found, handed, next, way, .. } = self;
        let shared = &*sender.shared;
        shared.shard.yield_if_needed().await;
        handed.clear();
        *next = Next::default();
        let Some(way) = way else {
            next.received = poll_fn(|cx| shared.poll_receive(cx, buffers, found)).await?;
            return Ok(());
        };
        // They take turns, so that neither starves while there are many of both.
        way.others_first = !way.others_first;
        let others_first = way.others_first;
        let mut received = pin!(way.mailbox.receive());
        let own = poll_fn(|cx| {
            for others in [others_first, !others_first] {
                if !others && let Poll::Ready(own) = shared.poll_receive(cx, buffers, found) {
                    return Poll::Ready(own.map(Some));
                }
                if others && way.poll_others(cx, &mut received, handed, found.len()).is_ready() {
                    return Poll::Ready(Ok(None));
                }
            }
            Poll::Pending
        });
        next.received = match own.await? {
            Some(count) => way.keep_own(count, buffers, found, shared),
            None => handed.len(),
        };
        shared.take_over(handed);
        Ok(())
    }
}

impl Way {
    /// What other shards hand over, so many at most.
    fn poll_others<'a>(
        &'a self,
        cx: &mut Context<'_>,
        received: &mut Pin<&mut Receive<'a, Box<Handed>>>,
        handed: &mut Vec<Handed>,
        most: usize,
    ) -> Poll<()> {
        while handed.len() < most
            && let Poll::Ready((_from, one)) = received.as_mut().poll(cx)
        {
            received.set(self.mailbox.receive());
            handed.push(*one);
        }
        if handed.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Gives to their owners what is theirs. What is this shard's comes to the first places; answers how much that is.
    fn keep_own(
        &self,
        count: usize,
        buffers: &mut [Box<[u8]>],
        found: &mut [Datagram],
        shared: &Shared,
    ) -> usize {
        let mut own = 0;
        for at in 0..count {
            if !self.passes_on(&found[at], &buffers[at], &shared.counters) {
                buffers.swap(own, at);
                found.swap(own, at);
                own += 1;
            }
        }
        own
    }
}

impl Shared {
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [Box<[u8]>],
        found: &mut [Datagram],
    ) -> Poll<io::Result<usize>> {
        let count = buffers.len();
        let mut rest = buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; ROOM_MAX] =
            array::from_fn(|_| IoSliceMut::new(rest.next().map_or(&mut [], |buffer| &mut **buffer)));
        let Some(polled) = self.with(|socket| socket.poll_receive(cx, &mut slices[..count], found)) else {
            return Poll::Ready(Err(self.ended()));
        };
        match &polled {
            Poll::Ready(Ok(count)) => self.counters.received(&found[..*count], slices[0].len()),
            Poll::Ready(Err(_)) => self.counters.count(|counted| counted.receive_errors += 1),
            Poll::Pending => {}
        }
        polled
    }

    /// These have come from other shards.
    fn take_over(&self, handed: &mut [Handed]) {
        if handed.is_empty() {
            return;
        }
        handed.iter_mut().for_each(Handed::arrives);
        let number: u64 = handed.iter().map(|handed| number_in(&handed.datagram)).sum();
        self.counters.count(|counted| counted.taken_over += number);
    }
}

/// Zeroed memory, which the kernel gives when it is first used.
fn memory(count: usize, bytes: usize) -> (Vec<Box<[u8]>>, Vec<Datagram>) {
    let buffers = (0..count).map(|_| vec![0; bytes].into_boxed_slice()).collect();
    (buffers, vec![Datagram::default(); count])
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        self.forget_unread();
        self.sender.shared.receiver_ends();
    }
}

impl Deref for DatagramSocket {
    type Target = DatagramSender;

    fn deref(&self) -> &DatagramSender {
        &self.sender
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
            .field("sender", &self.sender)
            .field("room", &self.buffers.len())
            .finish_non_exhaustive()
    }
}
