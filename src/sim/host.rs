//! A machine of a world, and the programs on it.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_sim::Standing;

use super::world::{Started, World};
use crate::mesh::Remote;
use crate::runtime::{Choice, Config, ConfigError, Plan, RunError, Runtime, Stopper};
use crate::shard::Shard;

/// A machine: it has addresses and a name, and runs programs. Clones are the same machine.
#[derive(Clone)]
pub struct Host {
    world: World,
    inner: waterwheel_sim::Host,
}

impl Host {
    pub(super) fn new(world: World, inner: waterwheel_sim::Host) -> Host {
        Host { world, inner }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.inner.name()
    }

    /// Its first address.
    pub fn ip(&self) -> IpAddr {
        self.inner.ips().first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    /// All of its addresses, but for the loopback ones, which every host has.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.inner.ips()
    }

    /// A port at its first address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// A runtime of so many shards on this machine, to declare ports and listeners on and then to be
    /// [started](Host::start).
    ///
    /// # Panics
    /// If there are to be no shards, or more than 1 024.
    pub fn runtime(&self, shards: usize) -> Runtime {
        self.runtime_with(Config::default().cores(shards)).expect("from 1 to 1 024 shards")
    }

    /// The same as `config` says; which reactor and which CPUs it asks for means nothing here.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn runtime_with(&self, config: Config) -> Result<Runtime, ConfigError> {
        runtime(&self.inner, config)
    }

    /// Starts a program: what [`Runtime::run`] would do, beside everything else that the world runs. The runtime must
    /// be one of this host's.
    ///
    /// If it ends with an error before the test stops it, and nobody takes that from the [`Running`], the test fails.
    ///
    /// # Panics
    /// If the runtime is another host's.
    #[track_caller]
    pub fn start<T, F, M>(&self, runtime: Runtime, main: M) -> Running<T>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + 'static,
        M: Fn(Shard) -> F + Send + Sync + 'static,
    {
        let (own, other) = (asked(&self.inner), runtime.choice().to_string());
        assert!(other.contains(&own), "a runtime of another machine was started here: {other}, not {own}");
        let (stopper, remote, drain) = (runtime.stopper(), runtime.remote(), runtime.config().drain);
        let mesh = runtime.mesh().clone();
        let (launches, finish) = runtime.into_launches(None, Location::caller(), main);
        let ended: Arc<Mutex<Slot<T>>> = Arc::default();
        let told = ended.clone();
        self.world.inner().launch(
            &self.inner,
            launches,
            Box::new(move |result| {
                let result = finish(result);
                let mut slot = told.lock().unwrap_or_else(PoisonError::into_inner);
                (slot.over, slot.failed) = (true, result.is_err());
                slot.result = Some(result);
                let waiting = slot.waiting.take();
                drop(slot);
                waiting.into_iter().for_each(Waker::wake);
            }),
        );
        let seen = ended.clone();
        let over = Box::new(move || seen.lock().unwrap_or_else(PoisonError::into_inner).over);
        let (asked, name, seen) = (stopper.clone(), self.name(), ended.clone());
        let lost = Box::new(move || {
            // Who is stopped, or fails, leaves what is on its way.
            let failed = seen.lock().unwrap_or_else(PoisonError::into_inner).failed;
            let ports = if asked.was_asked() || failed { Vec::new() } else { mesh.lost() };
            let told = |(port, lost)| {
                format!("left over: {name}: {lost} messages of port {port} were never received")
            };
            ports.into_iter().map(told).collect()
        });
        let (seen, name) = (ended.clone(), self.name());
        let failure = Box::new(move || {
            let slot = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let error = slot.result.as_ref()?.as_ref().err()?.to_string();
            (!error.contains(waterwheel_sim::PLANNED))
                .then(|| format!("the program on {name} failed: {error}"))
        });
        self.world.has_started(Started { stopper: stopper.clone(), drain, over, failure, lost });
        Running { ended, stopper, remote }
    }

    /// The connections that its programs have, or that wait there to be accepted.
    pub fn connections(&self) -> Vec<Standing> {
        self.world.inner().connections(&self.inner)
    }

    /// How many descriptors its programs have open.
    pub fn descriptors(&self) -> usize {
        self.inner.descriptors()
    }

    /// How many they may have open from now on.
    pub fn limit_descriptors(&self, most: usize) {
        self.inner.limit_descriptors(most);
    }
}

/// A runtime on a simulated host. Its steering seed is the world's to choose, unless it is fixed.
pub(super) fn runtime(host: &waterwheel_sim::Host, config: Config) -> Result<Runtime, ConfigError> {
    config.check()?;
    let shards = config.cores.as_ref().map_or(1, |given| given.value);
    let config = match config.steer_seed {
        Some(_) => config,
        None => config.steer_seed(host.world().number() as u32),
    };
    let plan = Plan { shards: vec![None; shards], notes: Vec::new() };
    let choice = Choice::only(host, &asked(host));
    let mut runtime = Runtime::made_of(config, plan, choice, Arc::new(host.clone()), false);
    runtime.open_admin()?;
    Ok(runtime)
}

/// How a runtime says which machine it is of.
fn asked(host: &waterwheel_sim::Host) -> String {
    format!("on host {}", host.name())
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.name()).finish()
    }
}

/// A program under way: a future of what [`Runtime::run`] would return. Dropping it lets the program run on, to the
/// end of the test.
///
/// # Panics
/// If polled again after it was ready.
#[must_use = "dropping it lets the program run on unwatched; say so with `drop`"]
pub struct Running<T> {
    ended: Arc<Mutex<Slot<T>>>,
    stopper: Stopper,
    remote: Remote,
}

struct Slot<T> {
    over: bool,
    failed: bool,
    result: Option<Result<Vec<T>, RunError>>,
    waiting: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot { over: false, failed: false, result: None, waiting: None }
    }
}

impl<T> Running<T> {
    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it to stop: what runs may finish within `drain`; zero ends it at once. As SIGTERM does, and a second one.
    pub fn stop(&self, drain: Duration) {
        self.stopper.stop(drain);
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.slot().over
    }

    /// The way in for those who are no shards of it: the test.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }
}

impl<T> Future for Running<T> {
    type Output = Result<Vec<T>, RunError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot();
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        assert!(!slot.over, "the end of a program was asked for again");
        slot.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> fmt::Debug for Running<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("over", &self.is_over()).finish()
    }
}
