//! Moving bytes both ways between two connections: the steady state of a proxy, and how it ends.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::{Side, Time};

use super::connection::Connection;
use super::linger::LINGER;
use super::pump::Direction;
use crate::shard::{Shard, Sleep};

/// How often an exchange looks whether a connection broke whose bytes the other side does not take: nobody waits at it
/// then. A timer costs nothing while bytes flow.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How an exchange between two connections came to its end.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams, and both ends were passed on.
    Finished,
    /// Nothing moved for the idle time; both sides were closed.
    Idle,
    /// Its [time](Pump::end_at) was up, whatever moved; both sides were reset.
    Expired,
    /// A side broke; the other was reset. `Source` is the side that [`Connection::pump`] was called on.
    Broken(Side<io::Error>),
}

/// What an exchange moved, and how it ended.
#[derive(Debug)]
pub struct Exchange {
    /// Bytes from the connection that was pumped to the other.
    pub forth: u64,
    /// Bytes from the other back.
    pub back: u64,
    /// How it ended.
    pub end: End,
}

impl Connection {
    /// Moves bytes both ways until both streams have ended: an end on one side is passed on as an end, while the
    /// other direction goes on; a reset is passed on as a reset, behind the bytes that came before it. Each direction
    /// reads only what the other side takes, so memory is bounded by the sockets' buffers. With `idle`, an exchange in
    /// which nothing moves for so long is closed.
    ///
    /// A side whose peer does not take what came before the other's reset is reset after 2 s without progress, or 60 s
    /// in all. A reset of a side whose bytes the other does not take is noticed within 2 s.
    pub fn pump(self, other: Connection, idle: Option<Duration>) -> Pump {
        let shard = self.shard().clone();
        let patience = idle.map(|limit| Patience {
            idle: Some(limit),
            until: Time::NEVER,
            sleep: shard.sleep(limit),
            last: shard.turn_time(),
            moved: 0,
        });
        Pump {
            near: Some(self),
            far: Some(other),
            forth: Direction::default(),
            back: Direction::default(),
            patience,
            look: None,
            broken: None,
            shard,
        }
    }
}

/// The future of [`Connection::pump`]. Dropping it closes both connections; a side for which bytes are held is reset,
/// so that a stream that was cut does not look whole.
#[derive(Debug)]
#[must_use = "nothing moves unless it is awaited"]
pub struct Pump {
    near: Option<Connection>,
    far: Option<Connection>,
    forth: Direction,
    back: Direction,
    patience: Option<Patience>,
    /// Set while a direction waits for its sink, and a little longer; or while the last words of a side that broke are
    /// passed on.
    look: Option<Sleep>,
    broken: Option<Broken>,
    shard: Shard,
}

/// One timer for both directions; activity is only noted, and the timer looks at the note when it is over.
#[derive(Debug)]
struct Patience {
    idle: Option<Duration>,
    /// Whatever moves.
    until: Time,
    sleep: Sleep,
    /// When something last moved, and how much had moved by then.
    last: Time,
    moved: u64,
}

impl Patience {
    fn due(&self) -> Time {
        self.idle.map_or(self.until, |limit| self.until.min(self.last + limit))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while Pin::new(&mut self.sleep).poll(cx).is_ready() {
            let due = self.due();
            if due <= self.sleep.deadline() {
                return Poll::Ready(if due == self.until { End::Expired } else { End::Idle });
            }
            self.sleep.reset(due);
        }
        Poll::Pending
    }
}

/// A side takes no more bytes. What it said before (the response to a request that it did not want to the end) is
/// still passed on, up to its end or its reset.
#[derive(Debug)]
struct Broken {
    why: Side<io::Error>,
    /// Its own stream had ended before.
    had_ended: bool,
    /// How much of what it said had been passed on when that was last looked at.
    said: u64,
}

