//! The loop: one ring, its completions handed to the clients and to the origin.

use std::collections::VecDeque;
use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::clients::{Client, Pace};
use super::origin::Peer;
use super::{Kind, MIB, Workload};
use crate::ring::{ACCEPTED, Completion, Ring, Sizes, Wait};
use crate::server;

/// Clients that load one subject, and the origin behind it if that is a proxy.
#[derive(Debug)]
pub struct Generator {
    pub(super) workload: Workload,
    pub(super) ring: Ring,
    completed: Vec<Completion>,
    /// Clients that stopped receiving because no buffer was left, and connections of the origin.
    starved: VecDeque<u64>,
    /// The origin's, for proxies.
    listener: Option<TcpListener>,
    pub(super) clients: Vec<Client>,
    /// How many clients there shall be.
    pub(super) wanted: usize,
    /// How many of them are connecting.
    pub(super) connecting: usize,
    pub(super) connected: usize,
    pub(super) pace: Pace,
    /// Clients that have nothing to do, in the order in which they became so.
    pub(super) idle: VecDeque<usize>,
    /// When messages were planned that wait for a client.
    pub(super) backlog: VecDeque<Instant>,
    /// Response times of messages planned in the window, in nanoseconds.
    pub(super) responses: Vec<u64>,
    /// Only what was planned from then on is kept.
    pub(super) responses_from: Option<Instant>,
    /// The origin's connections.
    pub(super) peers: Vec<Option<Peer>>,
    pub(super) free: Vec<usize>,
    /// What was done: messages, or bytes of streams.
    pub(super) done: u64,
    /// Streams that the origin has received whole.
    pub(super) streams_ended: usize,
}

/// What an operation is of; the rest of its tag is which.
pub(super) mod of {
    pub(crate) const CONNECT: u64 = 0;
    pub(crate) const CLIENT_RECEIVE: u64 = 1;
    pub(crate) const CLIENT_SEND: u64 = 2;
    pub(crate) const PEER_RECEIVE: u64 = 3;
    pub(crate) const PEER_SEND: u64 = 4;
}

pub(super) const fn tag(of: u64, which: usize) -> u64 {
    of | (which as u64) << 8
}

impl Generator {
    /// Makes the ring, and with `with_origin` the listener that the proxy shall connect to.
    ///
    /// # Errors
    /// The kernel has no io_uring, or is out of something.
    pub fn new(workload: Workload, with_origin: bool) -> anyhow::Result<Generator> {
        // Small messages get small buffers, so that all of them stay in a near cache; more than are in use at
        // a time.
        let (buffers, buffer_bytes) = match workload.kind {
            Kind::Stream => (32, 64 * 1024),
            _ if workload.bytes <= 256 => (2048, 256),
            _ => (128, 16 * 1024),
        };
        let sizes = Sizes { submissions: 2048, completions: 32 * 1024, buffers, buffer_bytes, packed: false };
        let mut ring = Ring::new(sizes).context("the generator needs io_uring of Linux 6.1 or later")?;
        let listener = with_origin.then(server::listen).transpose()?;
        if let Some(listener) = &listener {
            ring.accept(listener.as_raw_fd());
        }
        Ok(Generator {
            workload,
            ring,
            completed: Vec::with_capacity(sizes.completions as usize),
            starved: VecDeque::new(),
            listener,
            clients: Vec::new(),
            wanted: 0,
            connecting: 0,
            connected: 0,
            pace: Pace::Closed,
            idle: VecDeque::new(),
            backlog: VecDeque::new(),
            responses: Vec::new(),
            responses_from: None,
            peers: Vec::new(),
            free: Vec::new(),
            done: 0,
            streams_ended: 0,
        })
    }

    /// Where the origin listens.
    ///
    /// # Errors
    /// There is none.
    pub fn origin(&self) -> anyhow::Result<SocketAddrV4> {
        match self.listener.as_ref().context("this generator has no origin")?.local_addr()? {
            std::net::SocketAddr::V4(address) => Ok(address),
            std::net::SocketAddr::V6(address) => anyhow::bail!("{address} is no IPv4 address"),
        }
    }

