//! Moving bytes between connections: the steady state of a proxy.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use waterwheel_reactor::{Side, Time};

use super::connection::{Connection, Receiving, Sending};
use crate::shard::{Shard, Sleep, yield_waker};

/// What one direction may move before others get their turn. More than a socket buffer usually holds, so that it
/// only bounds a peer that is faster than we are.
const BYTES_PER_TURN: usize = 256 * 1024;

/// Moves everything from `from` to `to`, then ends `to`'s stream. Answers how many bytes went.
///
/// # Errors
/// Which side failed, and how. Nothing is aborted: that is the caller's choice.
pub async fn pump(from: &mut Receiving, to: &mut Sending) -> Result<u64, Side<io::Error>> {
    let mut direction = Direction::default();
    std::future::poll_fn(|cx| direction.poll(cx, from, to)).await?;
    Ok(direction.bytes)
}

/// One direction's progress.
#[derive(Debug, Default)]
struct Direction {
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Moving,
    /// The source ended; the sink is told.
    Ending,
    Over,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Receiving,
        to: &mut Sending,
    ) -> Poll<Result<(), Side<io::Error>>> {
        if self.state == State::Moving {
            std::task::ready!(self.poll_move(cx, from, to))?;
            from.mark_ended();
            self.state = State::Ending;
        }
        if self.state == State::Ending {
            let sink = to.sink().map_err(Side::Sink)?;
            std::task::ready!(sink.poll_shutdown(cx)).map_err(Side::Sink)?;
            self.state = State::Over;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Receiving,
        to: &mut Sending,
    ) -> Poll<Result<(), Side<io::Error>>> {
        let source = from.source().map_err(Side::Source)?;
        let sink = to.sink().map_err(Side::Sink)?;
        let mut left = BYTES_PER_TURN;
        while left > 0 {
            match std::task::ready!(sink.poll_forward(cx, source, left))? {
                0 => return Poll::Ready(Ok(())),
                moved => {
                    self.bytes += moved as u64;
                    left = left.saturating_sub(moved);
                }
            }
        }
        yield_waker(cx.waker());
        Poll::Pending
    }
}

/// How an exchange between two connections came to its end.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams, and both ends were passed on.
    Finished,
    /// Nothing moved for the idle time; both sides were closed.
    Idle,
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
    /// other direction goes on; a reset is passed on as a reset. Each direction reads only what the other side takes,
    /// so memory is bounded by the sockets' buffers. With `idle`, an exchange in which nothing moves for so long is
    /// closed.
    pub fn pump(self, other: Connection, idle: Option<Duration>) -> Pump {
        let shard = self.shard().clone();
        let idle =
            idle.map(|limit| Idle { limit, sleep: shard.sleep(limit), last: shard.turn_time(), moved: 0 });
        Pump {
            near: Some(self),
            far: Some(other),
            forth: Direction::default(),
            back: Direction::default(),
            idle,
            broken: None,
            shard,
        }
    }
}

/// The future of [`Connection::pump`]. Dropping it closes both connections.
#[derive(Debug)]
#[must_use = "nothing moves unless it is awaited"]
pub struct Pump {
    near: Option<Connection>,
    far: Option<Connection>,
    forth: Direction,
    back: Direction,
    idle: Option<Idle>,
    /// The far side broke while it was written to, and how much it had said until then.
    broken: Option<(Side<io::Error>, u64)>,
    shard: Shard,
}

/// One timer for both directions; activity is only noted, and the timer looks at the note when it is over.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    sleep: Sleep,
    /// When something last moved, and how much had moved by then.
    last: Time,
    moved: u64,
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while Pin::new(&mut self.sleep).poll(cx).is_ready() {
            let due = self.last + self.limit;
            if due <= self.sleep.deadline() {
                return Poll::Ready(());
            }
            self.sleep.reset(due);
        }
        Poll::Pending
    }
}

impl Pump {
    /// How many bytes went so far: from the connection that was pumped, and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.forth.bytes, self.back.bytes)
    }

    fn finish(&mut self, end: End) -> Poll<Exchange> {
        let both = [self.near.take(), self.far.take()];
        if matches!(end, End::Broken(_)) {
            both.into_iter().flatten().for_each(Connection::abort);
        }
        Poll::Ready(Exchange { forth: self.forth.bytes, back: self.back.bytes, end })
    }
}

impl Pump {
    /// The other side no longer takes bytes. What it said before (the response to a request that it did not want to
    /// the end) is still passed on, up to its end or its reset.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<Exchange> {
        let (Some(near), Some(far)) = (&mut self.near, &mut self.far) else { return Poll::Pending };
        let polled = self.back.poll(cx, far.halves().0, near.halves().1);
        if polled.is_pending() && self.poll_idle(cx).is_pending() {
            return Poll::Pending;
        }
        self.said_all()
    }

    /// Nothing more comes from the side that broke.
    fn said_all(&mut self) -> Poll<Exchange> {
        let Some((broken, said_before)) = self.broken.take() else { return Poll::Pending };
        if self.back.bytes > said_before {
            // A reset now would destroy these on their way to the client.
            if let Some(far) = self.far.take() {
                far.abort();
            }
            self.near = None;
        }
        self.finish(End::Broken(broken))
    }

    /// Ready when nothing has moved for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idle) = &mut self.idle else { return Poll::Pending };
        let moved = self.forth.bytes + self.back.bytes;
        if moved != idle.moved {
            (idle.moved, idle.last) = (moved, self.shard.turn_time());
        }
        idle.poll(cx)
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
        let ((near_in, near_out), (far_in, far_out)) = (near.halves(), far.halves());
        let said_before = this.back.bytes;
        let forth = this.forth.poll(cx, near_in, far_out);
        let back = this.back.poll(cx, far_in, near_out);
        match (forth, back) {
            (Poll::Ready(Err(broken @ Side::Sink(_))), back) => {
                this.broken = Some((broken, said_before));
                return match back {
                    Poll::Pending => this.poll_last_words(cx),
                    Poll::Ready(_) => this.said_all(),
                };
            }
            (Poll::Ready(Err(broken)), _) => return this.finish(End::Broken(broken)),
            (_, Poll::Ready(Err(broken))) => return this.finish(End::Broken(swap(broken))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return this.finish(End::Finished),
            _ => {}
        }
        if this.poll_idle(cx).is_ready() {
            return this.finish(End::Idle);
        }
        Poll::Pending
    }
}

/// The way back sees the sides the other way round.
fn swap(side: Side<io::Error>) -> Side<io::Error> {
    match side {
        Side::Source(error) => Side::Sink(error),
        Side::Sink(error) => Side::Source(error),
    }
}
