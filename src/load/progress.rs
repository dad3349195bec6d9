//! What happened in the last second, for the line that a running command prints.

use std::fmt;

use flume::{Receiver, Sender};

use super::account::Outcome;
use super::histogram::{Histogram, Percentile};
use super::pool::Due;
use super::tally::Times;
use super::units::{count, latency};
use super::workload::{Answer, Failure};

/// What happened on one shard in one second, or on all of them, merged.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Which second of the run, from 0.
    pub second: u64,
    /// Requests planned.
    pub planned: u64,
    /// Requests answered rightly.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests on their way at the end of the second.
    pub in_flight: u64,
    /// Requests waiting for a connection at the end of the second.
    pub waiting: u64,
    /// `done − planned` of good answers.
    pub response: Histogram,
    /// How late we were with the latest request.
    pub wake_lag_max_ns: u64,
}

/// The intervals of all shards on their way to whoever shows them. Each has a histogram, so what was shown is given back
/// and filled again: a shard takes no memory from the system while it measures.
#[derive(Debug)]
pub struct Progress {
    told: Receiver<Box<Interval>>,
    pub(super) spare: Sender<Box<Interval>>,
}

/// The shards' end of it.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    tell: Sender<Box<Interval>>,
    spare: Receiver<Box<Interval>>,
}

/// Intervals that may wait for whoever shows them, about 230 KiB each; beyond it they are dropped, since a run does not
/// wait for a terminal. As many may wait to be filled again.
const INTERVALS_MAX: usize = 256;

impl Progress {
    pub(super) fn new() -> (Teller, Progress) {
        let ((tell, told), (spare, empty)) = (flume::bounded(INTERVALS_MAX), flume::bounded(INTERVALS_MAX));
        (Teller { tell, spare: empty }, Progress { told, spare })
    }

    /// The next interval of any shard, once there is one; `None` when the run is over.
    pub fn next(&self) -> Option<Box<Interval>> {
        self.told.recv().ok()
    }

    /// The next interval, if there is one now.
    pub fn try_next(&self) -> Option<Box<Interval>> {
        self.told.try_recv().ok()
    }

    /// Gives an interval back that is not needed any more.
    pub fn give_back(&self, mut interval: Box<Interval>) {
        interval.clear();
        // Enough of them wait, or the run is over.
        let _dropped = self.spare.try_send(interval);
    }
}

impl Teller {
    /// Hands out an interval. If nobody looks any more, or not fast enough, the run goes on without.
    pub(super) fn tell(&self, interval: Box<Interval>) {
        let _dropped = self.tell.try_send(interval);
    }

    /// One to fill: what was given back, or else a new one.
    pub(super) fn empty(&self) -> Box<Interval> {
        self.spare.try_recv().unwrap_or_default()
    }
}

impl Interval {
    /// Forgets everything and keeps the memory.
    fn clear(&mut self) {
        let Interval { second, planned, ok, failed, in_flight, waiting, response, wake_lag_max_ns } = self;
        response.clear();
        let counts = [second, planned, ok, failed, in_flight, waiting, wake_lag_max_ns];
        counts.into_iter().for_each(|count| *count = 0);
    }

    pub(super) fn count(&mut self, due: &Due, times: Times, result: Option<&Result<Answer, Failure>>) {
        match result.map_or(Outcome::Timeout, Outcome::from) {
            Outcome::Ok => {
                self.ok += 1;
                self.response.record(times.done.since(due.planned).as_nanos() as u64);
            }
            _ => self.failed += 1,
        }
        let dispatched = if due.waited { due.dispatched } else { times.taken };
        let lag = dispatched.since(due.planned).as_nanos() as u64;
        self.wake_lag_max_ns = self.wake_lag_max_ns.max(lag);
    }

    /// Adds what another shard counted in the same second.
    pub fn merge(&mut self, other: &Interval) {
        self.planned += other.planned;
        self.ok += other.ok;
        self.failed += other.failed;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.response.merge(&other.response);
        self.wake_lag_max_ns = self.wake_lag_max_ns.max(other.wake_lag_max_ns);
    }

    /// The heading of the lines that [`Display`](fmt::Display) makes.
    pub const HEADING: &str =
        "   t  planned     ok  failed  waiting  in-flight     p50     p99     max  our lag";
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |nanos: Option<u64>| nanos.map_or("-".to_owned(), latency);
        let (planned, ok) = (count(self.planned as f64), count(self.ok as f64));
        write!(
            f,
            "{:>4}  {planned:>7}  {ok:>5}  {:>6}  {:>7}  ",
            self.second + 1,
            self.failed,
            self.waiting
        )?;
        write!(f, "{:>9}  {:>6}  ", self.in_flight, time(self.response.at(Percentile::MEDIAN)))?;
        write!(f, "{:>6}  {:>6}  ", time(self.response.at(Percentile::P99)), time(self.response.max()))?;
        write!(f, "{:>7}", latency(self.wake_lag_max_ns))
    }
}