    /// Where clients connect.
    pub fn set_target(&mut self, subject: SocketAddrV4) {
        self.ring.set_target(subject);
    }

    /// Messages done so far; of streams, MiB.
    pub(super) fn messages(&self) -> f64 {
        match self.workload.kind {
            Kind::Stream => self.done as f64 / MIB as f64,
            Kind::Exchange | Kind::Connect => self.done as f64,
        }
    }

    /// Where everything stands, for the message of an error.
    pub(super) fn state(&self) -> String {
        let (busy, sending) = self.clients.iter().fold((0, 0), |(busy, sending), client| {
            (busy + usize::from(client.busy), sending + usize::from(client.sending))
        });
        let peers = self.peers.iter().flatten();
        let (peers, pieces) =
            peers.fold((0, 0), |(peers, pieces), peer| (peers + 1, pieces + peer.waiting.len()));
        format!(
            "{} connections of {}, {busy} wait for an answer, {sending} send; the origin has {peers} and {pieces} \
             pieces to send; {} receives wait for one of {} free buffers; {} done",
            self.connected,
            self.wanted,
            self.starved.len(),
            self.ring.free_buffers(),
            self.done
        )
    }

    /// One system call at most, and all that follows from it. Never waits.
    pub(super) fn turn(&mut self) -> anyhow::Result<()> {
        let mut completed = std::mem::take(&mut self.completed);
        self.ring.enter(Wait::Not, &mut completed)?;
        for completion in completed.drain(..) {
            self.completed(completion)?;
        }
        self.completed = completed;
        // Not more than there are buffers for, since the others would be told so and ask again.
        let fed = self.starved.len().min(self.ring.free_buffers());
        for of in self.starved.drain(..fed).collect::<Vec<_>>() {
            self.receive(of);
        }
        Ok(())
    }

    fn completed(&mut self, completion: Completion) -> anyhow::Result<()> {
        let Completion { tag, result, more, piece, socket } = completion;
        if tag == ACCEPTED {
            let listener = self.listener.as_ref().context("nobody listens")?.as_raw_fd();
            let socket = socket.with_context(|| format!("the origin accepts: {}", error(result)))?;
            self.accepted(socket);
            if !more {
                self.ring.accept(listener);
            }
            return Ok(());
        }
        let (of, which) = (tag & 0xff, (tag >> 8) as usize);
        match of {
            of::CONNECT => {
                ensure!(result >= 0, "a client connects: {}", error(result));
                self.client_connected(which)?;
            }
            of::CLIENT_SEND => self.client_sent(which, result)?,
            of::PEER_SEND => self.peer_sent(which, result)?,
            _ => {
                let is_client = of == of::CLIENT_RECEIVE;
                if result == -libc::ENOBUFS {
                    self.starved.push_back(tag);
                    return Ok(());
                }
                if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
                    if is_client {
                        self.client_received(which, piece)?;
                    } else {
                        self.peer_received(which, piece)?;
                    }
                    if !more {
                        self.receive(tag);
                    }
                } else {
                    // The end has no buffer on some kernels and an empty one on others.
                    piece.into_iter().for_each(|piece| self.ring.give_back(piece));
                    if is_client {
                        self.client_ended(which, result)?;
                    } else {
                        self.peer_ended(which, result)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Receives, or goes on to after the kernel stopped.
    pub(super) fn receive(&mut self, of: u64) {
        let which = (of >> 8) as usize;
        let socket = if of & 0xff == of::CLIENT_RECEIVE {
            self.clients[which].socket.as_ref().map(|socket| socket.as_raw_fd())
        } else {
            self.peers[which].as_ref().map(|peer| peer.socket.as_raw_fd())
        };
        if let Some(socket) = socket {
            self.ring.receive(socket, of);
        }
    }
}

/// The words for a negative result.
pub(super) fn error(result: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(-result)
}
