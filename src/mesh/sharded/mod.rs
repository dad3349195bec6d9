//! Sharded objects: one instance of a type per shard, made together, asked by closures, stopped together. After
//! Seastar's `sharded<>` (`include/seastar/core/sharded.hh`).
//!
//! Each has a port of its own, so that instances of different kinds may ask each other, and a slow kind takes no
//! credit of another. Closures are boxed: what happens often deserves a [`CallPort`].

mod errand;
mod error;
mod place;

use std::cell::Cell;
use std::fmt;
use std::future::{Future, ready};
use std::rc::Rc;

use futures_util::future::join_all;

use super::calls::{CallError, CallOptions, CallPort, Caller};
use super::hub::Mesh;
use super::member::Member;
use super::port::{DeclareError, OpenError};
use crate::shard::{Shard, ShardId};
use errand::{Answer, Errand, handle, parcel};
pub use error::{InvokeError, SpreadError};
pub use place::Local;
use place::Place;

/// What there is one of on each shard. Never leaves its shard, so `Cell`, `RefCell` and `Rc` inside are fine.
pub trait Instance: 'static {
    /// The instances are to stop: end what runs in the background, let those go who wait inside. Called once, while
    /// there may be [`Local`]s about; nobody gets a new one. When this has returned and the last of them is gone, the
    /// instance is dropped.
    fn stop(&self) -> impl Future<Output = ()> {
        ready(())
    }
}

/// One instance of `S` per shard, declared before the shards start and handed to each by clone;
/// [`Shard::instances`] is a shard's way to them.
pub struct Sharded<S> {
    port: CallPort<Errand<S>, Answer>,
}

impl<S: Instance> Sharded<S> {
    /// One instance per shard of a runtime, before they start; none is made yet.
    ///
    /// # Errors
    /// The name is taken, or a limit makes no sense.
    pub fn declare(
        mesh: &Mesh,
        name: &'static str,
        options: CallOptions,
    ) -> Result<Sharded<S>, DeclareError> {
        Ok(Sharded { port: CallPort::declare(mesh, name, options)? })
    }

    /// The name under which it was declared.
    pub fn name(&self) -> &'static str {
        self.port.name()
    }

    /// This shard's place for an instance, served from now on.
    fn place(&self, shard: &Shard) -> Result<Rc<Place<S>>, OpenError> {
        let (member, id) = (Member::of(shard), self.port.shared.id);
        // Asked first: it also says whether the port is this runtime's.
        drop(shard.caller(&self.port)?);
        if let Some(place) = member.part(id) {
            return Ok(place);
        }
        let place = Rc::new(Place::new(self.name(), shard));
        let served = place.clone();
        shard.serve(&self.port, move |_, errand| handle(served.clone(), errand))?;
        member.keep_part(id, place.clone());
        Ok(place)
    }
}

impl Shard {
    /// This shard's way to the instances of a sharded object; any number of times.
    ///
    /// # Errors
    /// It belongs to another runtime.
    pub fn instances<S: Instance>(&self, sharded: &Sharded<S>) -> Result<Instances<S>, OpenError> {
        let (place, caller) = (sharded.place(self)?, self.caller(&sharded.port)?);
        let reached = self.ids().map(|_| Cell::new(None)).collect();
        Ok(Instances { shard: self.clone(), sharded: sharded.clone(), place, caller, reached })
    }
}

/// A shard's way to the instances of a sharded object. Cheap to clone.
///
/// * Making and ending: [`start`](Instances::start), [`stop`](Instances::stop), on all shards, by any one of them. The
///   instance of a shard that is restarted is gone; its root makes the next ([`start_own`](Instances::start_own)).
/// * The shard's own: [`local`](Instances::local), [`started`](Instances::started).
/// * Asking: [`invoke_on`](Instances::invoke_on), [`invoke_each`](Instances::invoke_each),
///   [`invoke_on_all`](Instances::invoke_on_all), [`map_reduce`](Instances::map_reduce). These are calls: bounded by
///   the port's credits, cancelled when dropped (what was sent runs all the same), without a deadline, told of an end.
///   A closure that asks the same kind of instances again is refused ([`CallError::Nested`](super::CallError::Nested));
///   it may use its own.
///
/// ```
/// use std::cell::Cell;
/// use waterwheel::mesh::{Instance, Local};
/// use waterwheel::runtime::{Config, Runtime};
///
/// struct Counter(Cell<u64>);
/// impl Instance for Counter {}
///
/// # #[cfg(feature = "epoll")]
/// # fn main() -> anyhow::Result<()> {
/// let runtime = Runtime::new(Config::default().cores(2).reactor("epoll"))?;
/// let (counters, done) = (runtime.sharded::<Counter>("counters")?, runtime.port::<()>("done")?);
/// runtime.run(move |shard| {
///     let (counters, done) = (counters.clone(), done.clone());
///     async move {
///         let (counters, done) = (shard.instances(&counters)?, shard.open(&done)?);
///         if shard.id().index() > 0 {
///             done.receive().await; // its instance lives as long as the shard
///             return Ok(());
///         }
///         counters.start(|_| async { anyhow::Ok(Counter(Cell::new(20))) }).await?;
///         counters.local()?.0.set(22); // no lock, no message
///         let read = |counter: Local<Counter>| async move { counter.0.get() };
///         let sum = counters.map_reduce(read, 0, |sum, count| sum + count).await?;
///         anyhow::ensure!(sum == 42);
///         counters.stop().await?;
///         for other in shard.ids().skip(1) {
///             done.send(other, ()).await?;
///         }
///         Ok(())
///     }
/// })?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "epoll"))]
/// # fn main() {}
/// ```
pub struct Instances<S: Instance> {
    shard: Shard,
    sharded: Sharded<S>,
    place: Rc<Place<S>>,
    caller: Caller<Errand<S>, Answer>,
    /// By shard: in which of its lives it serves what is asked, for sure.
    reached: Rc<[Cell<Option<u32>>]>,
}

