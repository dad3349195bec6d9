//! Names into addresses, off the reactor: the system's resolver may block for as long as it likes.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use waterwheel_reactor::Address;

use super::Endpoint;

/// Lookups that may wait for a thread. Beyond it the system's resolver is stuck, and more waiting would only hide it.
const WAITING_MAX: usize = 256;
/// Threads of one [`Lookups`]: as many names that do not answer may be asked for before others have to wait.
const THREADS: usize = 4;

/// Why an endpoint has no address. Shows the endpoint and the reason in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The system's resolver says so.
    #[error("{endpoint}: {reason}")]
    System {
        /// What was looked up.
        endpoint: Endpoint,
        /// In the system's words.
        reason: String,
    },
    /// Too many lookups wait already.
    #[error("{endpoint}: {WAITING_MAX} lookups are waiting for the system's resolver already")]
    Busy {
        /// What was not looked up.
        endpoint: Endpoint,
    },
    /// The lookups ended before this one began.
    #[error("{endpoint}: not looked up, the program is ending")]
    Ended {
        /// What was not looked up.
        endpoint: Endpoint,
    },
}

impl Endpoint {
    /// Its addresses, at least one, in the order of preference that the system gives them, each once. Blocks for as
    /// long as the system's resolver does (getaddrinfo(3); tens of seconds if name servers do not answer), so not on
    /// a shard, where [`Lookups::start`] is right. Answers at once if the endpoint [is an address](Endpoint::literal).
    ///
    /// # Errors
    /// The system knows no such name, interface, or no address for it.
    pub fn resolve_blocking(&self) -> Result<Vec<Address>, ResolveError> {
        self.resolve_with(|_, _| None)
    }

    /// The same, asking `known` first, which may know every name there is.
    pub(crate) fn resolve_with(
        &self,
        known: impl FnOnce(&str, u16) -> Option<io::Result<Vec<SocketAddr>>>,
    ) -> Result<Vec<Address>, ResolveError> {
        let Some((host, port)) = self.question() else { return Ok(self.literal().into_iter().collect()) };
        self.answered(known(&host, port).unwrap_or_else(|| Ok((host, port).to_socket_addrs()?.collect())))
    }

    /// What became of a question.
    pub(super) fn answered(&self, answer: io::Result<Vec<SocketAddr>>) -> Result<Vec<Address>, ResolveError> {
        let fail = |reason: String| ResolveError::System { endpoint: self.clone(), reason };
        let addresses = distinct(answer.map_err(|error| fail(error.to_string()))?.into_iter());
        if addresses.is_empty() { Err(fail("the name has no address".to_owned())) } else { Ok(addresses) }
    }
}

/// Each address once, in the order of its first place: the system repeats them for every source that knows them.
fn distinct(found: impl Iterator<Item = SocketAddr>) -> Vec<Address> {
    let mut addresses: Vec<Address> = Vec::new();
    for address in found.map(Address::Inet) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Where a lookup's answer goes; called on one of the threads of [`Lookups`].
type Then = Box<dyn FnOnce(Result<Vec<Address>, ResolveError>) + Send>;
type Resolve = dyn Fn(&Endpoint) -> Result<Vec<Address>, ResolveError> + Send + Sync;

struct Lookup {
    endpoint: Endpoint,
    then: Then,
}

/// A few threads that resolve names for the shards: at most four lookups at a time, and 256 waiting.
///
/// Dropping it ends them: lookups that have not begun are answered with [`ResolveError::Ended`], a thread inside the
/// system's resolver (which cannot be interrupted) is left to finish by itself, and every other thread has ended when
/// the drop returns.
pub struct Lookups {
    waiting: Option<flume::Sender<Lookup>>,
    ended: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<()>, Arc<AtomicBool>)>,
}

