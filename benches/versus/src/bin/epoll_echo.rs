//! The limit with epoll: an echo server that is nothing but an edge-triggered loop. `epoll_echo echo`.
//!
//! One receive and one send for each event: a receive that does not fill the buffer has emptied the socket,
//! and so needs no second one that says so. What cannot be sent at once is kept, and the connection receives
//! no more until it is out.
#![forbid(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::bail;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use waterwheel_versus::server::{self, BUFFER_BYTES, Role};

/// Events fetched at once.
const EVENTS_MAX: usize = 1024;

/// What the listener's events are tagged with.
const LISTENER: u64 = u64::MAX;

struct Client {
    socket: OwnedFd,
    /// What could not be sent yet.
    kept: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let Role::Echo = Role::of_this_program()? else { bail!("use as `echo`") };
    let listener = server::listen()?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    // By level: it is enough to accept some at each event.
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    server::announce(listener.local_addr()?)?;
    let (mut clients, mut free) = (Vec::<Option<Client>>::new(), Vec::new());
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let place = event.data.u64();
            if place == LISTENER {
                accept(&listener, &epoll, &mut clients, &mut free)?;
                continue;
            }
            let slot = &mut clients[place as usize];
            // Its flags are in a packed struct.
            let event = event.flags;
            // An error is its client's end, as its closing is.
            if slot.as_mut().is_some_and(|client| !client.echo(event, &mut buffer).unwrap_or(false)) {
                *slot = None;
                free.push(place as usize);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &OwnedFd,
    clients: &mut Vec<Option<Client>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) else {
        return Ok(());
    };
    let place = free.pop().unwrap_or_else(|| {
        clients.push(None);
        clients.len() - 1
    });
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, &socket, EventData::new_u64(place as u64), flags)?;
    clients[place] = Some(Client { socket, kept: Vec::new() });
    Ok(())
}

impl Client {
    /// Moves what can be moved; `false` at the end. An end that came with the bytes has no event of its own.
    fn echo(&mut self, event: EventFlags, buffer: &mut [u8]) -> rustix::io::Result<bool> {
        loop {
            if !self.kept.is_empty() {
                let sent = self.send(&self.kept)?;
                self.kept.drain(..sent);
                if !self.kept.is_empty() {
                    return Ok(true);
                }
            }
            let received = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(false),
                Ok((received, _)) => received,
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error),
            };
            let sent = self.send(&buffer[..received])?;
            self.kept.extend_from_slice(&buffer[sent..received]);
            let more = event.intersects(EventFlags::RDHUP | EventFlags::HUP) || received == buffer.len();
            if !more && self.kept.is_empty() {
                return Ok(true);
            }
        }
    }

    fn send(&self, mut bytes: &[u8]) -> rustix::io::Result<usize> {
        let length = bytes.len();
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(length - bytes.len())
    }
}