impl<S: Instance> Instances<S> {
    /// Makes an instance on every shard, `make` being run there, and returns when all are there. If one cannot be
    /// made, those that were are stopped, and all may be started again. Dropping the future leaves those that were made
    /// or will be: [`stop`](Instances::stop) ends them.
    ///
    /// # Errors
    /// Why the first shard, in shard order, has no instance.
    pub async fn start<E, F, W>(&self, make: F) -> Result<(), SpreadError<E>>
    where
        E: Send + 'static,
        F: Fn(Shard) -> W + Clone + Send + 'static,
        W: Future<Output = Result<S, E>> + 'static,
    {
        let ids: Vec<ShardId> = self.shard.ids().collect();
        let started = join_all(ids.iter().map(|to| self.start_on(*to, make.clone()))).await;
        let Some(failed) = started.iter().position(Result::is_err) else { return Ok(()) };
        let made = ids.iter().zip(&started).filter(|(_, outcome)| outcome.is_ok());
        // A shard that cannot be told to stop has ended, and its instance with it.
        join_all(made.map(|(to, _)| self.stop_on(*to))).await;
        started.into_iter().nth(failed).unwrap_or(Ok(()))
    }

    async fn start_on<E, F, W>(&self, to: ShardId, make: F) -> Result<(), SpreadError<E>>
    where
        E: Send + 'static,
        F: FnOnce(Shard) -> W + Send + 'static,
        W: Future<Output = Result<S, E>> + 'static,
    {
        let unreachable = |error| SpreadError::Call { shard: to, error };
        self.reach(to).await.map_err(unreachable)?;
        let make: errand::Make<S> = Box::new(|shard| {
            Box::pin(async move {
                match make(shard).await {
                    Ok(instance) => Ok(instance),
                    Err(error) => Err(Box::new(error) as errand::Parcel),
                }
            })
        });
        match self.caller.call(to, Errand::Start(make)).await.map_err(unreachable)? {
            Answer::Done(_) => Ok(()),
            Answer::Refused => Err(SpreadError::AlreadyStarted { shard: to }),
            Answer::Failed(error) => Err(SpreadError::Instance { shard: to, error: errand::unpack(error) }),
        }
    }

    /// Sees to it that shard `to` serves what is asked of its instance: it need not have been here itself, in the life in
    /// which it is now.
    async fn reach(&self, to: ShardId) -> Result<(), CallError> {
        let life = Member::of(&self.shard).ledger.life(to.index());
        if self.reached[to.index()].get() == Some(life) {
            return Ok(());
        }
        let sharded = self.sharded.clone();
        let served = move |there: Shard| async move { sharded.place(&there).is_ok() };
        let served = self.shard.run_on(to, served).await?;
        assert!(served, "a port that is of this shard's runtime is of the other's");
        self.reached[to.index()].set(Some(life));
        Ok(())
    }

    /// Makes this shard's instance alone: for a runtime that restarts shards, in which the root of each shard makes its
    /// own, in every life of it. Another shard's instance is not touched.
    ///
    /// # Errors
    /// It could not be made, or there is one.
    pub async fn start_own<E, F, W>(&self, make: F) -> Result<(), SpreadError<E>>
    where
        E: Send + 'static,
        F: FnOnce(Shard) -> W + Send + 'static,
        W: Future<Output = Result<S, E>> + 'static,
    {
        self.start_on(self.shard.id(), make).await
    }

