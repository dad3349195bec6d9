//! What a connection has taken and the kernel has not.
//!
//! Every send is tried without waiting, all of a turn's in the call that ends the turn, so the kernel is done with the
//! memory when that call returns. What it did not take waits until it says that there is room.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Flags;
use rustix::io::Errno;
use waterwheel_os::{Gulp, Pipe};

use crate::chain::Chain;
use crate::chunk::{Chunk, Own};
use crate::core::Core;
use crate::features::Feature;
use crate::socket::{Facts, Socket};
use crate::table::Kind;

/// A sink takes nothing while it holds this much, or [`LOW`] where the shard holds as much as it may.
const HIGH: usize = 64 << 10;
/// Who waits to write is woken when no more than this is left.
pub(crate) const LOW: usize = 16 << 10;

/// As a whole or until the buffers are full; a short count is then an error to the ring, which tells of errors alone.
pub(crate) const SENDING: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;

/// The sending side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    chunks: Chain,
    bytes: Cell<usize>,
    state: Cell<State>,
    gulp: Gulp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing is done about it.
    #[default]
    Idle,
    /// To be sent with this turn's others.
    Due,
    /// The first chunk is being tried.
    Tried,
    /// The buffers were full.
    Stuck,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.get() == 0
    }

    /// Whether there is more than one send will try.
    pub(crate) fn has_more(&self) -> bool {
        self.chunks.has_several()
    }

    /// Bytes that the kernel has not.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether it waits for the peer.
    pub(crate) fn is_stuck(&self) -> bool {
        self.state.get() == State::Stuck
    }

    /// How much it takes now.
    pub(crate) fn room(&self, core: &Core) -> usize {
        // Who takes no more than this waits for its own bytes alone to go, and so for nobody else's peer.
        let most = if core.is_held_back() { LOW } else { HIGH };
        most.saturating_sub(self.bytes.get())
    }

    /// Takes some bytes, copied; answers how many.
    pub(crate) fn write(&self, socket: &Rc<Socket>, core: &Core, bytes: &[u8]) -> usize {
        let mut left = &bytes[..bytes.len().min(self.room(core))];
        let count = left.len();
        // The kernel may be reading the first one.
        let busy = self.state.get() == State::Tried && !self.chunks.has_several();
        let appended = self.chunks.with_last(&core.links, |last| match last {
            Chunk::Own(last) if !busy => last.append(left),
            _ => 0,
        });
        left = &left[appended.unwrap_or(0)..];
        while !left.is_empty() {
            let mut own = Own::empty(core);
            left = &left[own.append(left)..];
            self.chunks.push(&core.links, Chunk::Own(own));
        }
        self.bytes.set(self.bytes.get() + count);
        self.due(socket, core);
        count
    }

    /// How much of a stream is worth to be spliced now; 0: none.
    pub(crate) fn gulp(&self, core: &Core) -> usize {
        let some = self.gulp.bytes();
        // What the kernel does not take of it has to be kept.
        let idle = some > 0 && self.is_empty() && self.state.get() == State::Idle;
        if idle && core.pool.buffered.has_room_for(Gulp::MAX) { some } else { 0 }
    }

    /// Sends what is in a pipe, and keeps what the kernel does not take of it.
    pub(crate) fn take_from(&self, socket: &Rc<Socket>, core: &Core, pipe: &mut Pipe) {
        let all = pipe.held();
        match socket.with_file(|file| pipe.give(file)).flatten() {
            Ok(_) if pipe.held() == 0 => return self.gulp.took_all(all),
            Ok(_) => {}
            Err(error) if waterwheel_os::is_refusal(&error) => socket.set(Facts::NO_SPLICE),
            Err(error) => return self.broke(socket, core, error),
        }
        // The buffers are full: what is left of it becomes memory of ours, since others need the pipe.
        self.gulp.took(all - pipe.held());
        while pipe.held() > 0 {
            let mut own = Own::empty_and_large(core);
            let Ok(count @ 1..) = own.fill(|room| pipe.read(room)) else {
                // Bytes that were in the pipe and are not any more: the stream has a hole.
                Chunk::Own(own).release(core);
                return self.broke(socket, core, Errno::IO.into());
            };
            self.bytes.set(self.bytes.get() + count);
            self.chunks.push(&core.links, Chunk::Own(own));
        }
        self.stick(socket, core, 0, false);
    }

    /// Takes a chunk as it is. What was received in a call of its own is sent in one.
    pub(crate) fn put(&self, socket: &Rc<Socket>, core: &Core, mut chunk: Chunk) {
        if !chunk.is_filled() && self.is_empty() && self.state.get() == State::Idle {
            match socket.with_file(|file| waterwheel_os::send(file, chunk.bytes(core))).flatten() {
                Ok(count) => {
                    if count == chunk.len() {
                        self.gulp.took_all(count);
                    }
                    chunk.advance(count);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    chunk.release(core);
                    return self.broke(socket, core, error);
                }
            }
            if chunk.len() == 0 {
                return chunk.release(core);
            }
        }
        chunk.pass_on(core, socket.place());
        self.bytes.set(self.bytes.get() + chunk.len());
        self.chunks.pack(core, chunk);
        self.due(socket, core);
    }

    fn due(&self, socket: &Rc<Socket>, core: &Core) {
        if self.state.get() == State::Idle && !self.is_empty() && !socket.is(Facts::CLOSING) {
            self.state.set(State::Due);
            core.due(socket.clone());
        }
    }

    /// Queues the send of the first chunk, and says whether that lies in a buffer of the kernel's. `None` if there is nothing
    /// to send after all.
    pub(crate) fn begin(&self, socket: &Socket, core: &Core) -> Option<bool> {
        if self.state.get() != State::Due {
            return None;
        }
        self.state.set(State::Idle);
        let number = socket.number()?;
        // The FIN comes right behind it, and goes out with it.
        let is_last = socket.is(Facts::SHUT_LATER) && !self.has_more();
        let sending = if is_last { SENDING | libc::MSG_MORE } else { SENDING };
        let send = self.chunks.with_first(&core.links, |first| {
            let bytes = first.bytes(core);
            let send = opcode::Send::new(number, bytes.as_ptr(), bytes.len() as u32).flags(sending);
            (send.build(), first.is_filled())
        });
        let (mut entry, filled) = send?;
        if core.has(Feature::SkipSuccess) {
            entry = entry.flags(Flags::SKIP_SUCCESS);
        }
        self.state.set(State::Tried);
        socket.begun();
        // SAFETY: the chunk stays where it is, and the first, until the call has returned that takes the entry, or the kernel
        // has said that it is done: what would drop it asks for the state. Not to wait means that it is done by then.
        unsafe { core.begin(entry, socket.token(Kind::Send)) };
        Some(filled)
    }

    /// The call has returned and nothing was said of the first chunk: it was sent whole. False if something was said.
    pub(crate) fn settle(&self, socket: &Rc<Socket>, core: &Core) -> bool {
        if self.state.get() != State::Tried {
            return false;
        }
        let whole = self.chunks.with_first(&core.links, |first| first.len()).unwrap_or(0);
        self.advance(socket, core, whole);
        true
    }

    /// The kernel said how far it came with the first chunk: how many bytes it took, or an error below zero.
    pub(crate) fn tried(&self, socket: &Rc<Socket>, core: &Core, result: i32) {
        let whole = self.chunks.with_first(&core.links, |first| first.len()).unwrap_or(0);
        match usize::try_from(result) {
            Ok(count) if count >= whole => self.advance(socket, core, whole),
            Ok(count) => self.stick(socket, core, count, false),
            Err(_) if result == -Errno::INTR.raw_os_error() => self.advance(socket, core, 0),
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                if is_passing(&error) {
                    self.stick(socket, core, 0, waterwheel_os::is_shortage(&error));
                } else {
                    self.broke(socket, core, error);
                }
            }
        }
    }

    /// A send failed for good. The kernel says so once, whoever asks first, so both halves are told.
    fn broke(&self, socket: &Rc<Socket>, core: &Core, error: io::Error) {
        socket.fail(error);
        self.state.set(State::Idle);
        self.drop_all(core);
        socket.writer.wake();
        socket.reader.wake();
        socket.let_go(core);
    }

    fn advance(&self, socket: &Rc<Socket>, core: &Core, count: usize) {
        self.state.set(State::Idle);
        self.take(core, count);
        self.due(socket, core);
        self.progressed(socket, core);
    }

    /// Leaves out what was sent.
    fn take(&self, core: &Core, count: usize) {
        let left = self.chunks.with_first(&core.links, |first| {
            first.advance(count);
            first.len()
        });
        // After an abort there is nothing.
        let Some(left) = left else { return };
        self.bytes.set(self.bytes.get() - count);
        if left == 0
            && let Some(first) = self.chunks.pop(&core.links)
        {
            first.release(core);
        }
    }

    /// Waits until there is room, or memory.
    fn stick(&self, socket: &Rc<Socket>, core: &Core, count: usize, short: bool) {
        self.take(core, count);
        self.state.set(State::Idle);
        if socket.is(Facts::CLOSING) {
            return;
        }
        let waits =
            if short { socket.await_memory(core, Kind::Writable) } else { socket.await_writable(core) };
        if waits {
            self.state.set(State::Stuck);
        }
        self.progressed(socket, core);
    }

    /// There is room again, or the connection broke, which the next send tells.
    pub(crate) fn writable(&self, socket: &Rc<Socket>, core: &Core) {
        if self.state.get() == State::Stuck {
            self.state.set(State::Idle);
            self.due(socket, core);
        }
    }

    fn progressed(&self, socket: &Rc<Socket>, core: &Core) {
        socket.shut_behind_the_last();
        socket.let_go(core);
        if self.bytes.get() <= LOW {
            socket.writer.wake();
        }
    }

    /// Sends what is due at once, in a call of its own, as far as the kernel takes it: for the FIN that has to come right
    /// behind it, and with it if it was all.
    pub(crate) fn send_now(&self, socket: &Rc<Socket>, core: &Core) {
        while matches!(self.state.get(), State::Due | State::Idle) {
            let sent = self.chunks.with_first(&core.links, |first| {
                socket.with_file(|file| waterwheel_os::send_last(file, first.bytes(core))).flatten()
            });
            match sent {
                Some(Ok(count)) => self.take(core, count),
                Some(Err(error)) if !is_passing(&error) => return self.broke(socket, core, error),
                // The send that is due tries again.
                _ => return,
            }
        }
    }

    /// Gives the kernel its buffers back, and keeps the bytes, unless they are sent right now.
    pub(crate) fn copy_out(&self, core: &Core) {
        if self.state.get() == State::Stuck {
            self.chunks.each(&core.links, |chunk| chunk.copy_out(core));
        }
    }

    /// Nothing more will be sent.
    pub(crate) fn end(&self, socket: &Socket, core: &Core) {
        match self.state.get() {
            // The kernel may be reading it; dropped with the socket.
            State::Tried => return,
            State::Stuck => core.cancel(socket.token(Kind::Writable)),
            State::Idle | State::Due => {}
        }
        self.state.set(State::Idle);
        self.drop_all(core);
    }

    fn drop_all(&self, core: &Core) {
        self.bytes.set(0);
        while let Some(chunk) = self.chunks.pop(&core.links) {
            chunk.release(core);
        }
    }
}

/// Whether a send may do better later: the buffers are full, or memory is short.
fn is_passing(error: &io::Error) -> bool {
    waterwheel_os::is_shortage(error) || Errno::from_io_error(error) == Some(Errno::AGAIN)
}
