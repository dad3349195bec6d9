//! A kept program's output, line by line, to the log.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use waterwheel_reactor::Time;

use super::life::SHORT_OF;
use super::lines::{Lines, printable};
use crate::net::Receiving;
use crate::shard::Shard;

/// Over which time lines are counted.
const SECOND: Duration = Duration::from_secs(1);

/// Which of its two streams a program wrote on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Output,
    /// Its standard error.
    Error,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stream::Output => "stdout",
            Stream::Error => "stderr",
        })
    }
}

/// A line that a program wrote.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The program's [tag](super::Keep::tag).
    pub tag: &'a str,
    /// Where it came.
    pub stream: Stream,
    /// The line without its end; control characters are escaped.
    pub text: &'a str,
    /// It goes on the line before, which was too long.
    pub goes_on: bool,
}

pub(super) type OnLine = Box<dyn Fn(Line<'_>)>;

/// Writes a line to the log.
pub(super) fn log(line: Line<'_>) {
    let Line { tag, stream, text, goes_on } = line;
    let more = if goes_on { "…" } else { "" };
    tracing::info!(program = tag, %stream, "{more}{text}");
}

/// Where the lines of one program go.
pub(super) struct Teller {
    shard: Shard,
    tag: String,
    on_line: OnLine,
    /// Of both streams together.
    per_second: usize,
    counted: RefCell<Counted>,
    lines: [RefCell<Lines>; 2],
}

struct Counted {
    since: Time,
    told: usize,
    dropped: usize,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell_dropped();
    }
}

impl Teller {
    pub(super) fn new(shard: &Shard, tag: &str, on_line: OnLine, most: usize, per_second: usize) -> Teller {
        Teller {
            shard: shard.clone(),
            tag: tag.to_owned(),
            on_line,
            per_second,
            counted: RefCell::new(Counted { since: shard.now(), told: 0, dropped: 0 }),
            lines: [RefCell::new(Lines::new(most)), RefCell::new(Lines::new(most))],
        }
    }

    /// Tells a stream's lines until it ends, giving way to others after each piece.
    pub(super) async fn follow(&self, from: Option<Receiving>, stream: Stream) {
        let Some(mut from) = from else { return };
        loop {
            let filled = match self.untold_for() {
                None => from.fill().await,
                Some(left) => match self.shard.timeout(left, from.fill()).await {
                    Ok(filled) => filled,
                    // It is quiet now.
                    Err(_) => {
                        self.tell_dropped();
                        continue;
                    }
                },
            };
            match filled {
                Ok([]) => return,
                Ok(bytes) => {
                    let count = bytes.len();
                    let mut lines = self.lines[stream as usize].borrow_mut();
                    lines.take(bytes, |line, goes_on| self.tell(stream, line, goes_on));
                    drop(lines);
                    from.consume(count);
                }
                // Without a reader the program would be ended by its next line.
                Err(error) if waterwheel_os::is_shortage(&error) => self.shard.sleep(SHORT_OF).await,
                Err(error) => return tracing::warn!(program = self.tag, %stream, "its output: {error}"),
            }
            self.shard.yield_if_needed().await;
        }
    }

    /// A life of the program is over: what it wrote last is told, with or without the end of a line.
    pub(super) fn end(&self) {
        for stream in [Stream::Output, Stream::Error] {
            let mut lines = self.lines[stream as usize].borrow_mut();
            lines.end(|line, goes_on| self.tell(stream, line, goes_on));
        }
        self.tell_dropped();
    }

    fn tell(&self, stream: Stream, line: &[u8], goes_on: bool) {
        let now = self.shard.now();
        if now.since(self.counted.borrow().since) >= SECOND {
            self.tell_dropped();
            *self.counted.borrow_mut() = Counted { since: now, told: 0, dropped: 0 };
        }
        {
            let mut counted = self.counted.borrow_mut();
            if counted.told >= self.per_second {
                counted.dropped += 1;
                return;
            }
            counted.told += 1;
        }
        (self.on_line)(Line { tag: &self.tag, stream, text: &printable(line), goes_on });
    }

    /// How long it is until lines that were dropped are told of, if there are any.
    fn untold_for(&self) -> Option<Duration> {
        let counted = self.counted.borrow();
        (counted.dropped > 0).then(|| SECOND.saturating_sub(self.shard.now().since(counted.since)))
    }

    fn tell_dropped(&self) {
        let dropped = std::mem::take(&mut self.counted.borrow_mut().dropped);
        if dropped > 0 {
            let most = self.per_second;
            tracing::warn!(
                program = self.tag,
                dropped,
                "lines of output over {most} in a second were dropped"
            );
        }
    }
}
