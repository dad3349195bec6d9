//! The origin behind a proxy: an echo, or for streams a place where bytes are counted and looked at.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, ensure};
use rustix::net::Shutdown;

use super::Kind;
use super::generator::{Generator, error, of, tag};
use super::pattern::{PIECE_MAX, check, check_ends, stream, whose_stream};
use crate::ring::Piece;

/// Of so many pieces of a stream one is looked at whole.
const LOOKED_AT: u64 = 8;

/// A connection that the proxy made to the origin.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// What is to be sent back. The first is being sent.
    pub(super) waiting: VecDeque<Piece>,
    /// How much of the first is sent.
    sent: usize,
    /// All that came.
    received: u64,
    pieces: u64,
    /// Whose stream it is, once the first bytes are there.
    client: Option<usize>,
    ended: bool,
}

/// So many first bytes tell whose stream it is.
const BEGINNING: usize = 8;

impl Generator {
    pub(super) fn accepted(&mut self, socket: OwnedFd) {
        let peer = Peer {
            socket,
            waiting: VecDeque::new(),
            sent: 0,
            received: 0,
            pieces: 0,
            client: None,
            ended: false,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.peers[place] = Some(peer);
        self.receive(tag(of::PEER_RECEIVE, place));
    }

    pub(super) fn peer_received(&mut self, place: usize, piece: Piece) -> anyhow::Result<()> {
        let peer = self.peers[place].as_mut().context("bytes for nobody")?;
        if self.workload.kind == Kind::Stream {
            peer.look_at(self.ring.bytes(piece), self.wanted)?;
            self.done += piece.len() as u64;
            self.ring.give_back(piece);
            return Ok(());
        }
        peer.received += piece.len() as u64;
        peer.waiting.push_back(piece);
        if peer.waiting.len() == 1 {
            self.ring.send_piece(peer.socket.as_raw_fd(), piece, 0, tag(of::PEER_SEND, place));
        }
        Ok(())
    }

    pub(super) fn peer_sent(&mut self, place: usize, result: i32) -> anyhow::Result<()> {
        let peer = self.peers[place].as_mut().context("sent by nobody")?;
        ensure!(result > 0, "the origin answers: {}", error(result));
        let &piece = peer.waiting.front().context("nothing was sent")?;
        peer.sent += result as usize;
        if peer.sent == piece.len() {
            peer.waiting.pop_front();
            peer.sent = 0;
            self.ring.give_back(piece);
        }
        if let Some(&piece) = peer.waiting.front() {
            self.ring.send_piece(peer.socket.as_raw_fd(), piece, peer.sent, tag(of::PEER_SEND, place));
        } else if self.workload.kind == Kind::Connect && peer.received >= self.workload.bytes as u64 {
            // The side that ends first keeps the port for a while, and the origin's is always the same.
            rustix::net::shutdown(&peer.socket, Shutdown::Write)?;
        }
        self.free_peer(place);
        Ok(())
    }

    /// The proxy sends no more.
    pub(super) fn peer_ended(&mut self, place: usize, result: i32) -> anyhow::Result<()> {
        let peer = self.peers[place].as_mut().context("nobody's end")?;
        peer.ended = true;
        if self.workload.kind == Kind::Stream && peer.received > 0 {
            ensure!(result == 0, "the origin receives: {}", error(result));
            let client = peer.client.context("a stream ended before it could be told whose it is")?;
            let sent = self.clients[client].position;
            ensure!(peer.received == sent, "LOST: {sent} bytes sent, {} received", peer.received);
            self.streams_ended += 1;
        }
        self.free_peer(place);
        Ok(())
    }

    /// Closes a connection that is through.
    fn free_peer(&mut self, place: usize) {
        let through = |peer: &mut Peer| peer.ended && peer.waiting.is_empty();
        if self.peers[place].take_if(through).is_some() {
            self.free.push(place);
        }
    }
}

impl Peer {
    fn look_at(&mut self, mut bytes: &[u8], clients: usize) -> anyhow::Result<()> {
        let client = match self.client {
            Some(client) => client,
            None => {
                ensure!(bytes.len() >= BEGINNING, "the first piece of a stream has {} bytes", bytes.len());
                let client = whose_stream(&bytes[..BEGINNING], clients);
                *self.client.insert(client.context("WRONG BYTES: nobody's stream")?)
            }
        };
        let whole = self.pieces.is_multiple_of(LOOKED_AT);
        self.pieces += 1;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE_MAX));
            let sent = stream(client, self.received);
            let check = if whole { check } else { check_ends };
            check(now, &sent[..now.len()])?;
            self.received += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}
