//! What a program counts and tells: declared before its shards run.

use std::sync::PoisonError;

use waterwheel_reactor::{Address, ListenOptions};

use super::Runtime;
use super::config::{Config, ConfigError};
use super::given::Given;
use super::knob::ADMIN;
use super::listeners::file_of;
use crate::metrics::admin::Admin;
use crate::metrics::{Condition, Counter, Family, FamilyError, FamilyOptions, Gauge, Histogram, Unit};
use crate::net::Endpoint;

/// Clients that wait to be served.
const BACKLOG: u32 = 64;

impl Config {
    /// Where the program tells what it counts and how it stands, over HTTP: see [`crate::metrics`]. Default: nowhere.
    pub fn admin(mut self, at: Endpoint) -> Config {
        self.admin = Some(Given::by("Config::admin", at));
        self
    }

    /// Where that is to be, for programs that want it always.
    pub fn admin_endpoint(&self) -> Option<&Endpoint> {
        self.admin.as_ref().map(|given| &given.value)
    }
}

impl Runtime {
    /// Declares a number that only grows, with a name as Prometheus has them: `mill_requests_total`.
    /// [`Shard::counter`](crate::shard::Shard::counter) counts.
    ///
    /// # Errors
    /// The name makes no sense, does not end with `_total`, or is taken.
    pub fn counter(&self, name: &str, help: &str) -> Result<Family<Counter>, FamilyError> {
        self.counters(name, help, [], FamilyOptions::default())
    }

