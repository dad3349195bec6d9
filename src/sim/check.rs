//! Many seeds of one test, and what is said of the first that fails.

use std::fs::File;
use std::future::Future;
use std::io::{BufWriter, Write};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use waterwheel_sim::Options;

use super::host;
use super::log::Log;
use super::world::World;
use crate::runtime::{Config, RunError};

/// Events that a failure shows.
const SHOWN: usize = 60;

/// Runs a test in many worlds, one for each seed, and panics at the first in which it fails: see [`Check`].
///
/// # Panics
/// If the test fails for some seed: with the seed, what went wrong, the options, the last events, and how to replay it.
#[track_caller]
pub fn check<F>(test: impl Fn(World) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Check::new().run(test);
}

/// How a test is run: how many seeds, and in what kind of worlds.
#[derive(Clone, Debug)]
#[must_use = "nothing is tried unless it is run"]
pub struct Check {
    seeds: u64,
    /// As many, whatever the environment says.
    most: u64,
    first: u64,
    options: Option<Options>,
    leaks: bool,
    /// Whether variables of the environment count.
    environment: bool,
}

impl Default for Check {
    fn default() -> Check {
        Check::new()
    }
}

/// One world's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The hash of its trace.
    pub hash: u64,
    /// How many events it is over.
    pub events: u64,
    /// Why it failed, if it did, and what is said of it.
    pub failure: Option<String>,
}

impl Check {
    /// A hundred seeds, the options of each drawn too ([`Options::drawn`]).
    pub fn new() -> Check {
        Check { seeds: 100, most: u64::MAX, first: 0, options: None, leaks: true, environment: true }
    }

    /// So many seeds, where `WATERWHEEL_SEEDS` says nothing else.
    ///
    /// # Panics
    /// If that is none: nothing would be tried.
    pub fn seeds(mut self, seeds: u64) -> Check {
        assert!(seeds > 0, "without a seed nothing is tried");
        self.seeds = seeds;
        self
    }

    /// No more seeds than that, whatever `WATERWHEEL_SEEDS` says: for worlds that take very long.
    pub fn at_most(mut self, seeds: u64) -> Check {
        self.most = seeds.max(1);
        self
    }

    /// From this seed on.
    pub fn from(mut self, first: u64) -> Check {
        self.first = first;
        self
    }

    /// In worlds like this one.
    pub fn options(mut self, options: Options) -> Check {
        self.options = Some(options);
        self
    }

    /// Whatever the environment says: for tests of tests.
    pub fn without_environment(mut self) -> Check {
        self.environment = false;
        self
    }

    /// What is left over at the end is no failure.
    pub fn without_leak_check(mut self) -> Check {
        self.leaks = false;
        self
    }

    /// Runs the test for each seed, on as many threads as there are processors.
    ///
    /// # Panics
    /// If the test fails for some seed, or a variable of the environment makes no sense.
    #[track_caller]
    pub fn run<F>(&self, test: impl Fn(World) -> F + Send + Sync + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        if let Some((seed, said)) = self.first_failure(test) {
            let text = format!("the simulation failed with seed {seed}\n\n{said}\n{}", replay(seed));
            panic!("{text}");
        }
    }

