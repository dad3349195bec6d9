//! What the framework itself counts on each shard. Shown by shard: with a label `shard`.

use std::rc::Rc;
use std::time::Duration;

use super::cells::{Counter, Gauge, Histogram};
use super::datagrams::{DatagramCells, DatagramFamilies};
use super::family::{Family, FamilyError, FamilyOptions, Unit};
use super::process::thread_cpu;
use super::registry::Declaring;
use super::store::{Children, Store};
use crate::mesh::{MeshStats, PortStats};
use crate::net::{AcceptStats, AcceptedBy};
use crate::shard::{GroupStats, Shard, ShardStats};

/// A counter's name, what it is, and where it comes from.
pub(super) type Row<S> = (&'static str, &'static str, fn(&S) -> u64);

const TURNS: [Row<ShardStats>; 5] = [
    ("waterwheel_turns_total", "Turns of the shard's root.", |stats| stats.turns),
    ("waterwheel_task_polls_total", "Polls of tasks.", |stats| stats.polls),
    ("waterwheel_tasks_spawned_total", "Tasks spawned.", |stats| stats.spawned),
    ("waterwheel_task_panics_total", "Tasks that panicked, each of which ended alone.", |stats| stats.panics),
    ("waterwheel_turn_stalls_total", "Turns longer than the stall limit.", |stats| stats.stalls),
];
const MESSAGES: [Row<MeshStats>; 4] = [
    ("waterwheel_parks_total", "How often the shard went to sleep.", |stats| stats.parks),
    ("waterwheel_woken_total", "How often a bell woke it from that.", |stats| stats.woken),
    ("waterwheel_rings_total", "Bells of other shards that it rang.", |stats| stats.rings),
    ("waterwheel_ring_wakes_total", "Rings that woke their target.", |stats| stats.wakes),
];
const PORTS: [Row<PortStats>; 2] = [
    ("waterwheel_port_sent_total", "Messages or requests sent, by port.", |port| port.sent),
    ("waterwheel_port_received_total", "Messages received or requests handled, by port.", |port| {
        port.received
    }),
];
const ACCEPTS: [Row<AcceptStats>; 11] = [
    ("waterwheel_accepted_total", "Connections that the kernel gave to the shard.", |stats| stats.accepted),
    ("waterwheel_accept_misplaced_total", "Of the accepted, those that another shard owns.", |stats| {
        stats.misplaced
    }),
    ("waterwheel_accept_handed_over_total", "Of the accepted, those handed to another shard.", |stats| {
        stats.handed_over
    }),
    (
        "waterwheel_accept_kept_total",
        "Of the accepted, those that another shard owns and that stayed.",
        |stats| stats.kept,
    ),
    ("waterwheel_accept_taken_over_total", "Connections that other shards handed to it.", |stats| {
        stats.taken_over
    }),
    ("waterwheel_accept_crowded_total", "Connections reset since too many waited for the shard.", |stats| {
        stats.crowded
    }),
    ("waterwheel_accept_dropped_total", "Connections reset since the shard stopped before.", |stats| {
        stats.dropped
    }),
    (
        "waterwheel_accept_held_back_total",
        "How often the shard stopped accepting since it had all that its quotas allow.",
        |stats| stats.held_back,
    ),
    ("waterwheel_accept_adopt_failed_total", "Connections that the reactor refused.", |stats| {
        stats.adopt_failed
    }),
    ("waterwheel_accept_shed_total", "Connections reset since no descriptor was left.", |stats| stats.shed),
    ("waterwheel_accept_errors_total", "Times that accepting failed.", |stats| stats.errors),
];
const GROUPS: [Row<GroupStats>; 1] =
    [("waterwheel_group_polls_total", "Polls of tasks, by group.", |group| group.polls)];

