//! One end of a connection that writes down what it sees.

use std::io::{self, ErrorKind};

use futures_util::future::join;
use waterwheel::net::{Connection, Receiving, Sending};
use waterwheel::shard::Shard;

use super::book::{Book, Strand};

/// One end of a connection, in two halves with a strand each.
pub(crate) struct Peer {
    pub(crate) shard: Shard,
    pub(crate) hears: Hears,
    pub(crate) says: Says,
}

/// The receiving half.
pub(crate) struct Hears {
    receiving: Receiving,
    strand: Strand,
}

/// The sending half.
pub(crate) struct Says {
    sending: Sending,
    strand: Strand,
}

/// As many bytes that repeat nowhere soon; the same for the same number.
pub(crate) fn bytes(number: u32, count: usize) -> Vec<u8> {
    let mut word = number.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (word >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// What an error of the receiving half is called. Nothing is made equal here: the seam allows one kind for one cause.
fn heard(error: &io::Error) -> String {
    format!("fails: {:?}", error.kind())
}

/// What an error of the sending half is called. Both kinds say that the peer does not take it; which one depends on
/// whether its reset was there before the write or came by it, and the seam allows both (`Sink::poll_write`).
fn said(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "fails: broken".to_owned(),
        kind => format!("fails: {kind:?}"),
    }
}

impl Peer {
    pub(crate) fn new(connection: Connection, book: &Book, name: &str) -> Peer {
        let shard = connection.shard().clone();
        let (receiving, sending) = connection.split();
        let strand = |way: &str| book.strand(format!("{name} {way}"));
        let hears = Hears { receiving, strand: strand("hears") };
        Peer { shard, hears, says: Says { sending, strand: strand("says") } }
    }

    /// Resets the connection.
    pub(crate) fn abort(self) {
        self.says.strand.note("resets");
        self.into_connection().abort();
    }

    pub(crate) fn into_connection(self) -> Connection {
        Connection::join(self.hears.receiving, self.says.sending)
    }
}

impl Hears {
    /// Reads to the end, whatever it is.
    pub(crate) async fn until_the_end(&mut self) {
        self.exactly(usize::MAX).await;
    }

    /// Reads so many bytes; false: the end came before.
    pub(crate) async fn exactly(&mut self, count: usize) -> bool {
        self.read(count, |_| ()).await
    }

    async fn read(&mut self, count: usize, mut take: impl FnMut(&[u8])) -> bool {
        let mut left = count;
        while left > 0 {
            match self.receiving.fill().await {
                Ok([]) => self.strand.note("end"),
                Ok(lent) => {
                    let part = &lent[..lent.len().min(left)];
                    self.strand.bytes(part);
                    take(part);
                    let count = part.len();
                    self.receiving.consume(count);
                    left -= count;
                    continue;
                }
                Err(error) => self.strand.note(heard(&error)),
            }
            return false;
        }
        true
    }

    /// Reads so many bytes, or those that come before the end, and answers them; `None`: there are none.
    pub(crate) async fn whole(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        self.read(count, |part| all.extend_from_slice(part)).await;
        Some(all).filter(|all| !all.is_empty())
    }

    /// Reads to the end what may be cut anywhere: how much of `whole` it was depends on timing, and is not said.
    pub(crate) async fn a_part_of(&mut self, whole: &[u8]) {
        let mut got = 0;
        loop {
            match self.receiving.fill().await {
                Ok([]) => return self.strand.note("some of it, end"),
                Ok(lent) => {
                    let count = lent.len();
                    if whole.get(got..got + count) != Some(lent) {
                        return self.strand.note("what nobody sent");
                    }
                    got += count;
                    self.receiving.consume(count);
                }
                Err(error) => return self.strand.note(format!("some of it, {}", heard(&error))),
            }
        }
    }

    /// Resets the connection, and keeps both halves.
    pub(crate) fn reset(&mut self) {
        self.strand.note("resets");
        self.receiving.abort();
    }

    /// Waits until there is something to read, and leaves it there.
    pub(crate) async fn something(&mut self) {
        match self.receiving.fill().await {
            Ok(lent) => self.strand.note(if lent.is_empty() { "end" } else { "something" }),
            Err(error) => self.strand.note(heard(&error)),
        }
    }
}

impl Says {
    /// Sends it all; false: it cannot.
    pub(crate) async fn all(&mut self, bytes: &[u8]) -> bool {
        match self.sending.write_all(bytes).await {
            Ok(()) => self.strand.bytes(bytes),
            Err(error) => {
                self.strand.note(said(&error));
                return false;
            }
        }
        true
    }

    /// Sends until that fails; how much went depends on timing, and is not said. Gives up where nothing can be so slow.
    pub(crate) async fn until_it_fails(&mut self) {
        const MOST: usize = 64 << 20;
        let part = [7; 16 << 10];
        for _ in 0..MOST / part.len() {
            if let Err(error) = self.sending.write_all(&part).await {
                return self.strand.note(said(&error));
            }
        }
        self.strand.note("goes on for ever");
    }

    /// Ends the stream.
    pub(crate) async fn end(&mut self) {
        match self.sending.close().await {
            Ok(()) => self.strand.note("ends"),
            Err(error) => self.strand.note(said(&error)),
        }
    }
}

/// Reads to the end, then says so many bytes and ends.
pub(crate) async fn hear_then_say(mut peer: Peer, number: u32, count: usize) {
    peer.hears.until_the_end().await;
    peer.says.all(&bytes(number, count)).await;
    peer.says.end().await;
}

/// Says so many bytes and ends, then reads to the end.
pub(crate) async fn say_then_hear(mut peer: Peer, number: u32, count: usize) {
    peer.says.all(&bytes(number, count)).await;
    peer.says.end().await;
    peer.hears.until_the_end().await;
}

/// Both at once.
pub(crate) async fn say_and_hear(peer: Peer, number: u32, count: usize) {
    let Peer { mut hears, mut says, .. } = peer;
    let all = bytes(number, count);
    let saying = async {
        says.all(&all).await;
        says.end().await;
    };
    join(saying, hears.until_the_end()).await;
}
