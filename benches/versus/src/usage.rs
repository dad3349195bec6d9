//! What the kernel counted of a subject: CPU time and memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// CPU time of a process up to now, all its living threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time. The kernel adds to it at each tick and each switch, so it may be some ms behind.
    pub on_cpu: Duration,
    /// Time in which it could have run and others did.
    pub waiting: Duration,
}

impl Usage {
    /// By `schedstat` (Documentation/scheduler/sched-stats.rst). Kernel threads that work for an io_uring
    /// count too; a thread that has ended does not.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(process: u32) -> anyhow::Result<Usage> {
        let tasks = format!("/proc/{process}/task");
        let mut sum = Usage::default();
        for task in fs::read_dir(&tasks).with_context(|| format!("{tasks}: the subject has ended"))? {
            // One that ends meanwhile takes its time with it.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                let usage = Usage::parse(&text).with_context(|| format!("a schedstat that says {text:?}"))?;
                sum.on_cpu += usage.on_cpu;
                sum.waiting += usage.waiting;
            }
        }
        Ok(sum)
    }

    /// Of the calling thread.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of_this_thread() -> anyhow::Result<Usage> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").context("schedstat")?;
        Usage::parse(&text).with_context(|| format!("a schedstat that says {text:?}"))
    }

    fn parse(text: &str) -> Option<Usage> {
        let mut nanos = text.split_ascii_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
        Some(Usage { on_cpu: nanos.next()??, waiting: nanos.next()?? })
    }

    /// What came since an earlier reading.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            on_cpu: self.on_cpu.saturating_sub(earlier.on_cpu),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// Bytes of memory that only this process has: what would be free without it. The kernel's for its sockets is
/// none of it.
///
/// # Errors
/// There is no such process, or it may not be read.
pub fn private_bytes(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(Path::new(&path)).with_context(|| path.clone())?;
    private(&text).with_context(|| format!("{path} says nothing of private memory"))
}

fn private(rollup: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    Some((of("Private_Clean:")? + of("Private_Dirty:")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let usage = Usage { on_cpu: Duration::from_nanos(12), waiting: Duration::from_nanos(7) };
        assert_eq!(Usage::parse("12 7 3\n"), Some(usage));
        assert_eq!(Usage::parse("12"), None);
        let rollup = "Rss:  80 kB\nPrivate_Clean:         4 kB\nPrivate_Dirty:        12 kB\n";
        assert_eq!(private(rollup), Some(16 * 1024));
        assert_eq!(private("Rss: 80 kB\n"), None);
        let own = std::process::id();
        assert!(Usage::of(own).unwrap().on_cpu > Duration::ZERO && private_bytes(own).unwrap() > 0);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
