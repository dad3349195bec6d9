//! How many shards, and which CPU each is pinned to: a pure function of the configuration and the machine.

use super::knob::SHARDS_MAX;
use super::topology::{self, Facts};
use super::{Config, ConfigError, CpuList};

/// Where the shards of a runtime run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each shard, the CPU that its thread is pinned to; `None`: unpinned, since the system does not say which
    /// CPUs this process may use.
    pub shards: Vec<Option<usize>>,
    /// What an operator should know about it, one line each: for the log.
    pub notes: Vec<String>,
}

impl Plan {
    /// The plan for this process on this machine. Call it before any thread is pinned.
    ///
    /// # Errors
    /// What [`Config::check`] finds, and a CPU that does not exist, is offline, or is not this process's to use.
    pub fn here(config: &Config) -> Result<Plan, ConfigError> {
        Plan::new(config, &Facts::read())
    }

    /// What a shard's thread does first ([`Launch::prepare`](waterwheel_reactor::Launch)): pins itself. If the system
    /// refuses, the log says so and the shard runs unpinned.
    pub fn prepare(&self, shard: usize) -> Box<dyn FnOnce() + Send> {
        let cpu = self.shards.get(shard).copied().flatten();
        Box::new(move || {
            if let Some(cpu) = cpu {
                topology::pin(shard, cpu);
            }
        })
    }

    /// Makes the plan. Unless told otherwise, one shard for each CPU that this process may use, but no more than the
    /// cgroup's quota can keep busy; on physical cores first, then on their second threads. More shards than CPUs
    /// take turns on them: shard `i` is pinned to the list's CPU `i` modulo its length, since the kernel's balancing
    /// would have an unpinned shard preempt now this, now that pinned one.
    ///
    /// # Errors
    /// What [`Config::check`] finds, and a CPU that does not exist, is offline, or is not this process's to use.
    pub(crate) fn new(config: &Config, facts: &Facts) -> Result<Plan, ConfigError> {
        config.check()?;
        let asked = config.cores.as_ref().map(|given| given.value);
        let mut notes = Vec::new();
        let (cpus, count) = match (&config.cpus, &facts.allowed) {
            (Some(given), allowed) => {
                if let Some(allowed) = allowed {
                    usable(config, facts, allowed)?;
                }
                (given.value.numbers().to_vec(), given.value.len())
            }
            (None, Some(allowed)) => {
                let cpus = cores_before_siblings(allowed, facts);
                let granted = facts.quota.map_or(usize::MAX, |quota| quota.cpus());
                let count = asked.unwrap_or(cpus.len().min(granted));
                if asked.is_none() && granted < cpus.len() {
                    notes.extend(facts.quota.map(|quota| {
                        format!("{count} of {} CPUs used: the cgroup's quota is {quota} CPUs", cpus.len())
                    }));
                }
                (cpus.into_iter().take(count).collect(), count)
            }
            (None, None) => {
                notes.push("the system does not tell which CPUs may be used: shards run unpinned".to_owned());
                let usable =
                    || std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(SHARDS_MAX));
                (Vec::new(), asked.unwrap_or_else(usable))
            }
        };
        notes.extend(shared(config, &cpus, count));
        if let Some(quota) = facts.quota.filter(|quota| quota.cpus() < count) {
            notes
                .push(format!("the kernel will throttle {count} shards: the cgroup's quota is {quota} CPUs"));
        }
        let shards = (0..count).map(|shard| cpus.get(shard % cpus.len().max(1)).copied()).collect();
        Ok(Plan { shards, notes })
    }
}

/// What to say if some CPUs have more than one shard.
fn shared(config: &Config, cpus: &[usize], count: usize) -> Option<String> {
    if cpus.is_empty() || count <= cpus.len() {
        return None;
    }
    let list = CpuList::try_from(cpus.to_vec()).map(|list| list.to_string()).unwrap_or_default();
    let spin = if config.spin.is_zero() { "" } else { ", and spinning takes time from its neighbours" };
    Some(format!(
        "{count} shards share {} (CPUs {list}): a busy shard delays its neighbours{spin}",
        cpus.len()
    ))
}

/// Checks that every CPU of the list may be used.
fn usable(config: &Config, facts: &Facts, allowed: &[usize]) -> Result<(), ConfigError> {
    let Some(given) = &config.cpus else { return Ok(()) };
    let Some(cpu) = given.value.numbers().iter().find(|cpu| !allowed.contains(cpu)) else { return Ok(()) };
    let missing = |list: &Option<CpuList>| list.as_ref().is_some_and(|list| !list.numbers().contains(cpu));
    let wrong = match () {
        () if missing(&facts.present) => format!("there is no CPU {cpu}"),
        () if missing(&facts.online) => format!("CPU {cpu} is offline"),
        () => format!("CPU {cpu} is outside the affinity mask of this process"),
    };
    let list = CpuList::try_from(allowed.to_vec()).map(|list| list.to_string()).unwrap_or_default();
    Err(given.unusable(wrong, format!("CPUs {list}")))
}

