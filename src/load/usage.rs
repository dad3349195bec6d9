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
    /// Time on a CPU; to a tick of 10 ms where threads or children have ended, whose nanoseconds are gone with them.
    /// Children that nobody waited for are gone altogether.
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

/// Generations of descendants that are counted, and how many processes at most.
const GENERATIONS_MAX: usize = 4;
const FAMILY_MAX: usize = 10_000;

impl ProcessUsage {
    /// Reads a process and its descendants. A few file reads per thread: not for the hot path.
    ///
    /// # Errors
    /// There is no such process, it has ended and only waits to be waited for, or it may not be read.
    pub fn of(pid: u32) -> io::Result<ProcessUsage> {
        let mut sum = ProcessUsage::default();
        let own = process(pid);
        if Stat::of(&own)?.has_ended {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the process has ended"));
        }
        sum.add(&own)?;
        for child in family(pid).into_iter().skip(1) {
            // One that ends between the listing and the reading takes its time with it.
            let _ended = sum.add(&child);
        }
        Ok(sum)
    }

    /// One process.
    fn add(&mut self, process: &Path) -> io::Result<()> {
        let stat = Stat::of(process)?;
        let mut living = Duration::ZERO;
        for thread in threads(process)? {
            // The same for a thread.
            if let Ok(text) = fs::read_to_string(thread.join("schedstat")) {
                living += ThreadUsage::parse(&text).ok_or_else(unreadable)?.on_cpu;
            }
        }
        // Both leave something out: the one all threads that have ended, the other less than two ticks.
        self.cpu += living.max(time(stat.own.sum())) + time(stat.children.sum());
        self.user_ticks += stat.own.user + stat.children.user;
        self.system_ticks += stat.own.system + stat.children.system;
        self.resident_bytes += resident_bytes(&fs::read_to_string(process.join("status"))?);
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

/// CPU time of the whole machine in ticks of 10 ms, up to now: neither idle nor waiting for a disk.
pub fn machine_busy() -> Option<Duration> {
    busy_ticks(&fs::read_to_string("/proc/stat").ok()?).map(time)
}

/// The CPUs that the calling thread may run on; empty if the kernel does not say.
pub fn own_cpus() -> Vec<usize> {
    allowed_cpus(Path::new("/proc/thread-self"))
}

/// The CPUs that the working threads of a process and its descendants may run on: those that had at least a hundredth
/// of all their CPU time. A main thread that waits for the others usually may run anywhere, and does not; so may a
/// master process.
pub fn busy_cpus(pid: u32) -> Vec<usize> {
    let tasks = family(pid).into_iter().filter_map(|process| threads(&process).ok()).flatten();
    let used = |task: PathBuf| {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        Some((ThreadUsage::parse(&text)?.on_cpu, task))
    };
    let tasks: Vec<_> = tasks.filter_map(used).collect();
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

fn process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn threads(process: &Path) -> io::Result<impl Iterator<Item = PathBuf> + use<>> {
    Ok(fs::read_dir(process.join("task"))?.flatten().map(|thread| thread.path()))
}

/// A process and its descendants, generation by generation.
fn family(pid: u32) -> Vec<PathBuf> {
    let mut all = vec![process(pid)];
    let mut generation = 0..1;
    for _ in 0..GENERATIONS_MAX {
        for parent in generation.clone() {
            for thread in threads(&all[parent]).into_iter().flatten() {
                let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
                all.extend(children.split_ascii_whitespace().map(|child| Path::new("/proc").join(child)));
            }
        }
        all.truncate(FAMILY_MAX);
        generation = generation.end..all.len();
    }
    all
}

/// The part of a `stat` file that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// It is a zombie or less: nothing of it runs.
    has_ended: bool,
    /// Of all its threads, those that have ended too.
    own: Ticks,
    /// Of the children that it has waited for, and of theirs.
    children: Ticks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    user: u64,
    system: u64,
}

impl Ticks {
    fn sum(self) -> u64 {
        self.user + self.system
    }
}

/// `USER_HZ` is 100 wherever this builds.
fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

impl Stat {
    fn of(process: &Path) -> io::Result<Stat> {
        Stat::parse(&fs::read_to_string(process.join("stat"))?).ok_or_else(unreadable)
    }

    /// The command's name in it may contain anything, closing brackets too.
    fn parse(text: &str) -> Option<Stat> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
        let mut numbers = fields.skip(10).map(|field| field.parse().ok());
        let mut ticks = || Some(Ticks { user: numbers.next()??, system: numbers.next()?? });
        Some(Stat { has_ended, own: ticks()?, children: ticks()? })
    }
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
        let stat = "12 (a) b) (c) S 1 12 12 0 -1 4194304 100 0 0 0 71 29 7 9 20 0 1 0 100";
        let (own, children) = (Ticks { user: 71, system: 29 }, Ticks { user: 7, system: 9 });
        assert_eq!(Stat::parse(stat), Some(Stat { has_ended: false, own, children }));
        assert!(Stat::parse(&stat.replace(") S", ") Z")).unwrap().has_ended);
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("12 (a) S 1"), None);
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

    /// Keeps a CPU busy for so long.
    fn burn(length: Duration) {
        let before = ThreadUsage::current().unwrap();
        while ThreadUsage::current().unwrap().since(&before).on_cpu < length {}
    }

    /// Held by tests that have children, since each counts all that there are.
    static FAMILY: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn threads_and_children_that_have_ended_are_counted() {
        let _alone = FAMILY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (length, pid) = (Duration::from_millis(150), std::process::id());
        let before = ProcessUsage::of(pid).unwrap();
        std::thread::scope(|scope| scope.spawn(|| burn(length)).join().unwrap());
        let after_thread = ProcessUsage::of(pid).unwrap();
        // Two ticks may be missing.
        assert!(after_thread.since(&before).total >= length - Duration::from_millis(20));
        let shell = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; times";
        let output = std::process::Command::new("sh").args(["-c", shell]).output().unwrap();
        assert!(output.status.success());
        let stat = Stat::of(&process(pid)).unwrap();
        assert!(stat.children.sum() > 2, "the shell took no time");
        assert!(ProcessUsage::of(pid).unwrap().cpu >= time(stat.children.sum()));
    }

    #[test]
    fn the_cpus_of_busy_children_are_those_of_the_target() {
        let _alone = FAMILY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = own_cpus();
        let last = own.last().unwrap().to_string();
        // A master that sleeps and a worker that is busy, as many servers are.
        let script = format!("taskset -c {last} sh -c 'while :; do :; done' & echo begun; wait");
        let mut master = std::process::Command::new("sh");
        let mut master = master.args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        io::Read::read_exact(&mut master.stdout.take().unwrap(), &mut [0; 5]).unwrap();
        let pid = master.id();
        let mut tries = 0;
        // So long that the start of a shell is less than a hundredth of it.
        while ProcessUsage::of(pid).unwrap().cpu < Duration::from_secs(1) {
            burn(Duration::from_millis(1));
            tries += 1;
            assert!(tries < 30_000, "the worker does not work");
        }
        let cpus = busy_cpus(pid);
        // The worker first: without its master it would be nobody's.
        for process in family(pid).iter().rev() {
            let pid = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let zombie = loop {
            if let Err(error) = ProcessUsage::of(pid) {
                break error;
            }
        };
        assert_eq!(zombie.to_string(), "the process has ended", "nobody has waited for it yet");
        master.wait().unwrap();
        assert_eq!(cpus, [*own.last().unwrap()]);
    }

    #[test]
    fn no_such_process_is_an_error() {
        assert_eq!(ProcessUsage::of(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
