//! State that is read much and changed seldom: each shard holds a copy of its own, and versions travel as messages.
//!
//! A version is a number and the shard that published it, and the greater wins (a Lamport clock: Lamport, "Time,
//! clocks, and the ordering of events", CACM 21(7), 1978). So any shard may publish, nobody keeps the truth, and of
//! versions published at once all shards end up with the same one. To each other shard, a publisher has at most one
//! version on its way; what is published meanwhile replaces what waits, so that memory is bounded by two versions per
//! pair of shards and a slow shard skips what is outdated already.
//!
//! A shard that is restarted has lost its copy, and asks all others for theirs.
//!
//! A value travels as an `Arc`, made once per publication, and is cloned by the shard that gets it: copies are made
//! where they are read, at the same time, and the publisher's shard does not pay for all of them. From then on a read
//! touches nothing that another shard touches.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;

use super::calls::{CallOptions, CallPort, Caller};
use super::hub::Mesh;
use super::member::Member;
use super::port::{DeclareError, OpenError};
use crate::shard::waiters::{Waiters, wait_until};
use crate::shard::{Shard, ShardId};

/// Which of the values that were published: greater is newer. The first value, which nobody published, is
/// [`Version::FIRST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// One more than the newest that its publisher knew.
    number: u64,
    by: Option<ShardId>,
    /// In which of its lives: the one before may have used the same number, and nobody here may know.
    life: u32,
}

impl Version {
    /// That of the value with which it was declared.
    pub const FIRST: Version = Version { number: 0, by: None, life: 0 };

    /// Grows with each version that a shard sees; two shards that publish at once may use the same.
    pub fn number(self) -> u64 {
        self.number
    }

    /// Who published it.
    pub fn by(self) -> Option<ShardId> {
        self.by
    }
}

/// A value of which each shard has a copy. Declared with its first value before the shards start, handed to each by
/// clone; [`Shard::replica`] is a shard's copy.
pub struct Replicated<T> {
    port: CallPort<News<T>, ()>,
    first: Arc<T>,
}

/// A version on its way.
type News<T> = (Version, Arc<T>);

/// A publisher has one version on its way to each shard; the other credit is so that an end is heard at once.
const CREDITS: usize = 2;

impl<T: Clone + Send + Sync + 'static> Replicated<T> {
    /// A replicated value for all shards of a runtime, before they start.
    ///
    /// # Errors
    /// The name is taken.
    pub fn declare(mesh: &Mesh, name: &'static str, first: T) -> Result<Replicated<T>, DeclareError> {
        let port = CallPort::declare(mesh, name, CallOptions { credits: CREDITS })?;
        Ok(Replicated { port, first: Arc::new(first) })
    }

    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.port.name()
    }
}

impl Shard {
    /// This shard's copy of a replicated value, kept up to date from now on; what was published before comes too. Any
    /// number of times: all are the same copy.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn replica<T: Clone + Send + Sync + 'static>(
        &self,
        replicated: &Replicated<T>,
    ) -> Result<Replica<T>, OpenError> {
        let (member, id) = (Member::of(self), replicated.port.shared.id);
        let caller = self.caller(&replicated.port)?;
        if let Some(copy) = member.part(id) {
            return Ok(Replica { copy });
        }
        let copy = Rc::new(Kept {
            shard: self.clone(),
            name: replicated.name(),
            caller,
            value: RefCell::new(Rc::new((*replicated.first).clone())),
            version: Cell::new(Version::FIRST),
            own: RefCell::new(None),
            links: self.ids().map(|_| Link { busy: Cell::new(false), reached: Cell::new(None) }).collect(),
            waiting: RefCell::default(),
            catching_up: Cell::new(0),
            life: member.ledger.life(self.id().index()),
        });
        let served = copy.clone();
        self.serve(&replicated.port, move |_, (version, value)| {
            served.learn(version, value);
            ready(())
        })?;
        member.keep_part(id, copy.clone());
        if copy.life > 0 {
            copy.catch_up(replicated);
        }
        Ok(Replica { copy })
    }
}

/// A shard's copy of a replicated value. Cheap to clone; all clones are the same copy.
///
/// Reading takes no lock and no atomic. What is read stays as it is for as long as it is held; a newer version is
/// another value.
pub struct Replica<T> {
    copy: Rc<Kept<T>>,
}

struct Kept<T> {
    shard: Shard,
    name: &'static str,
    caller: Caller<News<T>, ()>,
    value: RefCell<Rc<T>>,
    /// Of that value; only ever grows.
    version: Cell<Version>,
    /// The newest that this shard published, while some shard may not have it.
    own: RefCell<Option<News<T>>>,
    /// By shard.
    links: Box<[Link]>,
    /// Who waits for a newer version, or for a shard to have it.
    waiting: RefCell<Waiters>,
    /// Shards that were asked what they have and have not answered.
    catching_up: Cell<usize>,
    /// Of this shard.
    life: u32,
}

/// What a publisher knows of one other shard.
struct Link {
    /// A task brings it the newest version.
    busy: Cell<bool>,
    /// The newest of this shard's versions that it has, or will never get since it ended.
    reached: Cell<Option<Version>>,
}

