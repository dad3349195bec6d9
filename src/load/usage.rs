//! What the kernel counted: CPU and memory of the target, of the whole machine, of our own threads.
//!
//! CPU time comes from `schedstat` (nanoseconds on the CPU, proc(5) and Documentation/scheduler/sched-stats.rst),
//! since `stat` counts ticks of 10 ms. On loopback the receiver's TCP work runs inside the sender's call and is
//! charged to the sender: that is why the whole machine stands beside the target.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// CPU time and memory of a process with all its threads and descendants, up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Time on a CPU of the threads that are alive.
    pub cpu: Duration,
    /// Clock ticks in user mode; only the ratio to [`system_ticks`](ProcessUsage::system_ticks) is used.
    pub user_ticks: u64,
    /// Clock ticks in the kernel.
    pub system_ticks: u64,
    /// Memory in use (resident set).
    pub resident_bytes: u64,
}

/// CPU time between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuUsed {
    /// All of it.
    pub total: Duration,
    /// In user mode and in the kernel; `None` if less than a tick passed, so that the ratio is unknown.
    pub split: Option<(Duration, Duration)>,
}

/// Processes further down than this are not counted.
const DEPTH_MAX: usize = 4;

impl ProcessUsage {
    /// Reads a process and its descendants. A few file reads per thread: not for the hot path.
    ///
    /// # Errors
    /// There is no such process, or it may not be read.
    pub fn of(pid: u32) -> io::Result<ProcessUsage> {
        let mut sum = ProcessUsage::default();
        sum.add(&PathBuf::from(format!("/proc/{pid}")), DEPTH_MAX)?;
        Ok(sum)
    }

    fn add(&mut self, process: &Path, depth: usize) -> io::Result<()> {
        let (user, system) = ticks(&fs::read_to_string(process.join("stat"))?).ok_or_else(unreadable)?;
        self.user_ticks += user;
        self.system_ticks += system;
        self.resident_bytes += resident_bytes(&fs::read_to_string(process.join("status"))?);
        for task in fs::read_dir(process.join("task"))? {
            // A thread that ends between the listing and the reading takes its time with it.
            let Ok(task) = task else { continue };
            if let Ok(text) = fs::read_to_string(task.path().join("schedstat")) {
                self.cpu += ThreadUsage::parse(&text).ok_or_else(unreadable)?.on_cpu;
            }
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter(|_| depth > 0) {
                // The same for a child that ends.
                let _ended = self.add(&Path::new("/proc").join(child), depth - 1);
            }
        }
        Ok(())
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &ProcessUsage) -> CpuUsed {
        let total = self.cpu.saturating_sub(earlier.cpu);
        let user = self.user_ticks.saturating_sub(earlier.user_ticks);
        let ticks = user + self.system_ticks.saturating_sub(earlier.system_ticks);
        let split = (ticks > 0).then(|| {
            let in_user = total.mul_f64(user as f64 / ticks as f64);
            (in_user, total.saturating_sub(in_user))
        });
        CpuUsed { total, split }
    }
}

/// What a thread had of its CPU, up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Time on a CPU.
    pub on_cpu: Duration,
    /// Time it could have run and somebody else ran.
    pub waiting: Duration,
}

impl ThreadUsage {
    /// Of the calling thread; `None` where the kernel does not say.
    pub fn current() -> Option<ThreadUsage> {
        ThreadUsage::parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &ThreadUsage) -> ThreadUsage {
        ThreadUsage {
            on_cpu: self.on_cpu.saturating_sub(earlier.on_cpu),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }

    fn parse(text: &str) -> Option<ThreadUsage> {
        let mut nanos = text.split_ascii_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
        Some(ThreadUsage { on_cpu: nanos.next()??, waiting: nanos.next()?? })
    }
}

/// CPU time of the whole machine in ticks of 10 ms (`USER_HZ` is 100 wherever this builds), up to now: neither idle
/// nor waiting for a disk.
pub fn machine_busy() -> Option<Duration> {
    busy_ticks(&fs::read_to_string("/proc/stat").ok()?).map(|ticks| Duration::from_millis(ticks * 10))
}

/// The CPUs that the calling thread may run on; empty if the kernel does not say.
pub fn own_cpus() -> Vec<usize> {
    allowed_cpus(Path::new("/proc/thread-self"))
}

/// The CPUs that the working threads of a process may run on: those that had at least a hundredth of all its CPU time.
/// A main thread that waits for the others usually may run anywhere, and does not.
pub fn busy_cpus(pid: u32) -> Vec<usize> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let used = |task: PathBuf| {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        Some((ThreadUsage::parse(&text)?.on_cpu, task))
    };
    let tasks: Vec<_> = tasks.filter_map(|task| used(task.path())).collect();
    let all: Duration = tasks.iter().map(|(used, _)| *used).sum();
    let busy = tasks.iter().filter(|(used, _)| *used * 100 >= all);
    let mut cpus: Vec<usize> = busy.flat_map(|(_, task)| allowed_cpus(task)).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

fn allowed_cpus(task: &Path) -> Vec<usize> {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map_or(Vec::new(), cpu_list)
}

/// User and system ticks of a `stat` file. The command's name in it may contain anything, closing brackets too.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// 0 for a process that has no memory of its own any more: a zombie.
fn resident_bytes(status: &str) -> u64 {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    kibibytes
        .and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok())
        .map_or(0, |kib: u64| kib * 1024)
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    Some(numbers.iter().take(8).sum::<u64>() - numbers.get(3)? - numbers.get(4)?)
}

fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's counters of the process cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_shifts_no_field() {
        let stat = "12 (a) b) (c) S 1 12 12 0 -1 4194304 100 0 0 0 71 29 0 0 20 0 1 0 100";
        assert_eq!(ticks(stat), Some((71, 29)));
        assert_eq!(ticks(""), None);
        assert_eq!(ticks("12 (a) S 1"), None);
    }

    #[test]
    fn guests_are_not_counted_twice_and_idle_is_not_busy() {
        let stat = "cpu  10 1 20 1000 50 2 3 4 9 9\ncpu0 1 2 3\n";
        assert_eq!(busy_ticks(stat), Some(40));
        assert_eq!(busy_ticks("cpu  10"), None);
        assert_eq!(busy_ticks(""), None);
    }

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(cpu_list("\t0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(cpu_list(""), [0; 0]);
        assert!(!own_cpus().is_empty());
        assert!(!busy_cpus(std::process::id()).is_empty());
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let pid = std::process::id();
        let before = ProcessUsage::of(pid).unwrap();
        assert!(before.resident_bytes > 100_000);
        let mut sum = 0u64;
        let used = loop {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let used = ProcessUsage::of(pid).unwrap().since(&before);
            if used.total > Duration::from_millis(30) && used.split.is_some() {
                break used;
            }
        };
        let (user, system) = used.split.unwrap();
        assert_eq!(user + system, used.total);
        assert!(user > Duration::ZERO, "{used:?}");
        assert!(machine_busy().unwrap() > Duration::ZERO);
    }

    #[test]
    fn no_such_process_is_an_error() {
        assert_eq!(ProcessUsage::of(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
