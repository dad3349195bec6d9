//! What the kernel counts about this process, under the names that all clients of Prometheus use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). A few short files of proc(5) are read,
//! which takes some tens of microseconds; on kernels before 6.2 longer, if many descriptors are open.

use std::fs;
use std::time::Duration;

/// Clock ticks per second in proc(5): fixed by the interface to user space.
const TICKS: u64 = 100;

/// The process up to now. What the kernel does not tell is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu: Option<Duration>,
    /// Since 1970.
    pub(super) started: Option<Duration>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) descriptors_max: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Process {
        let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (stat, status, limits) =
            (text("/proc/self/stat"), text("/proc/self/status"), text("/proc/self/limits"));
        let field = |number| stat_field(&stat, number);
        let boot =
            text("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let bytes = |name| Some(named(&status, name)? * 1024);
        Process {
            cpu: field(14).zip(field(15)).map(|(user, system)| ticks(user + system)),
            started: boot.zip(field(22)).map(|(boot, since)| Duration::from_secs(boot) + ticks(since)),
            resident_bytes: bytes("VmRSS:"),
            virtual_bytes: bytes("VmSize:"),
            threads: named(&status, "Threads:"),
            open_descriptors: open_descriptors(),
            descriptors_max: named(&limits, "Max open files"),
        }
    }
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * (1000 / TICKS))
}

/// A field of `/proc/PID/stat`, numbered from 1 as in proc(5), beyond the name, which may have anything in it.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// The first number of the line that begins so.
fn named(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Since 6.2 the kernel says it as the directory's size; before, that is 0, and they have to be listed.
fn open_descriptors() -> Option<u64> {
    const PLACE: &str = "/proc/self/fd";
    match fs::metadata(PLACE).ok()?.len() {
        // The one with which they are listed is none of them.
        0 => Some(fs::read_dir(PLACE).ok()?.count().saturating_sub(1) as u64),
        count => Some(count),
    }
}

/// Time that the calling thread was on a CPU (`schedstat`, Documentation/scheduler/sched-stats.rst in Linux).
pub(super) fn thread_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_moves_no_field() {
        let stat = "42 (a) b (c) 7) S 1 42 42 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 3 0 5678 1000 200";
        assert_eq!([14, 15, 20, 22].map(|at| stat_field(stat, at)), [12, 34, 3, 5678].map(Some));
        assert_eq!(stat_field("nothing", 14), None);
    }

    #[test]
    fn the_kernel_tells_all_of_it_about_this_process() {
        let before = Process::read();
        let held: Vec<_> = (0..10).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let after = Process::read();
        assert!(after.cpu.unwrap() >= before.cpu.unwrap() && after.started == before.started);
        assert!(after.started.unwrap() > Duration::from_secs(1_000_000_000), "{after:?}");
        assert!(after.resident_bytes.unwrap() > 100_000 && after.virtual_bytes > after.resident_bytes);
        assert!(after.open_descriptors.unwrap() >= held.len() as u64, "{after:?}");
        assert!(after.open_descriptors < after.descriptors_max && after.threads.unwrap() > 0, "{after:?}");
        assert!(thread_cpu().unwrap() <= after.cpu.unwrap() + Duration::from_secs(1));
    }
}
