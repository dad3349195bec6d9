//! What a connection has received and nobody has taken yet.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Flags;
use rustix::io::Errno;
use waterwheel_os::Pipe;

use crate::buffers::{BYTES, GROUP};
use crate::chain::Chain;
use crate::chunk::{Chunk, Own};
use crate::core::Core;
use crate::features::Feature;
use crate::pool::MUCH;
use crate::ring::Completion;
use crate::socket::{Facts, Socket};
use crate::table::Kind;

/// With this much received and not taken the kernel is asked to stop. It pushes at most 32 buffers more before it does
/// (`MULTISHOT_MAX_RETRY`, io_uring/net.c), 576 KiB in all.
const HELD_MAX: usize = 64 << 10;

/// Two full buffers that come before anybody has taken the first begin a stream. One is a message, which is
/// cheaper received into the kernel's buffers.
const BACKLOG: usize = 2 * BYTES;
/// So many receives in a row that found no more than one buffer's worth end it.
const TRICKLE: u32 = 4;

/// What the kernel was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nothing,
    /// To receive.
    Receive,
    /// To tell when something can be received.
    Readable,
    /// To stop what it was asked for.
    Stop,
}

/// The receiving side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    chunks: Chain,
    bytes: Cell<usize>,
    asked: Cell<Asked>,
    /// The end of the stream was met.
    over: Cell<bool>,
    /// Receives happen in calls of their own, into large chunks, when somebody takes: what is then sent at once is still in
    /// the cache, where a batch of receives would have left it before the batch of sends.
    streams: Cell<bool>,
    /// Receives in a row that found little.
    run: Cell<u32>,
    /// The last of them took all that there was: the next one waits until more is there.
    drained: Cell<bool>,
    /// The kernel had no buffer for the last receive: the next one takes memory of ours.
    starved: Cell<bool>,
    /// The kernel was short of memory at the last receive: the next one waits a little.
    short: Cell<bool>,
}

impl Inbox {
    /// The next bytes, if there are any.
    pub(crate) fn take(&self, core: &Core) -> Option<Chunk> {
        let chunk = self.chunks.pop(&core.links)?;
        self.bytes.set(self.bytes.get() - chunk.len());
        Some(chunk)
    }

    /// The next bytes of a stream, received now. `None`: there are none now, or it is no stream; the end and errors are
    /// noted.
    #[inline]
    pub(crate) fn receive_now(&self, socket: &Rc<Socket>, core: &Core) -> Option<Own> {
        if self.streams.get() { self.receive_more(socket, core) } else { None }
    }

    /// The same into a pipe; answers how much. `None` is no verdict: a receive tells.
    pub(crate) fn splice_now(&self, socket: &Rc<Socket>, pipe: &mut Pipe, most: usize) -> Option<usize> {
        let waits = self.drained.get() || !self.chunks.is_empty();
        if !self.streams.get() || waits || !self.may_receive(socket) {
            return None;
        }
        match socket.with_file(|file| pipe.take(file, most)).flatten() {
            Ok(count) => count.inspect(|count| self.found(*count)),
            Err(error) => {
                if waterwheel_os::is_refusal(&error) {
                    socket.set(Facts::NO_SPLICE);
                } else {
                    self.failed(socket, -error.raw_os_error().unwrap_or(0));
                }
                None
            }
        }
    }

    /// Whether it may be received from now, as far as is known: the kernel does not by itself.
    fn may_receive(&self, socket: &Socket) -> bool {
        !(self.is_asked() || self.over.get() || socket.is(Facts::CLOSING))
    }

    /// Takes note of how much a stream had for us.
    fn found(&self, count: usize) {
        self.short.set(false);
        self.drained.set(count < MUCH);
        self.run.set(if count <= BYTES { self.run.get() + 1 } else { 0 });
        if self.run.get() == TRICKLE {
            self.run.set(0);
            self.streams.set(false);
        }
    }

    fn receive_more(&self, socket: &Rc<Socket>, core: &Core) -> Option<Own> {
        if !self.may_receive(socket) || self.drained.take() {
            return None;
        }
        let (own, count) = self.receive(socket, core, Own::empty_and_large(core))?;
        self.found(count);
        Some(own)
    }

    /// Receives in a call of its own, and answers how much. `None`: nothing; the end and errors are noted.
    fn receive(&self, socket: &Rc<Socket>, core: &Core, mut own: Own) -> Option<(Own, usize)> {
        match socket.with_file(|file| own.fill(|room| waterwheel_os::receive(file, room))).flatten() {
            Ok(count @ 1..) => return Some((own, count)),
            Ok(_) => self.over.set(true),
            Err(error) => self.failed(socket, -error.raw_os_error().unwrap_or(0)),
        }
        Chunk::Own(own).release(core);
        None
    }

    /// Bytes that came before the connection broke and that nobody was told of, since the kernel was not asked.
    pub(crate) fn receive_rest(&self, socket: &Rc<Socket>, core: &Core) -> Option<Own> {
        if !self.may_receive(socket) {
            return None;
        }
        // The end, or the error that is known, is told by who knows it.
        self.receive(socket, core, Own::empty(core)).map(|(own, _)| own)
    }

