//! What goes wrong in a world.

use std::time::Duration;

use waterwheel::sim::{Host, Rule, Verdict, World};

use super::SHARDS;

const HOSTS: [&str; 3] = ["clients", "proxy", "origin1"];

/// What a world's faults may lead to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// There are any.
    pub(super) any: bool,
    /// Shards of the proxy may panic.
    pub(super) panics: bool,
    /// Turns may be slow.
    pub(super) slow: bool,
    /// A peer may fall silent, which nobody notices for a quarter of an hour.
    pub(super) silent: bool,
}

/// Adds up to five faults.
pub(super) fn draw(world: &World, proxy: &Host) -> Faults {
    let mut faults = Faults::default();
    for _ in 0..world.below(6) {
        let kind = world.below(15);
        faults.any = true;
        faults.panics |= kind == 13;
        faults.slow |= kind == 11;
        faults.silent |= matches!(kind, 1 | 5 | 7);
        add(world, proxy, kind);
    }
    faults
}

fn millis(world: &World, most: u64) -> Duration {
    Duration::from_micros(world.below(most * 1_000))
}

fn add(world: &World, proxy: &Host, kind: u64) {
    let begin = millis(world, 2_000);
    let window = begin..=begin + millis(world, 3_000);
    let host = |world: &World| HOSTS[world.below(3) as usize];
    let probability = 0.001 * (1 + world.below(30)) as f64;
    let rule = match kind {
        0 => Rule::new(Verdict::Refuse).to("origin1").with(0.5).between(window),
        1 => Rule::new(Verdict::Lose).to(host(world)).with(0.2).between(window),
        2 => Rule::new(Verdict::Delay(millis(world, 8_000))).with(0.3).to(host(world)).between(window),
        3 => Rule::new(Verdict::Delay(millis(world, 400))).with(probability),
        4 => Rule::new(Verdict::Stall(millis(world, 6_000))).with(probability),
        5 => Rule::new(Verdict::Hold).from(host(world)).to(host(world)).between(window),
        6 => Rule::new(Verdict::Reset).with(probability / 3.0),
        7 => Rule::new(Verdict::HalfOpen).with(probability / 6.0),
        8 => {
            let (bytes, pause) = (1 + world.below(2_000) as usize, millis(world, 40));
            Rule::new(Verdict::SlowReader(bytes, pause)).to(host(world)).with(0.3)
        }
        9 => Rule::new(Verdict::ShortWrite(1 + world.below(30) as usize)).from(host(world)).with(0.4),
        10 => {
            // EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM.
            let error = [24, 23, 12, 105, 103, 1][world.below(6) as usize];
            Rule::new(Verdict::AcceptFails(error)).to(host(world)).with(0.4).between(window)
        }
        11 => {
            let shard = world.below(SHARDS as u64) as usize;
            Rule::new(Verdict::SlowTurn(millis(world, 150))).to(("proxy", shard)).with(probability)
        }
        // Never less than the listeners and their reserves have.
        12 => return proxy.limit_descriptors(proxy.descriptors() + 1 + world.below(40) as usize),
        13 => {
            let shard = world.below(SHARDS as u64) as usize;
            Rule::new(Verdict::Panic).to(("proxy", shard)).with(probability).at_most(1)
        }
        _ => Rule::new(Verdict::NameLate(millis(world, 3_000))).with(0.5),
    };
    world.rule(rule);
}