/// The CPUs in the order in which shards should take them: one of each physical core, then the second threads.
fn cores_before_siblings(allowed: &[usize], facts: &Facts) -> Vec<usize> {
    // How many threads of its core come before a CPU, of those that may be used.
    let rank = |cpu: usize| {
        let siblings = facts.siblings.get(&cpu).map_or(&[][..], CpuList::numbers);
        siblings.iter().filter(|sibling| **sibling < cpu && allowed.contains(sibling)).count()
    };
    let mut cpus = allowed.to_vec();
    cpus.sort_by_key(|cpu| (rank(*cpu), *cpu));
    cpus
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Quota;
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn list(text: &str) -> CpuList {
        text.parse().unwrap()
    }

    /// A machine with CPUs 0 to 7, of which 7 is offline and 6 not ours; 0 and 4, 1 and 5, … share a core.
    fn machine() -> Facts {
        Facts {
            allowed: Some((0..6).collect()),
            online: Some(list("0-6")),
            present: Some(list("0-7")),
            siblings: (0..6).map(|cpu| (cpu, list(&format!("{},{}", cpu % 4, cpu % 4 + 4)))).collect(),
            quota: None,
        }
    }

    fn cpus(plan: &Plan) -> Vec<usize> {
        plan.shards.iter().map(|cpu| cpu.unwrap()).collect()
    }

    #[test]
    fn one_shard_for_each_cpu_physical_cores_first() {
        let plan = Plan::new(&Config::default(), &machine()).unwrap();
        assert_eq!((cpus(&plan), plan.notes), (vec![0, 1, 2, 3, 4, 5], vec![]));
        let mut paired = machine();
        paired.siblings =
            (0..6).map(|cpu| (cpu, list(&format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1)))).collect();
        assert_eq!(cpus(&Plan::new(&Config::default().cores(4), &paired).unwrap()), [0, 2, 4, 1]);
        // A second thread whose first may not be used counts as a core of its own.
        paired.allowed = Some(vec![1, 2, 3]);
        assert_eq!(cpus(&Plan::new(&Config::default(), &paired).unwrap()), [1, 2, 3]);
        paired.siblings = BTreeMap::new();
        assert_eq!(cpus(&Plan::new(&Config::default(), &paired).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn a_quota_caps_the_default_and_is_said() {
        let facts = Facts { quota: Quota::new(150_000, 100_000), ..machine() };
        let plan = Plan::new(&Config::default(), &facts).unwrap();
        assert_eq!(cpus(&plan), [0, 1]);
        assert_eq!(plan.notes, ["2 of 6 CPUs used: the cgroup's quota is 1.5 CPUs"]);
        let plan = Plan::new(&Config::default().cores(3), &facts).unwrap();
        assert_eq!(cpus(&plan), [0, 1, 2]);
        assert_eq!(plan.notes, ["the kernel will throttle 3 shards: the cgroup's quota is 1.5 CPUs"]);
        let wide = Facts { quota: Quota::new(900_000, 100_000), ..machine() };
        let plan = Plan::new(&Config::default(), &wide).unwrap();
        assert_eq!((plan.shards.len(), plan.notes), (6, vec![]));
    }

    #[test]
    fn a_list_is_taken_in_its_order() {
        let plan = Plan::new(&Config::default().cpus(list("5,0-1")), &machine()).unwrap();
        assert_eq!((cpus(&plan), plan.notes), (vec![5, 0, 1], vec![]));
    }

    #[test]
    fn more_shards_than_cpus_take_turns_and_it_is_said() {
        let facts = Facts { allowed: Some(vec![0, 1]), ..machine() };
        let plan = Plan::new(&Config::default().cores(5), &facts).unwrap();
        assert_eq!(cpus(&plan), [0, 1, 0, 1, 0]);
        assert_eq!(plan.notes, ["5 shards share 2 (CPUs 0-1): a busy shard delays its neighbours"]);
        let spinning = Config::default().cores(5).spin(Duration::from_micros(1));
        let notes = Plan::new(&spinning, &facts).unwrap().notes;
        assert!(notes[0].ends_with("and spinning takes time from its neighbours"), "{notes:?}");
    }

    #[test]
    fn a_cpu_that_cannot_be_used_is_refused_with_the_reason() {
        for (given, wrong) in [
            ("0,8", "there is no CPU 8"),
            ("7", "CPU 7 is offline"),
            ("0-6", "CPU 6 is outside the affinity mask of this process"),
        ] {
            let config = Config::from_vars([("WATERWHEEL_CPUS", given)]).unwrap();
            let line = Plan::new(&config, &machine()).unwrap_err().to_string();
            assert_eq!(line, format!("WATERWHEEL_CPUS={given:?}: {wrong}; allowed: CPUs 0-5"));
        }
    }

    #[test]
    fn nonsense_does_not_reach_the_machine() {
        for config in [
            Config::default().cores(0),
            Config::default().cores(1025),
            Config::default().cores(1).cpus(list("0-1")),
        ] {
            assert_eq!(Plan::new(&config, &machine()).unwrap_err(), config.check().unwrap_err());
        }
    }

    #[test]
    fn without_a_mask_shards_run_unpinned_unless_told() {
        let plan = Plan::new(&Config::default().cores(3), &Facts::default()).unwrap();
        assert_eq!(plan.shards, [None; 3]);
        assert_eq!(plan.notes.len(), 1);
        let plan = Plan::new(&Config::default().cpus(list("4,2")), &Facts::default()).unwrap();
        assert_eq!(cpus(&plan), [4, 2]);
        assert!(!Plan::new(&Config::default(), &Facts::default()).unwrap().shards.is_empty());
    }
}
