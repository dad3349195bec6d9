//! Services and tasks with policies of their own: one that fails on a shard concerns no other.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select, try_join_all};

use super::lifecycle::Owned;
use super::supervision::Failures;
use super::{OnFailure, RunError, Runtime, Service, Supervision};
use crate::net::{Acceptor, Listening, Places};
use crate::shard::stopping::Step;
use crate::shard::{Phase, Shard};

/// What is done about a service, or a [supervised](Shard::supervise) task, that fails on a shard: it panics or returns an
/// error. Its shard and what else runs there go on in any case but the last.
///
/// * [`Restart`](OnFailure::Restart): it begins anew on that shard, after a pause that grows. If it fails too often, as
///   `Escalate`.
/// * [`Ignore`](OnFailure::Ignore): it is over on that shard. The kernel gives its clients to other shards.
/// * [`Escalate`](OnFailure::Escalate): it ends with an error that says why, which is for whoever awaits it; of
///   [`Services`] that is the main future, whose error stops all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Default: restart.
    pub on_failure: OnFailure,
    /// How often, and how soon.
    pub supervision: Supervision,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { on_failure: OnFailure::Restart, supervision: Supervision::default() }
    }
}

/// Something supervised failed, and its policy gives it no other chance.
#[derive(Debug, thiserror::Error)]
#[error("{name} {}: {why:#}", often(*.times, *.within))]
pub struct Escalated {
    /// What it is called.
    pub name: &'static str,
    /// How often it has failed, this time included.
    pub times: usize,
    /// In the time that counts.
    pub within: Duration,
    /// Why it failed the last time.
    pub why: anyhow::Error,
}

fn often(times: usize, within: Duration) -> String {
    if times <= 1 { "failed".to_owned() } else { format!("failed {times} times within {within:?}") }
}

/// What comes after a failure.
enum Next {
    Again,
    Over,
}

/// One thing that is supervised on one shard.
struct Overseer {
    shard: Shard,
    name: &'static str,
    policy: Policy,
    failures: Failures,
}

impl Overseer {
    fn new(shard: &Shard, name: &'static str, policy: Policy) -> Overseer {
        Overseer { shard: shard.clone(), name, policy, failures: Failures::new(policy.supervision) }
    }

    /// It has failed: waits until it may begin anew, if it may.
    async fn after(&mut self, why: anyhow::Error) -> Result<Next, Escalated> {
        let (shard, name, within) = (self.shard.id().index(), self.name, self.policy.supervision.within);
        if self.shard.phase() != Phase::Running {
            tracing::error!(shard, name, "failed while the shard stops: {why:#}");
            return Ok(Next::Over);
        }
        match self.policy.on_failure {
            OnFailure::Ignore => {
                tracing::error!(shard, name, "failed, and the shard goes on without it: {why:#}");
                Ok(Next::Over)
            }
            OnFailure::Escalate => Err(Escalated { name, times: 1, within, why }),
            OnFailure::Restart => {
                let Some(pause) = self.failures.one_more(self.shard.now()) else {
                    return Err(Escalated { name, times: self.failures.count(), within, why });
                };
                tracing::error!(shard, name, ?pause, "failed, and is restarted: {why:#}");
                select(self.shard.sleep(pause), self.shard.core().comes_to(Step::Draining)).await;
                // In the next turn at the soonest, however short the pause.
                self.shard.yield_now().await;
                Ok(if self.shard.phase() == Phase::Running { Next::Again } else { Next::Over })
            }
        }
    }
}

/// What a program's code makes here and now; a panic in it is an error as any other.
fn made<T>(shard: &Shard, name: &'static str, make: impl FnOnce() -> T) -> anyhow::Result<T> {
    shard.contain(name, make).ok_or_else(|| anyhow::anyhow!("it panicked when it was made"))
}

/// Runs work of a program in a task of its own, so that a panic ends nothing else; ended if this is dropped.
async fn contained<T: 'static>(
    shard: &Shard,
    name: &'static str,
    work: impl Future<Output = T> + 'static,
) -> anyhow::Result<T> {
    Owned::new(shard.spawn(name, work)).await.map_err(|_| anyhow::anyhow!("it panicked"))
}

impl Shard {
    /// Runs what `make` makes in a task of its own, again after each failure that the policy allows, until it returns well or
    /// the shard stops. Dropping the future ends the task.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use waterwheel::runtime::{Config, Policy, Runtime};
    ///
    /// let runtime = Runtime::new(Config::default().cores(1))?;
    /// runtime.run(|shard| async move {
    ///     let tries = Cell::new(0);
    ///     let work = || {
    ///         tries.set(tries.get() + 1);
    ///         let tried = tries.get();
    ///         async move { anyhow::ensure!(tried > 2, "not yet"); Ok(()) }
    ///     };
    ///     let policy = Policy::default();
    ///     shard.supervise("work", policy, work).await?;
    ///     anyhow::ensure!(tries.get() == 3);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// It failed, and the policy says to escalate, or allows no more restarts.
    pub async fn supervise<F>(
        &self,
        name: &'static str,
        policy: Policy,
        mut make: impl FnMut() -> F,
    ) -> Result<(), Escalated>
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let mut overseer = Overseer::new(self, name, policy);
        loop {
            let outcome = match made(self, name, &mut make) {
                Ok(work) => contained(self, name, work).await.flatten(),
                Err(panicked) => Err(panicked),
            };
            let Err(why) = outcome else { return Ok(()) };
            if let Next::Over = overseer.after(why).await? {
                return Ok(());
            }
        }
    }
}

