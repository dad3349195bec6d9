//! Moving bytes in one direction: half of the steady state of a proxy.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use waterwheel_reactor::Side;

use super::connection::{Receiving, Sending};
use super::layer::poll_forward;
use crate::shard::yield_waker;

/// What one direction may move before others get their turn. More than a socket buffer usually holds, so that it
/// only bounds a peer that is faster than we are.
const BYTES_PER_TURN: usize = 256 * 1024;

/// Moves everything from `from` to `to`, then ends `to`'s stream. Answers how many bytes went.
///
/// While `to` takes nothing, nobody looks at `from`, and so nobody notices that it was reset; between two connections
/// use [`Connection::pump`](super::Connection::pump), which does.
///
/// # Errors
/// Which side failed, and how. Nothing is aborted: that is the caller's choice.
pub async fn pump(from: &mut Receiving, to: &mut Sending) -> Result<u64, Side<io::Error>> {
    let mut direction = Direction::default();
    poll_fn(|cx| direction.poll(cx, from, to)).await?;
    Ok(direction.bytes)
}

/// One direction's progress.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Bytes moved so far.
    pub(super) bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Waits for the source, or was not polled yet.
    #[default]
    Moving,
    /// Waits for the sink, which has not taken all that the source lends.
    Stalled,
    /// The source ended; the sink is told.
    Ending,
    Over,
}

impl Direction {
    /// Ready when the source's end was passed on, or a side failed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Receiving,
        to: &mut Sending,
    ) -> Poll<Result<(), Side<io::Error>>> {
        if matches!(self.state, State::Moving | State::Stalled) {
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
        let layered = from.is_layered();
        let source = from.source().map_err(Side::Source)?;
        let sink = to.sink().map_err(Side::Sink)?;
        let (mut left, mut lends) = (BYTES_PER_TURN, false);
        while left > 0 {
            let forwarded = match layered {
                false => sink.poll_forward(cx, source, left),
                true => poll_forward(sink, cx, source, left),
            };
            match forwarded? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(moved) => {
                    self.bytes += moved as u64;
                    left = left.saturating_sub(moved);
                    lends = false;
                }
                // The source lent something before this attempt: it was the sink that did not take it.
                Poll::Pending if lends => {
                    self.state = State::Stalled;
                    return Poll::Pending;
                }
                Poll::Pending => match source.poll_fill(cx).map_err(Side::Source)? {
                    Poll::Ready(_) => lends = true,
                    Poll::Pending => {
                        self.state = State::Moving;
                        return Poll::Pending;
                    }
                },
            }
        }
        self.state = State::Moving;
        yield_waker(cx.waker());
        Poll::Pending
    }

    /// Whether the sink has not taken what the source lends: then nobody waits at the source.
    pub(super) fn is_stalled(&self) -> bool {
        self.state == State::Stalled
    }

    /// Whether the source's end was passed on.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether bytes, or the end, that the source has given would be lost if it were dropped now.
    pub(super) fn holds_something(&self) -> bool {
        matches!(self.state, State::Stalled | State::Ending)
    }
}
