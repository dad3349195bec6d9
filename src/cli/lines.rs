//! Lines on their way to an output that may be read slowly, or by nobody.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use flume::{Receiver, Sender, TrySendError};
use waterwheel_reactor::{Clock, Time};

/// The most pieces of text that wait, a line of the log each: more than a start says, and at 200 bytes a line not
/// more than a few hundred KiB.
const WAITING_MAX: usize = 1_024;

/// Says lines without ever waiting: a thread writes them. What finds [`WAITING_MAX`] waiting is lost, and how much was
/// is written as soon as the output takes something again. All clones are one; the thread ends after the last.
#[derive(Clone)]
pub(super) struct Lines {
    waiting: Sender<Piece>,
    lost: Arc<AtomicU64>,
}

enum Piece {
    Text(Vec<u8>),
    /// Answered once all that was said before is written.
    Flush(Sender<()>),
}

impl Lines {
    /// Starts the thread; it inherits the caller's CPU mask, so start it before the first shard is pinned.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Lines> {
        let (waiting, pieces) = flume::bounded(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write(output, &pieces, &counted))?;
        Ok(Lines { waiting, lost })
    }

    /// Says a text of whole lines.
    pub(super) fn say(&self, text: &[u8]) {
        if let Err(TrySendError::Full(_)) = self.waiting.try_send(Piece::Text(text.to_vec())) {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until everything that was said before is written, for so long at most.
    pub(super) fn flush(&self, limit: Duration) {
        let (clock, (done, written)) = (Clock::start(), flume::bounded(1));
        if self.waiting.send_timeout(Piece::Flush(done), limit).is_ok() {
            // What is not written by then is not waited for.
            let _ = written.recv_timeout(limit.saturating_sub(clock.now() - Time::ZERO));
        }
    }
}

/// Until nobody can say anything any more. What the output refuses is refused for good: it is closed.
fn write(mut output: impl Write, pieces: &Receiver<Piece>, lost: &AtomicU64) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => drop(output.write_all(&text)),
            Piece::Flush(done) => drop(done.try_send(())),
        }
        let lost = lost.swap(0, Relaxed);
        if lost > 0 {
            let _ = writeln!(output, "waterwheel: about {lost} lines were lost here, since nobody read them");
        }
        let _ = output.flush();
    }
}

/// What the log writes at once is one event.
impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.say(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("waiting", &self.waiting.len()).field("lost", &self.lost).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};

    const LONG: Duration = Duration::from_secs(30);

    /// An output that says that a piece came, and takes it only when it is allowed to.
    struct Gate {
        came: mpsc::Sender<()>,
        allowed: mpsc::Receiver<()>,
        taken: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.came.send(());
            // Once nobody allows any more, everything goes.
            let _ = self.allowed.recv();
            self.taken.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lines, mpsc::Receiver<()>, mpsc::Sender<()>, Arc<Mutex<String>>) {
        let ((allow, allowed), (came, comes)) = (mpsc::channel(), mpsc::channel());
        let taken = Arc::<Mutex<String>>::default();
        let lines = Lines::start(Gate { came, allowed, taken: taken.clone() }).unwrap();
        (lines, comes, allow, taken)
    }

    #[test]
    fn an_output_that_nobody_reads_holds_nobody_up_and_losses_are_told() {
        let (lines, comes, allow, taken) = gated();
        lines.say(b"line 0\n");
        comes.recv_timeout(LONG).unwrap();
        // One is with the output; so many wait; what is more than that is lost.
        for number in 1..WAITING_MAX + 101 {
            lines.say(format!("line {number}\n").as_bytes());
        }
        lines.flush(Duration::from_millis(10));
        let lost = lines.lost.load(Relaxed);
        assert_eq!(lost, 100);
        drop(allow);
        lines.flush(LONG);
        let taken = taken.lock().unwrap();
        assert!(taken.contains(&format!("about {lost} lines were lost")), "{taken}");
        let kept: Vec<&str> = taken.lines().filter(|line| line.starts_with("line ")).collect();
        let first: Vec<String> = (0..kept.len()).map(|number| format!("line {number}")).collect();
        assert_eq!(kept, first, "the first ones, in order");
        assert_eq!(kept.len() as u64 + lost, WAITING_MAX as u64 + 101);
    }

    #[test]
    fn what_was_said_is_written_when_flushing_returns() {
        let (lines, _comes, allow, taken) = gated();
        drop(allow);
        lines.say(b"a last word\n");
        lines.flush(LONG);
        assert_eq!(*taken.lock().unwrap(), "a last word\n");
    }

    #[test]
    fn a_closed_output_is_no_reason_to_stop() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let lines = Lines::start(Closed).unwrap();
        for _ in 0..3 {
            lines.say(b"said in vain\n");
            let (done, written) = flume::bounded(1);
            lines.waiting.send(Piece::Flush(done)).unwrap();
            assert_eq!(written.recv_timeout(LONG), Ok(()), "the thread has ended");
        }
    }
}
