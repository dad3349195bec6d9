//! The limit: an echo server that is nothing but an io_uring loop. `bare_echo echo`.
//!
//! As the bare proxy, with one direction per connection and one socket instead of two: it receives multishot
//! into provided buffers, sends straight from them one at a time, and gives each back when its send is
//! complete.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::bail;
use rustix::net::Shutdown;
use waterwheel_versus::ring::{ACCEPTED, Completion, Piece, Ring, Sizes, WAITING_MAX, Wait};
use waterwheel_versus::server::{self, Role};

fn main() -> anyhow::Result<()> {
    let Role::Echo = Role::of_this_program()? else { bail!("use as `echo`") };
    let listener = server::listen()?;
    let mut ring = Ring::new(Sizes::PACKED).or_else(|_| Ring::new(Sizes::SINGLE))?;
    server::announce(listener.local_addr()?)?;
    ring.accept(listener.as_raw_fd());
    let mut echo = Echo { ring, clients: Vec::new(), free: Vec::new(), starved: VecDeque::new() };
    let mut completed = Vec::with_capacity(Sizes::PACKED.completions as usize);
    loop {
        echo.ring.enter(Wait::ForEver, &mut completed)?;
        for completion in completed.drain(..) {
            if completion.tag == ACCEPTED {
                // Without a socket: the client left before, or there are too many. The next one may fare
                // better.
                completion.socket.into_iter().for_each(|socket| echo.accepted(socket));
                if !completion.more {
                    echo.ring.accept(listener.as_raw_fd());
                }
            } else {
                echo.completed(completion);
            }
        }
        // Not more than there are buffers for, since the others would be told so and ask again.
        let fed = echo.starved.len().min(echo.ring.free_buffers());
        for place in echo.starved.drain(..fed).collect::<Vec<_>>() {
            if let Some(client) = &mut echo.clients[place] {
                client.starved = false;
            }
            echo.advance(place);
        }
    }
}

/// What an operation is; its tag holds whose too.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const CANCEL: u64 = 2;

const fn tag(kind: u64, place: usize) -> u64 {
    kind | (place as u64) << 8
}

struct Echo {
    ring: Ring,
    clients: Vec<Option<Client>>,
    /// Places in `clients` that are empty.
    free: Vec<usize>,
    /// Those that stopped because no buffer was left; the first waits longest.
    starved: VecDeque<usize>,
}

struct Client {
    socket: OwnedFd,
    /// Received and not yet sent.
    waiting: VecDeque<Piece>,
    /// How much of the first of them is sent.
    sent: usize,
    sending: bool,
    receiving: bool,
    cancelling: bool,
    starved: bool,
    /// It sends no more, or something failed.
    ended: bool,
    failed: bool,
}

impl Echo {
    fn accepted(&mut self, socket: OwnedFd) {
        let client = Client {
            socket,
            waiting: VecDeque::new(),
            sent: 0,
            sending: false,
            receiving: false,
            cancelling: false,
            starved: false,
            ended: false,
            failed: false,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.clients[place] = Some(client);
        self.advance(place);
    }

    fn completed(&mut self, Completion { tag: of, result, more, piece, .. }: Completion) {
        let (kind, place) = (of & 0xff, (of >> 8) as usize);
        let Some(client) = &mut self.clients[place] else { return };
        match kind {
            RECEIVE => {
                client.receiving = more;
                client.waiting.extend(piece);
                match result {
                    1.. => {}
                    0 => client.ended = true,
                    _ if -result == libc::ENOBUFS => {
                        client.starved = true;
                        self.starved.push_back(place);
                    }
                    _ if -result == libc::ECANCELED => {}
                    _ => client.fail(),
                }
            }
            SEND => {
                client.sending = false;
                match (result, client.waiting.front()) {
                    (0.., Some(&piece)) => {
                        client.sent += result as usize;
                        if client.sent == piece.len() {
                            self.ring.give_back(piece);
                            client.waiting.pop_front();
                            client.sent = 0;
                        }
                    }
                    _ => client.fail(),
                }
            }
            _ => client.cancelling = false,
        }
        self.advance(place);
    }

    /// Does what can be done next for a client.
    fn advance(&mut self, place: usize) {
        let Some(client) = &mut self.clients[place] else { return };
        let socket = client.socket.as_raw_fd();
        let waiting = client.waiting.len();
        if let (false, false, Some(&piece)) = (client.failed, client.sending, client.waiting.front()) {
            self.ring.send_piece(socket, piece, client.sent, tag(SEND, place));
            client.sending = true;
        }
        if client.receiving && !client.cancelling && waiting >= WAITING_MAX {
            self.ring.cancel(tag(RECEIVE, place), tag(CANCEL, place));
            client.cancelling = true;
        }
        let stopped = !client.receiving && !client.cancelling && !client.starved;
        if stopped && !client.ended && waiting <= WAITING_MAX / 2 {
            self.ring.receive(socket, tag(RECEIVE, place));
            client.receiving = true;
        }
        let through = stopped && !client.sending && client.ended && (client.failed || waiting == 0);
        if through && let Some(client) = self.clients[place].take() {
            client.waiting.into_iter().for_each(|piece| self.ring.give_back(piece));
            self.free.push(place);
        }
    }
}

impl Client {
    /// Ends all operations under way.
    fn fail(&mut self) {
        (self.failed, self.ended) = (true, true);
        let _not_connected = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}
