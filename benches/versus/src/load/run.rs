//! A measurement's phases: connect, warm up, the window, the end of what is under way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::clients::Pace;
use super::{Generator, Kind, PATIENCE};

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Load that is not measured.
    pub warm_up: Duration,
    /// What is measured.
    pub window: Duration,
}

/// A generator that did nothing for longer has measured itself, or a machine that stood still.
pub const STALL_MAX: Duration = Duration::from_millis(100);

/// What a window gave, with what the probe read before and after.
#[derive(Clone, Debug)]
pub struct Opened<T> {
    /// Messages done, or MiB.
    pub messages: f64,
    /// How long it was.
    pub time: Duration,
    /// The probe's readings at its two ends.
    pub probed: [T; 2],
    /// The longest that the generator itself did nothing.
    pub stall: Duration,
}

impl Generator {
    /// As fast as the subject answers.
    ///
    /// # Errors
    /// A wrong byte, a connection lost, an end that does not come, or the probe's.
    pub fn closed<T>(
        &mut self,
        timing: Timing,
        probe: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<Opened<T>> {
        self.pace = Pace::Closed;
        self.connect_all(self.workload.connections)?;
        let opened = self.windowed(timing, probe, |_, _| {})?;
        self.stop()?;
        Ok(opened)
    }

    /// Messages planned at random times, so many a second in the mean, whatever the subject does. Returns the times from
    /// plan to answer of those planned in the window, sorted, and the window.
    ///
    /// # Errors
    /// As [`closed`](Generator::closed).
    pub fn planned(
        &mut self,
        timing: Timing,
        rate: f64,
        seed: u64,
    ) -> anyhow::Result<(Vec<Duration>, Opened<()>)> {
        ensure!(self.workload.kind == Kind::Exchange, "only exchanges can be planned");
        self.pace = Pace::Planned;
        self.connect_all(self.workload.connections)?;
        self.until("the first answers", |own| own.idle.len() == own.wanted)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut next = Instant::now();
        let (from, mut planned) = (next + timing.warm_up, 0);
        self.responses_from = Some(from);
        let opened = self.windowed(
            timing,
            || Ok(()),
            |own, now| {
                while next <= now {
                    planned += usize::from(next >= from);
                    match own.idle.pop_front() {
                        Some(client) => own.begin(client, Some(next)),
                        None => own.backlog.push_back(next),
                    }
                    // Gaps of a Poisson process.
                    next += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
                }
            },
        )?;
        self.until("the last answers", |own| own.idle.len() == own.wanted)?;
        ensure!(
            self.responses.len() == planned,
            "LOST: {planned} planned, {} answered",
            self.responses.len()
        );
        self.responses.sort_unstable();
        Ok((self.responses.drain(..).map(Duration::from_nanos).collect(), opened))
    }

    /// Makes it so many connections; each has exchanged one message and is idle.
    ///
    /// # Errors
    /// As [`closed`](Generator::closed).
    pub fn idle(&mut self, connections: usize) -> anyhow::Result<()> {
        ensure!(self.workload.kind == Kind::Exchange, "only exchanges can be idle");
        self.pace = Pace::Stopping;
        self.connect_all(connections)?;
        self.until("the first answers", |own| own.idle.len() == own.wanted)
    }

    /// Goes on for a while with nothing new.
    ///
    /// # Errors
    /// A connection is lost.
    pub fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        self.turn_until(Instant::now() + time, &mut |_, _| {})?;
        Ok(())
    }

    fn connect_all(&mut self, connections: usize) -> anyhow::Result<()> {
        self.wanted = connections;
        self.open()?;
        // Of short connections some are always on their way.
        let short = self.workload.kind == Kind::Connect;
        self.until("connecting", |own| if short { own.done > 0 } else { own.connected == own.wanted })
    }

    fn windowed<T>(
        &mut self,
        timing: Timing,
        mut probe: impl FnMut() -> anyhow::Result<T>,
        mut plan: impl FnMut(&mut Generator, Instant),
    ) -> anyhow::Result<Opened<T>> {
        let warm = Instant::now() + timing.warm_up;
        self.turn_until(warm, &mut plan)?;
        let (before, messages, start) = (probe()?, self.messages(), Instant::now());
        let stall = self.turn_until(start + timing.window, &mut plan)?;
        let (time, messages, after) = (start.elapsed(), self.messages() - messages, probe()?);
        if stall > STALL_MAX {
            // What went through or did not says nothing of the subject.
            return Ok(Opened { messages, time, probed: [before, after], stall });
        }
        ensure!(messages > 0.0, "nothing went through: {}", self.state());
        Ok(Opened { messages, time, probed: [before, after], stall })
    }

    /// Says how long the longest turn took.
    fn turn_until(
        &mut self,
        end: Instant,
        plan: &mut impl FnMut(&mut Generator, Instant),
    ) -> anyhow::Result<Duration> {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while last < end {
            plan(self, last);
            self.turn()?;
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
        }
        Ok(longest)
    }

    /// Lets what is under way end.
    fn stop(&mut self) -> anyhow::Result<()> {
        self.pace = Pace::Stopping;
        match self.workload.kind {
            Kind::Exchange => self.until("the last answers", |own| own.idle.len() == own.wanted),
            Kind::Connect => self.until("the last connections", |own| own.connected + own.connecting == 0),
            Kind::Stream => {
                self.until("the ends of streams", |own| own.streams_ended == own.wanted)?;
                self.until("the ends to come back", |own| own.clients.iter().all(|own| own.socket.is_none()))
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Generator) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            ensure!(Instant::now() < end, "waited {PATIENCE:?} for {what} in vain: {}", self.state());
            self.turn().with_context(|| what.to_owned())?;
        }
        Ok(())
    }
}
