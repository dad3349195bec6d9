//! Blocking sockets of a [live](crate::World::live) world, for threads that are no shards: the peers of a reactor under
//! test.
//!
//! What they do takes effect at once, as far as no shard has to do something first.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Bound, Clock, ConnectOptions, ListenOptions, Source, StreamOptions};

use crate::errno;
use crate::halves::{self, Loose};
use crate::reactor::Ear;
use crate::state::{Occurrence, Shared, State};
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
    ///
    /// # Panics
    /// If the world is not live: nobody would drive it meanwhile.
    pub fn connect(
        host: &Host,
        to: &Address,
        stream: StreamOptions,
        patience: Duration,
    ) -> io::Result<Stream> {
        must_be_live(&host.shared);
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

    /// Reads what is there, at least one byte; 0 is the end. `TimedOut` after `patience`.
    ///
    /// # Errors
    /// What broke the connection.
    pub fn read(&self, buffer: &mut [u8], patience: Option<Duration>) -> io::Result<usize> {
        let most = buffer.len();
        blocking(self.shared(), patience, |state| {
            let mut done = 0;
            state.take(self.end.id, most, None, &mut |bytes| {
                buffer[done..done + bytes.len()].copy_from_slice(bytes);
                done += bytes.len();
            })
        })
    }

    /// Waits until there is something to read, or the end; how many bytes.
    ///
    /// # Errors
    /// What broke the connection; `TimedOut` after `patience`.
    pub fn peek(&self, patience: Option<Duration>) -> io::Result<usize> {
        blocking(self.shared(), patience, |state| match state.ends.get(&self.end.id) {
            None => Poll::Ready(Err(errno::NOTCONN)),
            Some(end) if end.arrived > 0 || end.fin => Poll::Ready(Ok(end.arrived)),
            Some(end) => end.error.map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        })
    }

    /// Writes some of the bytes, at least one. `TimedOut` after `patience`.
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
    bound: Bound,
    socket: Id,
}

impl Gate {
    /// Listens on an address of a host.
    ///
    /// # Errors
    /// As [`Backend::bind`](waterwheel_reactor::Backend::bind).
    ///
    /// # Panics
    /// If the world is not live.
    pub fn new(host: &Host, at: &Address, options: &ListenOptions) -> io::Result<Gate> {
        must_be_live(&host.shared);
        let bound = host.shared.with(|state| state.bind(host.host, at, options, 1));
        let (local, sockets) = bound.map_err(errno::error)?;
        let socket = sockets[0];
        let handle = Ear::handle(&host.shared, socket);
        Ok(Gate { host: host.clone(), bound: Bound { local, handle, options: *options }, socket })
    }

    /// Where it listens.
    pub fn local(&self) -> &Address {
        &self.bound.local
    }

    /// The next connection. `TimedOut` after `patience`.
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
        let handle = Ear::handle(&self.host.shared, self.socket);
        Ok(Bound { local: self.bound.local.clone(), handle, options: self.bound.options })
    }
}

/// The connects of a host to an address that are under way, a text for each.
pub fn still_trying(host: &Host, to: &Address) -> Vec<String> {
    let state = host.shared.lock();
    let ends =
        state.ends.iter().filter(|(_, end)| end.host == host.host && end.connecting && end.peer == *to);
    ends.map(|(id, end)| format!("connection {id}, from {} to {to}", end.local)).collect()
}

/// What a host has open, a text for each descriptor: the same while the same things are open.
pub fn descriptors(host: &Host) -> Vec<String> {
    host.shared.lock().open_descriptors(host.host)
}

/// Makes a connect of a shard's that is in progress fail with `TimedOut` when nobody has answered for so long, as
/// `TCP_USER_TIMEOUT` does. False if it is no connect of a simulated world's, or not in progress.
pub fn give_up_after(connecting: &dyn Source, limit: Duration) -> bool {
    halves::end_of(connecting).is_some_and(|(shared, id)| {
        shared.with(|state| {
            let tries = state.ends.get(&id).is_some_and(|end| end.connecting);
            if tries {
                state.later(state.now + limit, Occurrence::Answer { end: id, error: errno::TIMEDOUT });
            }
            tries
        })
    })
}

fn must_be_live(shared: &Shared) {
    assert!(shared.is_live(), "only a live world has threads that wait");
}

/// Tries, and again whenever something has happened in the world.
fn blocking<T>(
    shared: &Arc<Shared>,
    patience: Option<Duration>,
    mut attempt: impl FnMut(&mut State) -> Poll<Result<T, i32>>,
) -> io::Result<T> {
    let clock = Clock::start();
    let late = patience.map(|patience| clock.now() + patience);
    loop {
        let (result, seen) =
            shared.with_if(|state| (attempt(state), state.changes), |(result, _)| result.is_ready());
        if let Poll::Ready(result) = result {
            return result.map_err(errno::error);
        }
        let now = clock.now();
        if late.is_some_and(|late| now >= late) {
            return Err(errno::error(errno::TIMEDOUT));
        }
        let state = shared.lock();
        if state.changes == seen {
            shared.wait(state, late.map(|late| late.since(now)));
        }
    }
}