/// The framework's families.
#[derive(Debug)]
pub(super) struct Own {
    turns: Vec<Family<Counter>>,
    messages: Vec<Family<Counter>>,
    ports: Vec<Family<Counter, 1>>,
    accepts: Vec<Family<Counter, 1>>,
    datagrams: DatagramFamilies,
    groups: Vec<Family<Counter, 1>>,
    tasks: Family<Gauge>,
    timers: Family<Gauge>,
    buffered_bytes: Family<Gauge>,
    buffered_bytes_max: Family<Gauge>,
    cpu_nanos: Family<Counter>,
    turn_times: Family<Histogram>,
    group_shares: Family<Gauge, 1>,
    group_run_nanos: Family<Counter, 1>,
    group_waits: Family<Histogram, 1>,
}

impl Own {
    pub(super) fn declare(on: &Declaring<'_>) -> Result<Own, FamilyError> {
        let options = FamilyOptions { by_shard: true, ..FamilyOptions::default() };
        // As many as there are ports and listeners, which the program declares.
        let many = FamilyOptions { children: 1_000, ..options };
        let plain = |name, help| on.declare((name, help), Unit::Number, [], options);
        let level = |name, help| on.declare((name, help), Unit::Number, [], options);
        let labelled = |name, help, label| on.declare((name, help), Unit::Number, [label], many);
        Ok(Own {
            turns: TURNS.iter().map(|(name, help, _)| plain(name, help)).collect::<Result<_, _>>()?,
            messages: MESSAGES.iter().map(|(name, help, _)| plain(name, help)).collect::<Result<_, _>>()?,
            ports: PORTS
                .iter()
                .map(|(name, help, _)| labelled(name, help, "port"))
                .collect::<Result<_, _>>()?,
            accepts: ACCEPTS
                .iter()
                .map(|(name, help, _)| labelled(name, help, "listener"))
                .collect::<Result<_, _>>()?,
            datagrams: DatagramFamilies::declare(on, many)?,
            groups: GROUPS
                .iter()
                .map(|(name, help, _)| labelled(name, help, "group"))
                .collect::<Result<_, _>>()?,
            tasks: level("waterwheel_tasks", "Tasks that are alive.")?,
            timers: level("waterwheel_timers", "Timers that are set.")?,
            buffered_bytes: level(
                "waterwheel_buffered_bytes",
                "Memory that connections hold outside the kernel.",
            )?,
            buffered_bytes_max: level("waterwheel_buffered_bytes_max", "The most of it; 0: no limit.")?,
            cpu_nanos: on.declare(
                ("waterwheel_shard_cpu_seconds_total", "Time that the shard's thread was on a CPU."),
                Unit::Seconds,
                [],
                options,
            )?,
            turn_times: on.declare(
                ("waterwheel_turn_seconds", "How long turns took, while stalls are reported."),
                Unit::Seconds,
                [],
                options,
            )?,
            group_shares: on.declare(
                ("waterwheel_group_shares", "Shares of the shard's time, by group of tasks."),
                Unit::Number,
                ["group"],
                many,
            )?,
            group_run_nanos: on.declare(
                (
                    "waterwheel_group_run_seconds_total",
                    "Time that tasks took, by group; of the default group while others had something to do.",
                ),
                Unit::Seconds,
                ["group"],
                many,
            )?,
            group_waits: on.declare(
                (
                    "waterwheel_group_queue_seconds",
                    "How long tasks waited for their poll, by group that measures it.",
                ),
                Unit::Seconds,
                ["group"],
                many,
            )?,
        })
    }

    /// Copies what a shard counts whenever somebody is about to ask.
    pub(super) fn watch(&self, store: &Rc<Store>) {
        let watching = Watching::new(self, store);
        store.add_hook(move || watching.copy());
    }
}

/// The cells on one shard.
struct Watching {
    shard: Shard,
    turns: Vec<Counter>,
    messages: Vec<Counter>,
    ports: Vec<Children<Counter, 1>>,
    accepts: Vec<Children<Counter, 1>>,
    /// Held here, since what is kept for a shard goes before its last word.
    listeners: Rc<AcceptedBy>,
    datagrams: DatagramCells,
    groups: Vec<Children<Counter, 1>>,
    tasks: Gauge,
    timers: Gauge,
    buffered_bytes: Gauge,
    buffered_bytes_max: Gauge,
    /// What the thread had used before this life began.
    cpu_before: Option<Duration>,
    cpu_nanos: Counter,
    turn_times: Histogram,
    group_shares: Children<Gauge, 1>,
    group_run_nanos: Children<Counter, 1>,
    group_waits: Children<Histogram, 1>,
}