/// A service on one shard: one instance after the other, behind one acceptor.
struct Serving<S: Service> {
    shard: Shard,
    name: &'static str,
    listening: Listening,
    settings: S::Settings,
    /// Made with the first instance, and kept: clients that come while there is no instance wait.
    behind: Option<(Acceptor, Places)>,
}

impl<S: Service> Serving<S> {
    async fn supervised(mut self, policy: Policy) -> Result<(), Escalated> {
        let mut overseer = Overseer::new(&self.shard, self.name, policy);
        loop {
            let Err(why) = self.one_life().await else { return Ok(()) };
            if let Next::Over = overseer.after(why).await? {
                if self.behind.is_none() {
                    // Clients that the kernel gave to a part that nobody opens would wait for ever.
                    self.listening.give_up(self.shard.id().index());
                }
                return Ok(());
            }
        }
    }

    /// One instance, to the end of the shard's work or its failure.
    async fn one_life(&mut self) -> anyhow::Result<()> {
        let (shard, name) = (self.shard.clone(), self.name);
        let settings = made(&shard, name, || self.settings.clone())?;
        let own = shard.clone();
        let service =
            Rc::new(contained(&shard, name, async move { S::start(&own, &settings).await }).await??);
        if self.behind.is_none() {
            let limit = made(&shard, name, || service.limit())?.max(1);
            self.behind = Some((shard.accept_on(&self.listening)?, Places::new(limit)));
        }
        let Some((acceptor, places)) = &mut self.behind else { return Ok(()) };
        let instance = service.clone();
        let serve = Rc::new(move |connection| instance.clone().connection(connection));
        let run = made(&shard, name, || service.clone().run())?;
        let mut work = pin!(contained(&shard, name, run));
        match select(pin!(acceptor.serve_for_now(places, &serve)), work.as_mut()).await {
            Either::Left(_) => {}
            Either::Right((ended, _)) => ended.flatten()?,
        }
        // It stops with its shard, or since its own work is done.
        if let Some((acceptor, places)) = self.behind.take() {
            select(pin!(acceptor.finish(&places, &serve)), pin!(shard.time_up())).await;
        }
        let stop = made(&shard, name, || service.stop())?;
        contained(&shard, name, stop).await
    }
}

type Make = Box<dyn Fn(Shard) -> Made + Send + Sync>;
type Made = Pin<Box<dyn Future<Output = Result<(), Escalated>>>>;

/// Services of one program, each with its own listener, settings and policy; on every shard one instance of each.
///
/// ```no_run
/// use waterwheel::net::Connection;
/// use waterwheel::runtime::{OnFailure, Policy, Runtime, Service, Services};
/// use waterwheel::shard::Shard;
///
/// struct Quiet;
/// impl Service for Quiet {
///     type Settings = ();
///     async fn start(_: &Shard, (): &()) -> anyhow::Result<Quiet> {
///         Ok(Quiet)
///     }
///     async fn connection(self: std::rc::Rc<Self>, connection: Connection) -> anyhow::Result<()> {
///         Ok(connection.close().await?)
///     }
/// }
///
/// let runtime = Runtime::from_env()?;
/// let (web, admin) = (runtime.listen("tcp:0.0.0.0:8080")?, runtime.listen("unix:/run/admin.sock")?);
/// let spare = Policy { on_failure: OnFailure::Ignore, ..Policy::default() };
/// let services = Services::new()
///     .with::<Quiet>("web", web, (), Policy::default())
///     .with::<Quiet>("admin", admin, (), spare);
/// runtime.run_services(services)?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Default)]
#[must_use = "services run with Runtime::run_services"]
pub struct Services {
    all: Vec<(&'static str, Make)>,
}

impl Services {
    /// None yet.
    pub fn new() -> Services {
        Services::default()
    }

    /// And this one. `name` says in the log which it is.
    pub fn with<S: Service>(
        mut self,
        name: &'static str,
        listening: Listening,
        settings: S::Settings,
        policy: Policy,
    ) -> Services {
        let make = move |shard: Shard| {
            let (listening, settings) = (listening.clone(), settings.clone());
            Box::pin(Serving::<S> { shard, name, listening, settings, behind: None }.supervised(policy))
                as Made
        };
        self.all.push((name, Box::new(make)));
        self
    }

    /// And this task on every shard: see [`Shard::supervise`].
    pub fn with_task<F>(
        mut self,
        name: &'static str,
        policy: Policy,
        make: impl Fn(Shard) -> F + Clone + Send + Sync + 'static,
    ) -> Services
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let begin = move |shard: Shard| {
            let make = make.clone();
            Box::pin(async move { shard.supervise(name, policy, || make(shard.clone())).await }) as Made
        };
        self.all.push((name, Box::new(begin)));
        self
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|(name, _)| name)).finish()
    }
}

impl Runtime {
    /// Runs services on every shard until the runtime is asked to stop, or all of them are over. A service that fails is
    /// handled as its own policy says; a shard that fails as a whole as with [`serve`](Runtime::serve).
    ///
    /// # Errors
    /// As [`Runtime::run`]; a service that was [`Escalated`] stops all shards, and its error says which one and why.
    pub fn run_services(self, services: Services) -> Result<(), RunError> {
        self.on_failure(OnFailure::Restart).run(move |shard| {
            let all: Vec<Made> = services.all.iter().map(|(_, make)| make(shard.clone())).collect();
            async move {
                try_join_all(all).await?;
                Ok(())
            }
        })?;
        Ok(())
    }
}
