//! All shards, started together.

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waterwheel_os::SocketFile;
use waterwheel_reactor::{Backend, Ended, Launch, ListenOptions};

use super::blocking::Pool;
use super::boot::{self, Crew, Outcome, Threads};
use super::choose::{Choice, choose};
use super::config::{Config, ConfigError};
use super::lifecycle::Declared;
use super::listeners::{Files, Listeners};
use super::plan::Plan;
use super::portions::Portions;
use super::reporter::{Report, Reporter};
use super::signal::{Signal, SignalError, Signals};
use super::signal_stream::Act;
use super::stop::Stopper;
use super::supervision::OnFailure;
use super::watch::Watch;
use crate::mesh::{DeclareError, Mesh, Remote, StopGuard};
use crate::metrics::Registry;
use crate::metrics::admin::Admin;
use crate::net::datagram::DatagramGroup;
use crate::net::{Endpoint, EndpointError, Listening, Lookups, ResolveError};
use crate::shard::Shard;
use crate::steer::random_seed;

/// All shards of a program: one pinned thread per core, each with a reactor of the chosen kind.
///
/// To be used in this order: make it ([`from_env`](Runtime::from_env)), declare ports ([`port`](Runtime::port)) and
/// listeners ([`listen`](Runtime::listen)), then [`run`](Runtime::run).
#[derive(Debug)]
pub struct Runtime {
    pub(super) config: Config,
    plan: Plan,
    choice: Choice,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) mesh: Arc<Mesh>,
    stopper: Stopper,
    /// From the start, so that whoever asks a runtime that never ran is told that it has ended.
    guards: Vec<StopGuard>,
    listeners: Files,
    /// Every group of datagram sockets, so that the parts of shards that end are given up.
    pub(super) datagrams: Mutex<Vec<DatagramGroup>>,
    /// Of Unix sockets for datagrams and for what is told of the program; removed with the runtime, whether it ran or not.
    pub(super) other_files: Mutex<Vec<SocketFile>>,
    signals: bool,
    /// Unless the configuration says something else.
    on_failure: OnFailure,
    on_report: Option<Box<dyn Report>>,
    on_signals: Vec<(Signal, Act)>,
    /// Triggers of all shards.
    pub(super) declared: Declared,
    pub(super) metrics: Arc<Registry>,
    /// Where it is told, if it is.
    pub(super) admin: Option<Arc<Admin>>,
}

/// Why a runtime could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting makes no sense, here or anywhere.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An endpoint cannot be read.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A port of this name is there already.
    #[error(transparent)]
    Port(#[from] DeclareError),
    /// A name could not be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The system refuses a listener: the port is in use, there is no permission.
    #[error("cannot listen on {endpoint}: {error}")]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// The system's reason.
        error: std::io::Error,
    },
}

