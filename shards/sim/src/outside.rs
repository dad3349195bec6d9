//! Blocking sockets of a [live](crate::World::live) world, for threads that are no shards: the peers of a reactor under
//! test.
//!
//! What they do takes effect at once, as far as no shard has to do something first.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{
    Address, Bound, Clock, ConnectOptions, Handle, ListenOptions, StreamOptions, Virtual,
};

use crate::errno;
use crate::halves::Loose;
use crate::reactor::Ear;
use crate::state::{Shared, State};
use crate::trace::Id;
use crate::world::Host;

/// A connected stream. Clones share it; it is closed with the last one.
#[derive(Clone)]
pub struct Stream {
    end: Arc<Loose>,
}

impl Stream {
    /// Connects from a host to an address; waits for room in the listener's queue, at most for `patience`.
    ///
    /// # Errors
    /// `ConnectionRefused` and its like; `TimedOut`.
    pub fn connect(
        host: &Host,
        to: &Address,
        stream: StreamOptions,
        patience: Duration,
    ) -> io::Result<Stream> {
        let options = ConnectOptions { stream, ..ConnectOptions::default() };
        let id =
            host.shared.with(|state| state.connect(host.host, to, &options, true)).map_err(errno::error)?;
        let connected = Stream { end: Arc::new(Loose::new(host.shared.clone(), id)) };
        blocking(&host.shared, Some(patience), |state| match state.ends.get(&id) {
            Some(end) if end.connecting => Poll::Pending,
            Some(end) => Poll::Ready(end.error.map_or(Ok(()), Err)),
            None => Poll::Ready(Err(errno::NOTCONN)),
        })?;
        Ok(connected)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.end.shared
    }

    /// Reads what is there, at least one byte; 0 is the end. `WouldBlock` after `patience`.
    ///
    /// # Errors
    /// What broke the connection.
    pub fn read(&self, buffer: &mut [u8], patience: Option<Duration>) -> io::Result<usize> {
        let bytes = blocking(self.shared(), patience, |state| state.take(self.end.id, buffer.len(), None))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Waits until there is something to read, or the end; how many bytes.
    ///
    /// # Errors
    /// What broke the connection; `WouldBlock` after `patience`.
    pub fn peek(&self, patience: Option<Duration>) -> io::Result<usize> {
        blocking(self.shared(), patience, |state| match state.ends.get(&self.end.id) {
            None => Poll::Ready(Err(errno::NOTCONN)),
            Some(end) if !end.inbox.is_empty() || end.fin => Poll::Ready(Ok(end.inbox.len())),
            Some(end) => end.error.map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        })
    }

    /// Writes some of the bytes, at least one. `WouldBlock` after `patience`.
    ///
    /// # Errors
    /// What broke the connection.
    pub fn write(&self, bytes: &[u8], patience: Option<Duration>) -> io::Result<usize> {
        blocking(self.shared(), patience, |state| state.give(self.end.id, bytes, None))
    }

    /// As shutdown(2).
    ///
    /// # Errors
    /// What broke the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.shared().with(|state| state.read_no_more(self.end.id));
        }
        if how != Shutdown::Read {
            blocking(self.shared(), None, |state| state.shut(self.end.id, None))?;
        }
        Ok(())
    }

    /// Sends RST.
    pub fn reset(&self) {
        self.shared().with(|state| state.abort(self.end.id));
    }

    /// Its own address, then the peer's.
    ///
    /// # Errors
    /// It is gone.
    pub fn addresses(&self) -> io::Result<(Address, Address)> {
        let known =
            self.shared().lock().ends.get(&self.end.id).map(|end| (end.local.clone(), end.peer.clone()));
        known.ok_or_else(|| errno::error(errno::NOTCONN))
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("end", &self.end.id).finish()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Gate {
    host: Host,
    bound: Arc<Bound>,
    socket: Id,
}

impl Gate {
    /// Listens on an address of a host.
    ///
    /// # Errors
    /// As [`Backend::bind`](waterwheel_reactor::Backend::bind).
    pub fn new(host: &Host, at: &Address, options: &ListenOptions) -> io::Result<Gate> {
        let bound = host.shared.with(|state| state.bind(host.host, at, options, 1));
        let (local, sockets) = bound.map_err(errno::error)?;
        let socket = sockets[0];
        let handle = Handle::Virtual(Virtual::new(Ear::new(host.shared.clone(), socket)));
        Ok(Gate { host: host.clone(), bound: Arc::new(Bound { local, handle, options: *options }), socket })
    }

    /// Where it listens.
    pub fn local(&self) -> &Address {
        &self.bound.local
    }

    /// The next connection. `WouldBlock` after `patience`.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept(&self, patience: Option<Duration>) -> io::Result<Stream> {
        let (id, _) = blocking(&self.host.shared, patience, |state| state.accept(self.socket, 0, None))?;
        Ok(Stream { end: Arc::new(Loose::new(self.host.shared.clone(), id)) })
    }

    /// Another handle of the same socket, for a reactor to serve.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn shared_with(&self) -> io::Result<Bound> {
        self.host.shared.with(|state| state.join_socket(self.socket)).map_err(errno::error)?;
        let handle = Handle::Virtual(Virtual::new(Ear::new(self.host.shared.clone(), self.socket)));
        Ok(Bound { local: self.bound.local.clone(), handle, options: self.bound.options })
    }
}

/// The connects of a host to an address that are under way.
pub fn still_trying(host: &Host, to: &Address) -> usize {
    let state = host.shared.lock();
    state.ends.values().filter(|end| end.host == host.host && end.connecting && end.peer == *to).count()
}

/// Tries again whenever something has happened in the world.
fn blocking<T>(
    shared: &Arc<Shared>,
    patience: Option<Duration>,
    mut attempt: impl FnMut(&mut State) -> Poll<Result<T, i32>>,
) -> io::Result<T> {
    let clock = Clock::start();
    let late = patience.map(|patience| clock.now() + patience);
    loop {
        if let Poll::Ready(result) = shared.with_if(&mut attempt, Poll::is_ready) {
            return result.map_err(errno::error);
        }
        if late.is_some_and(|late| clock.now() >= late) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A change between the attempt and this wait is noticed a little late; nobody measures that.
        const AGAIN: Duration = Duration::from_millis(1);
        drop(shared.changed.wait_timeout(shared.lock(), AGAIN));
    }
}
