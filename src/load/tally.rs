//! What one shard counted in one phase.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;
use waterwheel_reactor::Time;

use super::account::{Account, Outcome};
use super::histogram::{Histogram, Responses};
use super::pool::Due;
use super::workload::{Answer, Failure, Marks};

/// Everything that is counted per request. About 1.5 MiB, allocated before the phase.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Where each planned request ended.
    pub account: Account,
    /// `done − planned` of good answers.
    pub response: Histogram,
    /// `done − sent` of good answers.
    pub service: Histogram,
    /// `first byte − sent` of good answers.
    pub first_byte: Histogram,
    /// `end − planned` of requests that were not answered by the end: a lower bound.
    pub unanswered: Histogram,
    /// How late we were: `sent − planned` if a connection was idle, else `dispatched − planned`.
    pub wake_lag: Histogram,
    /// How long requests waited because all connections were busy.
    pub slot_wait: Histogram,
    /// What went wrong.
    pub faults: Faults,
    /// Bytes of content received in good answers.
    pub content_bytes: u64,
    /// Good answers that came while requests were planned, and their bytes of content: what a throughput is made of.
    /// Those that came later do not say how much a second brought.
    pub in_time: InTime,
    /// Requests that were planned within the phase, and dispatched after its end or never: we were too slow.
    pub late: u64,
}

/// What came while requests were planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InTime {
    /// Good answers.
    pub ok: u64,
    /// Bytes of content in them.
    pub content_bytes: u64,
}

/// When things happened to a request that came to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When a connection took it.
    pub(super) taken: Time,
    /// When it had ended.
    pub(super) done: Time,
    /// Whether requests were still planned then.
    pub(super) in_time: bool,
}

impl Tally {
    /// Counts a request that came to its end. `None`: the time was up.
    pub(super) fn count(
        &mut self,
        due: &Due,
        times: Times,
        marks: &Marks,
        result: Option<&Result<Answer, Failure>>,
    ) {
        self.account.count(result.map_or(Outcome::Timeout, Outcome::from));
        if let Some(Err(failure)) = result {
            self.faults.count(Fault::of_exchange(failure));
        }
        let ns = |later: Time, earlier: Time| later.as_nanos().saturating_sub(earlier.as_nanos());
        let sent = marks.sent_at().unwrap_or(times.taken);
        if due.waited {
            self.wake_lag.record(ns(due.dispatched, due.planned));
            self.slot_wait.record(ns(times.taken, due.dispatched));
        } else {
            self.wake_lag.record(ns(times.taken, due.planned));
        }
        if let Some(Ok(answer)) = result
            && answer.accepted
        {
            self.response.record(ns(times.done, due.planned));
            self.service.record(ns(times.done, sent));
            self.first_byte.record(ns(marks.first_byte_at().unwrap_or(times.done), sent));
            self.content_bytes += answer.content_bytes;
            if times.in_time {
                self.in_time.ok += 1;
                self.in_time.content_bytes += answer.content_bytes;
            }
        }
    }

    /// Counts a request that was planned so long ago, and will not be sent.
    pub(super) fn give_up(&mut self, late: Duration) {
        let nanos = late.as_nanos() as u64;
        self.account.planned += 1;
        self.account.unsent += 1;
        self.late += 1;
        self.unanswered.record(nanos);
        self.wake_lag.record(nanos);
    }

    /// Adds what another shard counted.
    pub fn merge(&mut self, other: &Tally) {
        self.account.merge(&other.account);
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.first_byte.merge(&other.first_byte);
        self.unanswered.merge(&other.unanswered);
        self.wake_lag.merge(&other.wake_lag);
        self.slot_wait.merge(&other.slot_wait);
        self.faults.merge(&other.faults);
        self.content_bytes += other.content_bytes;
        self.in_time.ok += other.in_time.ok;
        self.in_time.content_bytes += other.in_time.content_bytes;
        self.late += other.late;
    }

    /// The response times of all planned requests, failures and unanswered ones included.
    pub fn responses(&self) -> Responses<'_> {
        Responses { answered: &self.response, unanswered: &self.unanswered, failed: self.account.failed() }
    }
}

