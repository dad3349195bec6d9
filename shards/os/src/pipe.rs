//! Bytes from one socket to another through a pipe, without a copy.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{read, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::without_sigpipe;

/// What splice(2) moves from one socket to the next: pages that one received and the other sends, which nobody copies.
///
/// The sockets must not be blocking ([`is_blocking`]): splice(2) would wait for them, whatever it is told.
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

    /// Takes up to `most` bytes out of a socket; 0 is the end of the stream. Never waits.
    ///
    /// # Errors
    /// As splice(2): `WouldBlock` if nothing is there, `InvalidInput` for a socket that cannot do it.
    pub fn take(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = retry_on_intr(|| splice(from, None, &self.writer, None, most, flags))?;
        self.held += count;
        Ok(count)
    }

    /// Gives a socket what it takes of what is in it. Never waits and never raises `SIGPIPE`.
    ///
    /// # Errors
    /// As splice(2) and send(2): `WouldBlock` if the socket takes nothing now.
    pub fn give(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let given = without_sigpipe(|| {
            let given = retry_on_intr(|| splice(&self.reader, None, to, None, self.held, flags));
            Poll::Ready(given.map_err(io::Error::from))
        });
        let Poll::Ready(given) = given else { return Err(ErrorKind::WouldBlock.into()) };
        let count = given?;
        self.held -= count;
        self.given += count as u64;
        Ok(count)
    }

    /// Gives a socket all that it takes. What it does not take is left.
    ///
    /// # Errors
    /// As [`give`](Pipe::give), but that it takes nothing now is none.
    pub fn give_all(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        while self.held > 0 {
            match self.give(to) {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

/// Whether calls that are not told otherwise wait for this descriptor.
///
/// # Errors
/// As fcntl(2).
pub fn is_blocking(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(!fcntl_getfl(descriptor)?.contains(OFlags::NONBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{receive, send};
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
            match pipe.take(far.as_fd(), bytes.len()) {
                Ok(count) => assert_ne!(count, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
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
    fn the_end_of_a_stream_is_no_bytes_and_a_broken_one_an_error() {
        let mut pipe = Pipe::new(1 << 16).unwrap();
        let (near, far) = pair();
        assert_eq!(pipe.take(far.as_fd(), 9).unwrap_err().kind(), ErrorKind::WouldBlock);
        near.shutdown(std::net::Shutdown::Write).unwrap();
        while pipe.take(far.as_fd(), 9).is_err() {}
        assert_eq!(pipe.take(far.as_fd(), 9).unwrap(), 0);
        filled(&mut pipe, b"nobody reads this");
        assert_eq!(pipe.give(near.as_fd()).unwrap_err().kind(), ErrorKind::BrokenPipe);
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
        assert!(!is_blocking(near.as_fd()).unwrap());
        near.set_nonblocking(false).unwrap();
        assert!(is_blocking(near.as_fd()).unwrap());
    }
}