    /// Stops every instance: nobody gets at it any more, [`Instance::stop`] runs, and when nobody holds a [`Local`]
    /// either it is dropped. Returns when all are gone; where none is, there is nothing to do. They may be started
    /// again.
    ///
    /// # Errors
    /// The first shard, in shard order, that ended before, or whose [`Instance::stop`] panicked; its instance is gone
    /// too.
    pub async fn stop(&self) -> Result<(), InvokeError> {
        join_all(self.shard.ids().map(|to| self.stop_on(to))).await.into_iter().collect()
    }

    async fn stop_on(&self, to: ShardId) -> Result<(), InvokeError> {
        let name = self.sharded.name();
        let stopped = async {
            self.reach(to).await?;
            self.caller.call(to, Errand::Stop).await
        };
        stopped.await.map(drop).map_err(|error| InvokeError::Call { name, shard: to, error })
    }

    /// This shard's instance.
    ///
    /// # Errors
    /// There is none now.
    pub fn local(&self) -> Result<Local<S>, InvokeError> {
        self.place.local().ok_or(self.not_running(self.shard.id()))
    }

    /// Waits until this shard has an instance: for a shard that does not start them itself. Waits as long as nobody
    /// starts them.
    ///
    /// # Errors
    /// A start failed meanwhile, on this shard or another.
    pub async fn started(&self) -> Result<Local<S>, InvokeError> {
        self.place.started().await.ok_or(self.not_running(self.shard.id()))
    }

    /// Runs a closure with the instance of shard `to`, there, and waits for what its future answers. To the own shard
    /// the same rules apply: it runs in a later turn.
    ///
    /// # Errors
    /// There is no instance there; or as [`Caller::call`].
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub async fn invoke_on<R, F, W>(&self, to: ShardId, closure: F) -> Result<R, InvokeError>
    where
        R: Send + 'static,
        F: FnOnce(Local<S>) -> W + Send + 'static,
        W: Future<Output = R> + 'static,
    {
        let name = self.sharded.name();
        let invoke: errand::Invoke<S> =
            Box::new(|local| Box::pin(async move { parcel(closure(local).await) }));
        let answered = async {
            self.reach(to).await?;
            self.caller.call(to, Errand::Invoke(invoke)).await
        };
        match answered.await {
            Ok(Answer::Done(parcel)) => Ok(errand::unpack(parcel)),
            Ok(Answer::Refused | Answer::Failed(_)) => Err(self.not_running(to)),
            Err(error) => Err(InvokeError::Call { name, shard: to, error }),
        }
    }

    /// Runs a closure with every instance, on all shards at once, and answers what came of each, in shard order.
    pub async fn invoke_each<R, F, W>(&self, closure: F) -> Vec<Result<R, InvokeError>>
    where
        R: Send + 'static,
        F: FnOnce(Local<S>) -> W + Clone + Send + 'static,
        W: Future<Output = R> + 'static,
    {
        join_all(self.shard.ids().map(|to| self.invoke_on(to, closure.clone()))).await
    }

    /// The same, all or nothing. Waits for all shards in either case.
    ///
    /// # Errors
    /// That of the first shard, in shard order, on which it failed.
    pub async fn invoke_on_all<R, F, W>(&self, closure: F) -> Result<Vec<R>, InvokeError>
    where
        R: Send + 'static,
        F: FnOnce(Local<S>) -> W + Clone + Send + 'static,
        W: Future<Output = R> + 'static,
    {
        self.invoke_each(closure).await.into_iter().collect()
    }

    /// Maps every instance, there, and reduces what comes of it, here, in shard order.
    ///
    /// # Errors
    /// As [`invoke_on_all`](Instances::invoke_on_all): a sum over some of the shards is none.
    pub async fn map_reduce<R, A, F, W>(
        &self,
        map: F,
        initial: A,
        reduce: impl FnMut(A, R) -> A,
    ) -> Result<A, InvokeError>
    where
        R: Send + 'static,
        F: FnOnce(Local<S>) -> W + Clone + Send + 'static,
        W: Future<Output = R> + 'static,
    {
        Ok(self.invoke_on_all(map).await?.into_iter().fold(initial, reduce))
    }

    fn not_running(&self, shard: ShardId) -> InvokeError {
        InvokeError::NotRunning { name: self.sharded.name(), shard }
    }
}

impl<S> Clone for Sharded<S> {
    fn clone(&self) -> Sharded<S> {
        Sharded { port: self.port.clone() }
    }
}

impl<S> fmt::Debug for Sharded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharded").field("name", &self.port.name()).finish_non_exhaustive()
    }
}

impl<S: Instance> Clone for Instances<S> {
    fn clone(&self) -> Instances<S> {
        let (shard, sharded) = (self.shard.clone(), self.sharded.clone());
        let (place, caller) = (self.place.clone(), self.caller.clone());
        Instances { shard, sharded, place, caller, reached: self.reached.clone() }
    }
}

impl<S: Instance> fmt::Debug for Instances<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("sharded", &self.sharded).field("shard", &self.shard).finish()
    }
}
