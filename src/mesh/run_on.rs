//! Running a closure on another shard.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use super::calls::{CallError, CallOptions, CallPort};
use super::hub::Mesh;
use super::port::DeclareError;
use crate::shard::{Shard, ShardId};

/// A closure on its way to the shard that is to run it.
pub(super) type Errand = Box<dyn FnOnce(Shard) -> Pin<Box<dyn Future<Output = Parcel>>> + Send>;
/// What it answered.
pub(super) type Parcel = Box<dyn Any + Send>;

/// The name of the port that every mesh has for this.
const NAME: &str = "run_on";

/// The port that carries closures, of a new mesh.
pub(super) fn declare(mesh: &Mesh) -> Result<CallPort<Errand, Parcel>, DeclareError> {
    CallPort::declare(mesh, NAME, CallOptions::default())
}

impl Shard {
    /// Runs a closure on shard `to` and waits for what its future answers: a convenience for what happens rarely, since
    /// it allocates three times. What happens often deserves a [`CallPort`].
    ///
    /// It is a call: bounded by 64 at once between two shards, cancelled when dropped (what was sent runs all the
    /// same), refused inside another closure that was sent so.
    ///
    /// # Errors
    /// As [`Caller::call`](super::Caller::call); the port is named "run_on".
    ///
    /// # Panics
    /// If the runtime has no shard `to`.
    pub async fn run_on<T, F, W>(&self, to: ShardId, closure: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(Shard) -> W + Send + 'static,
        W: Future<Output = T> + 'static,
    {
        let errand: Errand =
            Box::new(|shard| Box::pin(async move { Box::new(closure(shard).await) as Parcel }));
        let mesh = super::member::Member::of(self).ledger.mesh.clone();
        let caller = self.caller(mesh.run_on()).expect("the port of a mesh belongs to it");
        let parcel = caller.call(to, errand).await?;
        Ok(*parcel.downcast().expect("the errand answers what its closure does"))
    }
}
