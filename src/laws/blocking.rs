//! Work on threads of its own: where it runs, where its result comes back, and what becomes of it when nobody waits, it
//! panics, there is too much of it, or the run ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::thread::sched_getaffinity;
use waterwheel::runtime::{BlockingError, Runtime};
use waterwheel::shard::Shard;

use super::kit::{LONG, config, on_each_reactor, pause};

on_each_reactor![
    a_result_comes_back_on_the_shard_that_asked,
    a_shard_goes_on_meanwhile,
    dropping_cancels_what_has_not_begun_and_tells_what_has,
    a_panic_is_an_error_and_costs_no_thread,
    too_much_is_refused,
    the_end_of_a_run_waits_for_what_has_begun,
];

fn run<F>(reactor: &str, threads: usize, main: impl Fn(Shard) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let config = config(reactor, 2).blocking_threads(threads);
    Runtime::new(config).unwrap().without_signals().run(main).unwrap();
}

fn a_result_comes_back_on_the_shard_that_asked(reactor: &str) {
    let free = sched_getaffinity(None).unwrap();
    run(reactor, 16, move |shard| async move {
        let here = thread::current().id();
        let asked = (0..100u64).map(|number| {
            shard.blocking(move || {
                pause(Duration::from_micros(number * 7 % 300));
                (number, thread::current().id(), sched_getaffinity(None).unwrap())
            })
        });
        for (number, answer) in join_all(asked).await.into_iter().enumerate() {
            let (said, on, cpus) = answer?;
            assert_eq!(said, number as u64);
            assert_ne!(on, here, "it blocked the shard");
            assert_eq!(cpus, free, "it is pinned as the shard is");
        }
        assert_eq!(thread::current().id(), here);
        Ok(())
    });
}

fn a_shard_goes_on_meanwhile(reactor: &str) {
    run(reactor, 16, |shard| async move {
        let (let_go, wait) = mpsc::channel();
        let blocked = shard.blocking(move || wait.recv_timeout(LONG).is_ok());
        for _ in 0..10 {
            shard.sleep(Duration::from_millis(1)).await;
        }
        let_go.send(())?;
        assert!(blocked.await?, "it was not the shard that let it go");
        Ok(())
    });
}

fn dropping_cancels_what_has_not_begun_and_tells_what_has(reactor: &str) {
    run(reactor, 1, |shard| async move {
        if shard.id().index() > 0 {
            return Ok(());
        }
        let (begun, begins) = mpsc::channel();
        let (told, tells) = mpsc::channel();
        let first = shard.blocking_with(move |cancelled| {
            begun.send(()).unwrap();
            while !cancelled.is_cancelled() {
                pause(Duration::from_millis(1));
            }
            told.send(()).unwrap();
        });
        begins.recv_timeout(LONG)?;
        let done = Arc::new(AtomicUsize::new(0));
        let waits = (0..100).map(|_| {
            let done = done.clone();
            shard.blocking(move || done.fetch_add(1, SeqCst))
        });
        let waits: Vec<_> = waits.collect();
        assert_eq!(Arc::strong_count(&done), 101);
        drop(waits);
        assert_eq!(Arc::strong_count(&done), 1, "what was cancelled is kept");
        drop(first);
        tells.recv_timeout(LONG)?;
        let last = done.clone();
        assert_eq!(shard.blocking(move || last.fetch_add(1, SeqCst)).await?, 0, "cancelled work was done");
        Ok(())
    });
}

fn a_panic_is_an_error_and_costs_no_thread(reactor: &str) {
    run(reactor, 1, |shard| async move {
        for _ in 0..3 {
            let outcome = shard.blocking(|| -> u8 { panic!("on purpose") }).await;
            assert!(
                matches!(&outcome, Err(BlockingError::Panicked(text)) if text == "on purpose"),
                "{outcome:?}"
            );
        }
        assert_eq!(shard.blocking(|| 7).await?, 7);
        Ok(())
    });
}

fn too_much_is_refused(reactor: &str) {
    run(reactor, 2, |shard| async move {
        if shard.id().index() > 0 {
            return Ok(());
        }
        let (let_go, wait) = flume::bounded::<()>(0);
        let blocks = || {
            let wait = wait.clone();
            shard.blocking(move || wait.recv_timeout(LONG))
        };
        // How soon the first two are taken out of the queue is the threads' affair.
        let mut all = Vec::new();
        let refused = loop {
            let mut one = blocks();
            match futures_util::FutureExt::now_or_never(&mut one) {
                Some(outcome) => break outcome.unwrap_err(),
                None => all.push(one),
            }
        };
        assert!((1024..=1026).contains(&all.len()), "{} were taken", all.len());
        assert_eq!(refused.to_string(), "1024 pieces of work wait for a blocking thread already");
        drop(let_go);
        assert!(join_all(all).await.iter().all(Result::is_ok));
        Ok(())
    });
}

fn the_end_of_a_run_waits_for_what_has_begun(reactor: &str) {
    let done = Arc::new(AtomicUsize::new(0));
    let (seen, counts) = (done.clone(), done.clone());
    run(reactor, 1, move |shard| {
        let done = counts.clone();
        async move {
            if shard.id().index() > 0 {
                return Ok(());
            }
            let (begun, begins) = mpsc::channel();
            let work = shard.blocking(move || {
                begun.send(()).unwrap();
                pause(Duration::from_millis(100));
                done.fetch_add(1, SeqCst);
            });
            begins.recv_timeout(LONG)?;
            // Nobody waits for it, and nobody cancelled it.
            std::mem::forget(work);
            Ok(())
        }
    });
    assert_eq!(seen.load(SeqCst), 1, "the run ended before what had begun");
}
