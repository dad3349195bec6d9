//! What clients and origins saw, each by itself, to be held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use waterwheel::net::Sending;

use super::client::HEADER;

/// A byte of a stream: of a client's upload or of its answer.
pub(super) fn byte(id: u32, way: Way, at: usize) -> u8 {
    let salt = id.wrapping_mul(0x9e37_79b1) ^ if way == Way::Up { 0 } else { 0x5bd1_e995 };
    ((at as u32).wrapping_mul(0x85eb_ca6b).wrapping_add(salt) >> 21) as u8
}

/// The start of a stream.
pub(super) fn bytes(id: u32, way: Way, count: usize) -> Vec<u8> {
    (0..count).map(|at| byte(id, way, at)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// From a client to an origin.
    Up,
    Down,
}

/// One direction of one client's exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// Given to the connection, taken or not.
    pub(super) sent: usize,
    /// The stream was ended in order, after all of it.
    pub(super) ended: bool,
    /// Received, and found right.
    pub(super) got: usize,
    /// The receiver saw the end, and no error.
    pub(super) saw_end: bool,
    /// How often the origins were told who it is; more than once would be a request sent twice.
    pub(super) headers: usize,
}

impl Stream {
    /// All that came, with the header.
    fn came(&self) -> usize {
        self.got + self.headers * HEADER
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    streams: Arc<Mutex<BTreeMap<(u32, Way), Stream>>>,
    /// What an origin found wrong.
    complaints: Arc<Mutex<Vec<String>>>,
    /// Streams that ended in order before their sender had said who it is.
    nobodies: Arc<AtomicUsize>,
    /// Clients whose origin resets, and clients that do so themselves.
    resets: Arc<AtomicUsize>,
    aborts: Arc<AtomicUsize>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, Way), Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, id: u32, way: Way, change: impl FnOnce(&mut Stream)) {
        change(self.lock().entry((id, way)).or_default());
    }

    /// Sends all of a stream, and takes note of what was taken.
    pub(super) async fn send(
        &self,
        id: u32,
        way: Way,
        all: &[u8],
        sending: &mut Sending,
    ) -> std::io::Result<()> {
        let mut left = all;
        while !left.is_empty() {
            let taken = sending.write(left).await?;
            left = &left[taken..];
            self.write(id, way, |stream| stream.sent = all.len() - left.len());
        }
        Ok(())
    }

    /// What a client will do, or let its origin do.
    pub(super) fn plans(&self, resets: bool, aborts: bool) {
        self.resets.fetch_add(usize::from(resets), Relaxed);
        self.aborts.fetch_add(usize::from(aborts), Relaxed);
    }

    /// Clients whose origin resets, and clients that do so themselves.
    pub(super) fn resetting(&self) -> (u64, u64) {
        (self.resets.load(Relaxed) as u64, self.aborts.load(Relaxed) as u64)
    }

    pub(super) fn nobody(&self) {
        self.nobodies.fetch_add(1, Relaxed);
    }

    pub(super) fn complain(&self, wrong: anyhow::Error) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{wrong:#}"));
    }

    /// Takes received bytes, if they are the next ones.
    pub(super) fn receive(&self, id: u32, way: Way, lent: &[u8]) -> anyhow::Result<()> {
        let mut streams = self.lock();
        let stream = streams.entry((id, way)).or_default();
        for (offset, found) in lent.iter().enumerate() {
            let at = stream.got + offset;
            let right = byte(id, way, at);
            ensure!(*found == right, "client {id} {way:?}: byte {at} is {found}, not {right}");
        }
        stream.got += lent.len();
        Ok(())
    }

    /// Bytes sent up and down, over all clients.
    pub(super) fn sent(&self) -> (u64, u64) {
        self.sums(|stream| stream.sent)
    }

    /// Bytes that origins and clients got.
    pub(super) fn got(&self) -> (u64, u64) {
        self.sums(Stream::came)
    }

    fn sums(&self, of: fn(&Stream) -> usize) -> (u64, u64) {
        let streams = self.lock();
        let sum = |way| {
            let own = streams.iter().filter(|((_, other), _)| *other == way);
            own.map(|(_, stream)| of(stream) as u64).sum()
        };
        (sum(Way::Up), sum(Way::Down))
    }

    /// Clients of which both streams came whole.
    pub(super) fn whole(&self) -> u32 {
        let streams = self.lock();
        let is_whole = |id: u32, way| {
            streams.get(&(id, way)).is_some_and(|stream| stream.saw_end && stream.came() == stream.sent)
        };
        let ids = streams.keys().filter(|(_, way)| *way == Way::Up).map(|(id, _)| *id);
        ids.filter(|id| is_whole(*id, Way::Up) && is_whole(*id, Way::Down)).count() as u32
    }

    /// Nothing was made up, and nothing that was cut looks whole: but for the streams of so many clients, which the proxy
    /// says that it `cut`.
    pub(super) fn check(&self, cut: u64) -> anyhow::Result<()> {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
        ensure!(complaints.is_empty(), "an origin complains: {complaints}");
        let (mut cuts, mut ids) = (String::new(), BTreeSet::new());
        for ((id, way), stream) in &*self.lock() {
            let Stream { sent, ended, saw_end, headers, .. } = stream;
            ensure!(*headers <= 1, "client {id} was told of {headers} times");
            let got = &stream.came();
            ensure!(got <= sent, "client {id} {way:?}: {got} bytes of {sent} came");
            if *saw_end && !(*ended && got == sent) {
                ids.insert(*id);
                cuts.push_str(&format!("client {id} {way:?}: cut, and looks whole: {stream:?}\n"));
            }
        }
        // Of those who were cut at their very start nobody knows which client they are; they may be counted already.
        let nobodies = self.nobodies.load(Relaxed);
        ensure!(
            ids.len().max(nobodies) as u64 <= cut,
            "{cuts}and {nobodies} uploads were cut before they had said whose they are; the proxy cut {cut}"
        );
        Ok(())
    }
}
