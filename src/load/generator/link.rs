//! One connection of a run: taken from request to request, and made anew when it breaks.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_reactor::Time;

use super::super::pool::Due;
use super::super::tally::{Fault, FaultSide, Times};
use super::super::workload::{Answer, Failure, Marks, Workload};
use super::{Generator, remember};
use crate::net::Connection;
use crate::shard::Sleep;

/// The pause after a failed attempt to connect, or after a new connection failed its first request too: at first, and
/// at most. It doubles from one to the other. Without it a target that resets at once would be stormed.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// A connection that was idle for longer may have been closed by the target, which is its right: it is looked at
/// before a request is risked on it. Below that the look would cost more than it finds.
const STALE_AFTER: Duration = Duration::from_millis(10);

/// Keeps connection number `at` of a shard, until the task is cancelled.
pub(super) async fn keep<W: Workload>(generator: Rc<Generator<W>>, at: usize, first: Option<Connection>) {
    let shard = generator.shard.clone();
    let marks = Marks::new(shard.clone());
    let mut limit = shard.sleep_until(Time::NEVER);
    let number = u64::from(generator.share.first) + at as u64;
    let mut connection = match first {
        Some(connection) => connection,
        None => generator.reconnect(at).await,
    };
    let mut client = generator.workload.client(number);
    // How long to wait before the next connection; set by a failure, cleared by an answer.
    let mut pause = Duration::ZERO;
    loop {
        let due = generator.next(at).await;
        let taken = shard.now();
        let mut begin = taken;
        let idle_since = generator.links[at].idle_since.get();
        if taken.since(idle_since) > STALE_AFTER && generator.is_stale(&mut connection) {
            generator.lose(connection);
            connection = generator.reconnect(at).await;
            client = generator.workload.client(number);
            begin = shard.now();
        }
        marks.clear();
        generator.links[at].sent.set(true);
        let exchange = generator.workload.exchange(&mut client, &mut connection, &marks);
        limit.reset(begin + generator.timeout);
        let result = within(&mut limit, exchange).await;
        let done = shard.now();
        let in_time = done <= generator.phase.get().end;
        generator.count(at, due, Times { taken, done, in_time }, &marks, result.as_ref());
        match result {
            Some(Ok(answer)) => {
                pause = Duration::ZERO;
                if answer.reuse {
                    continue;
                }
                generator.lose(connection);
            }
            Some(Err(_)) | None => {
                connection.abort();
                generator.established.set(generator.established.get() - 1);
                if !pause.is_zero() {
                    shard.sleep(pause).await;
                }
                pause = longer(pause);
            }
        }
        connection = generator.reconnect(at).await;
        client = generator.workload.client(number);
    }
}

impl<W: Workload> Generator<W> {
    /// The next request for a connection that is free.
    async fn next(&self, at: usize) -> Due {
        let link = &self.links[at];
        let at_once = self.next_in_loop().or_else(|| self.pool.borrow_mut().free(at));
        let due = match at_once {
            Some(due) => {
                self.in_flight.set(self.in_flight.get() + 1);
                due
            }
            None => self.idle(at).await,
        };
        link.sent.set(false);
        link.busy.set(Some(due));
        due
    }

    /// Waits, idle, until a request is given.
    async fn idle(&self, at: usize) -> Due {
        let link = &self.links[at];
        poll_fn(|cx| match link.given.take() {
            Some(due) => Poll::Ready(due),
            None => {
                remember(&mut link.waker.borrow_mut(), cx);
                Poll::Pending
            }
        })
        .await
    }

    /// A request came to its end. One of an earlier phase was counted when that was closed.
    fn count(
        &self,
        at: usize,
        due: Due,
        times: Times,
        marks: &Marks,
        result: Option<&Result<Answer, Failure>>,
    ) {
        let link = &self.links[at];
        link.busy.set(None);
        link.idle_since.set(times.done);
        self.in_flight.set(self.in_flight.get() - 1);
        if due.phase == self.phase.get().number {
            link.done.set(link.done.get() + 1);
            self.tally.borrow_mut().count(&due, times, marks, result);
            if let Some(interval) = &mut *self.interval.borrow_mut() {
                interval.count(&due, times, result);
            }
        }
        // The last one may be what the end of the phase waits for; while it lasts nobody needs to know.
        if self.in_flight.get() == 0 && times.done >= self.phase.get().end {
            self.wake_conductor();
        }
    }

    /// Whether the target has closed an idle connection, or said something that nobody asked for.
    fn is_stale(&self, connection: &mut Connection) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let fault = match connection.halves().0.poll_fill(&mut cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok([])) => Fault::idle(FaultSide::Peer, "closed by the target"),
            Poll::Ready(Ok(_)) => Fault::idle(FaultSide::Protocol, "bytes that nobody asked for"),
            Poll::Ready(Err(error)) => Fault::of(super::FaultStage::Idle, &error),
        };
        self.tally.borrow_mut().faults.count(fault);
        true
    }

    /// Closes a connection in order.
    fn lose(&self, connection: Connection) {
        drop(connection);
        self.established.set(self.established.get() - 1);
    }

    /// Connects, however long it takes.
    async fn reconnect(&self, at: usize) -> Connection {
        let mut pause = Duration::ZERO;
        loop {
            match self.attempt().await {
                Ok(connection) => {
                    self.links[at].refused.set(false);
                    self.reconnects.set(self.reconnects.get() + 1);
                    return connection;
                }
                Err(fault) => self.tally.borrow_mut().faults.count(fault),
            }
            self.links[at].refused.set(true);
            pause = longer(pause);
            self.shard.sleep(pause).await;
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(PAUSE_FIRST, PAUSE_MOST)
}

/// Waits for `exchange` until `limit` is over: `None`. The timer is the connection's own, so that nothing is allocated
/// and re-arming it is a store; it may wake an idle connection once, for nothing.
async fn within<F: Future>(limit: &mut Sleep, exchange: F) -> Option<F::Output> {
    let mut exchange = pin!(exchange);
    poll_fn(|cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut *limit).poll(cx).map(|()| None),
    })
    .await
}
