//! Names, looked up off the shard and answered on it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use waterwheel_reactor::{Address, ConnectOptions};

use super::{Connection, Endpoint, Lookups, ResolveError};
use crate::shard::Shard;

/// What a shard keeps to look names up with.
#[derive(Debug)]
struct Names(Arc<Lookups>);

/// Between the thread that looks up and the task that waits.
#[derive(Default)]
struct Answer {
    addresses: Option<Result<Vec<Address>, ResolveError>>,
    waiting: Option<Waker>,
}

/// Gives a shard the threads that look names up. Once, before its main future.
pub(crate) fn provide(shard: &Shard, lookups: Arc<Lookups>) {
    shard.keep(Rc::new(Names(lookups)));
}

impl Shard {
    /// The addresses of an endpoint, at least one. A name is looked up on another thread, or by the
    /// reactor if it has a resolver of its own; this shard goes on. Dropping
    /// the future forgets the answer.
    ///
    /// # Errors
    /// The system knows no such name, or too many lookups wait already.
    pub async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<Address>, ResolveError> {
        if let Some(address) = endpoint.literal() {
            return Ok(vec![address]);
        }
        if let Some((host, port)) = endpoint.question()
            && let Some(lookup) = self.reactor().lookup(&host, port)
        {
            return endpoint.answered(lookup.await);
        }
        let Some(names) = self.kept::<Names>() else {
            return Err(ResolveError::Ended { endpoint: endpoint.clone() });
        };
        let answer = Arc::new(Mutex::new(Answer::default()));
        let giver = answer.clone();
        names.0.start(endpoint.clone(), move |addresses| {
            let mut answer = giver.lock().unwrap_or_else(PoisonError::into_inner);
            answer.addresses = Some(addresses);
            let waiting = answer.waiting.take();
            drop(answer);
            if let Some(waiting) = waiting {
                waiting.wake();
            }
        })?;
        poll_fn(|cx| {
            let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(addresses) = answer.addresses.take() {
                return Poll::Ready(addresses);
            }
            answer.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Looks an endpoint up and connects to its addresses, one after the other, until one accepts.
    ///
    /// # Errors
    /// The name is not known, or the last address's reason. Limit the time with [`timeout`](Shard::timeout).
    pub async fn connect_to(&self, endpoint: &Endpoint, options: &ConnectOptions) -> io::Result<Connection> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.resolve(endpoint).await.map_err(io::Error::other)? {
            match self.connect(&address, options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