impl Watching {
    fn new(own: &Own, store: &Rc<Store>) -> Watching {
        let part = |family: &Family<Counter, 1>| Children::new(store.clone(), family.clone());
        let parts = |all: &[Family<Counter, 1>]| all.iter().map(part).collect();
        let one = |family: &Family<Counter>| Children::new(store.clone(), family.clone()).with([]);
        let ones = |all: &[Family<Counter>]| all.iter().map(one).collect();
        let level = |family: &Family<Gauge>| Children::new(store.clone(), family.clone()).with([]);
        Watching {
            shard: store.shard().clone(),
            turns: ones(&own.turns),
            messages: ones(&own.messages),
            ports: parts(&own.ports),
            accepts: parts(&own.accepts),
            listeners: AcceptedBy::of(store.shard()),
            datagrams: DatagramCells::new(&own.datagrams, store),
            groups: parts(&own.groups),
            tasks: level(&own.tasks),
            timers: level(&own.timers),
            buffered_bytes: level(&own.buffered_bytes),
            buffered_bytes_max: level(&own.buffered_bytes_max),
            // The thread is the same in all lives of its shard. Simulated shards have none of their own.
            cpu_before: store.registry.is_real.then(thread_cpu).flatten(),
            cpu_nanos: one(&own.cpu_nanos),
            turn_times: Children::new(store.clone(), own.turn_times.clone()).with([]),
            group_shares: Children::new(store.clone(), own.group_shares.clone()),
            group_run_nanos: part(&own.group_run_nanos),
            group_waits: Children::new(store.clone(), own.group_waits.clone()),
        }
    }

    fn copy(&self) {
        let stats = self.shard.stats();
        raise(&self.turns, &TURNS, &stats);
        self.tasks.set(stats.alive as f64);
        self.timers.set(self.shard.timers() as f64);
        self.buffered_bytes.set(self.shard.buffered_bytes() as f64);
        let most = self.shard.buffered_bytes_limit();
        self.buffered_bytes_max.set(most.unwrap_or(0) as f64);
        let messages = self.shard.mesh_stats();
        raise(&self.messages, &MESSAGES, &messages);
        for port in &messages.ports {
            raise_child(&self.ports, &PORTS, port.name, port);
        }
        for (listener, stats) in self.listeners.stats() {
            raise_child(&self.accepts, &ACCEPTS, &listener, &stats);
        }
        self.datagrams.copy();
        if let Some(before) = self.cpu_before
            && let Some(now) = thread_cpu()
        {
            self.cpu_nanos.raise_to(now.saturating_sub(before).as_nanos() as u64);
        }
        self.turn_times.copy_from(&self.shard.turn_times());
        for group in self.shard.group_stats() {
            raise_child(&self.groups, &GROUPS, group.name, &group);
            self.group_shares.with([group.name]).set(f64::from(group.shares.0));
            self.group_run_nanos.with([group.name]).raise_to(group.run.as_nanos() as u64);
            if let Some(times) = &group.queue_times {
                self.group_waits.with([group.name]).copy_from(times);
            }
        }
    }
}

fn raise<S>(counters: &[Counter], rows: &[Row<S>], stats: &S) {
    counters.iter().zip(rows).for_each(|(counter, (_, _, read))| counter.raise_to(read(stats)));
}

pub(super) fn raise_child<S>(counters: &[Children<Counter, 1>], rows: &[Row<S>], of: &str, stats: &S) {
    counters.iter().zip(rows).for_each(|(children, (_, _, read))| children.with([of]).raise_to(read(stats)));
}
