//! What one version of the settings comes to: listeners that are bound, upstreams that were looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waterwheel_reactor::{Address, ConnectOptions, StreamOptions};

use super::doors::{self, Bound, overlap};
use super::itself::reaches;
use super::limits::Limits;
use super::routes::Routes;
use super::selection::Selection;
use super::settings::{ProxyError, Settings, within};
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
pub(super) const KEEPALIVE: Duration = Duration::from_secs(120);

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
    /// What tells its clients from those of others, through all versions.
    pub(super) id: u64,
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

    /// Whether one of its upstreams is the proxy itself, as far as one can say without binding anything. May wait for a name,
    /// so it is not for a shard.
    ///
    /// # Errors
    /// [`ProxyError::Itself`]; as [`check`](Settings::check); a name that is not known.
    pub fn check_itself(&self, listeners: &Listeners) -> Result<(), ProxyError> {
        let known = Known::of(listeners, &Limits::default(), None, self)?;
        let locals = self.listen.iter().map(|listen| doors::address_of(listeners, listen));
        let locals = locals.collect::<Result<Vec<Address>, ProxyError>>()?;
        known.check_itself(self, &locals.iter().collect::<Vec<_>>())
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
        if let Some(limit) = self.total_timeout {
            within("total-timeout", limit, !limit.is_zero(), "more than 0s, as in 1h")?;
        }
        self.throttle.check()?;
        self.clients.check()?;
        self.check_upstreams()?;
        Routes::new(self)
    }
}

/// Plans of all that is wanted, after those of `before`, and the listeners that only they have. Nothing is bound until all
/// else is known.
pub(super) fn plan_all<'l>(
    listeners: &'l Listeners,
    limits: &Limits,
    wanted: Vec<Named>,
    before: &Version,
) -> Result<(Vec<Arc<Plan>>, Bound<'l>), ProxyError> {
    if wanted.is_empty() {
        return Err(ProxyError::NoListener);
    }
    let groups = wanted.iter().flat_map(|(name, settings)| {
        settings.all_groups().map(|(group, ..)| path_of(name.as_deref(), group))
    });
    limits.begin(&groups.collect());
    let known = wanted.iter().map(|(name, settings)| {
        let known = Known::of(listeners, limits, name.as_deref(), settings);
        known.map_err(|error| error.of(name.clone()))
    });
    let known = known.collect::<Result<Vec<_>, _>>()?;
    let (doors, bound) = doors::bind(listeners, before, &wanted)?;
    let ids = ids(before, &wanted, &doors);
    let of_each = known.into_iter().zip(doors).zip(wanted).zip(ids);
    let plans = of_each.map(|(((known, listeners), (name, settings)), id)| {
        let locals: Vec<&Address> = listeners.iter().map(Listening::local).collect();
        known.check_itself(&settings, &locals).map_err(|error| error.of(name.clone()))?;
        let before = before.plans.iter().find(|plan| plan.name == name);
        let plan = known.plan((name, id), settings, listeners);
        // Nothing of it has to be learnt anew.
        Ok(match before.filter(|before| before.is_like(&plan)) {
            Some(before) => before.clone(),
            None => Arc::new(plan),
        })
    });
    Ok((plans.collect::<Result<Vec<_>, ProxyError>>()?, bound))
}

/// What tells the clients of each proxy from those of others: as it was, if there is one of its name, or under another name
/// one of its listeners was; else new.
fn ids(before: &Version, wanted: &[Named], doors: &[Vec<Listening>]) -> Vec<u64> {
    // As many as a file has proxies, and more.
    const PROXIES_MAX: u64 = 1 << 20;
    let is_wanted = |plan: &Arc<Plan>| wanted.iter().any(|(name, _)| *name == plan.name);
    // The first version of all and the one before it have the same number.
    let first = if before.plans.is_empty() { 0 } else { (before.number + 1) * PROXIES_MAX };
    let mut gone: Vec<&Arc<Plan>> = before.plans.iter().filter(|plan| !is_wanted(plan)).collect();
    let each = wanted.iter().zip(doors).zip(0..);
    let id = |(((name, _), doors), place): ((&Named, &Vec<Listening>), u64)| {
        let had_one = |plan: &&Arc<Plan>| {
            let is_one = |old: &Listening, new: &Listening| old.is(new) || overlap(old.local(), new.local());
            plan.listeners.iter().any(|old| doors.iter().any(|new| is_one(old, new)))
        };
        let renamed = || Some(gone.swap_remove(gone.iter().position(had_one)?));
        let same = before.plans.iter().find(|plan| plan.name == *name).or_else(renamed);
        same.map_or(first + place, |plan| plan.id)
    };
    each.map(id).collect()
}

