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
use waterwheel_versus::flow::{Flow, RECEIVE, Received, SEND};
use waterwheel_versus::ring::{ACCEPTED, Completion, Ring, Sizes, Wait};
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
                client.flow.starved = false;
            }
            echo.advance(place);
        }
    }
}

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
    flow: Flow,
    failed: bool,
}

impl Echo {
    fn accepted(&mut self, socket: OwnedFd) {
        let client = Client { socket, flow: Flow::default(), failed: false };
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
            RECEIVE => match client.flow.received(result, more, piece) {
                Received::Well => {}
                Received::Starved => self.starved.push_back(place),
                Received::Failed => client.fail(),
            },
            SEND => {
                if !client.flow.sent(result, &mut self.ring) {
                    client.fail();
                }
            }
            _ => client.flow.cancelled(),
        }
        self.advance(place);
    }

    /// Does what can be done next for a client.
    fn advance(&mut self, place: usize) {
        let Some(client) = &mut self.clients[place] else { return };
        let socket = client.socket.as_raw_fd();
        if !client.failed {
            client.flow.go_on(&mut self.ring, socket, socket, |kind| tag(kind, place));
        }
        let flow = &client.flow;
        let through = flow.is_quiet() && flow.ended && (client.failed || flow.is_empty());
        if through && let Some(mut client) = self.clients[place].take() {
            client.flow.clear(&mut self.ring);
            self.free.push(place);
        }
    }
}

impl Client {
    /// Ends all operations under way.
    fn fail(&mut self) {
        (self.failed, self.flow.ended) = (true, true);
        let _not_connected = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}
