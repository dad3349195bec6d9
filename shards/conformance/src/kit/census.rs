//! What the process holds: descriptors and threads, as its surroundings and the kernel list them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Clock, Reactor};

use super::{pause, sleep, surroundings};

/// The descriptors and threads of this process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// What each open descriptor is, by its number: `socket:[81337]`. Those of a simulated world count.
    pub descriptors: BTreeMap<i32, String>,
    /// The name of each thread, by its number.
    pub threads: BTreeMap<i32, String>,
}

impl Census {
    /// Counts now.
    ///
    /// # Panics
    /// If `/proc` cannot be read.
    pub fn take() -> Census {
        let descriptors = surroundings().descriptors();
        let threads = listed("/proc/self/task", |number| {
            let name = fs::read_to_string(format!("/proc/self/task/{number}/comm")).ok()?;
            Some(name.trim_end().to_owned())
        });
        Census { descriptors, threads }
    }

    /// Waits until the process holds again what it held at this census: a thread that was joined stays listed for a
    /// moment. For use while no shard runs.
    ///
    /// # Panics
    /// After two seconds; names every descriptor and thread that was left over or lost.
    pub fn assert_restored(&self) {
        let clock = Clock::start();
        let late = clock.now() + PATIENCE;
        loop {
            let now = Census::take();
            if now == *self {
                return;
            }
            assert!(
                clock.now() < late,
                "something is left over or lost:{}",
                Difference { before: self, after: &now }
            );
            pause(Duration::from_millis(5));
        }
    }

    /// The same for descriptors, on a shard that goes on turning meanwhile, so that it can let go of them. Sleeps.
    ///
    /// # Panics
    /// After two seconds; names every descriptor that was left over or lost.
    pub async fn descriptors_restored(&self, reactor: &Rc<dyn Reactor>) {
        let late = reactor.now() + PATIENCE;
        loop {
            let now = Census { threads: self.threads.clone(), ..Census::take() };
            if now == *self {
                return;
            }
            let difference = Difference { before: self, after: &now };
            assert!(reactor.now() < late, "something is left over or lost:{difference}");
            sleep(reactor, Duration::from_millis(5)).await;
        }
    }
}

/// How long the process may take to let go: much longer than it needs, since a busy machine is no leak.
const PATIENCE: Duration = Duration::from_secs(2);

/// The numbers in a directory of `/proc`, with what `describe` says of each; those that went meanwhile left out.
pub(super) fn listed(directory: &str, describe: impl Fn(i32) -> Option<String>) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(directory).expect("/proc is mounted");
    let numbers: Vec<i32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The directory's own descriptor is closed by now, so it describes itself no more.
    numbers.into_iter().filter_map(|number| Some((number, describe(number)?))).collect()
}

struct Difference<'a> {
    before: &'a Census,
    after: &'a Census,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("descriptor", &self.before.descriptors, &self.after.descriptors),
            ("thread", &self.before.threads, &self.after.threads),
        ];
        for (kind, before, after) in kinds {
            for (number, what) in after.iter().filter(|(number, what)| before.get(number) != Some(what)) {
                write!(f, "\n  left over: {kind} {number} ({what})")?;
            }
            for (number, what) in before.iter().filter(|(number, what)| after.get(number) != Some(what)) {
                write!(f, "\n  lost: {kind} {number} ({what})")?;
            }
        }
        Ok(())
    }
}
