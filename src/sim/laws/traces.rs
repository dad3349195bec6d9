//! SIM-1: the same seed gives the same trace, byte for byte: twice in one process, in debug and release builds, from any
//! folder, and as it was when it was last written down.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waterwheel::sim::Check;

use crate::proxied::scene;

/// Seeds whose traces are held against each other.
const SEEDS: u64 = 100;
/// Of these, so many are written out.
const WRITTEN: u64 = 5;

/// The hash over all of them, as it is known. It changes with whatever the proxy, the runtime or the simulation do in
/// another order than before, which is no mistake where it is meant.
const KNOWN: &str = include_str!("traces.txt");

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn sim_1_the_same_seed_gives_the_same_trace_as_ever() {
    let check = Check::new();
    let mut all = 0_u64;
    for seed in 0..SEEDS {
        let (once, again) = (check.seed(seed, scene), check.seed(seed, scene));
        assert_eq!(once, again, "seed {seed}");
        all = (all ^ once.hash).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(11);
    }
    let found = format!("{all:016x}");
    assert!(
        found == KNOWN.trim(),
        "the traces of {SEEDS} seeds have another hash than is written down: {found}, not {}\n\
         if the proxy, the runtime or the simulation are meant to do something in another order now, write it to \
         src/sim/laws/traces.txt",
        KNOWN.trim()
    );
}

#[test]
fn sim_1_byte_for_byte() {
    let mut different = Vec::new();
    for seed in 0..WRITTEN {
        let write = || {
            let paper = Paper::default();
            Check::new().traced(seed, paper.clone(), scene);
            std::mem::take(&mut *paper.lock())
        };
        let (once, again) = (write(), write());
        assert!(once.len() > 10_000, "{} bytes are no trace", once.len());
        assert!(once == again, "the traces of seed {seed} differ");
        assert!(once.split(|byte| *byte == b'\n').all(|line| line.is_empty() || is_object(line)));
        different.push(once);
    }
    different.dedup();
    assert_eq!(different.len() as u64, WRITTEN, "different seeds, different traces");
}

fn is_object(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value.is_object())
}
