//! How long an origin waits for its client.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::net::{Receiving, Sending};
use crate::shard::{PhaseChange, Shard, Sleep};

/// Waits for one client, within a limit, and not longer than the shard runs.
#[derive(Debug)]
pub(super) struct Patience {
    shard: Shard,
    idle: Duration,
    limit: Sleep,
    stopping: PhaseChange,
}

impl Patience {
    pub(super) fn new(shard: Shard, idle: Duration) -> Patience {
        let (limit, stopping) = (shard.sleep(idle), shard.stopping());
        Patience { shard, idle, limit, stopping }
    }

    /// Begins a new limit: the client did what was waited for.
    pub(super) fn renew(&mut self) {
        self.limit.reset(self.shard.turn_time() + self.idle);
    }

    /// Lets others run if this turn has been long enough.
    pub(super) async fn give_way(&self) {
        self.shard.yield_if_needed().await;
    }

    /// The next bytes, none at the end of the stream; `None` if the time is up or the shard is to stop, and nothing
    /// has come.
    pub(super) async fn fill<'r>(&mut self, receiving: &'r mut Receiving) -> io::Result<Option<&'r [u8]>> {
        // A client that always has more to say must not keep the others waiting.
        self.give_way().await;
        let came = poll_fn(|cx| {
            if receiving.poll_fill(cx).is_ready() {
                return Poll::Ready(true);
            }
            let over = self.is_over(cx) || Pin::new(&mut self.stopping).poll(cx).is_ready();
            if over { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        if !came {
            return Ok(None);
        }
        // What was there a moment ago is lent again at once.
        match receiving.poll_fill(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lent) => lent.map(Some),
            Poll::Pending => Err(io::Error::other("the reactor lent bytes and took them back")),
        }
    }

    /// Sends all bytes; `TimedOut` if the client takes none for too long.
    pub(super) async fn send(&mut self, sending: &mut Sending, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.renew();
            let mut write = std::pin::pin!(sending.write(bytes));
            let taken = poll_fn(|cx| match write.as_mut().poll(cx) {
                Poll::Pending if self.is_over(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                polled => polled,
            })
            .await?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.limit).poll(cx).is_ready()
    }
}
