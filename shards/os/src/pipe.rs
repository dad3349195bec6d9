//! Bytes from one socket to another through a pipe, without a copy.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::without_sigpipe;

/// What splice(2) moves from one socket to the next: pages that one received and the other sends, which nobody copies.
///
/// The sockets must [never wait](never_waits): splice(2) would wait for them, whatever it is told.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes in it.
    held: usize,
    /// Bytes that sockets took out of it so far.
    given: u64,
}

impl Pipe {
    /// An empty one for so many bytes. Those of a process that may not exceed the user's limit are small (pipe(7),
    /// `pipe-user-pages-soft`).
    ///
    /// # Errors
    /// As pipe(2) and fcntl(2): no descriptor left; `PermissionDenied` where it may not be so large.
    pub fn new(bytes: usize) -> io::Result<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let got = fcntl_setpipe_size(&writer, bytes)?;
        if got < bytes {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(Pipe { reader, writer, held: 0, given: 0 })
    }

    /// How many bytes are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many bytes sockets took out of it so far.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Takes up to `most` bytes out of a socket. Never waits if the socket is not blocking.
    ///
    /// `None`: it took nothing, which does not say that nothing is there. splice(2) stops before urgent data and answers as at
    /// the end of the stream or as if nothing had come, and it does so where memory is short: recv(2) tells.
    ///
    /// # Errors
    /// What broke the connection, which the kernel tells once; or [`is_refusal`].
    pub fn take(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<Option<usize>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match retry_on_intr(|| splice(from, None, &self.writer, None, most, flags)) {
            Ok(0) | Err(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS) => Ok(None),
            Ok(count) => {
                self.held += count;
                Ok(Some(count))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a socket all that it takes, and says how much that was. What it does not take is left. Never waits if the socket
    /// is not blocking, and never raises `SIGPIPE`.
    ///
    /// # Errors
    /// What broke the connection, or [`is_refusal`]. The kernel sends a few pages after the other, and keeps what broke it to
    /// itself where the first went out. Then it says a broken pipe from then on, which is told as a reset here: to be
    /// taken for a reset is better for a stream that was cut than to look whole.
    pub fn give(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let all = self.held;
        let given =
            without_sigpipe(|| self.give_unheard(to), |given| !matches!(given, Ok(count) if *count == all));
        self.given += (all - self.held) as u64;
        given
    }

    fn give_unheard(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let all = self.held;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while self.held > 0 {
            match retry_on_intr(|| splice(&self.reader, None, to, None, self.held, flags)) {
                Ok(0) | Err(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS) => break,
                Ok(count) => self.held -= count,
                Err(Errno::PIPE) if self.held < all => return Err(Errno::CONNRESET.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all - self.held)
    }

    /// Reads what is in it, as much as there is room for.
    ///
    /// # Errors
    /// As read(2): `WouldBlock` if nothing is.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = retry_on_intr(|| read(self.reader.as_fd(), &mut *room))?;
        self.held -= count;
        Ok(count)
    }

    /// Throws away what is in it. False if it cannot be emptied: it must not be used any more.
    pub fn clear(&mut self) -> bool {
        let mut room = [0; 4096];
        while self.held > 0 {
            if !matches!(self.read(&mut room), Ok(1..)) {
                return false;
            }
        }
        true
    }
}

/// The pipe of a shard, for all streams between its connections one after the other, if it has one.
#[derive(Debug)]
pub struct StreamPipe(RefCell<Option<Pipe>>);

impl StreamPipe {
    /// With none: streams are copied.
    pub const fn none() -> StreamPipe {
        StreamPipe(RefCell::new(None))
    }

    /// With one. Says so in the log where there is no descriptor for it or it may not be large.
    pub fn new() -> StreamPipe {
        match Pipe::new(Gulp::MAX) {
            Ok(pipe) => StreamPipe(RefCell::new(Some(pipe))),
            Err(error) => {
                tracing::info!(%error, "this shard copies streams: it has no pipe to splice through");
                StreamPipe::none()
            }
        }
    }

    /// Does something with it, empty, and throws away what that leaves in it: of a connection that broke, nobody's. `None`:
    /// there is no pipe, or nothing was done.
    pub fn with<T>(&self, work: impl FnOnce(&mut Pipe) -> Option<T>) -> Option<T> {
        let mut pipe = self.0.take()?;
        let done = work(&mut pipe);
        if pipe.clear() {
            self.0.replace(Some(pipe));
        }
        done
    }

    /// How many bytes went through it so far.
    pub fn given(&self) -> u64 {
        self.0.borrow().as_ref().map_or(0, Pipe::given)
    }

    /// Closes it.
    pub fn close(&self) {
        self.0.take();
    }
}

impl Default for StreamPipe {
    fn default() -> StreamPipe {
        StreamPipe::new()
    }
}

/// Whether splice(2) does not work, for this socket or at all, and nothing is wrong with the connection.
pub fn is_refusal(error: &io::Error) -> bool {
    const REFUSALS: [Errno; 5] = [Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|errno| REFUSALS.contains(&errno))
}

/// How much of a stream one sink is given at once through a pipe: as much as it lately took.
///
/// One pipe serves all streams of a shard, so it must be empty between two calls, and what a sink turns out not to take is
/// read into memory. The less often that happens, the less is copied.
#[derive(Debug, Default)]
pub struct Gulp(Cell<u32>);

impl Gulp {
    /// The most, in bytes, and how large a pipe should be. A bare loop of eight streams took 635, 466, 199, 239 and 110 µs of CPU
    /// for a MiB with pipes of 64, 128, 256, 512 and 1024 KiB, and 710 with receives and sends of 64 KiB; what one sink
    /// holds in memory grows with it.
    pub const MAX: usize = 256 << 10;
    /// The least, in bytes: below it a receive and a send cost no more.
    pub const MIN: usize = 64 << 10;

    /// How many bytes to give it; 0: too few to be spliced.
    pub fn bytes(&self) -> usize {
        self.0.get() as usize
    }

    /// It took so many bytes at once, and might have taken more.
    pub fn took_all(&self, bytes: usize) {
        if bytes >= Gulp::MIN {
            self.0.set((bytes * 2).clamp(Gulp::MIN, Gulp::MAX) as u32);
        }
    }

    /// It took no more than these.
    pub fn took(&self, bytes: usize) {
        self.0.set(if bytes < Gulp::MIN { 0 } else { bytes.min(Gulp::MAX) as u32 });
    }
}

/// Whether no call waits for this descriptor, whatever it is told: `O_NONBLOCK` is set.
pub fn never_waits(descriptor: BorrowedFd<'_>) -> bool {
    fcntl_getfl(descriptor).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{receive, send};
    use rustix::net::sockopt::set_socket_linger;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        for end in [&one, &other] {
            end.set_nonblocking(true).unwrap();
        }
        (one, other)
    }

    /// A loopback delivers within the call.
    fn filled(pipe: &mut Pipe, bytes: &[u8]) {
        let (near, far) = pair();
        assert_eq!(send(near.as_fd(), bytes).unwrap(), bytes.len());
        while pipe.held() < bytes.len() {
            pipe.take(far.as_fd(), bytes.len()).unwrap();
        }
    }

    #[test]
    fn bytes_go_through_and_what_is_left_can_be_read() {
        let mut pipe = Pipe::new(1 << 16).unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 251) as u8).collect();
        filled(&mut pipe, &bytes);
        let (near, far) = pair();
        assert_eq!(pipe.give(near.as_fd()).unwrap(), bytes.len());
        assert_eq!(pipe.given(), bytes.len() as u64);
        let mut got = vec![0; bytes.len()];
        let mut count = 0;
        while count < bytes.len() {
            count += receive(far.as_fd(), &mut got[count..]).unwrap_or(0);
        }
        assert!(got == bytes && pipe.held() == 0);
        filled(&mut pipe, &bytes);
        assert_eq!(pipe.read(&mut got[..4_000]).unwrap(), 4_000);
        assert_eq!(pipe.held(), bytes.len() - 4_000);
        assert!(got[..4_000] == bytes[..4_000]);
    }

    #[test]
    fn nothing_now_and_the_end_are_no_verdict_and_a_reset_is_told() {
        let mut pipe = Pipe::new(1 << 16).unwrap();
        let (near, far) = pair();
        assert_eq!(pipe.take(far.as_fd(), 9).unwrap(), None);
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(pipe.take(far.as_fd(), 9).unwrap(), None);
        filled(&mut pipe, b"nobody reads this");
        assert_eq!(pipe.give(near.as_fd()).unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(pipe.held() > 0 && pipe.clear() && pipe.held() == 0);
        let (near, far) = pair();
        set_socket_linger(&near, Some(std::time::Duration::ZERO)).unwrap();
        drop(near);
        assert_eq!(pipe.take(far.as_fd(), 9).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_cannot_be_spliced_is_a_refusal() {
        let mut pipe = Pipe::new(1 << 16).unwrap();
        let folder = std::fs::File::open("/").unwrap();
        assert!(is_refusal(&pipe.take(folder.as_fd(), 9).unwrap_err()));
        assert!(!is_refusal(&Errno::CONNRESET.into()));
    }

    #[test]
    fn a_sink_is_given_what_it_lately_took() {
        let gulp = Gulp::default();
        assert_eq!(gulp.bytes(), 0);
        gulp.took_all(Gulp::MIN - 1);
        assert_eq!(gulp.bytes(), 0, "who takes little is not given much");
        for expected in [2 * Gulp::MIN, Gulp::MAX, Gulp::MAX] {
            gulp.took_all(gulp.bytes().max(Gulp::MIN));
            assert_eq!(gulp.bytes(), expected);
        }
        gulp.took(Gulp::MIN + 5);
        assert_eq!(gulp.bytes(), Gulp::MIN + 5);
        gulp.took(Gulp::MIN - 1);
        assert_eq!(gulp.bytes(), 0);
    }

    #[test]
    fn who_blocks_is_known_before() {
        let (near, _far) = pair();
        assert!(never_waits(near.as_fd()));
        near.set_nonblocking(false).unwrap();
        assert!(!never_waits(near.as_fd()));
    }
}
