//! Two CPUs: one for the subject, one for the generator.

use anyhow::{Context as _, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// What subjects are pinned to.
    pub subject: usize,
    /// What this thread is pinned to.
    pub generator: usize,
}

impl Cpus {
    /// The first and the last that this process may use; on many machines they share least.
    ///
    /// # Errors
    /// It may use one only.
    pub fn choose() -> anyhow::Result<Cpus> {
        let allowed = allowed()?;
        match (allowed.first(), allowed.last()) {
            (Some(&subject), Some(&generator)) if subject != generator => Ok(Cpus { subject, generator }),
            _ => anyhow::bail!(
                "this needs two CPUs, one for the subject and one for the generator, and may use {allowed:?}"
            ),
        }
    }

    /// Pins this thread where the generator shall run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pin_generator(&self) -> anyhow::Result<()> {
        pin(self.generator)
    }

    /// Calls while this thread is where subjects shall run: a process that it starts then stays there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_subjects<T>(&self, start: impl FnOnce() -> T) -> anyhow::Result<T> {
        let own = sched_getaffinity(None)?;
        pin(self.subject)?;
        let started = start();
        sched_setaffinity(None, &own).context("going back to the own CPUs")?;
        Ok(started)
    }
}

fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("the CPUs that may be used")?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    ensure!(!allowed.is_empty(), "the kernel allows no CPU");
    Ok(allowed)
}

fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stays_where_it_was_started() {
        let Ok(cpus) = Cpus::choose() else { return };
        let script = "grep Cpus_allowed_list /proc/self/status";
        let before = allowed().unwrap();
        let start = || std::process::Command::new("sh").args(["-c", script]).output().unwrap();
        let output = cpus.on_subjects(start).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split_whitespace().last(), Some(&*cpus.subject.to_string()));
        assert_eq!(allowed().unwrap(), before);
    }
}
