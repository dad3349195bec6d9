//! What an operator gives to each part of a program: shares of the time, and how much a shard may have.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Config;
use super::knob;
use crate::net::quota::{Limits, Quota};
use crate::net::units::parse_size;
use crate::shard::{Shard, Shares};

/// Named groups: a shard has 32, and one of them is there already.
pub(crate) const NAMED_MAX: usize = 31;
/// More connections than a machine has ports and descriptors for.
pub(crate) const QUOTA_MAX: u64 = 100_000_000;
/// A TiB: more bytes than a shard ever holds.
pub(crate) const BUFFERED_BYTES_MAX: u64 = 1 << 40;
/// Letters of a group's name.
const NAME_MAX: usize = 64;

/// How much each shard may have at once; `None`: no limit. At a limit the shard stops accepting, and its clients wait in the
/// kernel's queue or go to shards that have room; it goes on by itself when it has less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Connections that were accepted, over all listeners.
    pub connections: Option<usize>,
    /// Descriptors of connections that were accepted or made, of datagram sockets, and of children with their pipes. Accepting
    /// stops at nine tenths, so that what is served finds one for a connection of its own; at the limit making one, opening a
    /// datagram socket and starting a child fail with `QuotaExceeded`.
    pub descriptors: Option<usize>,
    /// Bytes that its connections hold outside the kernel, for peers that send or read slowly: buffers with what was received
    /// and not consumed, or taken to be sent and not in the kernel's hands. What a reactor does not count
    /// ([`Reactor::buffered`](crate::reactor::Reactor::buffered)) is not limited. At the limit each connection still receives and
    /// sends, with 16 KiB at a time for each half (two buffers of these where one is with the kernel), so that none depends on
    /// another's peer; that comes on top, and so does a frame that has begun to arrive.
    pub buffered_bytes: Option<usize>,
}

/// The text of a quota.
pub(super) fn quota(text: &str) -> Result<Option<usize>, String> {
    let number = knob::number(text, QUOTA_MAX)? as usize;
    Ok(Some(number).filter(|number| *number > 0))
}

/// The text of a quota of bytes.
pub(super) fn size(text: &str) -> Result<Option<usize>, String> {
    let size = parse_size(text).map_err(|_| "not a number of bytes".to_owned())?;
    if size > BUFFERED_BYTES_MAX {
        return Err(format!("more than {BUFFERED_BYTES_MAX}"));
    }
    Ok(Some(size as usize).filter(|size| *size > 0))
}

/// The groups that an operator named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupShares {
    shares: BTreeMap<String, Shares>,
    latency_class: BTreeSet<String>,
    queue_times: BTreeSet<String>,
}

impl GroupShares {
    /// `web=300,batch=100`; nothing: none.
    pub(super) fn set_shares(&mut self, text: &str) -> Result<(), String> {
        let shares = knob::pairs(text, "a name and its shares", |name, number| {
            let count = knob::number(number, u64::from(Shares::MAX.0));
            let count = count.map_err(|wrong| format!("{name}: {wrong}"))?;
            good_name(name)?;
            good(Shares(count as u32))
        })?;
        self.take(GroupShares { shares, ..self.clone() })
    }

    /// `web,control`; nothing: none.
    pub(super) fn set_latency_class(&mut self, text: &str) -> Result<(), String> {
        self.take(GroupShares { latency_class: names(text)?, ..self.clone() })
    }

    /// `web,control`; nothing: none.
    pub(super) fn set_queue_times(&mut self, text: &str) -> Result<(), String> {
        self.take(GroupShares { queue_times: names(text)?, ..self.clone() })
    }

    fn take(&mut self, named: GroupShares) -> Result<(), String> {
        named.fits()?;
        *self = named;
        Ok(())
    }

    /// Those that an operator, or a method, has named.
    fn names(&self) -> BTreeSet<&String> {
        self.shares.keys().chain(&self.latency_class).chain(&self.queue_times).collect()
    }

    fn fits(&self) -> Result<(), String> {
        let named = self.names().len();
        if named > NAMED_MAX { Err(format!("{named} groups are named")) } else { Ok(()) }
    }

    /// What methods could get wrong: the name, and what is wrong.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        for (name, shares) in &self.shares {
            good(*shares).map_err(|wrong| (name.clone(), wrong))?;
        }
        for name in self.names() {
            good_name(name).map_err(|wrong| (name.clone(), wrong))?;
        }
        self.fits().map_err(|wrong| (String::new(), wrong))
    }
}

/// Names of groups between commas.
fn names(text: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for name in text.split(',').filter(|_| !text.is_empty()) {
        if !names.insert(good_name(name)?) {
            return Err(format!("{name} is named twice"));
        }
    }
    Ok(names)
}

fn good(shares: Shares) -> Result<Shares, String> {
    let within = (1..=Shares::MAX.0).contains(&shares.0);
    if within { Ok(shares) } else { Err(format!("{shares} shares are none that a group can have")) }
}

fn good_name(name: &str) -> Result<String, String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(letter);
    if good { Ok(name.to_owned()) } else { Err(format!("{name:?} is not the name of a group")) }
}

impl Config {
    /// The shares of a group of tasks on every shard. They count whatever the program says
    /// ([`Shard::group`](crate::shard::Shard::group)).
    pub fn shares(mut self, group: impl Into<String>, shares: Shares) -> Config {
        self.groups.shares.insert(group.into(), shares);
        self
    }