impl Lookups {
    /// Starts the threads. They inherit the CPU mask of the caller: start them before the first shard is pinned, not
    /// on a shard.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new() -> io::Result<Lookups> {
        Lookups::with(THREADS, Arc::new(Endpoint::resolve_blocking))
    }

    /// Looks `endpoint` up and hands its addresses, or why there are none, to `then` on another thread. Returns at
    /// once and never blocks, so a shard may call it.
    ///
    /// # Errors
    /// [`ResolveError::Busy`] if 256 lookups are waiting already; `then` is dropped uncalled.
    pub fn start<F>(&self, endpoint: Endpoint, then: F) -> Result<(), ResolveError>
    where
        F: FnOnce(Result<Vec<Address>, ResolveError>) + Send + 'static,
    {
        let Some(waiting) = &self.waiting else { return Err(ResolveError::Ended { endpoint }) };
        let lookup = Lookup { endpoint, then: Box::new(then) };
        waiting
            .try_send(lookup)
            .map_err(|refused| ResolveError::Busy { endpoint: refused.into_inner().endpoint })
    }

    fn with(count: usize, resolve: Arc<Resolve>) -> io::Result<Lookups> {
        let (waiting, lookups) = flume::bounded(WAITING_MAX);
        let ended = Arc::new(AtomicBool::new(false));
        let mut all = Lookups { waiting: Some(waiting), ended: ended.clone(), threads: Vec::new() };
        for number in 0..count {
            let looking = Arc::new(AtomicBool::new(false));
            let (lookups, ended, resolve) = (lookups.clone(), ended.clone(), resolve.clone());
            let seen = looking.clone();
            let thread = thread::Builder::new()
                .name(format!("lookup-{number}"))
                .spawn(move || work(&lookups, &ended, &looking, &*resolve))?;
            all.threads.push((thread, seen));
        }
        Ok(all)
    }
}

