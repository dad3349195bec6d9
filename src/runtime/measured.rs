//! What a program counts and tells: declared before its shards run.

use waterwheel_reactor::{Address, ListenOptions};

use super::Runtime;
use super::config::ConfigError;
use super::knob::ADMIN;
use crate::metrics::admin::Admin;
use crate::metrics::{Condition, Counter, Family, FamilyError, FamilyOptions, Gauge, Histogram, Unit};

/// Clients that wait to be served.
const BACKLOG: u32 = 64;

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
        let addresses = self.resolve_blocking(&given.value).map_err(|error| refused(error.to_string()))?;
        let Some(address) = addresses.first() else { return Err(refused("it has no address".to_owned())) };
        // Alone: another process that listens there too would get a part of the questions.
        let options = ListenOptions { reuse_port: false, backlog: BACKLOG, ..ListenOptions::default() };
        let bound = self.backend.bind(address, &options, 1);
        let bound = bound.map_err(|error| refused(format!("cannot listen there: {error}")))?.pop();
        let Some(bound) = bound else { return Err(refused("the backend bound nothing".to_owned())) };
        self.keep_file(Some(&bound));
        self.admin = Some(Admin::new(bound));
        Ok(())
    }
}
