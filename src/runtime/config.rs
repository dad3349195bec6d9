//! What an operator or a program may set about a runtime, from the environment or by methods.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::given::Given;
use super::knob::{self, DRAIN_S_MAX, Knob, RESTARTS_MAX, SEEDS_MAX, SHARDS_MAX, SPIN_US_MAX, STALL_MS_MAX};
use super::portions::{GroupShares, Quotas, quota, size};
use super::{CpuList, OnFailure, StepTimes, Supervision};
use crate::net::Endpoint;
use crate::net::quoted::{Bare, Quoted};
use crate::shard::Budgets;
use crate::steer::Mode;

/// What every variable of ours begins with.
const PREFIX: &str = "WATERWHEEL_";

/// How a runtime is set up. Made from the environment ([`Config::from_env`]), then overridden by methods or, text by
/// text, by a command's flags ([`Config::set`]). Whether it suits the machine is checked when the runtime is planned.
///
/// ```
/// use std::time::Duration;
/// use waterwheel::runtime::Config;
/// let config = Config::from_vars([("WATERWHEEL_CORES", "2"), ("HOME", "/root")])?.drain(Duration::from_secs(5));
/// let error = Config::from_vars([("WATERWHEEL_CORES", "two")]).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"WATERWHEEL_CORES="two": not a whole number; allowed: auto, or a number from 1 to 1024"#
/// );
/// # Ok::<(), waterwheel::runtime::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `None`: as many as this process may use.
    pub(crate) cores: Option<Given<usize>>,
    /// `None`: the first ones allowed.
    pub(crate) cpus: Option<Given<CpuList>>,
    pub(crate) reactor: Given<String>,
    pub(crate) uring_off: knob::uring::Features,
    pub(crate) blocking_threads: usize,
    pub(crate) steer: Mode,
    pub(crate) spin: Duration,
    /// `None`: stalls are not reported.
    pub(crate) stall: Option<Duration>,
    pub(crate) drain: Duration,
    pub(crate) stop_delay: Duration,
    pub(crate) log: Given<String>,
    /// `None`: random in each run.
    pub(crate) steer_seed: Option<u32>,
    pub(crate) steer_program: bool,
    /// `None`: as whoever runs it says.
    pub(crate) on_failure: Option<OnFailure>,
    pub(crate) supervision: Supervision,
    pub(crate) step_times: StepTimes,
    pub(super) groups: GroupShares,
    pub(super) quotas: Quotas,
    /// `None`: there is none.
    pub(crate) admin: Option<Given<Endpoint>>,
    pub(crate) simulation: Simulation,
    /// Without `spin` and `stall`, which have knobs of their own.
    budgets: Budgets,
}

/// What simulated tests are asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Simulation {
    /// How many seeds; `None`: as many as the test says.
    pub(crate) seeds: Option<u64>,
    /// The one seed to replay.
    pub(crate) seed: Option<u64>,
    /// Where its events go.
    pub(crate) trace: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cores: None,
            cpus: None,
            reactor: Given::by(Knob::Reactor.variable(), "auto".to_owned()),
            uring_off: Default::default(),
            blocking_threads: 16,
            steer: Mode::default(),
            spin: Duration::ZERO,
            stall: Some(Duration::from_millis(100)),
            drain: Duration::from_secs(30),
            stop_delay: Duration::ZERO,
            log: Given::by(Knob::Log.variable(), "info".to_owned()),
            steer_seed: None,
            steer_program: true,
            on_failure: None,
            supervision: Supervision::default(),
            step_times: StepTimes::default(),
            groups: GroupShares::default(),
            quotas: Quotas::default(),
            admin: None,
            simulation: Simulation::default(),
            budgets: Budgets::default(),
        }
    }
}

