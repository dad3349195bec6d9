//! The clients: they connect, send, look at what comes back, and say when it was.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use anyhow::{bail, ensure};
use rustix::net::Shutdown;

use super::generator::{Generator, error, of, tag};
use super::{Kind, pattern};
use crate::ring::Piece;
use crate::server;

/// Clients that may be connecting at once: fewer than the shortest queue of a listener.
const CONNECTING_MAX: usize = 64;

/// When a client sends its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As soon as the last one is back.
    Closed,
    /// When one is planned.
    Planned,
    /// Never: what is under way is the last.
    Stopping,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: Option<OwnedFd>,
    /// Messages begun.
    messages: u64,
    /// What is being sent and shall come back, and how much of it is sent and is back.
    message: &'static [u8],
    sent: usize,
    received: usize,
    /// When this message was planned.
    planned: Option<Instant>,
    pub(super) sending: bool,
    /// It waits for its message to come back, or for its stream to go out.
    pub(super) busy: bool,
    /// The subject sends no more.
    ended: bool,
    /// Bytes of its stream sent.
    pub(super) position: u64,
}

impl Generator {
    /// Opens connections as long as more are wanted and not too many are on their way.
    pub(super) fn open(&mut self) -> anyhow::Result<()> {
        while self.clients.len() < self.wanted && self.connecting < CONNECTING_MAX {
            self.clients.push(Client {
                socket: None,
                messages: 0,
                message: &[],
                sent: 0,
                received: 0,
                planned: None,
                sending: false,
                busy: false,
                ended: false,
                position: 0,
            });
            self.connect(self.clients.len() - 1)?;
        }
        Ok(())
    }

    fn connect(&mut self, which: usize) -> anyhow::Result<()> {
        let socket = server::socket()?;
        self.ring.connect(socket.as_raw_fd(), tag(of::CONNECT, which));
        let client = &mut self.clients[which];
        (client.socket, client.ended) = (Some(socket), false);
        self.connecting += 1;
        Ok(())
    }

    pub(super) fn client_connected(&mut self, which: usize) -> anyhow::Result<()> {
        self.connecting -= 1;
        self.connected += 1;
        self.receive(tag(of::CLIENT_RECEIVE, which));
        // The first one goes out at once at any pace, since a proxy may connect to its origin only then.
        self.begin(which, None);
        self.open()
    }

    /// Sends a client's next message.
    pub(super) fn begin(&mut self, which: usize, planned: Option<Instant>) {
        let client = &mut self.clients[which];
        client.message = match self.workload.kind {
            Kind::Stream => pattern::stream(which, client.position),
            Kind::Exchange | Kind::Connect => pattern::exchange(which, client.messages, self.workload.bytes),
        };
        client.messages += 1;
        (client.sent, client.received, client.planned, client.busy) = (0, 0, planned, true);
        self.send(which);
    }

    fn send(&mut self, which: usize) {
        let client = &mut self.clients[which];
        if let Some(socket) = &client.socket {
            client.sending = true;
            self.ring.send(socket.as_raw_fd(), &client.message[client.sent..], tag(of::CLIENT_SEND, which));
        }
    }

    pub(super) fn client_sent(&mut self, which: usize, result: i32) -> anyhow::Result<()> {
        ensure!(result > 0, "a client sends: {}", error(result));
        let client = &mut self.clients[which];
        client.sending = false;
        client.sent += result as usize;
        let is_stream = self.workload.kind == Kind::Stream;
        if is_stream {
            client.position += result as u64;
        }
        if client.sent < client.message.len() {
            self.send(which);
        } else if is_stream && self.pace == Pace::Closed {
            self.begin(which, None);
        } else if is_stream {
            client.busy = false;
            if let Some(socket) = &client.socket {
                rustix::net::shutdown(socket, Shutdown::Write)?;
            }
        } else if client.ended {
            self.again(which)?;
        }
        Ok(())
    }

    pub(super) fn client_received(&mut self, which: usize, piece: Piece) -> anyhow::Result<()> {
        let client = &mut self.clients[which];
        let from = client.received;
        client.received += piece.len();
        let expected = client.message.len();
        ensure!(self.workload.kind != Kind::Stream, "WRONG BYTES: some came back from a stream");
        ensure!(client.received <= expected, "WRONG BYTES: {} came back for {expected}", client.received);
        pattern::check(self.ring.bytes(piece), &client.message[from..client.received])?;
        self.ring.give_back(piece);
        if client.received == expected && self.workload.kind == Kind::Exchange {
            client.busy = false;
            self.done += 1;
            if let (Some(planned), Some(from)) = (client.planned, self.responses_from)
                && planned >= from
            {
                self.responses.push(planned.elapsed().as_nanos() as u64);
            }
            match self.pace {
                Pace::Closed => self.begin(which, None),
                Pace::Planned if !self.backlog.is_empty() => {
                    let planned = self.backlog.pop_front();
                    self.begin(which, planned);
                }
                Pace::Planned | Pace::Stopping => self.idle.push_back(which),
            }
        }
        Ok(())
    }

    /// The subject sends no more to a client.
    pub(super) fn client_ended(&mut self, which: usize, result: i32) -> anyhow::Result<()> {
        let client = &mut self.clients[which];
        ensure!(result == 0, "a client receives: {}", error(result));
        client.ended = true;
        match self.workload.kind {
            Kind::Connect => {
                let (back, whole) = (client.received, client.message.len());
                ensure!(back == whole, "LOST: the connection ended after {back} bytes of {whole}");
                self.done += 1;
                if !client.sending {
                    self.again(which)?;
                }
            }
            Kind::Stream if self.pace == Pace::Stopping && !client.busy => client.socket = None,
            Kind::Stream | Kind::Exchange => {
                bail!("the subject closed a connection after {} messages", client.messages);
            }
        }
        Ok(())
    }

    /// The next connection in place of one that is through.
    fn again(&mut self, which: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[which];
        (client.socket, client.busy) = (None, false);
        self.connected -= 1;
        if self.pace == Pace::Closed { self.connect(which) } else { Ok(()) }
    }
}
