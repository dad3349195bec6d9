//! The stall watch: a thread that looks whether shards come to the end of their turns, and says so while one does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use waterwheel_os::ThreadState;
use waterwheel_reactor::{Clock, Time};

use super::stop::Stopper;
use crate::shard::heartbeat::{Glance, Heartbeat};
use crate::shard::task::Foreign;

/// It looks so often within the limit: a stall is reported once it has lasted from one to one and a half of it.
const LOOKS_PER_LIMIT: u32 = 2;
/// But no more often, since looking costs a wake-up; shorter limits are told of at the end of the turn alone.
const PERIOD_LEAST: Duration = Duration::from_millis(5);
/// After so many looks at which no shard had done anything it sleeps, until one begins a turn: who is idle costs nothing.
const IDLE_LOOKS: u32 = 10;
/// After a first report, of two that begin sooner than this after each other the second is counted alone.
const QUIET: Duration = Duration::from_secs(1);
/// A turn that goes on is told of again when it is so many times as long.
const AGAIN: u32 = 10;

/// The watch's thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches all shards of a runtime that are to be no longer in a turn than `limit`. The thread inherits the caller's
    /// CPU mask, so start it before the first shard is pinned.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(stopper: &Stopper, limit: Duration) -> io::Result<Watch> {
        let over = Arc::new(AtomicBool::new(false));
        let (shards, ended) = (stopper.all(), over.clone());
        let thread =
            thread::Builder::new().name("stalls".to_owned()).spawn(move || watch(&shards, limit, &ended))?;
        Ok(Watch { over, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that watches for stalls panicked");
            }
        }
    }
}

fn watch(shards: &[Arc<Foreign>], limit: Duration, over: &AtomicBool) {
    shards.iter().for_each(|shard| shard.heartbeat().set_watch(thread::current()));
    let clock = Clock::start();
    let period = (limit / LOOKS_PER_LIMIT).max(PERIOD_LEAST);
    let mut seen: Vec<Seen> = shards.iter().map(|shard| Seen::new(shard.heartbeat(), clock.now())).collect();
    let mut idle = 0;
    while !over.load(SeqCst) {
        // A shard's stores are seen within far less than a period. So one that began a turn before it could see that it is
        // to wake this thread is seen at the last look before the sleep.
        if idle > IDLE_LOOKS {
            thread::park();
            idle = 0;
        } else {
            thread::park_timeout(period);
        }
        let now = clock.now();
        let mut busy = false;
        for (shard, (foreign, seen)) in shards.iter().zip(&mut seen).enumerate() {
            let heartbeat = foreign.heartbeat();
            let (moved, due) = seen.look(heartbeat.glance(), now, limit);
            if let Some(lasted) = due {
                heartbeat.tell(seen.glance);
                report(shard, heartbeat, seen, lasted);
            }
            busy |= moved || seen.glance.in_turn();
        }
        idle = if busy { 0 } else { idle + 1 };
        let rouse = idle >= IDLE_LOOKS;
        shards.iter().for_each(|shard| shard.heartbeat().set_rouse(rouse));
    }
}

/// What was seen of one shard at the look before.
#[derive(Debug)]
struct Seen {
    glance: Glance,
    /// Since when its beat is the same.
    since: Time,
    /// How long this turn is when it is next told of.
    due: Option<Duration>,
    /// Nothing that begins is told of before.
    quiet_until: Time,
    /// CPU time that its thread had had when it was first seen in this turn.
    cpu: Option<Duration>,
}

impl Seen {
    fn new(heartbeat: &Heartbeat, now: Time) -> Seen {
        Seen { glance: heartbeat.glance(), since: now, due: None, quiet_until: Time::ZERO, cpu: None }
    }

    /// Whether the shard has done anything since the look before, and how long its turn has lasted if that is to be
    /// told now.
    fn look(&mut self, glance: Glance, now: Time, limit: Duration) -> (bool, Option<Duration>) {
        let moved = glance.beat != self.glance.beat;
        self.glance = glance;
        if moved {
            (self.since, self.due, self.cpu) = (now, None, None);
            return (true, None);
        }
        if !glance.in_turn() {
            return (false, None);
        }
        let lasted = now.since(self.since);
        let due = self.due.unwrap_or(limit);
        if lasted < due || self.due.is_none() && now < self.quiet_until {
            return (false, None);
        }
        self.due = Some(lasted * AGAIN);
        self.quiet_until = now + QUIET;
        (false, Some(lasted))
    }
}

#[cold]
fn report(shard: usize, heartbeat: &Heartbeat, seen: &mut Seen, lasted: Duration) {
    let kind = heartbeat.kind(seen.glance.kind);
    let task = kind.map_or("none", |kind| kind.name);
    let spawned = kind.map_or_else(|| "-".to_owned(), |kind| kind.spawned.to_string());
    let thread = heartbeat.thread();
    let state = thread.and_then(|thread| ThreadState::of(thread).ok());
    let does = match (&state, seen.cpu) {
        (Some(state), Some(before)) => {
            let cpu = state.cpu.saturating_sub(before);
            format!("; {state}, and had {} ms of CPU time since the last report", cpu.as_millis())
        }
        (Some(state), None) => format!("; {state}"),
        (None, _) => String::new(),
    };
    seen.cpu = state.map(|state| state.cpu);
    let at_least_ms = lasted.as_millis();
    let thread = thread.unwrap_or_default();
    tracing::warn!(
        shard,
        at_least_ms,
        task,
        %spawned,
        thread,
        "a shard is stalled: its turn does not end{does}. Where it is: eu-stack -1 -p {thread}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn seen() -> Seen {
        let heartbeat = Heartbeat::default();
        Seen::new(&heartbeat, at(0))
    }

    fn glance(beat: u64) -> Glance {
        Glance { beat, kind: 1 }
    }

    /// Looks every 50 ms at what `beat` says, and answers when what was told.
    fn told(beat: impl Fn(u64) -> u64, until: u64) -> Vec<(u64, u64)> {
        let mut seen = seen();
        (1..=until / 50)
            .filter_map(|look| {
                let ms = look * 50;
                let (_, due) = seen.look(glance(beat(ms)), at(ms), LIMIT);
                due.map(|lasted| (ms, lasted.as_millis() as u64))
            })
            .collect()
    }

    #[test]
    fn a_turn_that_does_not_end_is_told_of_once_and_again_when_it_is_ten_times_as_long() {
        assert_eq!(told(|_| 1, 12_000), [(150, 100), (1050, 1000), (10_050, 10_000)]);
    }

    #[test]
    fn turns_that_end_and_sleeps_are_not_told_of() {
        assert_eq!(told(|ms| ms / 100 * 2 + 1, 10_000), []);
        assert_eq!(told(|_| 2, 10_000), [], "it sleeps");
    }

    #[test]
    fn stalls_that_follow_each_other_are_told_of_once_a_second() {
        // Each turn takes 200 ms: the first is told of 100 ms after it was first seen.
        let all = told(|ms| ms / 200 * 2 + 1, 3_100);
        let starts: Vec<u64> = all.iter().map(|(ms, _)| *ms).collect();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 1000), "{all:?}");
        assert!((2..=4).contains(&all.len()), "{all:?}");
    }
}
