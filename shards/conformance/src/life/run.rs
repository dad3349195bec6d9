//! When a run ends, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use waterwheel_reactor::{Backend, Start, Why};

use crate::Outcome;
use crate::kit::peer::{Family, Venue};
use crate::kit::stream::{read, write_all};
use crate::kit::{DescriptorLimit, Mail, launch, on_each, on_one, shard, sleep, try_each};

/// Counts when dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// LIFE-1.
pub(super) fn returns_after_the_last_root(backend: &dyn Backend) -> Outcome {
    for run in 0..3 {
        let gone = Arc::new(AtomicUsize::new(0));
        let shards = (0..3u64).map(|number| {
            let guard = Counted(Arc::clone(&gone));
            shard(move |reactor| async move {
                sleep(&reactor, Duration::from_millis(20 * number)).await;
                drop(guard);
                number
            })
        });
        assert_eq!(on_each(backend, shards.collect()), [0, 1, 2], "run {run}");
        assert_eq!(gone.load(SeqCst), 3, "run {run} returned before its last root ended");
    }
    assert!(backend.run(Vec::new()).is_ok(), "a run of no shards has nothing to fail at");
    asked_until_none(backend);
    Outcome::Holds
}

/// A shard lives as often as `start` makes a root, and is over when it answers `None`.
fn asked_until_none(backend: &dyn Backend) {
    let (asked, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asking, guard) = (Arc::clone(&asked), Counted(Arc::clone(&gone)));
    let start: Box<Start> = Box::new(move |reactor| {
        let _held_with_the_closure = &guard;
        let life = asking.fetch_add(1, SeqCst);
        (life < 3).then(|| -> waterwheel_reactor::Root {
            Box::pin(async move { sleep(&reactor, Duration::from_millis(1)).await })
        })
    });
    backend.run(vec![launch(0, start)]).expect("three lives that end well");
    assert_eq!(asked.load(SeqCst), 4, "asked for three roots and told once that there is no other");
    assert_eq!(gone.load(SeqCst), 1, "the launch outlived its run");
}

/// LIFE-2: the shards beside the one that panics are waiting when it happens, and do input and output afterwards.
pub(super) fn panic_is_named(backend: &dyn Backend) -> Outcome {
    let news: [Mail<()>; 2] = [Mail::default(), Mail::default()];
    let survivor = |mail: &Mail<()>| {
        let (mail, venue) = (mail.clone(), Venue::new(backend, Family::Tcp));
        shard(move |reactor| async move {
            mail.receive().await;
            sleep(&reactor, Duration::from_millis(10)).await;
            let mut meeting = venue.open(&reactor);
            let (mut one, mut other) = meeting.own().await;
            write_all(&mut *one.sink, b"still here").await.expect("writing");
            assert_eq!(read(&mut *other.source).await.expect("reading"), b"still here");
            meeting.close().await;
        })
    };
    let tell = news.clone();
    let victim = shard(move |reactor| async move {
        sleep(&reactor, Duration::from_millis(10)).await;
        let _told_while_unwinding = TellOnDrop(tell);
        panic!("the root of shard 1 fails as planned");
    });
    let (values, result) = try_each(backend, vec![survivor(&news[0]), victim, survivor(&news[1])]);
    let ended = result.expect_err("a root panicked");
    assert!(values[0].is_some() && values[2].is_some(), "the other shards did not go on: {ended:?}");
    assert_eq!(ended.len(), 1, "one shard panicked: {ended:?}");
    assert_eq!(ended[0].shard, 1, "the wrong shard is named: {ended:?}");
    assert!(
        matches!(&ended[0].why, Why::Panicked(why) if why == "the root of shard 1 fails as planned"),
        "the panic's message is lost: {ended:?}"
    );
    panic_is_survived(backend);
    Outcome::Holds
}

#[derive(Debug)]
struct TellOnDrop([Mail<()>; 2]);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|mail| mail.send(()));
    }
}

/// A life after the panic that ends well makes the run end well.
fn panic_is_survived(backend: &dyn Backend) {
    let mut life = 0;
    let start: Box<Start> = Box::new(move |reactor| {
        life += 1;
        match life {
            1 => Some(Box::pin(async { panic!("the first life fails as planned") })),
            2 => Some(Box::pin(async move { sleep(&reactor, Duration::from_millis(1)).await })),
            _ => None,
        }
    });
    let result = backend.run(vec![launch(0, start)]);
    assert!(result.is_ok(), "the shard was restarted and its last life ended well: {result:?}");
}

/// LIFE-5. Runs also where the reactor cannot run. The missing resource that can be arranged everywhere is the
/// descriptor: the probe may pass or fail without one, and a run may end with an error, but both must come back.
pub(super) fn probe_answers(backend: &dyn Backend) -> Outcome {
    let first = backend.probe();
    assert_eq!(first, backend.probe(), "nothing changed between two probes");
    if let Err(unavailable) = &first {
        assert!(!unavailable.to_string().trim().is_empty(), "the reason is missing");
    }
    for spare in 0..4 {
        let limit = DescriptorLimit::leave(spare);
        if let Err(unavailable) = backend.probe() {
            assert!(!unavailable.to_string().trim().is_empty(), "the reason is missing");
        }
        let (values, result) = try_each(backend, vec![shard(|_| async {})]);
        drop(limit);
        match result {
            Ok(()) => assert!(values[0].is_some(), "the run says that all is well, but the root did not run"),
            Err(ended) => assert!(
                matches!(ended[..], [ref only] if only.shard == 0 && matches!(only.why, Why::Failed(_))),
                "a lack of descriptors is a failure of the reactor, not a panic: {ended:?}"
            ),
        }
    }
    assert_eq!(first, backend.probe(), "the lack of descriptors is over");
    if first.is_ok() {
        on_one(backend, |_| async {});
    }
    Outcome::Holds
}
