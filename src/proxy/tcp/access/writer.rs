//! The thread that writes an access log, and what shards give it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use flume::{Receiver, Sender};
use waterwheel_reactor::{Clock, Time};

use super::{LogFormat, LogSettings, LogTarget, Record};
use crate::shard::Shard;

/// A shard's lines go to the thread when they are so many bytes: some 100 lines, a write of which costs little more than
/// one of a single line.
const BATCH_BYTES: usize = 32 << 10;
/// A shard holds no more than that, if the thread takes nothing. Lines that find no room are lost.
const HELD_BYTES_MAX: usize = 256 << 10;
/// Batches that wait for the thread, of all shards together: 2 MiB as a rule.
const WAITING_MAX: usize = 64;
/// A line is written at the latest so long after it was made, if nothing holds the thread up.
const WRITTEN_WITHIN: Duration = Duration::from_millis(200);
/// The same trouble is told at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// An access log. All clones are one; its thread ends after the last.
#[derive(Clone)]
pub struct AccessLog {
    waiting: Sender<Piece>,
    format: LogFormat,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines that were not written.
    lost: AtomicU64,
    reopen: AtomicBool,
}

enum Piece {
    /// So many lines.
    Lines(Vec<u8>, u64),
    Reopen,
    /// Answered once all that came before is written.
    Flush(Sender<()>),
}

impl AccessLog {
    /// Opens it and starts its thread, which inherits the caller's CPU mask: so before the first shard is pinned.
    ///
    /// # Errors
    /// A file that cannot be opened for appending, or the system has no thread to give.
    pub fn start(settings: &LogSettings) -> io::Result<AccessLog> {
        let output = match &settings.target {
            LogTarget::File(path) if is_pipe(path) => None,
            target => Some(open(target)?),
        };
        let (waiting, pieces) = flume::bounded(WAITING_MAX);
        let shared = Arc::<Shared>::default();
        let (target, seen) = (settings.target.clone(), shared.clone());
        let writer = move || Writer::new(target, output, seen).run(&pieces);
        thread::Builder::new().name("access log".to_owned()).spawn(writer)?;
        Ok(AccessLog { waiting, format: settings.format, shared })
    }

    /// Opens the file anew, for log rotation: what comes later is in the file that has the name then.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        // If there is no room the thread is awake, and sees the flag.
        let _ = self.waiting.try_send(Piece::Reopen);
    }

    /// Waits until everything that shards have given is written, for so long at most; for a thread that is no shard.
    pub fn flush(&self, limit: Duration) {
        let (clock, (done, written)) = (Clock::start(), flume::bounded(1));
        if self.waiting.send_timeout(Piece::Flush(done), limit).is_ok() {
            // What is not written by then is not waited for.
            let _ = written.recv_timeout(limit.saturating_sub(clock.now() - Time::ZERO));
        }
    }

    /// Lines that were lost so far, since there was no room for them or they could not be written.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// One shard's buffer.
    pub(in crate::proxy::tcp) fn on(&self, shard: &Shard) -> Rc<ShardLog> {
        let (held, lines, waits) = Default::default();
        Rc::new(ShardLog { log: self.clone(), shard: shard.clone(), held, lines, waits })
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).field("shared", &self.shared).finish()
    }
}

/// The lines of one shard that the thread does not have yet.
#[derive(Debug)]
pub(in crate::proxy::tcp) struct ShardLog {
    log: AccessLog,
    shard: Shard,
    held: RefCell<String>,
    lines: Cell<u64>,
    /// A task waits for the time to hand them over.
    waits: Cell<bool>,
}

impl ShardLog {
    /// Adds a line. Never waits.
    pub(in crate::proxy::tcp) fn write(self: &Rc<Self>, record: &Record) {
        let mut held = self.held.borrow_mut();
        if held.len() >= HELD_BYTES_MAX {
            self.log.shared.lost.fetch_add(1, Relaxed);
            return;
        }
        record.write(self.log.format, &mut held);
        let is_full = held.len() >= BATCH_BYTES;
        drop(held);
        self.lines.set(self.lines.get() + 1);
        if is_full {
            self.give();
        }
        self.give_later();
    }