    /// Whether nothing will come behind what is there.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Whether the kernel tells of what comes, errors included.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.get() != Asked::Nothing
    }

    /// Asks the kernel for what comes next, unless it was asked before.
    #[inline]
    pub(crate) fn ask(&self, socket: &Socket, core: &Core) {
        if !self.is_asked() && !self.over.get() {
            self.ask_anew(socket, core);
        }
    }

    fn ask_anew(&self, socket: &Socket, core: &Core) {
        let Some(number) = socket.number() else { return };
        if self.short.take() {
            self.asked.set(Asked::Readable);
            socket.await_memory(core, Kind::Readable);
            return;
        }
        let own = core.buffers().is_none() || core.is_held_back();
        let (entry, kind) = if own || self.streams.get() || self.starved.take() {
            self.asked.set(Asked::Readable);
            let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
            (opcode::PollAdd::new(number, events).build(), Kind::Readable)
        } else {
            self.asked.set(Asked::Receive);
            let entry = if core.has(Feature::Multishot) {
                opcode::RecvMulti::new(number, GROUP).build()
            } else {
                let anywhere = std::ptr::null_mut();
                let receive = opcode::Recv::new(number, anywhere, BYTES as u32).buf_group(GROUP);
                receive.build().flags(Flags::BUFFER_SELECT)
            };
            (entry, Kind::Receive)
        };
        socket.begun();
        // SAFETY: receives take memory from the provided buffers, which outlive the ring, and polls none.
        unsafe { core.begin(entry, socket.token(kind)) };
    }

    /// Asks the kernel to stop; what it has received until then still comes.
    pub(crate) fn stop(&self, socket: &Socket, core: &Core) {
        let kind = match self.asked.get() {
            Asked::Nothing | Asked::Stop => return,
            Asked::Receive => Kind::Receive,
            Asked::Readable => Kind::Readable,
        };
        self.asked.set(Asked::Stop);
        core.cancel(socket.token(kind));
    }

    /// The kernel received something, met the end, or failed.
    pub(crate) fn received(&self, socket: &Rc<Socket>, core: &Core, completion: Completion) {
        if !completion.more {
            self.asked.set(Asked::Nothing);
        }
        let count = usize::try_from(completion.result).unwrap_or(0);
        if let (Some(buffer), Some(buffers)) = (completion.buffer, core.buffers()) {
            let filled = Chunk::Filled(buffers.take(buffer, count, socket.place()));
            core.pool.buffered.take(BYTES);
            if count > 0 && !socket.is(Facts::CLOSING.and(Facts::NO_SOURCE)) {
                self.put(core, filled);
            } else {
                filled.release(core);
            }
        }
        match completion.result {
            0 => self.over.set(true),
            1.. => {
                if count == BYTES && self.bytes.get() >= BACKLOG && !socket.is(Facts::NO_SOURCE) {
                    self.run.set(0);
                    self.drained.set(false);
                    self.streams.set(true);
                }
                // Where the shard holds as much as it may, this is enough.
                let most = if core.is_held_back() { 0 } else { HELD_MAX };
                if self.streams.get() || self.bytes.get() > most {
                    self.stop(socket, core);
                }
            }
            error => {
                if let (true, Some(buffers)) = (error == -Errno::NOBUFS.raw_os_error(), core.buffers()) {
                    buffers.ran_out();
                    self.starved.set(true);
                }
                self.failed(socket, error);
            }
        }
        // Also when it stopped: who waits then asks again.
        socket.reader.wake();
    }

    /// Something can be received: receives it, where the kernel does not do it by itself.
    pub(crate) fn readable(&self, socket: &Rc<Socket>, core: &Core) {
        let stopped = self.asked.replace(Asked::Nothing) == Asked::Stop;
        if !stopped
            && !self.streams.get()
            && let Some((own, _)) = self.receive(socket, core, Own::empty(core))
        {
            self.put(core, Chunk::Own(own));
        }
        socket.reader.wake();
    }

    fn put(&self, core: &Core, chunk: Chunk) {
        self.bytes.set(self.bytes.get() + chunk.len());
        self.chunks.pack(core, chunk);
    }

    /// Gives the kernel its buffers back, and keeps the bytes.
    pub(crate) fn copy_out(&self, core: &Core) {
        self.chunks.each(&core.links, |chunk| chunk.copy_out(core));
    }

    /// An error of a receive, below zero. Some are none: a cancellation, a signal, no buffer, no memory or nothing there after
    /// all.
    fn failed(&self, socket: &Rc<Socket>, error: i32) {
        const PASSING: [Errno; 4] = [Errno::CANCELED, Errno::INTR, Errno::AGAIN, Errno::NOBUFS];
        if error == -Errno::NOMEM.raw_os_error() {
            self.short.set(true);
        } else if PASSING.iter().all(|errno| errno.raw_os_error() != -error) {
            socket.fail(io::Error::from_raw_os_error(-error));
            socket.writer.wake();
        }
    }

    /// Nobody will take anything any more.
    pub(crate) fn end(&self, socket: &Socket, core: &Core) {
        self.stop(socket, core);
        while let Some(chunk) = self.take(core) {
            chunk.release(core);
        }
    }
}
