//! Services: one instance per shard, with a start, connections and a stop.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};

use super::{OnFailure, RunError, Runtime};
use crate::net::{Connection, Listening};
use crate::shard::Shard;

/// What a server does, as one instance per shard. State that connections share is the instance's own: a `Cell` or a
/// `RefCell` is enough, since an instance never leaves its shard.
///
/// To be run with [`Runtime::serve`], or on one shard with [`serve`].
pub trait Service: Sized + 'static {
    /// What an instance is made of; shared by all shards, given to each.
    type Settings: Clone + Send + Sync + 'static;

    /// Makes this shard's instance. Nothing is accepted before it is there.
    fn start(shard: &Shard, settings: &Self::Settings) -> impl Future<Output = anyhow::Result<Self>>;

    /// Serves one connection, in a task of its own. An error ends that connection and is logged at the debug level.
    fn connection(self: Rc<Self>, connection: Connection) -> impl Future<Output = anyhow::Result<()>>;

    /// What an instance does beside its connections, in a task of its own, as long as it lives; nothing by default. If it
    /// returns an error or panics the instance has failed; if it returns well the service is over on this shard.
    fn run(self: Rc<Self>) -> impl Future<Output = anyhow::Result<()>> {
        std::future::pending()
    }

    /// The shard is to stop and the connections have ended, or their time is up: a last word.
    fn stop(self: Rc<Self>) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    /// The most connections that an instance serves at once; as [`Acceptor::serve`](crate::net::Acceptor::serve).
    fn limit(&self) -> usize {
        usize::MAX
    }
}

/// Runs one shard's instance of a service until the shard is asked to stop: start, connections, drain, stop.
///
/// # Errors
/// The instance could not be made, the listener could not be opened on this shard, or the instance's
/// [own work](Service::run) failed.
pub async fn serve<S: Service>(
    shard: &Shard,
    listening: &Listening,
    settings: &S::Settings,
) -> anyhow::Result<()> {
    let service = Rc::new(S::start(shard, settings).await?);
    let acceptor = shard.accept_on(listening)?;
    let serving = service.clone();
    let serving = acceptor.serve(service.limit(), move |connection| serving.clone().connection(connection));
    let (serving, time_up) = (pin!(serving), pin!(shard.time_up()));
    let work = pin!(service.clone().run());
    if let Either::Right((ended, _)) = select(select(serving, time_up), work).await {
        ended?;
    }
    service.stop().await;
    Ok(())
}

impl Runtime {
    /// Runs a service on every shard until the runtime is asked to stop. A shard whose instance panics in its start or its
    /// stop is [restarted](OnFailure::Restart), unless the configuration says something else.
    ///
    /// # Errors
    /// As [`Runtime::run`]; an instance that could not be made stops the others.
    pub fn serve<S: Service>(self, listening: Listening, settings: S::Settings) -> Result<(), RunError> {
        self.on_failure(OnFailure::Restart).run(move |shard| {
            let (listening, settings) = (listening.clone(), settings.clone());
            async move { serve::<S>(&shard, &listening, &settings).await }
        })?;
        Ok(())
    }
}
