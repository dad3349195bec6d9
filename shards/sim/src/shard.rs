//! A shard as the world sees it: whether it may be polled, and who wakes it.

use std::sync::{Arc, Weak};
use std::task::Wake;
use std::time::Duration;

use waterwheel_reactor::{Doorbell, Ended, Launch, Time};

use crate::state::{Occurrence, Shared, State};
use crate::trace::Id;

/// Shards of one run that the driver is to take up.
pub(crate) struct Fresh {
    pub(crate) host: usize,
    pub(crate) launches: Vec<Launch>,
    pub(crate) done: Done,
}

/// Called once the last of the shards that were launched together has ended, with what [`Backend::run`] would answer.
///
/// [`Backend::run`]: waterwheel_reactor::Backend::run
pub type Done = Box<dyn FnOnce(Result<(), Vec<Ended>>) + Send>;

/// A shard's place in the world.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its number on its host.
    pub(crate) number: usize,
    /// It is in the list of those that may be polled.
    ready: bool,
    /// Its last turn takes until then.
    busy_until: Time,
    /// The earliest of its alarms that is under way.
    pub(crate) alarm_at: Time,
}

impl Place {
    pub(crate) fn new(number: usize) -> Place {
        Place { number, ready: false, busy_until: Time::ZERO, alarm_at: Time::NEVER }
    }
}

impl State {
    /// A shard's bell was rung: it is polled, perhaps a little later.
    pub(crate) fn heard(&mut self, shard: Id) {
        let late = self.chance(|options| options.wake_late);
        let wait = if late { self.up_to(|options| options.wake_late_max) } else { Duration::ZERO };
        self.run_after(shard, wait);
    }

    fn run_after(&mut self, shard: Id, wait: Duration) {
        let Some(place) = self.shards.get(&shard) else { return };
        let at = place.busy_until.max(self.now + wait);
        if at <= self.now { self.run(shard) } else { self.later(at, Occurrence::Run { shard }) }
    }

    /// A shard may be polled, unless its last turn still takes.
    pub(crate) fn run(&mut self, shard: Id) {
        let now = self.now;
        let Some(place) = self.shards.get_mut(&shard) else { return };
        if place.busy_until > now {
            let at = place.busy_until;
            return self.later(at, Occurrence::Run { shard });
        }
        if !std::mem::replace(&mut place.ready, true) {
            self.ready.push(shard);
        }
    }

    /// The shard that is polled next, of those that may be.
    pub(crate) fn choose(&mut self) -> Option<Id> {
        if self.ready.is_empty() {
            return None;
        }
        let shard = if self.live {
            self.ready.remove(0)
        } else {
            self.ready.swap_remove(self.random.place(self.ready.len()))
        };
        if let Some(place) = self.shards.get_mut(&shard) {
            place.ready = false;
        }
        Some(shard)
    }

    /// A shard that nobody woke, now and then.
    pub(crate) fn choose_idle(&mut self) -> Option<Id> {
        if self.shards.is_empty() || !self.chance(|options| options.spurious_poll) {
            return None;
        }
        let place = self.random.place(self.shards.len());
        let now = self.now;
        self.shards.iter().nth(place).filter(|(_, place)| place.busy_until <= now).map(|(id, _)| *id)
    }

    /// Its turn took until then.
    pub(crate) fn busy(&mut self, shard: Id, until: Time) {
        if let Some(place) = self.shards.get_mut(&shard) {
            place.busy_until = until;
        }
    }

    /// Its alarm stands at `deadline`.
    pub(crate) fn set_alarm(&mut self, shard: Id, deadline: Option<Time>) {
        let (Some(deadline), Some(place)) = (deadline, self.shards.get(&shard)) else { return };
        // What is further away than a world grows old is no reason to wait: who has nothing else is stuck.
        if deadline >= place.alarm_at || deadline >= self.now + self.options.time_max {
            return;
        }
        let late = self.up_to(|options| options.alarm_late_max);
        if let Some(place) = self.shards.get_mut(&shard) {
            place.alarm_at = deadline;
        }
        self.later(deadline + late, Occurrence::Alarm { shard });
    }
}

/// The waker of a shard's root.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) door: Doorbell,
    world: Weak<Shared>,
    shard: Id,
}

impl Bell {
    pub(crate) fn new(world: &Arc<Shared>, shard: Id) -> Bell {
        Bell { door: Doorbell::default(), world: Arc::downgrade(world), shard }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.door.ring()
            && let Some(world) = self.world.upgrade()
        {
            world.ring(self.shard);
        }
    }
}
