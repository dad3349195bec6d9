//! Who waits for what, and what is left over.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;

use waterwheel_reactor::{Address, Inspect, TaskNote};

use crate::drive::Life;
use crate::end::{End, Owner};
use crate::state::{Shared, State};
use crate::trace::Id;

/// The task of every shard that runs what other threads leave there; it always waits.
const HOUSEKEEPING: &str = "jobs";
/// Tasks that one report names, for each shard; the others are counted.
const TASKS_TOLD: usize = 40;

/// A world in which nothing happens any more, or nothing but the same for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    text: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Stuck {}

/// Nothing is under way, no alarm is set, nobody is awake: whoever still waits, waits for ever.
pub(crate) fn deadlock(shared: &Shared, lives: &BTreeMap<Id, Life>) -> Stuck {
    let text = "deadlock: nothing is under way and nobody is awake; still waiting:\n".to_owned();
    waiting(shared, lives, text)
}

/// The world has come to one of its limits.
pub(crate) fn endless(shared: &Shared, lives: &BTreeMap<Id, Life>) -> Stuck {
    let state = shared.lock();
    let text = format!(
        "no end: {:?} and {} steps have passed, and there is still something to do (limits: {:?}, {} steps); alive:\n",
        state.now, state.steps, state.options.time_max, state.options.steps_max
    );
    drop(state);
    waiting(shared, lives, text)
}

fn waiting(shared: &Shared, lives: &BTreeMap<Id, Life>, mut text: String) -> Stuck {
    for life in lives.values() {
        let inspect = life.reactor().and_then(|reactor| reactor.shown());
        let mut tasks = inspect.map(|shard| shard.tasks()).unwrap_or_default();
        tasks.retain(|task| task.name != HOUSEKEEPING);
        let state = shared.lock();
        let host = state.hosts.get(life.host).map_or("?", |host| &host.name);
        let _ = writeln!(text, "  {host}, shard {}:", life.number);
        for task in tasks.iter().take(TASKS_TOLD) {
            let _ = writeln!(text, "    {}", told(&state, task));
        }
        if tasks.len() > TASKS_TOLD {
            let _ = writeln!(text, "    and {} tasks more", tasks.len() - TASKS_TOLD);
        }
    }
    Stuck { text }
}

/// A task, where it comes from, and what it waits for as far as the world can tell.
fn told(state: &State, task: &TaskNote) -> String {
    let mut reasons: Vec<String> = task.waits.clone();
    for (id, end) in &state.ends {
        let way = format!("end {id}, {} from {}", end.local, end.peer);
        let waits = |waker: &Option<std::task::Waker>| {
            waker.as_ref().is_some_and(|waker| waker.will_wake(&task.waker))
        };
        if waits(&end.reader) {
            reasons.push(format!("to read ({way})"));
        }
        if waits(&end.writer) {
            let what = if end.connecting { "to be connected" } else { "to write" };
            reasons.push(format!("{what} ({way})"));
        }
    }
    for socket in state.sockets.values().filter(|socket| socket.has_waiting(&task.waker)) {
        reasons.push(format!("to accept on {}", socket.local));
    }
    for outlet in state.outlets.values().filter(|outlet| outlet.has_waiting(&task.waker)) {
        reasons.push(format!("for a datagram, or for room for one, at {}", outlet.local));
    }
    let reasons = match reasons.is_empty() {
        true => "for another task, or for nobody".to_owned(),
        false => reasons.join(", and "),
    };
    format!("{} ({}) waits {reasons}", task.name, task.spawned)
}

/// Takes note of tasks that panicked, before the shard's root is dropped.
pub(crate) fn panicked(shared: &Arc<Shared>, host: usize, number: usize, shown: Option<&Rc<dyn Inspect>>) {
    let count = shown.map_or(0, |shard| shard.panics());
    if count > 0 {
        let mut state = shared.lock();
        let at = state.place_of(host, number);
        state.panics.push(format!("{at}: {count} tasks panicked"));
    }
}

