//! The two halves of a connection that a shard has.

use std::any::Any;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use waterwheel_reactor::{
    Address, Buffered, Handle, Incoming, Sink, Source, Transport, Virtual, VirtualSocket,
};

use crate::end::{End, Owner};
use crate::errno;
use crate::reactor::{CHUNK, SimReactor};
use crate::state::{Shared, State};
use crate::trace::{Id, What};

/// A connection on its way from one shard to another, or to a foreign thread. Dropping it closes the connection.
pub(crate) struct Loose {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: Id,
    /// Somebody else has the end by now.
    taken: bool,
}

impl Loose {
    pub(crate) fn new(shared: Arc<Shared>, id: Id) -> Loose {
        Loose { shared, id, taken: false }
    }

    /// Leaves the end to whoever asks.
    pub(crate) fn take(mut self) -> Id {
        self.taken = true;
        self.id
    }
}

impl VirtualSocket for Loose {
    fn reset(&mut self) {
        self.shared.with(|state| state.abort(self.id));
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.with(|state| state.close(self.id));
        }
    }
}

/// What both halves know.
#[derive(Debug)]
struct Half {
    shared: Arc<Shared>,
    id: Id,
    /// Whose connection it was when the halves were made.
    lease: u32,
    /// Keeps the buffers to lend from.
    reactor: Rc<SimReactor>,
}

impl Half {
    /// The end, if it still is these halves'.
    fn end<'a>(&self, state: &'a mut State) -> Result<&'a mut End, i32> {
        match state.ends.get_mut(&self.id) {
            Some(end) if end.lease == self.lease => Ok(end),
            _ => Err(errno::NOTCONN),
        }
    }

    /// Does something with the end, if it still is these halves'.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> Poll<Result<T, i32>>) -> Poll<io::Result<T>> {
        self.shared
            .with(|state| match self.end(state) {
                Ok(_) => f(state),
                Err(error) => Poll::Ready(Err(error)),
            })
            .map_err(errno::error)
    }

    fn ask<T>(&self, f: impl FnOnce(&End) -> T) -> io::Result<T> {
        self.shared.with(|state| self.end(state).map(|end| f(end))).map_err(errno::error)
    }

    fn abort(&self) {
        self.shared.with(|state| {
            if self.end(state).is_ok() {
                state.abort(self.id);
            }
        });
    }

    /// One half goes; with the last one the connection is closed.
    fn leave(&self, of: fn(&mut bool, &mut bool) -> bool, then: impl FnOnce(&mut State, Id)) {
        self.shared.with(|state| {
            let Ok(end) = self.end(state) else { return };
            let Owner::Halves { mut source, mut sink } = end.owner else { return };
            let last = of(&mut source, &mut sink);
            end.owner = Owner::Halves { source, sink };
            then(state, self.id);
            if last {
                state.close(self.id);
            }
        });
    }
}

/// Makes a connection of a shard's out of an end that nobody else has.
pub(crate) fn transport(reactor: &Rc<SimReactor>, id: Id, bytes: Vec<u8>) -> Transport {
    let shared = reactor.shared.clone();
    let lease = shared.with(|state| {
        let Some(end) = state.ends.get_mut(&id) else { return 0 };
        end.owner = Owner::Halves { source: true, sink: true };
        end.shard = Some(reactor.shard);
        end.lease += 1;
        let lease = end.lease;
        if !end.connecting {
            state.note_end(id, What::Adopted { end: id });
        }
        lease
    });
    let half = || Half { shared: shared.clone(), id, lease, reactor: reactor.clone() };
    reactor.buffered.take(bytes.len());
    let source = SimSource { half: half(), chunk: bytes, start: 0, over: false };
    Transport { source: Box::new(source), sink: Box::new(SimSink { half: half() }) }
}

/// The end of a source that is one of this crate's.
pub(crate) fn end_of(source: &dyn Source) -> Option<(Arc<Shared>, Id)> {
    let source: &SimSource = (source as &dyn Any).downcast_ref()?;
    Some((source.half.shared.clone(), source.half.id))
}

/// The receiving half.
#[derive(Debug)]
struct SimSource {
    half: Half,
    /// Lent from `start` on.
    chunk: Vec<u8>,
    start: usize,
    /// The end was met, or the connection given away.
    over: bool,
}

impl SimSource {
    /// Lends nothing any more.
    fn clear(&mut self) {
        self.start = 0;
        self.half.reactor.buffered.give_back(self.chunk.len());
        self.half.reactor.give_back(std::mem::take(&mut self.chunk));
    }