    /// Gives the thread what is held, if it takes it.
    fn give(&self) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() || self.log.waiting.is_full() {
            return;
        }
        let piece = Piece::Lines(std::mem::take(&mut *held).into_bytes(), self.lines.take());
        if let Err(refused) = self.log.waiting.try_send(piece)
            && let Piece::Lines(bytes, lines) = refused.into_inner()
        {
            // Somebody else was quicker.
            *held = String::from_utf8(bytes).unwrap_or_default();
            self.lines.set(lines);
        }
    }

    /// In a while, and as often as the thread takes nothing.
    fn give_later(self: &Rc<Self>) {
        if self.lines.get() == 0 || self.waits.replace(true) {
            return;
        }
        let (own, later) = (Rc::downgrade(self), self.shard.sleep(WRITTEN_WITHIN));
        self.shard.spawn_detached("access log", async move {
            later.await;
            if let Some(own) = own.upgrade() {
                own.waits.set(false);
                own.give();
                own.give_later();
            }
        });
    }
}

impl Drop for ShardLog {
    fn drop(&mut self) {
        self.give();
        self.log.shared.lost.fetch_add(self.lines.get(), Relaxed);
    }
}

/// Whether opening it waits for somebody else.
fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo())
}

fn open(target: &LogTarget) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        LogTarget::Out => Box::new(io::stdout()),
        LogTarget::Err => Box::new(io::stderr()),
        LogTarget::File(path) => Box::new(append(path)?),
    })
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The thread.
struct Writer {
    target: LogTarget,
    /// `None`: a pipe that nobody has read yet, or a file that could not be opened again.
    output: Option<Box<dyn Write + Send>>,
    shared: Arc<Shared>,
    /// A line was written in part: the next one begins on a line of its own.
    broken: bool,
    clock: Clock,
    /// When a trouble was told last, and how many lines were lost by then.
    told: Option<Time>,
    told_lost: u64,
}

impl Writer {
    fn new(target: LogTarget, output: Option<Box<dyn Write + Send>>, shared: Arc<Shared>) -> Writer {
        let (broken, clock, told, told_lost) = (false, Clock::start(), None, 0);
        Writer { target, output, shared, broken, clock, told, told_lost }
    }

    /// Until nobody can give anything any more.
    fn run(mut self, pieces: &Receiver<Piece>) {
        for piece in pieces {
            if self.shared.reopen.swap(false, Relaxed) {
                self.reopen();
            }
            match piece {
                Piece::Lines(bytes, lines) => self.lines(&bytes, lines),
                Piece::Reopen => {}
                Piece::Flush(done) => drop(done.try_send(())),
            }
            self.tell_lost();
        }
    }

    /// The file that has the name now; the one before if that cannot be opened.
    fn reopen(&mut self) {
        let LogTarget::File(path) = &self.target else { return };
        match append(path) {
            Ok(file) => {
                self.output = Some(Box::new(file));
                self.broken = false;
                tracing::info!("the access log {} is opened anew", path.display());
            }
            Err(error) => {
                tracing::warn!("the access log {} cannot be opened anew: {error}", path.display());
            }
        }
    }

