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

/// What was planned, and what came of it.
#[derive(Clone, Debug)]
pub struct Planned<T> {
    /// From plan to answer, of the messages planned in the window; sorted.
    pub responses: Vec<Duration>,
    /// From plan to the end of the turn in which the generator came to it and, where a connection was free,
    /// had sent it; of the same messages, sorted. Waiting for a connection is the subject's doing and no part
    /// of it.
    pub late: Vec<Duration>,
    /// The window.
    pub window: Opened<T>,
}

/// What a window gave, with what the probe read before and after.
#[derive(Clone, Debug)]
pub struct Opened<T> {
    /// Messages done, or MiB.
    pub messages: f64,
    /// How long it was.
    pub time: Duration,
    /// The probe's readings at its two ends.
    pub probed: [T; 2],
    /// The longest that the generator itself did nothing: in the window, or so shortly before that what was
    /// planned meanwhile reached into it.
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

    /// Messages planned at random times, so many a second in the mean, whatever the subject does.
    ///
    /// # Errors
    /// As [`closed`](Generator::closed).
    pub fn planned<T>(
        &mut self,
        timing: Timing,
        rate: f64,
        seed: u64,
        probe: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<Planned<T>> {
        ensure!(self.workload.kind == Kind::Exchange, "only exchanges can be planned");
        self.pace = Pace::Planned;
        self.connect_all(self.workload.connections)?;
        self.until("the first answers", |own| own.idle.len() == own.wanted)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut next = Instant::now();
        let from = next + timing.warm_up;
        self.responses_from = Some(from);
        // Planned in the window, and sent in the turn under way.
        let (mut late, mut sending): (Vec<Duration>, Vec<Instant>) = (Vec::new(), Vec::new());
        let mut window = self.windowed(timing, probe, |own, now| {
            late.extend(sending.drain(..).map(|planned| now - planned));
            while next <= now {
                if next >= from {
                    sending.push(next);
                }
                match own.idle.pop_front() {
                    Some(client) => own.begin(client, Some(next)),
                    None => own.backlog.push_back(next),
                }
                // Gaps of a Poisson process.
                next += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
            }
        })?;
        let end = Instant::now();
        late.extend(sending.drain(..).map(|planned| end - planned));
        let stall = self.until("the last answers", |own| own.idle.len() == own.wanted)?;
        window.stall = window.stall.max(stall);
        ensure!(
            self.responses.len() == late.len(),
            "LOST: {} planned, {} answered",
            late.len(),
            self.responses.len()
        );
        late.sort_unstable();
        self.responses.sort_unstable();
        let responses = self.responses.drain(..).map(Duration::from_nanos).collect();
        Ok(Planned { responses, late, window })
    }

    /// Makes it so many connections; each has exchanged one message and is idle.
    ///
    /// # Errors
    /// As [`closed`](Generator::closed).
    pub fn idle(&mut self, connections: usize) -> anyhow::Result<()> {
        ensure!(self.workload.kind == Kind::Exchange, "only exchanges can be idle");
        self.pace = Pace::Stopping;
        self.connect_all(connections)?;
        self.until("the first answers", |own| own.idle.len() == own.wanted)?;
        Ok(())
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
        self.until("connecting", |own| if short { own.done > 0 } else { own.connected == own.wanted })?;
        Ok(())
    }

    fn windowed<T>(
        &mut self,
        timing: Timing,
        mut probe: impl FnMut() -> anyhow::Result<T>,
        mut plan: impl FnMut(&mut Generator, Instant),
    ) -> anyhow::Result<Opened<T>> {
        let warm_up = self.turn_until(Instant::now() + timing.warm_up, &mut plan)?;
        let (warm, before, messages, start) = (Instant::now(), probe()?, self.messages(), Instant::now());
        let window = self.turn_until(start + timing.window, &mut plan)?;
        let (end, messages) = (Instant::now(), self.messages() - messages);
        let after = probe()?;
        // While it probes, the generator does nothing else.
        let probing = (start - warm).max(end.elapsed());
        let stall = warm_up.reaching.max(probing).max(window.longest);
        // After a long one, what went through or did not says nothing of the subject.
        ensure!(stall > STALL_MAX || messages > 0.0, "nothing went through: {}", self.state());
        Ok(Opened { messages, time: end - start, probed: [before, after], stall })
    }

    fn turn_until(
        &mut self,
        end: Instant,
        plan: &mut impl FnMut(&mut Generator, Instant),
    ) -> anyhow::Result<Turns> {
        let (mut last, mut turns) = (Instant::now(), Turns::default());
        while last < end {
            plan(self, last);
            self.turn()?;
            let now = Instant::now();
            turns.note(last, now, end);
            last = now;
        }
        Ok(turns)
    }

    /// Lets what is under way end.
    fn stop(&mut self) -> anyhow::Result<()> {
        self.pace = Pace::Stopping;
        match self.workload.kind {
            Kind::Exchange => self.until("the last answers", |own| own.idle.len() == own.wanted)?,
            Kind::Connect => self.until("the last connections", |own| own.connected + own.connecting == 0)?,
            Kind::Stream => {
                self.until("the ends of streams", |own| own.streams_ended == own.wanted)?;
                self.until("the ends to come back", |own| own.clients.iter().all(|own| own.socket.is_none()))?
            }
        };
        Ok(())
    }

    /// Says how long the longest turn took.
    fn until(&mut self, what: &str, done: impl Fn(&Generator) -> bool) -> anyhow::Result<Duration> {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let end = last + PATIENCE;
        while !done(self) {
            ensure!(last < end, "waited {PATIENCE:?} for {what} in vain: {}", self.state());
            self.turn().with_context(|| what.to_owned())?;
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
        }
        Ok(longest)
    }
}

/// How long turns took.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    longest: Duration,
    /// The longest of those whose backlog reaches beyond the end.
    reaching: Duration,
}

impl Turns {
    /// Messages planned while a turn goes on wait until it ends, and the last of them as long again until
    /// those before it are answered: at half of what a subject bears, a backlog goes as fast as it came.
    fn note(&mut self, from: Instant, to: Instant, end: Instant) {
        let time = to - from;
        self.longest = self.longest.max(time);
        if to + time >= end {
            self.reaching = self.reaching.max(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_reaches_as_far_as_it_was_long() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let reaching = |from, to| {
            let mut turns = Turns::default();
            turns.note(start + ms(from), start + ms(to), start + ms(100));
            (turns.longest, turns.reaching)
        };
        assert_eq!(reaching(10, 50), (ms(40), ms(0)));
        assert_eq!(reaching(10, 60), (ms(50), ms(50)));
        assert_eq!(reaching(90, 120), (ms(30), ms(30)));
    }
}