/// A setting that makes no sense. Shows who set it, the value, what is wrong and what is allowed, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable that begins like ours and is none.
    #[error("{}={}: no such variable{}; allowed: {}", Bare(.name), Quoted(.value), meant(*.near), variables())]
    Unknown {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// The variable that was probably meant.
        near: Option<&'static str>,
    },
    /// A value that cannot be read.
    #[error("{origin}={}: {wrong}; allowed: {allowed}", Quoted(.value))]
    Malformed {
        /// The variable or flag.
        origin: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        wrong: String,
        /// What would be right.
        allowed: String,
    },
    /// A value that could be right elsewhere, but not on this machine or in this process.
    #[error("{origin}={}: {wrong}; allowed: {allowed}", Quoted(.value))]
    Unusable {
        /// The variable, flag or method.
        origin: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        wrong: String,
        /// What would be right.
        allowed: String,
    },
    /// So many shards, and another number of CPUs for them.
    #[error("{cores}=\"{count}\": contradicts {cpus}=\"{list}\", which names {}; allowed: {}, auto, or one of the two alone", cpus_in_words(.list), .list.len())]
    Contradiction {
        /// Who said how many.
        cores: String,
        /// How many.
        count: usize,
        /// Who said which.
        cpus: String,
        /// Which.
        list: CpuList,
    },
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(String::new, |known| format!(", did you mean {known}?"))
}

fn variables() -> String {
    Knob::ALL.map(Knob::variable).join(", ")
}

fn cpus_in_words(list: &CpuList) -> String {
    if list.len() == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", list.len()) }
}

impl Config {
    /// From the environment; what it does not set has the default.
    ///
    /// # Errors
    /// The first (by name) variable that begins with `WATERWHEEL_` and is unknown or cannot be read. Variables that
    /// Kubernetes sets in every container for a service named `waterwheel` or `waterwheel-…` are passed over.
    pub fn from_env() -> Result<Config, ConfigError> {
        Config::from_vars(std::env::vars_os())
    }

