//! How much CPU time the cgroups above this process grant it, in version 1 and 2 of the hierarchy.
//!
//! A process sits in one group of each hierarchy (`/proc/self/cgroup`); `/proc/self/mountinfo` says where the
//! hierarchies are mounted, and which part of them: a container often sees only its own subtree. A limit of any group
//! from the process's own up to the mount binds, so the tightest counts (cgroups(7), `Documentation/admin-guide/
//! cgroup-v2.rst` "CPU", `Documentation/scheduler/sched-bwc.rst`).

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// So much CPU time per period; both in microseconds, the period never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    time_us: u64,
    period_us: u64,
}

impl Quota {
    /// `None` for a quota that limits nothing, as the kernel never sets it.
    pub(crate) fn new(time_us: u64, period_us: u64) -> Option<Quota> {
        (time_us > 0 && period_us > 0).then_some(Quota { time_us, period_us })
    }

    /// How many CPUs it can keep busy, rounded up.
    pub(crate) fn cpus(self) -> usize {
        usize::try_from(self.time_us.div_ceil(self.period_us)).unwrap_or(usize::MAX)
    }

    fn tighter(self, other: Quota) -> Quota {
        let scaled = |one: Quota, by: Quota| u128::from(one.time_us) * u128::from(by.period_us);
        if scaled(other, self) < scaled(self, other) { other } else { self }
    }
}

/// In CPUs: `1.5`.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.time_us as f64 / self.period_us as f64 * 100.0).round() / 100.0)
    }
}

/// Which hierarchy a process's group is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The tightest quota on this process, read below `root`, which is `/` but for tests. `None`: no limit, or none that
/// this process is allowed to see.
pub(crate) fn quota(root: &Path) -> Option<Quota> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = groups.lines().filter_map(group).filter_map(|(version, path)| {
        let (top, inside) = place(&mounts, version, &path)?;
        // Up from the process's own group to the top of what is mounted.
        let top = root.join(top.strip_prefix("/").unwrap_or(&top));
        let up = inside.ancestors().filter_map(|part| limit(version, &top.join(part)));
        up.reduce(Quota::tighter)
    });
    limits.reduce(Quota::tighter)
}

/// A line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH`, if CPU time is granted in its hierarchy.
fn group(line: &str) -> Option<(Version, PathBuf)> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let version = match controllers {
        "" if id == "0" => Version::Two,
        _ if controllers.split(',').any(|name| name == "cpu") => Version::One,
        _ => return None,
    };
    Some((version, path.into()))
}

/// Where a hierarchy is mounted, and the group's path below that.
fn place(mounts: &str, version: Version, group: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut first = None;
    for (top, point) in mounts.lines().filter_map(|line| mount(line, version)) {
        // A group that leads out of the namespace, or lies beside the mounted subtree, cannot be reached: what is
        // mounted is then the container's own group.
        match group.strip_prefix(&top) {
            Ok(inside) if inside.components().all(|part| matches!(part, Component::Normal(_))) => {
                return Some((point, inside.to_owned()));
            }
            _ => first = first.or(Some((point, PathBuf::new()))),
        }
    }
    first
}

/// A line of `/proc/self/mountinfo` (proc(5)), if it mounts the hierarchy: the mounted subtree and where.
fn mount(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let (top, point) = (unescape(head.next()?), unescape(head.next()?));
    let mut tail = tail.split(' ');
    let ours = match version {
        Version::Two => tail.next()? == "cgroup2",
        Version::One => tail.next()? == "cgroup" && tail.nth(1)?.split(',').any(|option| option == "cpu"),
    };
    ours.then(|| (top.into(), point.into()))
}

/// Blanks and backslashes stand in mountinfo as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (number, letter)| text.replace(number, letter))
}

