//! Receiving datagrams.

use std::array;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSliceMut};
use std::ops::Deref;
use std::task::Poll;

use waterwheel_reactor::{
    self as seam, Address, Congestion, DATAGRAM_BYTES_MAX, Datagram, DatagramOptions, Via,
};

use super::group::{DatagramGroup, not_offered};
use super::sender::{DatagramSender, Shared};
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

/// A datagram socket of one shard: receives, and sends as its [`DatagramSender`] does.
///
/// Receiving gives way to other tasks when the turn has used up its time, so a flood starves nobody.
pub struct DatagramSocket {
    sender: DatagramSender,
    buffers: Vec<Box<[u8]>>,
    found: Vec<Datagram>,
    next: Next,
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
    next: &'a mut Next,
}

impl<'a> Iterator for Batch<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let Next { datagram: at, offset, received } = *self.next;
        if at == received {
            return None;
        }
        let (datagram, buffer) = (&self.found[at], &self.buffers[at]);
        let end = datagram.segment.map_or(datagram.size, |segment| datagram.size.min(offset + segment));
        *self.next = if end == datagram.size {
            Next { datagram: at + 1, offset: 0, received }
        } else {
            Next { offset: end, ..*self.next }
        };
        Some(Received {
            bytes: &buffer[offset.min(buffer.len())..end.min(buffer.len())],
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
        DatagramSocket::new(self, datagrams.bind(at, options)?, None)
    }

    /// A datagram socket of this shard with one peer: it receives from nobody else, sends without being told where
    /// ([`DatagramSender::send`]), and learns when nobody is there.
    ///
    /// # Errors
    /// As connect(2): no way there. `Unsupported` if the reactor has no datagrams.
    pub fn connect_datagrams(&self, to: &Address, options: &DatagramOptions) -> io::Result<DatagramSocket> {
        let datagrams = self.reactor().datagrams().ok_or_else(not_offered)?;
        DatagramSocket::new(self, datagrams.connect(to, options)?, None)
    }
}

impl DatagramSocket {
    pub(super) fn new(
        shard: &Shard,
        mut socket: Box<dyn seam::DatagramSocket>,
        group: Option<DatagramGroup>,
    ) -> io::Result<DatagramSocket> {
        socket.merge(true);
        let sender = DatagramSender { shared: Shared::new(shard, socket, group)? };
        let (buffers, found) = memory(ROOM, DATAGRAM_BYTES_MAX);
        Ok(DatagramSocket { sender, buffers, found, next: Next::default() })
    }

    /// With memory for `count` datagrams at once (1 to 32) of at most `bytes` each (1 to 65 536), of which longer ones are
    /// cut. With less than the most the kernel merges none: many small buffers suit many peers, few large ones a fast peer.
    /// What was received and not given out is lost.
    #[must_use]
    pub fn with_room(mut self, count: usize, bytes: usize) -> DatagramSocket {
        let bytes = bytes.clamp(1, DATAGRAM_BYTES_MAX);
        self.sender.shared.with(|socket| socket.merge(bytes == DATAGRAM_BYTES_MAX));
        (self.buffers, self.found) = memory(count.clamp(1, ROOM_MAX), bytes);
        self.next = Next::default();
        self
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
        Batch { buffers: &self.buffers, found: &self.found, next: &mut self.next }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let DatagramSocket { sender, buffers, found, next } = self;
        sender.shared.shard.yield_if_needed().await;
        let received = poll_fn(|cx| {
            let count = buffers.len();
            let mut rest = buffers.iter_mut();
            let mut slices: [IoSliceMut<'_>; ROOM_MAX] =
                array::from_fn(|_| IoSliceMut::new(rest.next().map_or(&mut [], |buffer| &mut **buffer)));
            sender
                .shared
                .with(|socket| socket.poll_receive(cx, &mut slices[..count], found))
                .unwrap_or_else(|| Poll::Ready(Err(ErrorKind::NotConnected.into())))
        })
        .await?;
        *next = Next { received, ..Next::default() };
        Ok(())
    }
}

/// Zeroed memory, which the kernel gives when it is first used.
fn memory(count: usize, bytes: usize) -> (Vec<Box<[u8]>>, Vec<Datagram>) {
    let buffers = (0..count).map(|_| vec![0; bytes].into_boxed_slice()).collect();
    (buffers, vec![Datagram::default(); count])
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