    /// The same from any list of names and values, for programs that have them elsewhere.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_vars<N, V>(vars: impl IntoIterator<Item = (N, V)>) -> Result<Config, ConfigError>
    where
        N: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        Config::default().with_vars(vars)
    }

    /// The environment over this configuration: what it does not set stays.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn with_env(self) -> Result<Config, ConfigError> {
        self.with_vars(std::env::vars_os())
    }

    fn with_vars<N, V>(self, vars: impl IntoIterator<Item = (N, V)>) -> Result<Config, ConfigError>
    where
        N: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let ours: BTreeMap<String, OsString> = vars
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_string_lossy().into_owned(), value.as_ref().to_owned()))
            .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_link(name))
            .collect();
        let mut config = self;
        for (name, value) in ours {
            let text = value.to_string_lossy();
            let Some(knob) = Knob::ALL.into_iter().find(|knob| knob.variable() == name) else {
                let near = knob::nearest(&name);
                return Err(ConfigError::Unknown { name, value: text.into_owned(), near });
            };
            match value.to_str() {
                Some(text) => config.set(knob, &name, text)?,
                None => return Err(malformed(knob, &name, &text, "not text in UTF-8".to_owned())),
            }
        }
        Ok(config)
    }

    /// Sets one knob from text, as a variable or a flag gives it. `origin` is what errors call it: `--cores`.
    ///
    /// # Errors
    /// The text makes no sense; the configuration is as before.
    pub fn set(&mut self, knob: Knob, origin: &str, text: &str) -> Result<(), ConfigError> {
        self.read(knob, origin, text).map_err(|wrong| malformed(knob, origin, text, wrong))
    }

    fn read(&mut self, knob: Knob, origin: &str, text: &str) -> Result<(), String> {
        match knob {
            Knob::Cores if text == "auto" => self.cores = None,
            Knob::Cores => {
                let count = knob::number(text, SHARDS_MAX as u64)? as usize;
                self.cores = Some(Given::by(origin, knob::shard_count(count)?));
            }
            Knob::Cpus => {
                let list = text.parse::<CpuList>().map_err(|error| error.to_string())?;
                self.cpus = Some(Given::by(origin, list));
            }
            Knob::Reactor => self.reactor = Given::by(origin, text.to_owned()),
            Knob::UringOff => self.uring_off = knob::uring::features(text)?,
            Knob::BlockingThreads => {
                let count = knob::number(text, knob::BLOCKING_THREADS_MAX)? as usize;
                self.blocking_threads = blocking_count(count)?;
            }
            Knob::Steer => self.steer = text.parse().map_err(|_| "no such steering mode".to_owned())?,
            Knob::SpinUs => self.spin = Duration::from_micros(knob::number(text, SPIN_US_MAX)?),
            Knob::StallMs => {
                let stall = Duration::from_millis(knob::number(text, STALL_MS_MAX)?);
                self.stall = Some(stall).filter(|stall| !stall.is_zero());
            }
            Knob::DrainS => self.drain = Duration::from_secs(knob::number(text, DRAIN_S_MAX)?),
            Knob::StopDelayS => self.stop_delay = Duration::from_secs(knob::number(text, DRAIN_S_MAX)?),
            Knob::StepsS => self.step_times.set(text)?,
            Knob::Log => self.log = Given::by(origin, knob::log_filter(text)?),
            Knob::SteerSeed => self.steer_seed = Some(knob::seed(text)?),
            Knob::SteerProgram => {
                self.steer_program = match text {
                    "on" => true,
                    "off" => false,
                    _ => return Err("neither on nor off".to_owned()),
                }
            }
            Knob::OnFailure => {
                self.on_failure = Some(text.parse().map_err(|()| "nothing that could be done".to_owned())?);
            }
            Knob::Restarts => self.supervision.restarts = knob::number(text, RESTARTS_MAX)? as u32,
            Knob::Shares => self.groups.set_shares(text)?,
            Knob::LatencyClass => self.groups.set_latency_class(text)?,
            Knob::QueueTimes => self.groups.set_queue_times(text)?,
            Knob::MaxConnections => self.quotas.connections = quota(text)?,
            Knob::MaxDescriptors => self.quotas.descriptors = quota(text)?,
            Knob::MaxBufferedBytes => self.quotas.buffered_bytes = size(text)?,
            Knob::Admin => self.admin = knob::admin(text)?.map(|at| Given::by(origin, at)),
            Knob::Seeds => match knob::number(text, SEEDS_MAX)? {
                0 => return Err("nothing would be tried".to_owned()),
                count => self.simulation.seeds = Some(count),
            },
            Knob::Seed => self.simulation.seed = Some(knob::number(text, u64::MAX)?),
            Knob::Trace if text.is_empty() => return Err("not a path".to_owned()),
            Knob::Trace => self.simulation.trace = Some(PathBuf::from(text)),
        }
        Ok(())
    }

    /// How many shards, from 1 to 1 024.
    pub fn cores(mut self, count: usize) -> Config {
        self.cores = Some(Given::by("Config::cores", count));
        self
    }

    /// The CPUs that the shards are pinned to, in the order of the shards.
    pub fn cpus(mut self, list: CpuList) -> Config {
        self.cpus = Some(Given::by("Config::cpus", list));
        self
    }

    /// The reactor by name, or `auto`.
    pub fn reactor(mut self, name: impl Into<String>) -> Config {
        self.reactor = Given::by("Config::reactor", name.into());
        self
    }

    /// What the reactor `uring` does without, where a kernel has it wrong.
    #[cfg(feature = "uring")]
    pub fn uring_off(mut self, off: super::UringFeatures) -> Config {
        self.uring_off = off;
        self
    }

    /// The most threads for [work that blocks](crate::shard::Shard::blocking), from 1 to 1 024.
    pub fn blocking_threads(mut self, count: usize) -> Config {
        self.blocking_threads = count;
        self
    }

    /// What decides which shard owns a connection.
    pub fn steer(mut self, mode: Mode) -> Config {
        self.steer = mode;
        self
    }

    /// How long an idle shard spins before it parks. Costs a whole core; only for shards with a core of their own.
    pub fn spin(mut self, spin: Duration) -> Config {
        self.spin = spin;
        self
    }

    /// How long a turn may take before it is reported; `None`: never reported.
    pub fn stall(mut self, stall: Option<Duration>) -> Config {
        self.stall = stall;
        self
    }

    /// How long connections may take to end once the program stops.
    pub fn drain(mut self, drain: Duration) -> Config {
        self.drain = drain;
        self
    }

    /// How long a program that is asked to stop goes on as before, while `/ready` of the admin endpoint says that it is
    /// stopping: as long as a load balancer takes to notice. Then the drain begins; a second signal ends the delay and
    /// the drain at once. At the same time as the triggers of [`When::BeforeStop`](super::When::BeforeStop), whose step lasts so
    /// long at least. A shard that fails meanwhile is restarted as at any other time.
    pub fn stop_delay(mut self, delay: Duration) -> Config {
        self.stop_delay = delay;
        self
    }

    /// Fixes the seed of the steering hash, so that a successor process places connections alike.
    pub fn steer_seed(mut self, seed: u32) -> Config {
        self.steer_seed = Some(seed);
        self
    }

    /// Whether the kernel is given a program that places connections where they belong. Without it shards hand them over.
    pub fn steer_program(mut self, given: bool) -> Config {
        self.steer_program = given;
        self
    }

    /// What is done about a shard whose main future panics or whose reactor fails.
    pub fn on_failure(mut self, done: OnFailure) -> Config {
        self.on_failure = Some(done);
        self
    }

    /// How often a shard is restarted, and how soon.
    pub fn supervision(mut self, supervision: Supervision) -> Config {
        self.supervision = supervision;
        self
    }

    /// Other limits for a turn. The idle spin and the stall report have settings of their own ([`Config::spin`],
    /// [`Config::stall`]), which count.
    pub fn budgets(mut self, budgets: Budgets) -> Config {
        self.budgets = budgets;
        self
    }

    /// The limits of a turn, everything considered.
    pub(crate) fn turn_budgets(&self) -> Budgets {
        let messages = self.budgets.messages.max(1);
        Budgets { spin: self.spin, stall: self.stall, messages, ..self.budgets }
    }

    /// What is logged: levels, each for everything or for one target, between commas.
    pub fn log(mut self, filter: impl Into<String>) -> Config {
        self.log = Given::by("Config::log", filter.into());
        self
    }

    /// What is logged, for programs that set their own logging up.
    pub fn log_filter(&self) -> &str {
        &self.log.value
    }

    /// Checks what text could not get wrong but a method could, and what only shows once everything was set.
    ///
    /// # Errors
    /// A number of shards or threads that cannot run, a log filter that cannot be read, or a number of shards that contradicts
    /// the list of CPUs.
    pub fn check(&self) -> Result<(), ConfigError> {
        knob::log_filter(&self.log.value)
            .map_err(|wrong| malformed(Knob::Log, &self.log.origin, &self.log.value, wrong))?;
        self.groups
            .check()
            .map_err(|(name, wrong)| malformed(Knob::Shares, "Config::shares", &name, wrong))?;
        let threads = self.blocking_threads;
        blocking_count(threads).map_err(|wrong| {
            malformed(Knob::BlockingThreads, "Config::blocking_threads", &threads.to_string(), wrong)
        })?;
        let Some(cores) = &self.cores else { return Ok(()) };
        knob::shard_count(cores.value)
            .map_err(|wrong| malformed(Knob::Cores, &cores.origin, &cores.value.to_string(), wrong))?;
        match &self.cpus {
            Some(cpus) if cpus.value.len() != cores.value => Err(ConfigError::Contradiction {
                cores: cores.origin.clone(),
                count: cores.value,
                cpus: cpus.origin.clone(),
                list: cpus.value.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn blocking_count(count: usize) -> Result<usize, String> {
    match count {
        0 => Err("no work could be done".to_owned()),
        _ if count as u64 <= knob::BLOCKING_THREADS_MAX => Ok(count),
        _ => Err(format!("more than {}", knob::BLOCKING_THREADS_MAX)),
    }
}

fn malformed(knob: Knob, origin: &str, value: &str, wrong: String) -> ConfigError {
    let (origin, value) = (origin.to_owned(), value.to_owned());
    ConfigError::Malformed { origin, value, wrong, allowed: knob.allowed() }
}

/// Whether a variable is one of those that Kubernetes sets for a service: `…_SERVICE_HOST`, `…_SERVICE_PORT_HTTP`,
/// `…_PORT`, `…_PORT_80_TCP_ADDR`. Without this, a service named like the program would keep it from starting.
fn is_service_link(name: &str) -> bool {
    let with_number = |after: &str| {
        let rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let protocols = ["_TCP", "_UDP", "_SCTP"];
        rest.len() < after.len() && protocols.into_iter().any(|protocol| rest.starts_with(protocol))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(|(_, after)| with_number(after))
}

#[cfg(test)]
mod tests;