    /// Puts a group of tasks in the [latency class](crate::shard::Group::with_latency_class), on every shard.
    pub fn latency_class(mut self, group: impl Into<String>) -> Config {
        self.groups.latency_class.insert(group.into());
        self
    }

    /// Measures how long the tasks of a group wait for their polls ([`Group::with_queue_times`]), on every shard; told as
    /// `waterwheel_group_queue_seconds` at the admin endpoint.
    ///
    /// [`Group::with_queue_times`]: crate::shard::Group::with_queue_times
    pub fn queue_times(mut self, group: impl Into<String>) -> Config {
        self.groups.queue_times.insert(group.into());
        self
    }

    /// The groups that were named.
    #[cfg(feature = "cli")]
    pub(crate) fn named_groups(&self) -> impl Iterator<Item = &str> {
        self.groups.names().into_iter().map(String::as_str)
    }

    /// How much each shard may have at once.
    pub fn quotas(mut self, quotas: Quotas) -> Config {
        self.quotas = quotas;
        self
    }
}

/// What each shard gets when it begins.
#[derive(Debug)]
pub(super) struct Portions {
    groups: Vec<Portion>,
    quotas: Quotas,
}

/// What an operator wants of one group.
#[derive(Debug)]
struct Portion {
    name: &'static str,
    shares: Option<Shares>,
    comes_first: bool,
    is_timed: bool,
}

impl Portions {
    pub(super) fn of(groups: &GroupShares, quotas: Quotas) -> Portions {
        let group = |name: &String| {
            // Groups' names live as long as the program; an operator names a few, once.
            Portion {
                name: name.clone().leak(),
                shares: groups.shares.get(name).copied(),
                comes_first: groups.latency_class.contains(name),
                is_timed: groups.queue_times.contains(name),
            }
        };
        Portions { groups: groups.names().into_iter().map(group).collect(), quotas }
    }

    pub(super) fn give(&self, shard: &Shard) {
        let Quotas { connections, descriptors, buffered_bytes } = self.quotas;
        Quota::provide(shard, Limits { connections, descriptors, buffered_bytes });
        for Portion { name, shares, comes_first, is_timed } in &self.groups {
            let group = shard.group(name, shares.unwrap_or_default());
            match group {
                Ok(group) => {
                    let group = if *comes_first { group.with_latency_class() } else { group };
                    let group = if *is_timed { group.with_queue_times() } else { group };
                    drop(if shares.is_some() { group.fixed() } else { group });
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ConfigError;

    fn from(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(vars.iter().copied())
    }

    #[test]
    fn what_an_operator_writes_is_what_methods_say() {
        let config = from(&[
            ("WATERWHEEL_SHARES", "web=300,batch=1"),
            ("WATERWHEEL_LATENCY_CLASS", "web,control"),
            ("WATERWHEEL_QUEUE_TIMES", "default"),
            ("WATERWHEEL_MAX_CONNECTIONS", "100"),
            ("WATERWHEEL_MAX_DESCRIPTORS", "0"),
            ("WATERWHEEL_MAX_BUFFERED_BYTES", "64m"),
        ]);
        let quotas = Quotas { connections: Some(100), descriptors: None, buffered_bytes: Some(64 << 20) };
        let said = Config::default().shares("web", Shares(300)).shares("batch", Shares(1));
        assert_eq!(
            config.unwrap(),
            said.latency_class("web").latency_class("control").queue_times("default").quotas(quotas)
        );
        assert_eq!(
            from(&[("WATERWHEEL_SHARES", ""), ("WATERWHEEL_LATENCY_CLASS", "")]),
            Ok(Config::default())
        );
    }

    #[test]
    fn nonsense_is_told_with_what_is_allowed() {
        let many = (0..32).map(|number| format!("g{number}=1")).collect::<Vec<_>>().join(",");
        for (knob, text, wrong) in [
            ("SHARES", "web", "is not a name and its shares"),
            ("SHARES", "web=0", "0 shares are none"),
            ("SHARES", "web=10001", "web: more than 10000"),
            ("SHARES", "web=-1", "web: not a whole number"),
            ("SHARES", "web=1,", "is not a name and its shares"),
            ("SHARES", "web=1,web=2", "web is named twice"),
            ("SHARES", "=1", "is not the name of a group"),
            ("SHARES", "a b=1", "is not the name of a group"),
            ("SHARES", &many, "32 groups are named"),
            ("LATENCY_CLASS", "web,,x", "is not the name of a group"),
            ("LATENCY_CLASS", "web,web", "web is named twice"),
            ("QUEUE_TIMES", "web,web", "web is named twice"),
            ("QUEUE_TIMES", "a b", "is not the name of a group"),
            ("MAX_CONNECTIONS", "many", "not a whole number"),
            ("MAX_DESCRIPTORS", "100000001", "more than 100000000"),
            ("MAX_BUFFERED_BYTES", "", "not a number of bytes"),
            ("MAX_BUFFERED_BYTES", "1.5m", "not a number of bytes"),
            ("MAX_BUFFERED_BYTES", "-1", "not a number of bytes"),
            ("MAX_BUFFERED_BYTES", "1025g", "more than 1099511627776"),
        ] {
            let name = format!("WATERWHEEL_{knob}");
            let told = from(&[(&name, text)]).unwrap_err().to_string();
            assert!(
                told.starts_with(&name) && told.contains(wrong) && told.contains("; allowed: "),
                "{told}"
            );
        }
        let config = Config::default().shares("web", Shares(0));
        assert!(config.check().unwrap_err().to_string().contains("0 shares are none"));
    }
}