    fn is_aborted(&self) -> bool {
        self.half.ask(|end| end.aborted).unwrap_or(false)
    }
}

impl Source for SimSource {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.is_aborted() {
            self.clear();
            return Poll::Ready(Err(errno::error(errno::CONNABORTED)));
        }
        if self.start == self.chunk.len() && !self.over {
            let mut chunk = self.half.reactor.chunk();
            let (id, buffered) = (self.half.id, self.half.reactor.buffered.clone());
            let most = if buffered.has_room_for(CHUNK) { CHUNK } else { Buffered::FLOOR };
            let taken =
                self.half.with(|state| state.take(id, most, Some(cx), &mut |bytes| chunk.extend(bytes)));
            buffered.take(chunk.len());
            (self.chunk, self.start) = (chunk, 0);
            if self.chunk.is_empty() {
                self.clear();
            }
            self.over = ready!(taken)? == 0;
        }
        Poll::Ready(Ok(&self.chunk[self.start..]))
    }

    fn consume(&mut self, count: usize) {
        let lent = self.chunk.len() - self.start;
        assert!(count <= lent, "{count} bytes consumed, but only {lent} lent");
        self.start += count;
        if self.start == self.chunk.len() {
            self.clear();
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let id = self.half.id;
        let released = self.half.with(|state| {
            let Some(end) = state.ends.get_mut(&id) else { return Poll::Ready(Err(errno::NOTCONN)) };
            if end.connecting {
                state.await_reading(id, Some(cx));
                return Poll::Pending;
            }
            if let Some(error) = end.broken() {
                return Poll::Ready(Err(error));
            }
            (end.owner, end.shard) = (Owner::Handle, None);
            end.lease += 1;
            let peer = end.peer.clone();
            let old = [end.reader.take(), end.writer.take()];
            state.old.extend(old.into_iter().flatten());
            state.note_end(id, What::Released { end: id });
            Poll::Ready(Ok(peer))
        });
        let peer = ready!(released)?;
        self.half.reactor.buffered.give_back(self.chunk.len());
        let bytes = self.chunk.split_off(self.start);
        (self.chunk, self.start, self.over) = (Vec::new(), 0, true);
        let handle = Handle::Virtual(Virtual::new(Loose::new(self.half.shared.clone(), id)));
        Poll::Ready(Ok(Incoming { handle, bytes, peer: Some(peer) }))
    }

    fn abort(&mut self) {
        self.half.abort();
    }

    fn peer(&self) -> io::Result<Address> {
        let known = self.half.ask(|end| match end.error {
            Some(error) => Err(error),
            None if end.connecting || end.aborted => Err(errno::NOTCONN),
            None => Ok(end.peer.clone()),
        })?;
        known.map_err(errno::error)
    }

    fn local(&self) -> io::Result<Address> {
        self.half.ask(|end| end.local.clone())
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        let goes = |source: &mut bool, sink: &mut bool| {
            *source = false;
            !*sink
        };
        self.clear();
        self.half.leave(goes, |state, id| {
            if let Some(end) = state.ends.get_mut(&id) {
                let old = end.reader.take();
                state.old.extend(old);
            }
        });
    }
}

/// The sending half.
#[derive(Debug)]
struct SimSink {
    half: Half,
}

impl Sink for SimSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let id = self.half.id;
        self.half.with(|state| state.give(id, bytes, Some(cx)))
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut all = self.half.reactor.chunk();
        for slice in slices {
            all.extend(&slice[..slice.len().min(CHUNK - all.len())]);
        }
        let taken = self.poll_write(cx, &all);
        self.half.reactor.give_back(all);
        taken
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.half.id;
        self.half.with(|state| state.flushed(id, cx))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.half.id;
        self.half.with(|state| state.shut(id, Some(cx)))
    }

    fn unacknowledged(&self) -> Option<usize> {
        self.half.ask(|end| end.out.len() + end.flight).ok()
    }

    fn abort(&mut self) {
        self.half.abort();
    }
}

impl Drop for SimSink {
    fn drop(&mut self) {
        let goes = |source: &mut bool, sink: &mut bool| {
            *sink = false;
            !*source
        };
        self.half.leave(goes, |state, id| {
            let Some(end) = state.ends.get_mut(&id) else { return };
            let old = end.writer.take();
            // While a connect is under way the end follows it; where both halves are gone it is cancelled.
            if !matches!(end.owner, Owner::Halves { source: false, .. }) {
                end.shut = true;
            }
            state.old.extend(old);
            state.transmit(id);
        });
    }
}
