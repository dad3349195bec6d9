//! The laws of life: a run's end, a panic, what is left behind, and a reactor that cannot run here.

mod release;
mod run;

use std::time::Duration;

use crate::Law;

pub(crate) const LAWS: &[Law] = &[
    Law::new("LIFE-1", "a run returns early, or only the first one works", run::returns_after_the_last_root),
    Law::new("LIFE-2", "a panic is swallowed, or takes the other shards with it", run::panic_is_named),
    Law::new("LIFE-3", "each reactor leaves something behind", release::each_life_leaves_nothing)
        .within(Duration::from_secs(60)),
    Law::new("LIFE-4", "a half-done operation leaks when dropped", release::half_done_operations),
    Law::new("LIFE-5", "a probe panics, exits or hangs where the reactor cannot run", run::probe_answers)
        .unprobed(),
];