/// Why a run did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The main future of a shard returned an error, and the others were asked to stop.
    #[error("shard {shard}: {error:#}")]
    Main {
        /// Which shard.
        shard: usize,
        /// Its error.
        error: anyhow::Error,
    },
    /// The main task of a shard panicked. The others went on.
    #[error("the main task of shard {shard} panicked")]
    Panicked {
        /// Which shard.
        shard: usize,
    },
    /// Something that a shard cannot do without has failed, as a listener that somebody else has shut down. The others went on.
    #[error("shard {shard} could not go on: {error}")]
    Failed {
        /// Which shard.
        shard: usize,
        /// What has failed, and how.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shard failed again after each restart, more often than [`Supervision`](super::Supervision) allows, and the others were asked to stop.
    #[error("shard {shard} failed {times} times within {within:?}, and is not restarted any more")]
    CrashLoop {
        /// Which shard.
        shard: usize,
        /// How often.
        times: usize,
        /// In the time that counts.
        within: Duration,
    },
    /// Shards were stopped before their main future had returned: the drain ran out of time, or it was cut short.
    #[error("shards {shards:?} were stopped before they had finished")]
    Stopped {
        /// Which shards.
        shards: Vec<usize>,
    },
    /// Reactors failed or roots panicked.
    #[error("{}", list(.0))]
    Reactors(Vec<Ended>),
    /// The system has no thread to give, for looking names up, for reports, or for watching for stalls.
    #[error("cannot start a thread: {0}")]
    Threads(std::io::Error),
    /// The signals cannot be had.
    #[error(transparent)]
    Signals(#[from] SignalError),
}

/// Makes a run's result of what the backend says.
pub(crate) type Finish<T> = Box<dyn FnOnce(Result<(), Vec<Ended>>) -> Result<Vec<T>, RunError> + Send>;

fn list(ended: &[Ended]) -> String {
    ended.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Runtime {
    /// A runtime as the environment says.
    ///
    /// # Errors
    /// A variable that makes no sense; nothing was started.
    pub fn from_env() -> Result<Runtime, StartError> {
        Runtime::new(Config::from_env()?)
    }

    /// The same, with backends of the program's own that the environment may choose by name.
    ///
    /// # Errors
    /// As [`from_env`](Runtime::from_env).
    pub fn from_env_with(backends: &[&'static dyn Backend]) -> Result<Runtime, StartError> {
        Runtime::with_backends(Config::from_env()?, backends)
    }

    /// A runtime as `config` says.
    ///
    /// # Errors
    /// A setting that does not suit this machine.
    pub fn new(config: Config) -> Result<Runtime, StartError> {
        Runtime::with_backends(config, &[])
    }

    /// The same, with backends of the program's own.
    ///
    /// # Errors
    /// As [`new`](Runtime::new).
    pub fn with_backends(config: Config, backends: &[&'static dyn Backend]) -> Result<Runtime, StartError> {
        let plan = Plan::here(&config)?;
        let (backend, choice) = choose(&config, backends)?;
        // Each connection is a descriptor, and the soft limit is low for the sake of programs that use select(2).
        if let Err(error) = waterwheel_os::raise_descriptor_limit() {
            tracing::warn!("the limit of open descriptors stays as it is: {error}");
        }
        let mut runtime = Runtime::made_of(config, plan, choice, Arc::new(backend), true);
        runtime.open_admin()?;
        Ok(runtime)
    }

    /// Of what was decided already; `is_real` if its shards will be threads of this process.
    pub(crate) fn made_of(
        config: Config,
        plan: Plan,
        choice: Choice,
        backend: Arc<dyn Backend>,
        is_real: bool,
    ) -> Runtime {
        let mesh = Mesh::new(plan.shards.len(), config.turn_budgets().messages);
        let guards = (0..mesh.shards()).map(|shard| StopGuard::new(&mesh, shard)).collect();
        let stopper = Stopper::new(&mesh);
        let seed = config.steer_seed.unwrap_or_else(random_seed);
        let listeners = Files(Listeners::new(&config, &plan, &backend, &mesh, seed));
        let metrics = Registry::new(mesh.shards(), choice.reactor, is_real);
        Runtime {
            config,
            plan,
            choice,
            backend,
            mesh,
            stopper,
            guards,
            listeners,
            datagrams: Mutex::default(),
            other_files: Mutex::default(),
            signals: true,
            on_failure: OnFailure::Ignore,
            on_report: None,
            on_signals: Vec::new(),
            declared: Declared::default(),
            metrics,
            admin: None,
        }
    }

    /// Leaves SIGINT, SIGTERM and SIGUSR1 to somebody else: for programs that embed a runtime. Then
    /// [`stopper`](Runtime::stopper) is the way to end it.
    #[must_use]
    pub fn without_signals(mut self) -> Runtime {
        self.signals = false;
        self
    }

    /// What to do on SIGUSR1; ask the shards through the [`Remote`]. Called on a thread of its own, which may wait: a
    /// signal meanwhile asks for one more report, several for no more than that. A report that is still being made when
    /// the run ends is waited for, two seconds at most, and then left to itself.
    #[must_use]
    pub fn on_report(mut self, report: impl Fn(&Remote) + Send + 'static) -> Runtime {
        self.on_report = Some(Box::new(report));
        self
    }

    /// What to do on a signal, also while shards are being restarted; from the run on, in which the signal does not do any
    /// more what it does by default. Called on the thread that gets the signals, which must not wait: it tells somebody
    /// else. Of the [signals that a runtime acts on itself](Signal::OWN) it acts first. [Without
    /// signals](Runtime::without_signals) it is never called. One that cannot be caught is an error of the
    /// [run](Runtime::run).
    #[must_use]
    pub fn on_signal(mut self, signal: Signal, act: impl Fn() + Send + 'static) -> Runtime {
        self.on_signals.push((signal, Act(Box::new(act))));
        self
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.plan.shards.len()
    }

    /// Where each shard runs, and what was decided on the way.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Which backend was taken, and why the others were not.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A handle for threads that are not shards.
    pub fn remote(&self) -> Remote {
        Remote::new(&self.mesh)
    }

    /// Stops the runtime from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Binds an endpoint for all shards. Clients may connect from here on; they are served once a shard calls
    /// [`Shard::accept_on`]. Of a name's addresses the first one counts; a line of the log names the others.
    ///
    /// The file of a Unix socket is removed when the runtime has run, or is dropped. Who may connect to it is the
    /// umask's to say.
    ///
    /// # Errors
    /// The endpoint makes no sense, its name is unknown, or the system refuses it: port in use, no permission.
    pub fn listen(&self, endpoint: &str) -> Result<Listening, StartError> {
        self.listen_with(&endpoint.parse()?, &ListenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`listen`](Runtime::listen).
    pub fn listen_with(&self, endpoint: &Endpoint, options: &ListenOptions) -> Result<Listening, StartError> {
        self.listeners.0.listen(endpoint, options)
    }

    /// Binds listeners while the shards run, too.
    pub fn listeners(&self) -> Listeners {
        self.listeners.0.clone()
    }

    /// What is done about a shard that fails, unless an operator or [`Config::on_failure`] says something else. Of a
    /// runtime that [runs](Runtime::run) a main future the others go on without the shard, of one that
    /// [serves](Runtime::serve) it is restarted.
    #[must_use]
    pub fn on_failure(mut self, otherwise: OnFailure) -> Runtime {
        self.on_failure = otherwise;
        self
    }

    /// Runs `main` on every shard and returns what each returned, in shard order, after the last one ended. A shard
    /// ends when its main future has returned and no closed connection still waits for its peer to have the answer (a
    /// minute at most, and no longer than a drain); its other tasks are dropped then.
    ///
    /// SIGINT or SIGTERM asks all shards to stop ([`Shard::stopping`]) and ends what still runs after the drain time;
    /// a second one ends the drain, and a third does what it does to any program, whatever a shard is stuck in.
    ///
    /// # Errors
    /// A main future that returned an error (the other shards are asked to stop then) or panicked
    /// ([`on_failure`](Runtime::on_failure) says what happens then); shards that were ended before they had finished; reactors that failed.
    #[track_caller]
    pub fn run<T, F, M>(mut self, main: M) -> Result<Vec<T>, RunError>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + 'static,
        M: Fn(Shard) -> F + Send + Sync + 'static,
    {
        self.announce();
        let signals = if self.signals { Some(self.own_signals()?) } else { None };
        let backend = self.backend.clone();
        // Before any thread is pinned, since its threads inherit the mask.
        let lookups = Arc::new(Lookups::new().map_err(RunError::Threads)?);
        let watch = self.config.stall.map(|limit| Watch::start(&self.stopper, limit)).transpose();
        let watch = watch.map_err(RunError::Threads)?;
        let pool = Pool::new(self.config.blocking_threads);
        let board = signals.as_ref().map(|(signals, _)| signals.board());
        let threads = Some(Threads { lookups, workers: pool.workers(), board });
        let (launches, finish) = self.into_launches(threads, Location::caller(), main);
        let ended = backend.run(launches);
        drop((watch, pool));
        drop(signals);
        finish(ended)
    }

    /// One launch per shard, and what makes the run's result of how the backend says that they ended.
    pub(crate) fn into_launches<T, F, M>(
        mut self,
        threads: Option<Threads>,
        made: &'static Location<'static>,
        main: M,
    ) -> (Vec<Launch>, Finish<T>)
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + 'static,
        M: Fn(Shard) -> F + Send + Sync + 'static,
    {
        let outcomes: Arc<Mutex<Vec<Outcome<T>>>> = Arc::default();
        outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .resize_with(self.plan.shards.len(), || Outcome::None);
        let (drain, times) = (self.config.drain, self.config.step_times);
        let crew = Crew {
            lifecycle: Arc::new(self.declared.begin(
                &self.stopper,
                self.shards(),
                times,
                drain,
                self.config.stop_delay,
            )),
            mesh: self.mesh.clone(),
            stopper: self.stopper.clone(),
            budgets: self.config.turn_budgets(),
            portions: Portions::of(&self.config.groups, self.config.quotas),
            drain,
            outcomes: outcomes.clone(),
            threads,
            listeners: self.listeners(),
            datagrams: std::mem::take(&mut *self.datagrams.lock().unwrap_or_else(PoisonError::into_inner)),
            on_failure: self.config.on_failure.unwrap_or(self.on_failure),
            supervision: self.config.supervision,
            main,
            made,
            metrics: self.metrics.clone(),
            admin: self.admin.clone(),
        };
        let listeners = crew.listeners.clone();
        self.metrics.status.listens_on(move || listeners.open());
        let launches = crew.launches(&self.plan, std::mem::take(&mut self.guards));
        // What is left of the runtime, files of sockets among it, goes when the run is over.
        let finish = move |ended: Result<(), Vec<Ended>>| {
            drop(self);
            ended.map_err(RunError::Reactors)?;
            boot::results(std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner)))
        };
        (launches, Box::new(finish))
    }

    /// Messages that nobody received, once the run is over: see [`Mesh::lost`].
    #[cfg(feature = "sim")]
    pub(crate) fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// What runs where, and why.
    fn announce(&self) {
        let cpus: Vec<String> =
            self.plan.shards.iter().map(|cpu| cpu.map_or("any".into(), |cpu| cpu.to_string())).collect();
        let (reactor, shards, steer) = (self.choice.reactor, cpus.len(), self.config.steer);
        tracing::info!(reactor, shards, cpus = cpus.join(","), %steer, "{}", self.choice);
        self.plan.notes.iter().for_each(|note| tracing::info!("{note}"));
    }

    /// The thread that gets the signals never waits: it acts first and speaks after, and leaves reports to another one.
    fn own_signals(&mut self) -> Result<(Signals, Reporter), RunError> {
        let (stopper, drain) = (self.stopper.clone(), self.config.drain);
        let (asking, reporter) =
            Reporter::start(self.on_report.take(), self.remote()).map_err(RunError::Threads)?;
        let delay = self.config.stop_delay;
        let first = if delay.is_zero() { String::new() } else { format!("all goes on for {delay:?}, then ") };
        let asked = AtomicU8::new(0);
        let signals = Signals::own(move |signal| match signal {
            Signal::User1 => asking.ask(),
            _ => match asked.fetch_add(1, Relaxed) {
                0 => {
                    stopper.stop(drain);
                    tracing::info!(
                        "{signal}: {first}what runs may finish within {drain:?}; a second signal ends it at once"
                    );
                }
                1 => {
                    stopper.hurry();
                    tracing::info!("{signal} again: ending at once");
                }
                // A shard is stuck in a turn and cannot hear: the signal does what it would do without us.
                _ => signal.act_as_by_default(),
            },
        })?;
        for (signal, act) in self.on_signals.drain(..) {
            signals.board().act_on(signal, act)?;
        }
        Ok((signals, reporter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use waterwheel_reactor::ConnectOptions;

    fn two_shards() -> Runtime {
        let config = Config::default().cores(2).drain(Duration::from_secs(5));
        Runtime::new(config).expect("two shards").without_signals()
    }

    #[test]
    fn a_name_is_looked_up_and_connected_to_without_blocking_the_shard() {
        let runtime = two_shards();
        let listening = runtime.listen("tcp:127.0.0.1:0").unwrap();
        let port = listening.local().inet().unwrap().port();
        let turns = runtime
            .run(move |shard| {
                let (listening, endpoint) =
                    (listening.clone(), format!("tcp:localhost:{port}").parse().unwrap());
                async move {
                    let _accepting = shard.accept_on(&listening)?;
                    let before = shard.stats().turns;
                    let connection = shard.connect_to(&endpoint, &ConnectOptions::default()).await?;
                    anyhow::ensure!(connection.peer()?.inet().map(|at| at.port()) == Some(port));
                    Ok(shard.stats().turns - before)
                }
            })
            .unwrap();
        assert!(turns.iter().all(|turns| *turns > 0), "looked up inside one turn: {turns:?}");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        let outcome = two_shards().run(|shard| async move {
            let endpoint = "tcp:no-such-host.invalid:80".parse()?;
            Ok(shard.resolve(&endpoint).await?)
        });
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("no-such-host.invalid:80"), "{error}");
    }

    #[test]
    fn an_error_of_one_shard_stops_the_others_and_is_told() {
        let outcome = two_shards().run(|shard| async move {
            anyhow::ensure!(shard.id().index() == 0, "the second shard has had enough");
            shard.stopping().await;
            Ok(())
        });
        let error = outcome.unwrap_err().to_string();
        assert_eq!(error, "shard 1: the second shard has had enough");
    }

    #[test]
    fn a_panic_of_one_main_leaves_the_others_to_finish() {
        let finished = Arc::new(AtomicBool::new(false));
        let seen = finished.clone();
        let outcome = two_shards().run(move |shard| {
            let seen = seen.clone();
            async move {
                assert!(shard.id().index() != 1, "planned");
                shard.sleep(Duration::from_millis(30)).await;
                seen.store(true, Relaxed);
                Ok(())
            }
        });
        assert!(matches!(outcome, Err(RunError::Panicked { shard: 1 })), "{outcome:?}");
        assert!(finished.load(Relaxed), "the other shard was stopped");
    }

    #[test]
    fn a_stop_from_another_thread_ends_what_never_ends() {
        let runtime = two_shards();
        let stopper = runtime.stopper();
        stopper.stop(Duration::from_millis(20));
        let outcome = runtime.run(|_| std::future::pending::<anyhow::Result<()>>());
        assert!(matches!(outcome, Err(RunError::Stopped { ref shards }) if *shards == [0, 1]), "{outcome:?}");
    }
}