impl Pump {
    /// Ends it at that time, whatever moves: both sides are reset, so that a stream that was cut does not look whole. Costs
    /// nothing while bytes move. The last words of a side that broke may take 2 s longer.
    pub fn end_at(&mut self, at: Time) {
        let shard = &self.shard;
        let patience = self.patience.get_or_insert_with(|| Patience {
            idle: None,
            until: at,
            sleep: shard.sleep_until(at),
            last: shard.turn_time(),
            moved: 0,
        });
        patience.until = at;
        patience.sleep.reset(patience.due());
    }

    /// How many bytes went so far: from the connection that was pumped, and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.forth.bytes, self.back.bytes)
    }

    fn exchange(&self, end: End) -> Poll<Exchange> {
        Poll::Ready(Exchange { forth: self.forth.bytes, back: self.back.bytes, end })
    }

    /// Both connections end here and now, in order unless that would make a cut stream look whole.
    fn close(&mut self, cut: bool) {
        for (connection, direction) in [(self.near.take(), &self.back), (self.far.take(), &self.forth)] {
            if let Some(connection) = connection
                && (cut || direction.holds_something())
            {
                connection.abort();
            }
        }
    }

    /// A side broke, and all that it said was passed on: resets the other, once that has what it was sent.
    fn reset_both(&mut self, why: Side<io::Error>) -> Poll<Exchange> {
        let (broken, other, sent) = match &why {
            Side::Source(_) => (self.near.take(), self.far.take(), self.forth.bytes),
            Side::Sink(_) => (self.far.take(), self.near.take(), self.back.bytes),
        };
        if let Some(broken) = broken {
            broken.abort();
        }
        if let Some(other) = other {
            if sent == 0 { other.abort() } else { other.abort_when_sent() }
        }
        self.exchange(End::Broken(why))
    }

    /// From now on only what the broken side said is passed on.
    fn breaks(&mut self, cx: &mut Context<'_>, why: Side<io::Error>, had_ended: bool) -> Poll<Exchange> {
        let said = self.said_by(&why);
        self.broken = Some(Broken { why, had_ended, said });
        self.look = Some(self.shard.sleep_until(self.shard.turn_time() + LINGER));
        self.poll_last_words(cx)
    }

    fn said_by(&self, side: &Side<io::Error>) -> u64 {
        match side {
            Side::Source(_) => self.forth.bytes,
            Side::Sink(_) => self.back.bytes,
        }
    }

    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<Exchange> {
        let (Some(near), Some(far), Some(broken)) = (&mut self.near, &mut self.far, &self.broken) else {
            return Poll::Pending;
        };
        let polled = match &broken.why {
            Side::Source(_) => self.forth.poll(cx, near.halves().0, far.halves().1),
            Side::Sink(_) => self.back.poll(cx, far.halves().0, near.halves().1),
        };
        if polled.is_pending() && self.poll_grace(cx).is_pending() {
            return Poll::Pending;
        }
        let Some(Broken { why, had_ended, .. }) = self.broken.take() else { return Poll::Pending };
        if matches!(polled, Poll::Ready(Ok(()))) && !had_ended {
            // Its stream came to its end after all, and the other side has it whole.
            let (broken, whole) = match &why {
                Side::Source(_) => (self.near.take(), self.far.take()),
                Side::Sink(_) => (self.far.take(), self.near.take()),
            };
            broken.into_iter().for_each(Connection::abort);
            drop(whole);
            return self.exchange(End::Broken(why));
        }
        self.reset_both(why)
    }

    /// Ready when nothing of the last words was taken for too long.
    fn poll_grace(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(said) = self.broken.as_ref().map(|broken| self.said_by(&broken.why)) else {
            return Poll::Ready(());
        };
        let (Some(broken), Some(look)) = (&mut self.broken, &mut self.look) else { return Poll::Ready(()) };
        while Pin::new(&mut *look).poll(cx).is_ready() {
            let now = self.shard.turn_time();
            let is_over = self.patience.as_ref().is_some_and(|patience| patience.until <= now);
            if is_over || std::mem::replace(&mut broken.said, said) == said {
                return Poll::Ready(());
            }
            look.reset(now + LINGER);
        }
        Poll::Pending
    }

    /// While a direction waits for its sink nobody waits at its source; looks there from time to time. Answers the
    /// side that broke.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Option<Side<io::Error>> {
        let stalled = self.forth.is_stalled() || self.back.is_stalled();
        if self.look.is_none() && !stalled {
            return None;
        }
        let next = self.shard.turn_time() + LOOK_EVERY;
        let look = self.look.get_or_insert_with(|| self.shard.sleep_until(next));
        while Pin::new(&mut *look).poll(cx).is_ready() {
            if !stalled {
                self.look = None;
                return None;
            }
            if self.forth.is_stalled()
                && let Some(error) = breakage(cx, self.near.as_mut(), &self.back)
            {
                return Some(Side::Source(error));
            }
            if self.back.is_stalled()
                && let Some(error) = breakage(cx, self.far.as_mut(), &self.forth)
            {
                return Some(Side::Sink(error));
            }
            look.reset(next);
        }
        None
    }

    /// Ready when nothing has moved for too long, or its time is up.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(patience) = &mut self.patience else { return Poll::Pending };
        let moved = self.forth.bytes + self.back.bytes;
        if moved != patience.moved {
            (patience.moved, patience.last) = (moved, self.shard.turn_time());
        }
        patience.poll(cx)
    }
}