/// What a shard whose root is gone has not given back; it is `shown` from before that.
pub(crate) fn left_by_shard(
    shared: &Arc<Shared>,
    host: usize,
    number: usize,
    shown: Option<&Rc<dyn Inspect>>,
) {
    let Some(shard) = shown else { return };
    let (tasks, timers, resolvers) = (shard.tasks(), shard.timers(), shard.resolvers());
    let mut state = shared.lock();
    let at = state.place_of(host, number);
    // Borrowed, so that no waker is dropped while the world is locked.
    for task in &tasks {
        state.leaks.push(format!("{at}: task {} ({}) outlived its shard", task.name, task.spawned));
    }
    if timers > 0 {
        state.leaks.push(format!("{at}: {timers} timers outlived their shard"));
    }
    if resolvers > 0 {
        state.leaks.push(format!("{at}: {resolvers} resolvers that nobody resolved or dropped"));
    }
    if Rc::strong_count(shard) > 1 {
        state.leaks.push(format!("{at}: something still holds the shard: a cycle of references"));
    }
}

impl State {
    /// What a shard is called.
    fn place_of(&self, host: usize, number: usize) -> String {
        let host = self.hosts.get(host).map_or("", |host| &*host.name);
        format!("{host}, shard {number}")
    }

    /// What a host has open, a line for each descriptor.
    pub(crate) fn open_descriptors(&self, host: usize) -> Vec<String> {
        let mut open = self.sockets_and_connections(host);
        let others = self.hosts[host].open.saturating_sub(open.len());
        open.extend((0..others).map(|number| format!("spare {number}")));
        open
    }

    /// The descriptors of a host of which it is known what they are.
    fn sockets_and_connections(&self, host: usize) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        for (id, socket) in self.sockets.iter().filter(|(_, socket)| socket.host == host) {
            let users = 0..socket.users();
            open.extend(users.map(|user| format!("socket {id} on {}, handle {user}", socket.local)));
        }
        for (id, outlet) in self.outlets.iter().filter(|(_, outlet)| outlet.host == host) {
            let users = 0..outlet.users();
            open.extend(users.map(|user| format!("datagrams {id} at {}, handle {user}", outlet.local)));
        }
        let counted = |end: &End| end.host == host && !matches!(end.owner, Owner::Nobody | Owner::Queue);
        for (id, end) in self.ends.iter().filter(|(_, end)| counted(end)) {
            open.push(format!("connection {id}, {} from {}", end.local, end.peer));
        }
        open
    }

    /// Everything that nobody has given back by now: to be asked for when all shards have ended.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let mut left = self.leaks.clone();
        let host = |number: usize| self.hosts.get(number).map_or("?", |host| &*host.name);
        for (id, end) in &self.ends {
            let what = match end.owner {
                // On its way out by itself.
                Owner::Nobody => continue,
                Owner::Queue => "waits to be accepted",
                Owner::Handle => "is on its way to somebody",
                Owner::Halves { .. } => "is still open",
            };
            let (local, peer): (&Address, &Address) = (&end.local, &end.peer);
            left.push(format!("{}: connection {id}, {local} from {peer}, {what}", host(end.host)));
        }
        for (id, socket) in &self.sockets {
            left.push(format!("{}: socket {id} still listens on {}", host(socket.host), socket.local));
        }
        for (id, outlet) in &self.outlets {
            left.push(format!("{}: datagrams {id} are still open at {}", host(outlet.host), outlet.local));
        }
        for (number, known) in self.hosts.iter().enumerate() {
            let explained = self.sockets_and_connections(number).len();
            if known.open != explained {
                let more = known.open as i64 - explained as i64;
                left.push(format!(
                    "{}: {more} descriptors that are neither connections nor sockets",
                    known.name
                ));
            }
        }
        if !self.lookups.is_empty() {
            left.push(format!("{} names are still being asked for", self.lookups.len()));
        }
        left
    }
}
