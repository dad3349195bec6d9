//! What one version of the settings comes to: listeners that are bound, upstreams that were looked up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waterwheel_reactor::{ConnectOptions, ListenOptions, StreamOptions};

use super::itself::reaches;
use super::limits::Limits;
use super::routes::Routes;
use super::selection::Selection;
use super::settings::{ProxyError, Settings};
use super::upstream_settings::Upstream;
use super::upstreams::{Target, Upstreams, path_of};
use crate::mesh::OpenError;
use crate::net::{Endpoint, Listening};
use crate::runtime::{Listeners, StartError};
use crate::shard::Shard;

/// TCP keep-alive is on where the idle limit is longer than this, or none: asking costs packets, and setting it up
/// three system calls for each connection to an upstream.
const KEEPALIVE_WANTED: Duration = Duration::from_secs(600);
/// A silent peer is asked after so long, then at each tenth of it.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// A proxy's name, if it is one of several, and what it is asked to do.
pub type Named = (Option<String>, Settings);

/// All proxies of a process, at one time. Never changes: what comes after it is another version.
#[derive(Debug)]
pub(super) struct Version {
    /// 0 at the start, one more with each change.
    pub(super) number: u64,
    pub(super) plans: Vec<Arc<Plan>>,
}

/// One proxy in one version.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) name: Option<String>,
    pub(super) settings: Settings,
    /// In the order of the settings.
    pub(super) listeners: Vec<Listening>,
    /// Those without a name, then each group's.
    pub(super) upstreams: Vec<Vec<Target>>,
    pub(super) routes: Routes,
    /// For connections to upstreams.
    pub(super) options: ConnectOptions,
}

impl Settings {
    /// Whether a proxy could work so, as far as one can say before it begins.
    ///
    /// # Errors
    /// No listener or no upstream, a limit of no connections or no time, routes without a group.
    pub fn check(&self, shards: usize) -> Result<(), ProxyError> {
        self.check_alone(shards).map(drop)
    }

    fn check_alone(&self, shards: usize) -> Result<Routes, ProxyError> {
        if self.listen.is_empty() {
            return Err(ProxyError::NoListener);
        }
        if self.upstreams.is_empty() && self.routes.is_empty() {
            return Err(ProxyError::NoUpstream);
        }
        let connections = self.connections;
        if connections < shards {
            return Err(ProxyError::TooFewConnections { connections, shards });
        }
        if self.connect_timeout.is_zero() {
            return Err(ProxyError::NoTimeToConnect);
        }
        if self.first_bytes_timeout.is_zero() {
            return Err(ProxyError::NoTimeForFirstBytes);
        }
        if self.header.as_ref().is_some_and(|policy| policy.trusted.is_empty()) {
            return Err(ProxyError::NoTrustedSource);
        }
        self.check_upstreams()?;
        Routes::new(self)
    }
}

impl Plan {
    /// Looks the upstreams up and binds the listeners that `before` does not have.
    pub(super) fn bind(
        listeners: &Listeners,
        limits: &Limits,
        (name, settings): Named,
        before: Option<&Plan>,
    ) -> Result<Plan, ProxyError> {
        let routes = settings.check_alone(listeners.shards())?;
        let groups = settings.all_groups().map(|(group, _, upstreams)| {
            let path = path_of(name.as_deref(), group);
            resolve(listeners, (limits, &path), upstreams)
        });
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let stream = StreamOptions { keepalive: keepalive(settings.idle_timeout), ..Default::default() };
        let options = ConnectOptions { stream, ..Default::default() };
        // Always, since clients inherit it from a listener that stays when the limit changes; for them it costs no call.
        let accepted = StreamOptions { keepalive: Some(KEEPALIVE), ..Default::default() };
        let mut all = Bound { listeners, bound: Vec::new() };
        let mut kept = Vec::new();
        for listen in &settings.listen {
            let listening = match before.and_then(|before| before.listener(listen)) {
                Some(listening) => listening.clone(),
                None => all.listen(listen, &ListenOptions { stream: accepted, ..Default::default() })?,
            };
            let mut upstreams = groups.iter().flatten();
            if let Some((upstream, _)) = upstreams.find(|(_, to)| reaches(&to.address, listening.local())) {
                return Err(ProxyError::Itself { upstream: (*upstream).clone(), listener: listen.clone() });
            }
            kept.push(listening);
        }
        let targets = |group: Vec<(_, Target)>| group.into_iter().map(|(_, target)| target).collect();
        let upstreams = groups.into_iter().map(targets).collect();
        all.bound.clear();
        Ok(Plan { name, settings, listeners: kept, upstreams, routes, options })
    }

    /// The listener that was bound for an endpoint.
    fn listener(&self, endpoint: &Endpoint) -> Option<&Listening> {
        let place = self.settings.listen.iter().position(|listen| listen == endpoint)?;
        self.listeners.get(place)
    }

    /// Whether another version asks for the same, and the names mean the same.
    pub(super) fn is_like(&self, other: &Plan) -> bool {
        self.settings == other.settings && self.upstreams == other.upstreams
    }

    /// Each group as a shard sees it.
    pub(super) fn groups(&self, shard: &Shard, before: &[Upstreams]) -> Result<Vec<Upstreams>, OpenError> {
        let before: BTreeMap<Option<&str>, &Upstreams> =
            before.iter().map(|group| (group.name(), group)).collect();
        let plain = self.settings.selection();
        let groups = self.settings.all_groups().zip(&self.upstreams);
        let make = |((name, own, _), all): ((Option<&str>, Option<&Selection>, _), &Vec<Target>)| {
            let path = (self.name.as_deref(), name);
            Upstreams::new(path, all, own.unwrap_or(&plain), shard, before.get(&name).copied())
        };
        groups.map(make).collect()
    }
}

/// Listeners that are closed again if what they were bound for comes to nothing.
pub(super) struct Bound<'a> {
    pub(super) listeners: &'a Listeners,
    pub(super) bound: Vec<Listening>,
}

impl Bound<'_> {
    fn listen(&mut self, endpoint: &Endpoint, options: &ListenOptions) -> Result<Listening, StartError> {
        let listening = self.listeners.listen(endpoint, options)?;
        self.bound.push(listening.clone());
        Ok(listening)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        self.bound.iter().for_each(|listening| self.listeners.close(listening));
    }
}

/// The addresses of upstreams, each with what stands for it in the settings.
fn resolve<'s>(
    listeners: &Listeners,
    (limits, group): (&Limits, &str),
    upstreams: &'s [Upstream],
) -> Result<Vec<(&'s Endpoint, Target)>, ProxyError> {
    let mut resolved = Vec::new();
    for Upstream { endpoint, weight, connections } in upstreams {
        endpoint.check_target().map_err(StartError::from)?;
        let addresses = listeners.resolve(endpoint)?;
        if let [_, _, ..] = addresses[..] {
            let all = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!("upstream {endpoint} is {} upstreams: {all}", addresses.len());
        }
        for address in addresses {
            let limit = connections.map(|most| limits.of(listeners, group, &address, most)).transpose()?;
            resolved.push((endpoint, Target { address, weight: *weight, limit }));
        }
    }
    Ok(resolved)
}

/// Where the idle limit does not end a connection whose peer is gone without a word, the kernel asks.
fn keepalive(idle: Option<Duration>) -> Option<Duration> {
    idle.is_none_or(|limit| limit > KEEPALIVE_WANTED).then_some(KEEPALIVE)
}