/// What broke a connection, if anything did: a flush tells, also while nobody reads. `to_it` is what moves bytes there.
fn breakage(
    cx: &mut Context<'_>,
    connection: Option<&mut Connection>,
    to_it: &Direction,
) -> Option<io::Error> {
    let sink = connection?.halves().1.sink().ok()?;
    match sink.poll_flush(cx) {
        // Our own end, which a reactor may remind us of.
        Poll::Ready(Err(error)) if to_it.is_over() && error.kind() == ErrorKind::BrokenPipe => None,
        Poll::Ready(Err(error)) => Some(error),
        Poll::Ready(Ok(())) | Poll::Pending => None,
    }
}

impl Future for Pump {
    type Output = Exchange;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exchange> {
        let this = &mut *self;
        if this.broken.is_some() {
            return this.poll_last_words(cx);
        }
        let (Some(near), Some(far)) = (&mut this.near, &mut this.far) else { return Poll::Pending };
        let had_ended = (this.forth.is_over(), this.back.is_over());
        let ((near_in, near_out), (far_in, far_out)) = (near.halves(), far.halves());
        let forth = this.forth.poll(cx, near_in, far_out);
        let back = this.back.poll(cx, far_in, near_out);
        match (forth, back) {
            // All that a side said was passed on before its error came.
            (Poll::Ready(Err(Side::Source(error))), _) => return this.reset_both(Side::Source(error)),
            (_, Poll::Ready(Err(Side::Source(error)))) => return this.reset_both(Side::Sink(error)),
            (Poll::Ready(Err(Side::Sink(error))), _) => {
                return this.breaks(cx, Side::Sink(error), had_ended.1);
            }
            (_, Poll::Ready(Err(Side::Sink(error)))) => {
                return this.breaks(cx, Side::Source(error), had_ended.0);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                (this.near, this.far) = (None, None);
                return this.exchange(End::Finished);
            }
            _ => {}
        }
        if let Some(why) = this.poll_look(cx) {
            let had_ended = match &why {
                Side::Source(_) => this.forth.is_over(),
                Side::Sink(_) => this.back.is_over(),
            };
            return this.breaks(cx, why, had_ended);
        }
        if let Poll::Ready(end) = this.poll_patience(cx) {
            this.close(matches!(end, End::Expired));
            return this.exchange(end);
        }
        Poll::Pending
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.close(self.broken.is_some());
    }
}
