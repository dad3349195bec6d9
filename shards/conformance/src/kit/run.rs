//! Roots on shards, and the few things that nearly every root does.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::peer::LOOPBACK;
use super::thread::FailFast;
use waterwheel_reactor::{Backend, Bound, Ended, Incoming, Launch, ListenOptions, Listener, Reactor, Start};

/// What one shard does: made with [`shard`], it gives a value of type `T` in the end.
pub struct Shard<T>(Box<dyn FnOnce(Rc<dyn Reactor>) -> Rooted<T> + Send>);

type Rooted<T> = Pin<Box<dyn Future<Output = T>>>;

impl<T> fmt::Debug for Shard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shard").finish_non_exhaustive()
    }
}

/// Boxes an asynchronous closure, so that shards with unlike work fit into one list for [`on_each`].
pub fn shard<T, F>(root: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static) -> Shard<T>
where
    F: Future<Output = T> + 'static,
{
    Shard(Box::new(|reactor| Box::pin(root(reactor))))
}

/// Runs one shard and gives what its root gave; the rest as [`on_each`].
///
/// # Panics
/// If the run ends with an error.
pub fn on_one<T, F>(backend: &dyn Backend, root: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    on_each(backend, vec![shard(root)]).pop().expect("one shard, one value")
}

/// Runs one shard per element and gives what their roots gave, in order.
///
/// A root that panics ends the process, since the others may wait for it.
///
/// # Panics
/// If the run ends with an error.
pub fn on_each<T: Send + 'static>(backend: &dyn Backend, shards: Vec<Shard<T>>) -> Vec<T> {
    let guard = |Shard(root): Shard<T>| {
        shard(move |reactor| {
            let root = root(reactor);
            async move {
                let _guard = FailFast;
                root.await
            }
        })
    };
    let (values, result) = try_each(backend, shards.into_iter().map(guard).collect());
    if let Err(ended) = result {
        let reasons: Vec<String> = ended.iter().map(ToString::to_string).collect();
        panic!("the run failed: {}", reasons.join("; "));
    }
    values.into_iter().map(|value| value.expect("a run without an error ended every root")).collect()
}

/// Runs one shard per element; `None` stands for a root that did not come to its end.
pub fn try_each<T: Send + 'static>(
    backend: &dyn Backend,
    shards: Vec<Shard<T>>,
) -> (Vec<Option<T>>, Result<(), Vec<Ended>>) {
    let mut values = Vec::new();
    let mut launches = Vec::new();
    for (number, Shard(root)) in shards.into_iter().enumerate() {
        let value = Arc::new(Mutex::new(None));
        values.push(Arc::clone(&value));
        let mut root = Some(root);
        let start: Box<Start> = Box::new(move |reactor| {
            let root = root.take()?(reactor);
            let value = Arc::clone(&value);
            Some(Box::pin(async move {
                let given = root.await;
                *value.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
            }))
        });
        launches.push(launch(number, start));
    }
    let result = backend.run(launches);
    let take = |value: &Arc<Mutex<Option<T>>>| value.lock().unwrap_or_else(PoisonError::into_inner).take();
    (values.iter().map(take).collect(), result)
}

/// A launch with nothing to prepare.
pub fn launch(shard: usize, start: Box<Start>) -> Launch {
    Launch { shard, name: format!("law-{shard}"), prepare: Box::new(|| {}), start }
}

/// Listens once on the IPv4 loopback address, on a free port.
///
/// # Panics
/// If that fails.
pub fn bind_local(backend: &dyn Backend) -> Bound {
    let mut bound =
        backend.bind(&LOOPBACK, &ListenOptions::default(), 1).expect("a free port on the loopback");
    assert_eq!(bound.len(), 1, "one socket was asked for");
    bound.remove(0)
}

/// Where `bound` listens.
///
/// # Panics
/// If that is not an internet address.
pub fn local(bound: &Bound) -> SocketAddr {
    bound.local.inet().expect("bound to an internet address")
}

/// The next connection.
///
/// # Errors
/// As the listener reports.
pub async fn accept(listener: &mut Box<dyn Listener>) -> io::Result<Incoming> {
    poll_fn(|cx| listener.poll_accept(cx)).await
}

/// Stops accepting and gives the socket back.
pub async fn close_listener(mut listener: Box<dyn Listener>) -> Bound {
    poll_fn(|cx| listener.poll_close(cx)).await
}

/// Waits on the shard's alarm.
pub async fn sleep(reactor: &Rc<dyn Reactor>, duration: Duration) {
    let deadline = reactor.now() + duration;
    poll_fn(|cx| reactor.poll_until(cx, deadline)).await;
}

/// What `future` gives. It occupies the shard's alarm, so `future` must not sleep.
///
/// # Panics
/// If it takes longer than `limit`, naming `what` was awaited.
pub async fn with_deadline<F: Future>(
    reactor: &Rc<dyn Reactor>,
    limit: Duration,
    what: &str,
    future: F,
) -> F::Output {
    let deadline = reactor.now() + limit;
    let mut future = pin!(future);
    poll_fn(|cx| {
        // The clock first: a future that only the alarm's own wake brought to its end is as late as one that did not
        // end, since without the alarm nobody would have polled it.
        assert!(reactor.poll_until(cx, deadline).is_pending(), "not within {limit:?}: {what}");
        future.as_mut().poll(cx)
    })
    .await
}