    /// The same with labels, one child for each set of their values.
    ///
    /// # Errors
    /// As [`counter`](Runtime::counter); a label or a limit that makes no sense.
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        options: FamilyOptions,
    ) -> Result<Family<Counter, N>, FamilyError> {
        self.metrics.declare(name, help, Unit::Number, labels, options)
    }

    /// Declares a number that goes up and down: how many there are now, over all shards.
    ///
    /// # Errors
    /// The name makes no sense, or is taken.
    pub fn gauge(&self, name: &str, help: &str) -> Result<Family<Gauge>, FamilyError> {
        self.gauges(name, help, [], FamilyOptions::default())
    }

    /// The same with labels.
    ///
    /// # Errors
    /// As [`gauge`](Runtime::gauge); a label or a limit that makes no sense.
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        options: FamilyOptions,
    ) -> Result<Family<Gauge, N>, FamilyError> {
        self.metrics.declare(name, help, Unit::Number, labels, options)
    }

    /// Declares how values are distributed: `mill_request_seconds`, `mill_response_bytes`.
    ///
    /// # Errors
    /// The name makes no sense, does not say the unit, or is taken.
    pub fn histogram(&self, name: &str, help: &str, unit: Unit) -> Result<Family<Histogram>, FamilyError> {
        self.histograms(name, help, unit, [], FamilyOptions::default())
    }

    /// The same with labels. Each child takes four kilobytes on each shard that meets it.
    ///
    /// # Errors
    /// As [`histogram`](Runtime::histogram); a label or a limit that makes no sense.
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        unit: Unit,
        labels: [&'static str; N],
        options: FamilyOptions,
    ) -> Result<Family<Histogram, N>, FamilyError> {
        self.metrics.declare(name, help, unit, labels, options)
    }

    /// Something that the program needs before it is ready; until it is [met](Condition::set), `/ready` says that it is
    /// waited for.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.metrics.status.condition(name)
    }

    /// Where the admin endpoint listens, port 0 resolved; `None`: there is none.
    pub fn admin_local(&self) -> Option<&Address> {
        self.admin.as_ref().map(|admin| admin.local())
    }

    /// Binds the admin endpoint, if there is to be one. Clients wait until the shards run.
    ///
    /// # Errors
    /// Its name is unknown, or the system refuses it: port in use, no permission.
    pub(crate) fn open_admin(&mut self) -> Result<(), ConfigError> {
        let Some(given) = &self.config.admin else { return Ok(()) };
        let refused = |wrong: String| given.unusable(wrong, ADMIN.to_owned());
        let addresses = self.listeners().resolve(&given.value).map_err(|error| refused(error.to_string()))?;
        let Some(address) = addresses.first() else { return Err(refused("it has no address".to_owned())) };
        // Alone: another process that listens there too would get a part of the questions.
        let options = ListenOptions { reuse_port: false, backlog: BACKLOG, ..ListenOptions::default() };
        let bound = self.backend.bind(address, &options, 1);
        let bound = bound.map_err(|error| refused(format!("cannot listen there: {error}")))?.pop();
        let Some(bound) = bound else { return Err(refused("the backend bound nothing".to_owned())) };
        let file = file_of(&bound.local, &bound.handle);
        self.other_files.lock().unwrap_or_else(PoisonError::into_inner).extend(file);
        self.admin = Some(Admin::new(bound, self.shards()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Knob, StartError};

    fn config(text: &str) -> Result<Config, ConfigError> {
        Config::from_vars([("WATERWHEEL_ADMIN", text), ("WATERWHEEL_CORES", "1")])
    }

    #[test]
    fn the_variable_is_read_and_nonsense_is_told_in_one_line() {
        let at = "unix:/run/mill.sock";
        assert_eq!(config(at).unwrap().admin_endpoint(), Some(&at.parse().unwrap()));
        assert_eq!(config("off").unwrap().admin_endpoint(), None);
        for text in ["", "9100", "tcp:", "tcp:127.0.0.1:99999", "http://127.0.0.1:9100", "Off"] {
            let line = config(text).unwrap_err().to_string();
            assert!(line.starts_with(&format!("WATERWHEEL_ADMIN={text:?}: ")), "{line}");
            assert!(line.ends_with(&format!("; allowed: {}", Knob::Admin.allowed())), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_port_in_use_is_told_with_who_asked_for_it() {
        let first = Runtime::new(config("tcp:127.0.0.1:0").unwrap()).unwrap();
        let taken = format!("{}", first.admin_local().unwrap());
        let error = Runtime::new(config(&taken).unwrap()).unwrap_err();
        assert!(matches!(error, StartError::Config(ConfigError::Unusable { .. })), "{error:?}");
        let line = error.to_string();
        assert!(line.starts_with(&format!("WATERWHEEL_ADMIN={taken:?}: cannot listen there: ")), "{line}");
    }

    #[test]
    fn a_name_that_says_something_else_is_refused_with_a_better_one() {
        let runtime = Runtime::new(config("off").unwrap()).unwrap();
        let told = |error: FamilyError| error.to_string();
        let counter = |name: &str| runtime.counter(name, "").map(drop).map_err(told);
        assert!(counter("mill_wheels").unwrap_err().ends_with("allowed: mill_wheels_total"));
        for name in ["", "1_total", "mill wheels_total", "mill:wheels_total", "mühle_total"] {
            assert!(counter(name).unwrap_err().contains("not a name"), "{name}");
        }
        for name in ["waterwheel_turns_total", "process_x_total"] {
            assert!(counter(name).unwrap_err().contains("the framework's own begin so"), "{name}");
        }
        let times = runtime.histogram("mill_turn", "", Unit::Seconds).map_err(told);
        assert!(times.unwrap_err().ends_with("allowed: mill_turn_seconds"));
        runtime.histogram("mill_turn_seconds", "", Unit::Seconds).unwrap();
        // It would be shown beside the histogram's own line of that name.
        let taken = runtime.gauge("mill_turn_seconds_count", "").unwrap_err();
        assert!(matches!(taken, FamilyError::Taken { .. }), "{taken}");
        let labelled = |label| {
            runtime.gauges("mill_level", "", [label], FamilyOptions::default()).map(drop).map_err(told)
        };
        for label in ["", "le", "shard", "__name__", "a-b"] {
            assert!(labelled(label).unwrap_err().starts_with("no label can be named"), "{label}");
        }
        assert_eq!(labelled("wheel"), Ok(()));
        let children = FamilyOptions { children: 0, ..FamilyOptions::default() };
        assert!(runtime.gauges("mill_x", "", ["a"], children).is_err());
    }
}