/// The quota that one group sets.
fn limit(version: Version, group: &Path) -> Option<Quota> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    match version {
        Version::Two => {
            let line = read("cpu.max")?;
            let (time, period) = line.trim().split_once(' ')?;
            // `max` is no number and no limit.
            Quota::new(time.parse().ok()?, period.parse().ok()?)
        }
        Version::One => {
            // -1, which is no limit, is no unsigned number.
            let time = read("cpu.cfs_quota_us")?.trim().parse().ok()?;
            Quota::new(time, read("cpu.cfs_period_us")?.trim().parse().ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      34 32 0:31 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n";

    /// A fake `/` with the given `/proc/self/cgroup`, `/proc/self/mountinfo` and other files.
    fn tree(groups: &str, mounts: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let fixed = [("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)];
        for (path, text) in fixed.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn cpus(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<String> {
        quota(tree(groups, mounts, files).path()).map(|quota| quota.to_string())
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let group = "0::/machine/web.service/worker\n";
        let at = |own, service, machine| {
            cpus(
                group,
                V2,
                &[
                    ("sys/fs/cgroup/machine/web.service/worker/cpu.max", own),
                    ("sys/fs/cgroup/machine/web.service/cpu.max", service),
                    ("sys/fs/cgroup/machine/cpu.max", machine),
                    ("sys/fs/cgroup/other/cpu.max", "1000 100000\n"),
                ],
            )
        };
        assert_eq!(at("max 100000\n", "max 100000\n", "max 100000\n"), None);
        assert_eq!(at("max 100000\n", "150000 100000\n", "400000 100000\n").as_deref(), Some("1.5"));
        assert_eq!(at("50000 10000\n", "max 100000\n", "max 100000\n").as_deref(), Some("5"));
        assert_eq!(at("50000 10000\n", "300000 100000\n", "max 100000\n").as_deref(), Some("3"));
        assert_eq!(at("max 100000\n", "max 100000\n", "200000 100000\n").as_deref(), Some("2"));
    }

    #[test]
    fn version_one_is_read_where_the_cpu_controller_is() {
        let groups = "5:cpuset:/a\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n";
        let at = "sys/fs/cgroup/cpu,cpuacct/docker/abc";
        let (time, period) = (format!("{at}/cpu.cfs_quota_us"), format!("{at}/cpu.cfs_period_us"));
        assert_eq!(cpus(groups, V1, &[(&time, "250000\n"), (&period, "100000\n")]).as_deref(), Some("2.5"));
        assert_eq!(cpus(groups, V1, &[(&time, "-1\n"), (&period, "100000\n")]), None);
    }

    #[test]
    fn on_a_hybrid_host_both_hierarchies_count() {
        let groups = "4:cpu,cpuacct:/x\n0::/y\n";
        let files = [
            ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/unified/y/cpu.max", "200000 100000\n"),
        ];
        let mounts = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        assert_eq!(cpus(groups, &mounts, &files).as_deref(), Some("2"));
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount() {
        let file = [("sys/fs/cgroup/cpu.max", "50000 100000\n")];
        // With a cgroup namespace, and without one, where only the subtree is mounted.
        assert_eq!(cpus("0::/\n", V2, &file).as_deref(), Some("0.5"));
        let bound = V2.replace("0:26 / ", "0:26 /docker/abc ");
        assert_eq!(cpus("0::/docker/abc\n", &bound, &file).as_deref(), Some("0.5"));
        let deeper = [("sys/fs/cgroup/worker/cpu.max", "70000 100000\n")];
        assert_eq!(cpus("0::/docker/abc/worker\n", &bound, &deeper).as_deref(), Some("0.7"));
        // Moved out of its namespace's root, or mounted beside: never a path that leads elsewhere.
        let elsewhere = [file[0], ("sys/fs/other/cpu.max", "10000 100000\n")];
        assert_eq!(cpus("0::/../other\n", V2, &elsewhere).as_deref(), Some("0.5"));
        assert_eq!(cpus("0::/\n", &bound, &file).as_deref(), Some("0.5"));
    }

    #[test]
    fn blanks_in_mount_points_are_read() {
        let mounts = "29 22 0:26 / /mnt/my\\040group rw - cgroup2 cgroup2 rw\n";
        let file = [("mnt/my group/a/cpu.max", "300000 100000\n")];
        assert_eq!(cpus("0::/a\n", mounts, &file).as_deref(), Some("3"));
    }

    #[test]
    fn nonsense_is_no_limit() {
        for file in ["", "max", "100000", "0 100000", "100000 0", "-5 100000", "a b", "100000 100000 x"] {
            assert_eq!(cpus("0::/\n", V2, &[("sys/fs/cgroup/cpu.max", file)]), None, "{file:?}");
        }
        for (groups, mounts) in
            [("", ""), ("0::/", ""), ("x\n:::\n0:\n", V2), ("0::/\n", "a - b\n - cgroup2\n")]
        {
            assert_eq!(cpus(groups, mounts, &[]), None);
        }
        assert_eq!(quota(Path::new("/nonexistent")), None);
    }

    #[test]
    fn quotas_round_up() {
        let cpus = |time, period| Quota::new(time, period).unwrap().cpus();
        assert_eq!((cpus(1, 100), cpus(100, 100), cpus(101, 100), cpus(250, 100)), (1, 1, 2, 3));
    }
}