fn work(lookups: &flume::Receiver<Lookup>, ended: &AtomicBool, looking: &AtomicBool, resolve: &Resolve) {
    while let Ok(Lookup { endpoint, then }) = lookups.recv() {
        // Said before `ended` is read, as the drop sets `ended` before it reads this: one of the two sees the other,
        // so a thread that the drop waits for never begins a lookup.
        looking.store(true, SeqCst);
        let answer =
            if ended.load(SeqCst) { Err(ResolveError::Ended { endpoint }) } else { resolve(&endpoint) };
        looking.store(false, SeqCst);
        if catch_unwind(AssertUnwindSafe(|| then(answer))).is_err() {
            tracing::error!("the receiver of a lookup's answer panicked");
        }
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        self.waiting = None;
        let me = thread::current().id();
        for (thread, looking) in self.threads.drain(..) {
            // An answer's receiver may hold the last reference: a thread cannot wait for itself.
            let mine = thread.thread().id() == me;
            if !mine && !looking.load(SeqCst) && thread.join().is_err() {
                tracing::error!("a lookup thread panicked");
            }
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.as_ref().map_or(0, flume::Sender::len);
        f.debug_struct("Lookups").field("threads", &self.threads.len()).field("waiting", &waiting).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_resolve_to_themselves() {
        for text in ["127.0.0.1:80", "[::1]:80", "unix:/x", "unix:@x"] {
            let at = endpoint(text);
            assert_eq!(at.resolve_blocking(), Ok(vec![at.literal().unwrap()]));
        }
    }

    #[test]
    fn a_name_is_looked_up() {
        let addresses = endpoint("localhost:80").resolve_blocking().unwrap();
        assert!(!addresses.is_empty());
        for address in addresses {
            let at = address.inet().unwrap();
            assert!(at.ip().is_loopback() && at.port() == 80, "{at}");
        }
    }

    #[test]
    fn an_address_that_is_found_twice_is_tried_once() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = [at("[::1]:80"), at("127.0.0.1:80"), at("[::1]:80"), at("127.0.0.1:80")];
        assert_eq!(distinct(found.into_iter()), [found[0], found[1]].map(Address::Inet));
    }

    #[test]
    fn a_zone_is_translated_by_the_system() {
        let addresses = endpoint("[fe80::1%lo]:80").resolve_blocking().unwrap();
        let [Address::Inet(SocketAddr::V6(six))] = &addresses[..] else { panic!("{addresses:?}") };
        assert_ne!(six.scope_id(), 0);
    }

    #[test]
    fn a_failure_names_the_endpoint_and_the_systems_reason() {
        let error = endpoint("[fe80::1%nosuch0]:80").resolve_blocking().unwrap_err();
        assert!(matches!(&error, ResolveError::System { reason, .. } if !reason.is_empty()), "{error:?}");
        let line = error.to_string();
        assert!(line.starts_with("tcp:[fe80::1%nosuch0]:80: "), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn the_answer_comes_on_another_thread() {
        let lookups = Lookups::new().unwrap();
        let (send, receive) = mpsc::channel();
        lookups
            .start(endpoint("127.0.0.1:1"), move |answer| {
                send.send((answer, thread::current().id())).unwrap()
            })
            .unwrap();
        let (answer, on) = receive.recv_timeout(LONG).unwrap();
        assert_eq!(answer, endpoint("127.0.0.1:1").resolve_blocking());
        assert_ne!(on, thread::current().id());
    }

    /// One thread whose lookups wait for `release`; says on `begun` that one began.
    fn stuck() -> (Lookups, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begin, begun), (release, released)) = (mpsc::channel(), mpsc::channel());
        let gate = std::sync::Mutex::new((begin, released));
        let resolve = move |at: &Endpoint| {
            let gate = gate.lock().unwrap();
            gate.0.send(()).ok();
            gate.1.recv().ok();
            Ok(at.literal().into_iter().collect())
        };
        (Lookups::with(1, Arc::new(resolve)).unwrap(), begun, release)
    }

    #[test]
    fn a_stuck_resolver_neither_blocks_the_caller_nor_queues_for_ever() {
        let (lookups, begun, release) = stuck();
        let (send, receive) = mpsc::channel();
        let start = |count: usize| {
            (0..count).map(|_| {
                let send = send.clone();
                lookups.start(endpoint("127.0.0.1:1"), move |answer| send.send(answer.is_ok()).unwrap())
            })
        };
        assert!(start(1).all(|started| started.is_ok()));
        begun.recv_timeout(LONG).unwrap();
        assert!(start(WAITING_MAX).all(|started| started.is_ok()));
        let refused = start(1).next().unwrap().unwrap_err();
        assert_eq!(refused, ResolveError::Busy { endpoint: endpoint("127.0.0.1:1") });
        drop(release);
        for _ in 0..=WAITING_MAX {
            assert!(receive.recv_timeout(LONG).unwrap());
        }
    }

    #[test]
    fn ending_waits_for_no_resolver_and_answers_everybody() {
        let (lookups, begun, release) = stuck();
        let (send, receive) = mpsc::channel();
        for _ in 0..3 {
            let send = send.clone();
            lookups.start(endpoint("127.0.0.1:1"), move |answer| send.send(answer.is_ok()).unwrap()).unwrap();
        }
        begun.recv_timeout(LONG).unwrap();
        drop(lookups);
        drop(release);
        let answers: Vec<bool> = (0..3).map(|_| receive.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(answers, [true, false, false]);
    }

    #[test]
    fn idle_threads_have_ended_when_the_drop_returns() {
        let resolve: Arc<Resolve> = Arc::new(Endpoint::resolve_blocking);
        let lookups = Lookups::with(4, resolve.clone()).unwrap();
        drop(lookups);
        assert_eq!(Arc::strong_count(&resolve), 1, "a thread is left");
    }

    #[test]
    fn the_last_reference_may_be_dropped_by_an_answer() {
        let lookups = Arc::new(Lookups::with(2, Arc::new(Endpoint::resolve_blocking)).unwrap());
        let ((send, receive), (free, freed)) = (mpsc::channel(), mpsc::channel::<()>());
        let held = lookups.clone();
        lookups
            .start(endpoint("127.0.0.1:1"), move |_| {
                freed.recv().ok();
                drop(held);
                send.send(()).unwrap();
            })
            .unwrap();
        drop(lookups);
        drop(free);
        receive.recv_timeout(LONG).unwrap();
    }

    #[test]
    fn a_panicking_receiver_costs_no_thread() {
        let lookups = Lookups::with(1, Arc::new(Endpoint::resolve_blocking)).unwrap();
        lookups.start(endpoint("127.0.0.1:1"), |_| panic!("on purpose")).unwrap();
        let (send, receive) = mpsc::channel();
        lookups.start(endpoint("127.0.0.1:1"), move |answer| send.send(answer.is_ok()).unwrap()).unwrap();
        assert!(receive.recv_timeout(LONG).unwrap());
    }
}