/// What is known of a proxy before anything is bound.
struct Known {
    routes: Routes,
    /// Each group's.
    groups: Vec<Vec<(Endpoint, Target)>>,
}

impl Known {
    /// Checks the settings, and looks the upstreams up.
    fn of(
        listeners: &Listeners,
        limits: &Limits,
        name: Option<&str>,
        settings: &Settings,
    ) -> Result<Known, ProxyError> {
        let routes = settings.check_alone(listeners.shards())?;
        let groups = settings.all_groups().map(|(group, _, upstreams)| {
            let path = path_of(name, group);
            resolve(listeners, (limits, &path), upstreams)
        });
        Ok(Known { routes, groups: groups.collect::<Result<_, _>>()? })
    }

    /// That no upstream is a listener of the proxy, each of which is at the address in its place.
    fn check_itself(&self, settings: &Settings, locals: &[&Address]) -> Result<(), ProxyError> {
        for (listener, local) in settings.listen.iter().zip(locals) {
            let mut upstreams = self.groups.iter().flatten();
            if let Some((upstream, _)) = upstreams.find(|(_, to)| reaches(&to.address, local)) {
                return Err(ProxyError::Itself { upstream: upstream.clone(), listener: listener.clone() });
            }
        }
        Ok(())
    }

    fn plan(self, (name, id): (Option<String>, u64), settings: Settings, listeners: Vec<Listening>) -> Plan {
        let targets = |group: Vec<(_, Target)>| group.into_iter().map(|(_, target)| target).collect();
        let upstreams = self.groups.into_iter().map(targets).collect();
        let stream = StreamOptions { keepalive: keepalive(settings.idle_timeout), ..Default::default() };
        let options = ConnectOptions { stream, ..Default::default() };
        Plan { name, id, settings, listeners, upstreams, routes: self.routes, options }
    }
}

impl Plan {
    /// Whether another version asks for the same, and the names mean the same.
    pub(super) fn is_like(&self, other: &Plan) -> bool {
        self.settings == other.settings && self.upstreams == other.upstreams
    }

    /// Each group as a shard sees it.
    pub(super) fn groups(&self, shard: &Shard, before: &[Upstreams]) -> Result<Vec<Upstreams>, OpenError> {
        let known: BTreeMap<Option<&str>, &Upstreams> =
            before.iter().map(|group| (group.name(), group)).collect();
        let plain = self.settings.selection();
        // Those whose names are gone may have another one now.
        let names: BTreeSet<Option<&str>> = self.settings.all_groups().map(|(name, ..)| name).collect();
        let mut gone: Vec<&Upstreams> =
            before.iter().filter(|group| !names.contains(&group.name())).collect();
        let groups = self.settings.all_groups().zip(&self.upstreams);
        let make = |((name, own, _), all): ((Option<&str>, Option<&Selection>, _), &Vec<Target>)| {
            let has_one = |group: &&Upstreams| {
                let mut known = group.all().iter();
                known.any(|known| all.iter().any(|target| target.address == known.address))
            };
            let renamed = || Some(gone.swap_remove(gone.iter().position(has_one)?));
            let before = known.get(&name).copied().or_else(renamed);
            let path = (self.name.as_deref(), name);
            Upstreams::new(path, all, own.unwrap_or(&plain), shard, before)
        };
        groups.map(make).collect()
    }
}

/// The addresses of upstreams, each with what stands for it in the settings.
fn resolve(
    listeners: &Listeners,
    (limits, group): (&Limits, &str),
    upstreams: &[Upstream],
) -> Result<Vec<(Endpoint, Target)>, ProxyError> {
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
            resolved.push((endpoint.clone(), Target { address, weight: *weight, limit }));
        }
    }
    Ok(resolved)
}

/// Where the idle limit does not end a connection whose peer is gone without a word, the kernel asks.
fn keepalive(idle: Option<Duration>) -> Option<Duration> {
    idle.is_none_or(|limit| limit > KEEPALIVE_WANTED).then_some(KEEPALIVE)
}
