//! The limit: a TCP proxy that is nothing but an io_uring loop. `bare_proxy proxy ORIGIN`.
//!
//! One thread, one system call per turn. Each direction of a connection receives multishot into provided
//! buffers and sends straight from them, one send at a time so that the order holds; a buffer goes back when
//! its send is complete. No limits on connections, no timeouts, no counters, no log: what a proxy that does
//! its work has to add.
//!
//! A direction whose receiver is slow stops receiving at
//! [`WAITING_MAX`](waterwheel_versus::ring::WAITING_MAX) buffers. The buffers are shared by all, and one is
//! free again when all that it holds is sent, so some slow receivers may keep the others waiting: a proxy in
//! earnest would do better.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::bail;
use rustix::net::Shutdown;
use waterwheel_versus::flow::{CANCEL, Flow, RECEIVE, Received, SEND};
use waterwheel_versus::ring::{ACCEPTED, Completion, Ring, Sizes, Wait};
use waterwheel_versus::server::{self, Role};

fn main() -> anyhow::Result<()> {
    let Role::Proxy { origin } = Role::of_this_program()? else {
        bail!("use as `proxy HOST:PORT`");
    };
    let listener = server::listen()?;
    let mut ring = Ring::new(Sizes::PACKED).or_else(|_| Ring::new(Sizes::SINGLE))?;
    ring.set_target(origin);
    server::announce(listener.local_addr()?)?;
    ring.accept(listener.as_raw_fd());
    let mut proxy = Proxy { ring, pairs: Vec::new(), free: Vec::new(), starved: VecDeque::new() };
    let mut completed = Vec::with_capacity(Sizes::PACKED.completions as usize);
    loop {
        proxy.ring.enter(Wait::ForEver, &mut completed)?;
        for completion in completed.drain(..) {
            if completion.tag == ACCEPTED {
                // Without a socket: the client left before, or there are too many. The next one may fare
                // better.
                completion.socket.map_or(Ok(()), |client| proxy.accepted(client))?;
                if !completion.more {
                    proxy.ring.accept(listener.as_raw_fd());
                }
            } else {
                proxy.completed(completion);
            }
        }
        // Not more than there are buffers for, since the others would be told so and ask again.
        let fed = proxy.starved.len().min(proxy.ring.free_buffers());
        for (pair, from) in proxy.starved.drain(..fed).collect::<Vec<_>>() {
            proxy.fed(pair, from);
        }
    }
}

/// What an operation is that belongs to no direction; a tag holds the direction and the pair too.
const CONNECT: u64 = 1 + CANCEL;

const fn tag(kind: u64, from: usize, pair: usize) -> u64 {
    kind | (from as u64) << 7 | (pair as u64) << 8
}

struct Proxy {
    ring: Ring,
    pairs: Vec<Option<Pair>>,
    /// Places in `pairs` that are empty.
    free: Vec<usize>,
    /// Directions that stopped because no buffer was left; the first waits longest.
    starved: VecDeque<(usize, usize)>,
}

/// A client, its connection to the origin, and what flows between them.
struct Pair {
    /// The client's and the origin's.
    sockets: [OwnedFd; 2],
    /// By the socket that it comes from.
    directions: [Direction; 2],
    /// Operations under way. The place is free for another pair when there are none.
    operations: usize,
    failed: bool,
}

#[derive(Default)]
struct Direction {
    flow: Flow,
    /// The receiver knows that the sender has no more.
    shut: bool,
}

impl Proxy {
    fn accepted(&mut self, client: OwnedFd) -> anyhow::Result<()> {
        let pair = Pair {
            sockets: [client, server::socket()?],
            directions: Default::default(),
            operations: 1,
            failed: false,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        self.ring.connect(pair.sockets[1].as_raw_fd(), tag(CONNECT, 0, place));
        self.pairs[place] = Some(pair);
        Ok(())
    }

    fn completed(&mut self, completion: Completion) {
        let Completion { tag: of, result, more, piece, .. } = completion;
        let (kind, from, place) = (of & 0x7f, (of >> 7 & 1) as usize, (of >> 8) as usize);
        let Some(pair) = &mut self.pairs[place] else { return };
        pair.operations -= usize::from(!more);
        let direction = &mut pair.directions[from];
        match kind {
            RECEIVE => match direction.flow.received(result, more, piece) {
                Received::Well => {}
                Received::Starved => self.starved.push_back((place, from)),
                Received::Failed => pair.fail(),
            },
            SEND => {
                if !direction.flow.sent(result, &mut self.ring) {
                    pair.fail();
                }
            }
            CANCEL => direction.flow.cancelled(),
            CONNECT if result < 0 => pair.fail(),
            // CONNECT: both directions begin.
            _ => self.advance(place, 1),
        }
        self.advance(place, from);
        self.end(place);
    }

    /// There are buffers again.
    fn fed(&mut self, place: usize, from: usize) {
        if let Some(pair) = &mut self.pairs[place] {
            pair.directions[from].flow.starved = false;
            self.advance(place, from);
            self.end(place);
        }
    }

    /// Does what can be done next in a direction.
    fn advance(&mut self, place: usize, from: usize) {
        let Some(pair) = &mut self.pairs[place] else { return };
        if pair.failed {
            return;
        }
        let sockets = [pair.sockets[from].as_raw_fd(), pair.sockets[1 - from].as_raw_fd()];
        let other_is_shut = pair.directions[1 - from].shut;
        let direction = &mut pair.directions[from];
        let tag = |kind| tag(kind, from, place);
        pair.operations += direction.flow.go_on(&mut self.ring, sockets[0], sockets[1], tag);
        if direction.flow.ended && direction.flow.is_empty() && !direction.shut {
            direction.shut = true;
            // Where the other direction is through too, closing says as much.
            if !other_is_shut {
                let _already_gone = rustix::net::shutdown(&pair.sockets[1 - from], Shutdown::Write);
            }
        }
    }

    /// Frees the place of a pair that is through.
    fn end(&mut self, place: usize) {
        let through = |pair: &Pair| {
            let all_shut = pair.directions.iter().all(|direction| direction.shut);
            pair.operations == 0 && (pair.failed || all_shut)
        };
        if let Some(mut pair) = self.pairs[place].take_if(|pair| through(pair)) {
            pair.directions.iter_mut().for_each(|direction| direction.flow.clear(&mut self.ring));
            self.starved.retain(|(starved, _)| *starved != place);
            self.free.push(place);
        }
    }
}

impl Pair {
    /// Ends all operations under way.
    fn fail(&mut self) {
        self.failed = true;
        for socket in &self.sockets {
            let _not_connected = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}