/// Whose fault something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultSide {
    /// This machine ran out of something: descriptors, ports, memory. Voids a run.
    Local,
    /// The target, or the way to it.
    Peer,
    /// The target answered, and wrongly.
    Protocol,
}

/// When something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultStage {
    /// While a connection was made.
    Connect,
    /// While a connection was idle.
    Idle,
    /// While a request was on its way.
    Exchange,
}

/// One kind of thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// When.
    pub stage: FaultStage,
    /// Whose fault.
    pub side: FaultSide,
    /// What, in the system's or our words.
    pub what: String,
}

impl Fault {
    fn of_exchange(failure: &Failure) -> Fault {
        match failure {
            Failure::Connection(error) => Fault::of(FaultStage::Exchange, error),
            Failure::Wrong(what) => {
                Fault { stage: FaultStage::Exchange, side: FaultSide::Protocol, what: what.to_string() }
            }
        }
    }

    /// An error of the system's.
    pub(super) fn of(stage: FaultStage, error: &io::Error) -> Fault {
        // Linux: ENFILE, EMFILE, ENOMEM, EADDRNOTAVAIL (no port left), ENOBUFS.
        const OUT_OF: [i32; 5] = [23, 24, 12, 99, 105];
        let ours = error.raw_os_error().is_some_and(|number| OUT_OF.contains(&number));
        let side = if ours { FaultSide::Local } else { FaultSide::Peer };
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the connection ended without a full answer".to_owned(),
            _ => error.to_string(),
        };
        Fault { stage, side, what }
    }

    /// A connection ended, or said something, while nothing was asked.
    pub(super) fn idle(side: FaultSide, what: &str) -> Fault {
        Fault { stage: FaultStage::Idle, side, what: what.to_owned() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            FaultStage::Connect => "connecting",
            FaultStage::Idle => "idle",
            FaultStage::Exchange => "exchange",
        };
        let side = match self.side {
            FaultSide::Local => " (this machine's fault)",
            FaultSide::Peer | FaultSide::Protocol => "",
        };
        write!(f, "{stage}: {}{side}", self.what)
    }
}

/// What went wrong, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    counts: BTreeMap<Fault, u64>,
    /// Faults that came after there were [`FAULT_KINDS_MAX`] kinds.
    other: u64,
}

/// So many kinds of faults are told apart; a target that words each error anew must not fill the memory.
pub const FAULT_KINDS_MAX: usize = 64;

impl Faults {
    /// Counts one.
    pub(super) fn count(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    fn add(&mut self, fault: Fault, times: u64) {
        if let Some(count) = self.counts.get_mut(&fault) {
            *count += times;
        } else if self.counts.len() < FAULT_KINDS_MAX {
            self.counts.insert(fault, times);
        } else {
            self.other += times;
        }
    }

    /// Adds what another shard counted.
    pub fn merge(&mut self, other: &Faults) {
        other.counts.iter().for_each(|(fault, times)| self.add(fault.clone(), *times));
        self.other += other.other;
    }

    /// Each kind and how often, the most frequent first.
    pub fn by_count(&self) -> Vec<(&Fault, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(fault, times)| (fault, *times)).collect();
        all.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        all
    }

    /// How many were of kinds beyond [`FAULT_KINDS_MAX`].
    pub fn other(&self) -> u64 {
        self.other
    }

    /// How many were this machine's fault.
    pub fn local(&self) -> u64 {
        self.counts.iter().filter(|(fault, _)| fault.side == FaultSide::Local).map(|(_, times)| times).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_our_own_fault() {
        let mut faults = Faults::default();
        for number in [24, 99, 111, 104] {
            faults.count(Fault::of(FaultStage::Connect, &io::Error::from_raw_os_error(number)));
        }
        assert_eq!(faults.local(), 2);
    }

    #[test]
    fn ever_new_errors_fill_no_memory() {
        let mut faults = Faults::default();
        for n in 0..1_000 {
            faults.count(Fault::idle(FaultSide::Peer, &format!("error {n}")));
        }
        assert_eq!(faults.by_count().len(), FAULT_KINDS_MAX);
        assert_eq!(faults.other(), 1_000 - FAULT_KINDS_MAX as u64);
        let mut merged = faults.clone();
        merged.merge(&faults);
        assert_eq!(merged.by_count()[0].1, 2);
    }
}
