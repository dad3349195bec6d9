//! Which CPUs this process may use, and how they lie together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::CpuList;
use super::cgroup::{self, Quota};
use super::cpus::CPU_MAX;

/// What a plan needs to know about the machine and about this process's share of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The affinity mask, in ascending order, never empty; `None`: the system does not tell.
    pub(crate) allowed: Option<Vec<usize>>,
    /// The CPUs that run; `None`: the system does not tell.
    pub(crate) online: Option<CpuList>,
    /// The CPUs that there are, running or not; `None`: the system does not tell.
    pub(crate) present: Option<CpuList>,
    /// For a CPU, all that share its physical core, itself included. A CPU that is missing has a core of its own.
    pub(crate) siblings: BTreeMap<usize, CpuList>,
    /// What the cgroups grant; `None`: no limit.
    pub(crate) quota: Option<Quota>,
}

impl Facts {
    /// Asks the system. The affinity mask is asked for once per process and by whoever comes first, since
    /// core_affinity reports the calling thread's own mask, and a pinned thread sees one CPU: call it before the
    /// first [`pin`].
    pub(crate) fn read() -> Facts {
        static ALLOWED: OnceLock<Option<Vec<usize>>> = OnceLock::new();
        let allowed = ALLOWED.get_or_init(|| {
            let mut cpus: Vec<usize> =
                core_affinity::get_core_ids()?.into_iter().map(|core| core.id).collect();
            cpus.sort_unstable();
            Some(cpus).filter(|cpus| !cpus.is_empty())
        });
        Facts::below(Path::new("/"), allowed.clone())
    }

    /// The same from files below `root`, for tests, with the mask given.
    pub(crate) fn below(root: &Path, allowed: Option<Vec<usize>>) -> Facts {
        let cpus = root.join("sys/devices/system/cpu");
        let siblings = allowed
            .iter()
            .flatten()
            .filter_map(|cpu| {
                let topology = cpus.join(format!("cpu{cpu}/topology"));
                // The second is the newer name (Linux 5.0) of the first.
                let files = ["thread_siblings_list", "core_cpus_list"];
                let list = files.into_iter().find_map(|file| kernel_list(&topology.join(file)))?;
                Some((*cpu, list))
            })
            .collect();
        Facts {
            online: kernel_list(&cpus.join("online")),
            present: kernel_list(&cpus.join("present")),
            siblings,
            quota: cgroup::quota(root),
            allowed,
        }
    }
}

/// A list that the kernel wrote; `None` also for one with CPUs beyond those that a thread can be pinned to.
fn kernel_list(path: &Path) -> Option<CpuList> {
    fs::read_to_string(path).ok()?.trim_end().parse().ok()
}

/// Pins the calling thread to one CPU. If the system refuses, says so in the log, and the thread stays where it may
/// run: slower, not broken.
pub(crate) fn pin(shard: usize, cpu: usize) -> bool {
    // core_affinity indexes a fixed set with the number.
    let pinned = cpu <= CPU_MAX && core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    if !pinned {
        tracing::warn!(shard, cpu, "cannot be pinned to this CPU, runs unpinned");
    }
    pinned
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Plan};
    use super::*;
    use rustix::thread::{CpuSet, sched_getaffinity};

    /// The calling thread's mask, from the kernel.
    fn mask() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }

    #[test]
    fn shard_2_the_kernel_has_each_thread_where_the_plan_says() {
        let facts = Facts::read();
        let shards = facts.allowed.as_ref().unwrap().len() + 1;
        let plan = Plan::new(&Config::default().cores(shards), &facts).unwrap();
        assert_eq!(plan.shards.len(), shards);
        for (shard, cpu) in plan.shards.iter().enumerate() {
            let prepare = plan.prepare(shard);
            let thread = std::thread::Builder::new().spawn(move || {
                prepare();
                mask()
            });
            assert_eq!(thread.unwrap().join().unwrap(), [cpu.unwrap()]);
        }
    }

    #[test]
    fn a_pinned_thread_still_learns_the_processs_mask() {
        let facts = Facts::read();
        let allowed = facts.allowed.clone().unwrap();
        assert_eq!(allowed, mask());
        let thread = std::thread::Builder::new().spawn(move || {
            assert!(pin(0, allowed[0]));
            Facts::read().allowed
        });
        assert_eq!(thread.unwrap().join().unwrap(), facts.allowed);
    }

    #[test]
    fn shard_2_a_pin_that_fails_leaves_the_thread_where_it_may_run() {
        for cpu in [CPU_MAX, CPU_MAX + 1, usize::MAX] {
            let thread = std::thread::Builder::new().spawn(move || (mask(), pin(0, cpu), mask())).unwrap();
            let (before, pinned, after) = thread.join().unwrap();
            assert!(!pinned, "no machine of ours has CPU {cpu}");
            assert_eq!(before, after);
        }
    }

    #[test]
    fn the_machine_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("online", "0-2\n"),
            ("present", "0-3\n"),
            ("cpu0/topology/thread_siblings_list", "0,2\n"),
            ("cpu1/topology/core_cpus_list", "1,3\n"),
        ] {
            let path = root.path().join("sys/devices/system/cpu").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let facts = Facts::below(root.path(), Some(vec![0, 1, 2]));
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!((facts.online, facts.present), (Some(list("0-2")), Some(list("0-3"))));
        assert_eq!(facts.siblings, BTreeMap::from([(0, list("0,2")), (1, list("1,3"))]));
        assert_eq!(facts.quota, None);
    }
}