    fn lines(&mut self, bytes: &[u8], lines: u64) {
        if self.output.is_none() {
            self.output = open(&self.target).inspect_err(|error| self.trouble(error)).ok();
        }
        let broken = std::mem::take(&mut self.broken);
        let Some(output) = &mut self.output else {
            self.shared.lost.fetch_add(lines, Relaxed);
            return;
        };
        let written = if broken { write_all(output, b"\n") } else { Ok(()) };
        let written = written.and_then(|()| write_all(output, bytes));
        let written = written.and_then(|()| output.flush().map_err(|error| (0, error)));
        if let Err((count, error)) = written {
            // Those that went out whole are there.
            let whole = bytes[..count.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.broken = broken || count > 0 && bytes.get(count - 1) != Some(&b'\n');
            self.shared.lost.fetch_add(lines.saturating_sub(whole), Relaxed);
            self.trouble(&error);
        }
    }

    fn may_tell(&mut self) -> bool {
        let now = self.clock.now();
        let may = self.told.is_none_or(|told| now.since(told) >= TOLD_EVERY);
        if may {
            self.told = Some(now);
        }
        may
    }

    fn trouble(&mut self, error: &io::Error) {
        if self.may_tell() {
            self.told_lost = self.shared.lost.load(Relaxed);
            let (target, lost) = (&self.target, self.told_lost);
            tracing::warn!(lost, "the access log {target} cannot be written, lines are lost: {error}");
        }
    }

    fn tell_lost(&mut self) {
        let lost = self.shared.lost.load(Relaxed);
        if lost > self.told_lost && self.may_tell() {
            self.told_lost = lost;
            tracing::warn!(lost, "lines of the access log {} were lost", self.target);
        }
    }
}

/// Writes all of it; an error comes with how much of it was written.
fn write_all(output: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(30);

    /// An output that takes nothing until it is allowed to, and then so many bytes at most before each error.
    struct Gate {
        allowed: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once nobody allows any more, everything goes.
            let _ = self.allowed.recv();
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(room: usize) -> (AccessLog, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let ((allow, allowed), taken) = (mpsc::channel(), Arc::<Mutex<Vec<u8>>>::default());
        let output = Gate { allowed, taken: taken.clone(), room };
        let (waiting, pieces) = flume::bounded(WAITING_MAX);
        let shared = Arc::<Shared>::default();
        let writer = Writer::new(LogTarget::Out, Some(Box::new(output)), shared.clone());
        drop(thread::Builder::new().spawn(move || writer.run(&pieces)).unwrap());
        (AccessLog { waiting, format: LogFormat::Text, shared }, allow, taken)
    }

    /// Writes so many lines on a shard, and answers what the log counts as lost when the shard has ended.
    fn write_on_a_shard(log: &AccessLog, lines: u64) -> u64 {
        use crate::runtime::{Config, Runtime};
        let runtime = Runtime::new(Config::default().cores(1)).unwrap().without_signals();
        let given = log.clone();
        runtime
            .run(move |shard| {
                let own = given.on(&shard);
                async move {
                    for id in 0..lines {
                        own.write(&Record { id, end: "finished", ..Record::default() });
                    }
                    Ok(())
                }
            })
            .unwrap();
        log.lost()
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing_and_every_loss_is_counted() {
        let (log, allow, taken) = gated(usize::MAX);
        let lines = 40_000;
        let lost = write_on_a_shard(&log, lines);
        assert!(lost > 0 && lost < lines, "{lost} of {lines} are lost");
        drop(allow);
        log.flush(LONG);
        let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert_eq!(taken.lines().count() as u64 + lost, lines);
        // The first ones, in order; then those for which there was room at the end.
        let ids = taken.lines().map(|line| line.split(' ').nth(2).unwrap());
        let ids: Vec<u64> = ids.map(|id| id.strip_prefix("id=").unwrap().parse().unwrap()).collect();
        assert!(ids.windows(2).all(|two| two[0] < two[1]), "out of order, or twice");
        assert!(
            taken.len() < (WAITING_MAX + 2) * BATCH_BYTES + HELD_BYTES_MAX + 4096,
            "more was held than is allowed"
        );
    }

    #[test]
    fn a_line_that_was_cut_by_a_full_disk_does_not_spoil_the_next() {
        let (log, allow, taken) = gated(150);
        drop(allow);
        let line = |name: &str| format!("{name} {}\n", "x".repeat(90)).into_bytes();
        for name in ["one", "two"] {
            log.waiting.send(Piece::Lines(line(name), 1)).unwrap();
        }
        log.waiting.send(Piece::Lines(line("three"), 1)).unwrap();
        log.flush(LONG);
        let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = taken.lines().collect();
        assert_eq!(lines.len(), 3, "{taken}");
        assert!(lines[0].starts_with("one") && lines[1].starts_with("two") && lines[2].starts_with("three"));
        assert_eq!((lines[2].len(), log.lost()), (96, 1), "the cut one is lost: {taken}");
    }
}
