//! A server that runs beside its clients, in the same process.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Add;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use waterwheel::runtime::{Config, RunError, Runtime, Stopper};
use waterwheel::shard::Shard;
use waterwheel_reactor::Address;

/// A runtime on a thread of its own, each shard of which answers at its end what it has counted.
pub(crate) struct Server<C> {
    pub(crate) at: SocketAddr,
    stopper: Stopper,
    running: JoinHandle<Result<Vec<C>, RunError>>,
}

/// Binds, says where, and runs `main` with that on so many shards.
pub(crate) fn serve<P, C, F>(
    config: Config,
    bind: impl FnOnce(&Runtime) -> anyhow::Result<(P, Address)> + Send + 'static,
    main: impl Fn(Shard, P) -> F + Send + Sync + 'static,
) -> anyhow::Result<Server<C>>
where
    P: Clone + Send + Sync + 'static,
    C: Send + 'static,
    F: Future<Output = anyhow::Result<C>> + 'static,
{
    let (tell, told) = channel();
    let runtime = Runtime::new(config)?.without_signals();
    let running = thread::Builder::new().spawn(move || {
        let (bound, at) = match bind(&runtime) {
            Ok(bound) => bound,
            Err(error) => {
                let _ = tell.send(Err(error));
                return Ok(Vec::new());
            }
        };
        let _ = tell.send(Ok((at, runtime.stopper())));
        runtime.run(move |shard| main(shard, bound.clone()))
    })?;
    let (at, stopper) = told.recv()??;
    Ok(Server { at: at.inet().context("an internet address")?, stopper, running })
}

impl<C: Default + Add<Output = C>> Server<C> {
    /// What all its shards have counted.
    pub(crate) fn stop(self) -> anyhow::Result<C> {
        self.stopper.stop(Duration::from_secs(5));
        let counted = self.running.join().map_err(|_| anyhow!("the server panicked"))??;
        Ok(counted.into_iter().fold(C::default(), C::add))
    }
}

pub(crate) fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_unstable_by(f64::total_cmp);
    costs[costs.len() / 2]
}