impl<T: Clone + Send + Sync + 'static> Replica<T> {
    /// The value as this shard knows it.
    pub fn value(&self) -> Rc<T> {
        self.copy.value.borrow().clone()
    }

    /// Which version that is.
    pub fn version(&self) -> Version {
        self.copy.version.get()
    }

    /// Waits for a version newer than `known`; at once if there is one. Versions in between may have been skipped.
    pub async fn newer_than(&self, known: Version) -> (Version, Rc<T>) {
        self.copy.wait_until(|| self.version() > known).await;
        (self.version(), self.value())
    }

    /// Publishes a new value: this shard has it at once, the others as soon as it reaches them. Never waits. Newer
    /// than every version that this shard knows; whether it lasts against one that another shard publishes at the same
    /// time, chance decides, for all shards alike.
    pub fn publish(&self, value: T) -> Version {
        let copy = &self.copy;
        let own = Some(copy.shard.id());
        let version = Version { number: copy.version.get().number + 1, by: own, life: copy.life };
        let value = Arc::new(value);
        copy.learn(version, value.clone());
        copy.own.replace(Some((version, value)));
        for to in copy.shard.ids().filter(|to| Some(*to) != own) {
            if !copy.links[to.index()].busy.replace(true) {
                copy.shard.spawn_detached("publication", copy.clone().bring(to));
            }
        }
        version
    }

    /// Waits until this copy is no older than those of the other shards were when it was made: at once, but in a next life
    /// of a shard that was restarted, whose copy begins with the first value. What it publishes before may be older than
    /// what it does not know of yet, and then does not last.
    pub async fn caught_up(&self) {
        self.copy.wait_until(|| self.copy.catching_up.get() == 0).await;
    }

    /// Waits until every shard has `version`, which this shard published, or a newer one; who has ended counts as if.
    /// A shard that is alive and never asked for its copy is waited for.
    pub async fn reached(&self, version: Version) {
        let copy = &self.copy;
        let others = || copy.shard.ids().filter(|to| *to != copy.shard.id());
        copy.wait_until(|| others().all(|to| copy.links[to.index()].reached.get() >= Some(version))).await;
    }
}

impl<T: Clone + Send + Sync + 'static> Kept<T> {
    /// Takes a version, if it is newer; what is late or has come before is dropped.
    fn learn(&self, version: Version, value: Arc<T>) {
        if version <= self.version.get() {
            return;
        }
        let value = Rc::new(Arc::unwrap_or_clone(value));
        self.version.set(version);
        let before = self.value.replace(value);
        self.waiting.borrow_mut().wake_all();
        // Last, since it may do anything.
        drop(before);
    }

    /// Asks all others what they have. One that publishes meanwhile knows that this shard is back, and brings it.
    fn catch_up(self: &Rc<Self>, replicated: &Replicated<T>) {
        for from in self.shard.ids().filter(|from| *from != self.shard.id()) {
            self.catching_up.set(self.catching_up.get() + 1);
            let (copy, asked) = (self.clone(), replicated.clone());
            self.shard.spawn_detached("catching up", async move {
                let asks = Asks { copy };
                let ask = move |there: Shard| async move {
                    let replica = there.replica(&asked).ok()?;
                    (replica.version() > Version::FIRST)
                        .then(|| (replica.version(), Arc::new((*replica.value()).clone())))
                };
                // An error: it ended too, and has nothing.
                if let Ok(Some((version, value))) = asks.copy.shard.run_on(from, ask).await {
                    asks.copy.learn(version, value);
                }
            });
        }
    }

    /// Brings one shard the newest version until it has it.
    async fn bring(self: Rc<Self>, to: ShardId) {
        let link = &self.links[to.index()];
        loop {
            let newest = self.own.borrow().clone();
            let Some((version, value)) = newest.filter(|own| Some(own.0) > link.reached.get()) else { break };
            // An error: it ended, or panicked cloning the value, and its copy stays as it is. It is not tried again
            // before there is something newer.
            if let Err(error) = self.caller.call(to, (version, value)).await {
                tracing::debug!(name = self.name, shard = %to, %error, "a version did not arrive");
            }
            link.reached.set(Some(version));
            self.waiting.borrow_mut().wake_all();
        }
        link.busy.set(false);
        if self.links.iter().all(|link| !link.busy.get()) {
            // Nobody needs it any more; this shard's readers have their own.
            let own = self.own.take();
            drop(own);
        }
    }

    async fn wait_until(&self, is: impl Fn() -> bool) {
        wait_until(&self.waiting, || is().then_some(())).await;
    }
}

/// One shard that is asked what it has, until it has answered or the asking panicked.
struct Asks<T> {
    copy: Rc<Kept<T>>,
}

impl<T> Drop for Asks<T> {
    fn drop(&mut self) {
        self.copy.catching_up.set(self.copy.catching_up.get() - 1);
        self.copy.waiting.borrow_mut().wake_all();
    }
}

impl<T> Clone for Replicated<T> {
    fn clone(&self) -> Replicated<T> {
        Replicated { port: self.port.clone(), first: self.first.clone() }
    }
}

impl<T> fmt::Debug for Replicated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated").field("name", &self.port.name()).finish_non_exhaustive()
    }
}

impl<T> Clone for Replica<T> {
    fn clone(&self) -> Replica<T> {
        Replica { copy: self.copy.clone() }
    }
}

impl<T> fmt::Debug for Replica<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { name, version, .. } = &*self.copy;
        f.debug_struct("Replica").field("name", name).field("version", &version.get()).finish_non_exhaustive()
    }
}