    /// The first seed with which the test fails, and what is said of it; `None`: it holds with all of them.
    ///
    /// # Panics
    /// If a variable of the environment makes no sense.
    #[track_caller]
    pub fn first_failure<F>(&self, test: impl Fn(World) -> F + Send + Sync + 'static) -> Option<(u64, String)>
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let made = Location::caller();
        let config = if self.environment { Config::from_env() } else { Ok(Config::default()) };
        let asked = config.unwrap_or_else(|error| panic!("{error}")).simulation;
        if let (Some(path), None) = (&asked.trace, asked.seed) {
            panic!(
                "WATERWHEEL_TRACE={:?}: only one seed is written, and WATERWHEEL_SEED names none",
                path.display()
            );
        }
        let test = Arc::new(test);
        if let Some(seed) = asked.seed {
            return Some((seed, self.once(seed, asked.trace.as_deref().map(file), made, &test).failure?));
        }
        let count = asked.seeds.unwrap_or(self.seeds).min(self.most);
        let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(count as usize);
        let work = || {
            while !failed.load(Relaxed) {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return;
                }
                let seed = self.first.wrapping_add(number);
                if let Some(failure) = self.once(seed, None, made, &test).failure {
                    failed.store(true, Relaxed);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push((seed, failure));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        // Seeds are begun in order, so that the least of those that failed is the first there is.
        failures.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().min()
    }

    /// Runs the test with one seed on this thread.
    #[track_caller]
    pub fn seed<F>(&self, seed: u64, test: impl Fn(World) -> F + Send + Sync + 'static) -> Ending
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.once(seed, None, Location::caller(), &Arc::new(test))
    }

    /// The same; every event is written to `out`, a line of JSON each.
    #[track_caller]
    pub fn traced<F>(
        &self,
        seed: u64,
        out: impl Write + Send + 'static,
        test: impl Fn(World) -> F + Send + Sync + 'static,
    ) -> Ending
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        self.once(seed, Some(Ok(Box::new(out))), Location::caller(), &Arc::new(test))
    }

    fn once<F, T>(&self, seed: u64, trace: Option<Written>, made: Place, test: &Arc<T>) -> Ending
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
        T: Fn(World) -> F + Send + Sync + 'static,
    {
        let world = match &self.options {
            Some(options) => waterwheel_sim::World::new(seed, options.clone()),
            None => waterwheel_sim::World::drawn(seed),
        };
        let written = trace.map(|out| out.map(|out| world.trace_to(out)));
        let errors = Arc::<Mutex<Vec<String>>>::default();
        let log = Log { world: world.clone(), errors: errors.clone() };
        let driven = tracing::subscriber::with_default(log, || {
            // A panic of the world itself is a failure of this seed too.
            catch_unwind(AssertUnwindSafe(|| self.drive(&world, made, test)))
        });
        let mut failure = match driven {
            Ok(Ok(())) => None,
            Ok(Err(said)) => Some(said),
            Err(_) => Some("the simulation itself panicked".to_owned()),
        };
        let flushed = world.flush_trace().map_err(|error| format!("the trace is not complete: {error}"));
        if let Some(Err(error)) = written.map(|written| written.and(flushed)) {
            failure = Some(failure.map_or(error.clone(), |said| format!("{said}\n{error}")));
        }
        let failure = failure.map(|said| {
            let (options, tail, panics) = (world.options(), world.tail(SHOWN), world.panics());
            let errors = std::mem::take(&mut *errors.lock().unwrap_or_else(PoisonError::into_inner));
            let also = [panics, errors].concat().into_iter().filter(|line| !said.contains(line));
            let also: String = also.map(|line| format!("\n{line}")).collect();
            format!("{said}{also}\n\noptions: {options:?}\n\nthe last events:\n{tail}")
        });
        Ending { hash: world.trace_hash(), events: world.events(), failure }
    }

    fn drive<F, T>(&self, world: &waterwheel_sim::World, made: Place, test: &Arc<T>) -> Result<(), String>
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
        T: Fn(World) -> F + Send + Sync + 'static,
    {
        let machine = world.host("test");
        let runtime =
            host::runtime(&machine, Config::default().cores(1)).map_err(|error| error.to_string())?;
        let (test, inside) = (test.clone(), world.clone());
        let panics = Arc::new(AtomicBool::new(false));
        let allowed = panics.clone();
        let leaks = self.leaks;
        let main = move |shard| {
            let world = World::new(inside.clone(), shard);
            let (body, allowed) = (test(world.clone()), allowed.clone());
            async move {
                let result = body.await;
                allowed.store(world.panics_are_allowed(), Relaxed);
                if result.is_ok() {
                    world.stop_all().await;
                }
                let mut wrong = world.failures();
                if leaks && result.is_ok() {
                    wrong.extend(world.lost());
                }
                match (result, wrong.join("\n")) {
                    (result, failed) if failed.is_empty() => result,
                    (Ok(()), failed) => Err(anyhow::Error::msg(failed)),
                    (Err(error), failed) => Err(anyhow::Error::msg(format!("{error:#}\n{failed}"))),
                }
            }
        };
        let (launches, finish) = runtime.into_launches(None, made, main);
        let ended = Arc::new(Mutex::new(None));
        let told = ended.clone();
        let slot = move || told.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let done = ended.clone();
        world.launch(
            &machine,
            launches,
            Box::new(move |result| {
                *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(finish(result));
            }),
        );
        world.drive(slot).map_err(|stuck| stuck.to_string())?;
        match ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Ok(_)) => {}
            Some(Err(RunError::Main { error, .. })) => return Err(format!("{error:#}")),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the world ended before the test".to_owned()),
        }
        let mut wrong = world.panics();
        if panics.load(Relaxed) {
            wrong.clear();
        }
        if self.leaks {
            wrong.extend(world.left_over().into_iter().map(|left| format!("left over: {left}")));
        }
        let unknown = world.unknown_hosts();
        wrong.extend(
            unknown.into_iter().map(|name| format!("a rule is about host {name}, which there never was")),
        );
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

/// Where a check was called; what its test is known by in reports.
type Place = &'static Location<'static>;

/// Where a trace goes, or why it cannot.
type Written = Result<Box<dyn Write + Send>, String>;

fn file(path: &Path) -> Written {
    match File::create(path) {
        Ok(file) => Ok(Box::new(BufWriter::new(file))),
        Err(error) => Err(format!("cannot write the trace to {}: {error}", path.display())),
    }
}

/// How a failure is seen again.
fn replay(seed: u64) -> String {
    let test = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let command = test.map_or_else(|| "the same command".to_owned(), |name| format!("cargo test {name}"));
    format!(
        "to replay it:  WATERWHEEL_SEED={seed} {command}\n\
         with WATERWHEEL_TRACE=FILE every event is written to FILE, a line of JSON each\n"
    )
}
