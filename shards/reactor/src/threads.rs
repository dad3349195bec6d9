//! The part of a backend that is the same wherever shards are threads.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::{Ended, Launch, Start, Why};

/// How one life of a shard, from one reactor to its end, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The root ended; `start` is to be asked again, with a new reactor.
    Ended,
    /// `start` answered `None`: the shard is over.
    Over,
}

/// Runs each launch on a thread of its own: names it, prepares it, lives, and lives again until `start` answers
/// `None`. Returns after the last thread ended.
///
/// `live` makes a reactor, asks `start` for the root and drives it until it is ready. It is called again after each
/// end, each panic and each failure; when it fails before it has asked, the shard is over, since without a reactor
/// nobody can be asked.
///
/// # Errors
/// The shards whose last life panicked or failed, in the order of the launches.
pub fn on_threads<L>(launches: Vec<Launch>, live: L) -> Result<(), Vec<Ended>>
where
    L: Fn(usize, &mut Start) -> io::Result<Life> + Send + Sync,
{
    let live = &live;
    let ended: Vec<Ended> = thread::scope(|scope| {
        let threads: Vec<_> = launches
            .into_iter()
            .map(|launch| {
                let shard = launch.shard;
                let thread = thread::Builder::new().name(launch.name.clone());
                (shard, thread.spawn_scoped(scope, move || lives(launch, live)))
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|(shard, thread)| Some(Ended { shard, why: last_end(thread)? }))
            .collect()
    });
    if ended.is_empty() { Ok(()) } else { Err(ended) }
}

fn last_end(thread: io::Result<thread::ScopedJoinHandle<'_, Option<Why>>>) -> Option<Why> {
    match thread {
        Ok(handle) => handle.join().unwrap_or_else(|panic| Some(Why::Panicked(panic_message(&*panic)))),
        Err(no_thread) => Some(Why::Failed(no_thread)),
    }
}

/// All lives of one shard. Ends with what was wrong with the last one.
fn lives<L>(launch: Launch, live: &L) -> Option<Why>
where
    L: Fn(usize, &mut Start) -> io::Result<Life>,
{
    let Launch { shard, prepare, mut start, .. } = launch;
    prepare();
    let mut why = None;
    let asked = Arc::new(AtomicBool::new(false));
    let tell = asked.clone();
    let mut ask: Box<Start> = Box::new(move |reactor| {
        tell.store(true, Relaxed);
        start(reactor)
    });
    loop {
        asked.store(false, Relaxed);
        match catch_unwind(AssertUnwindSafe(|| live(shard, &mut *ask))) {
            Ok(Ok(Life::Ended)) => why = None,
            Ok(Ok(Life::Over)) => return why,
            Ok(Err(error)) if asked.load(Relaxed) => why = Some(Why::Failed(error)),
            Ok(Err(error)) => return Some(Why::Failed(error)),
            Err(panic) => why = Some(Why::Panicked(panic_message(&*panic))),
        }
    }
}

/// What a panic said, if it said it in words: for [`Why::Panicked`].
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(not text)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Bound, ConnectOptions, Incoming, Listener, Reactor, Time, Transport};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Context, Poll};
    use std::time::Duration;

    /// A reactor that can do nothing, for those who only look whether there is one.
    #[derive(Debug)]
    struct Nothing;

    impl Reactor for Nothing {
        fn now(&self) -> Time {
            Time::ZERO
        }
        fn unix_time(&self) -> Duration {
            Duration::ZERO
        }
        fn seed(&self) -> u64 {
            0
        }
        fn poll_until(&self, _: &mut Context<'_>, _: Time) -> Poll<()> {
            Poll::Pending
        }
        fn listen(&self, _: Bound) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn connect(&self, _: &Address, _: &ConnectOptions) -> io::Result<Transport> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn adopt(&self, _: Incoming) -> io::Result<Transport> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn launch(shard: usize, start: Box<Start>) -> Launch {
        Launch { shard, name: format!("test-{shard}"), prepare: Box::new(|| {}), start }
    }

    #[test]
    fn a_panic_is_reported_only_if_it_was_the_last_end() {
        let lives = AtomicUsize::new(0);
        let result = on_threads(
            vec![launch(0, Box::new(|_| None)), launch(1, Box::new(|_| None))],
            |shard, _| match (shard, lives.fetch_add(1, SeqCst)) {
                (0, _) => Ok(Life::Over),
                (_, n) if n < 3 => panic!("life {n}"),
                (_, n) if n < 5 => Ok(Life::Ended),
                _ => Ok(Life::Over),
            },
        );
        assert!(result.is_ok(), "{result:?}");
    }

    #[test]
    fn failures_name_their_shard() {
        let ended =
            on_threads(vec![launch(0, Box::new(|_| None)), launch(1, Box::new(|_| None))], |shard, _| {
                if shard == 1 { Err(io::Error::other("no ring")) } else { Ok(Life::Over) }
            })
            .unwrap_err();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].to_string(), "the reactor of shard 1 failed: no ring");
    }

    #[test]
    fn after_a_failure_start_decides_and_without_a_reactor_nobody_can() {
        let lives = AtomicUsize::new(0);
        let launches = vec![launch(0, Box::new(|_| None))];
        let ended = on_threads(launches, |_, start| match lives.fetch_add(1, SeqCst) {
            life @ 0..3 => {
                start(Rc::new(Nothing));
                Err(io::Error::other(format!("broke in life {life}")))
            }
            _ => Err(io::Error::other("no ring")),
        });
        assert_eq!(ended.unwrap_err()[0].to_string(), "the reactor of shard 0 failed: no ring");
        assert_eq!(lives.load(SeqCst), 4);
    }

    #[test]
    fn a_panicking_prepare_ends_only_its_shard() {
        let mut bad = launch(0, Box::new(|_| None));
        bad.prepare = Box::new(|| panic!("cannot pin"));
        let ended = on_threads(vec![bad, launch(1, Box::new(|_| None))], |_, _| Ok(Life::Over)).unwrap_err();
        assert_eq!(ended[0].to_string(), "shard 0 panicked: cannot pin");
    }
}
