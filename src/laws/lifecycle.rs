//! The steps of a start and a stop on real reactors, and what is said of those that are stuck.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waterwheel::runtime::{RunError, Runtime, StepTimes, When};
use waterwheel::shard::{Phase, Shard};

use super::kit::{Watch, config, eventually, keep_log, logged, on_each_reactor, spawn};

on_each_reactor![
    shard_6_steps_follow_each_other_over_all_shards,
    shard_6_a_step_that_is_stuck_says_what_it_waits_for_and_ends,
    shard_6_a_second_wish_leaves_the_close_a_second,
];

const SHARDS: usize = 2;

/// What happened, in order; written by all shards.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    fn tell(&self, what: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn shard_6_steps_follow_each_other_over_all_shards(reactor: &str) {
    keep_log();
    let story = Story::default();
    let runtime = Runtime::new(config(reactor, SHARDS)).unwrap().without_signals();
    for when in When::ALL {
        let own = story.clone();
        runtime.trigger(when, "tells", move |shard: Shard| {
            let own = own.clone();
            async move {
                // The first shard is always the slower one.
                if shard.id().index() == 0 {
                    shard.sleep(Duration::from_millis(20)).await;
                }
                own.tell(when.name());
                assert!(when != When::BeforeStop, "planned");
                anyhow::ensure!(when != When::DuringStop, "had no luck");
                Ok(())
            }
        });
    }
    let (stopper, own) = (runtime.stopper(), story.clone());
    let running = spawn(move || {
        runtime.run(move |shard| {
            let own = own.clone();
            async move {
                own.tell("main");
                let later = shard.trigger(When::AfterStop, "own", async move {
                    own.tell(When::AfterStop.name());
                    Ok(())
                })?;
                let late = shard.trigger(When::BeforeStart, "late", async { Ok(()) });
                anyhow::ensure!(late.is_err(), "the start has begun");
                let kept = shard.trigger(When::BeforeStop, "taken back", pending())?;
                anyhow::ensure!(
                    shard.remove_trigger(kept)
                        && later != shard.trigger(When::AfterStop, "x", async { Ok(()) })?
                );
                shard.stopping().await;
                Ok(())
            }
        })
    });
    eventually("the start", || {
        (story.lines().iter().filter(|line| *line == "after the start").count() == 2).then_some(())
    });
    let told = story.lines();
    stopper.stop(Duration::from_secs(20));
    running.join().unwrap().unwrap();
    // The main futures begin with what runs during the start.
    let (mains, triggers): (Vec<String>, Vec<String>) =
        story.lines().into_iter().partition(|line| line == "main");
    assert_eq!(mains.len(), SHARDS);
    assert!(told.iter().position(|line| line == "main") >= Some(SHARDS), "before what it needs: {told:?}");
    let mut expected: Vec<&str> = When::ALL.iter().flat_map(|when| [when.name(); SHARDS]).collect();
    expected.extend(["after the stop"; SHARDS]);
    assert_eq!(triggers, expected);
    assert!(logged(&["a trigger before the stop panicked", "tells"]));
    assert!(logged(&["a trigger during the stop failed: had no luck", "tells"]));
}

fn shard_6_a_step_that_is_stuck_says_what_it_waits_for_and_ends(reactor: &str) {
    keep_log();
    let second = Duration::from_secs(1);
    let times = StepTimes { before_stop: second, after_stop: second, ..StepTimes::default() };
    let runtime = Runtime::new(config(reactor, SHARDS).step_times(times)).unwrap().without_signals();
    let stuck = |when: When, name: &'static str| {
        runtime.trigger(when, name, |shard: Shard| async move {
            if shard.id().index() == 1 {
                shard.sleep(Duration::from_secs(3600)).await;
            }
            Ok(())
        });
    };
    stuck(When::BeforeStop, "deregisters");
    stuck(When::AfterStop, "flushes");
    let stopper = runtime.stopper();
    let running = spawn(move || {
        runtime.run(|shard| async move {
            if shard.id().index() == 1 {
                shard.spawn_detached("hopeless", pending());
                pending::<()>().await;
            }
            shard.stopping().await;
            Ok(())
        })
    });
    let watch = Watch::start();
    stopper.stop(second);
    let ended = running.join().unwrap();
    assert!(matches!(&ended, Err(RunError::Stopped { shards }) if *shards == [1]), "{ended:?}");
    assert!(watch.elapsed() >= second * 3 && watch.elapsed() < second * 15, "{:?}", watch.elapsed());
    for part in [
        "half of the time for what runs before the stop is over; it waits for deregisters (until",
        "the time for what runs before the stop is up; it still waited for deregisters (until",
        "half of the drain's time is over; it waits for hopeless,",
        "the drain ran out of time; it still waited for hopeless,",
        "the time for what runs after the stop is up; it still waited for flushes (until",
    ] {
        assert!(logged(&["WARN", "shard=1", part]), "{part}");
        assert!(!logged(&["shard=0", part]), "{part}");
    }
}

fn shard_6_a_second_wish_leaves_the_close_a_second(reactor: &str) {
    let hour = Duration::from_secs(3600);
    let times = StepTimes { before_stop: hour, after_stop: hour, ..StepTimes::default() };
    let runtime = Runtime::new(config(reactor, SHARDS).step_times(times)).unwrap().without_signals();
    let (stopper, story) = (runtime.stopper(), Story::default());
    let own = story.clone();
    runtime.trigger(When::DuringStop, "never ends", |_| pending());
    runtime.trigger(When::AfterStop, "last", move |shard: Shard| {
        let own = own.clone();
        async move {
            own.tell(format!("{} closes {:?}", shard.id(), shard.phase() == Phase::Ending));
            pending().await
        }
    });
    let running = spawn(move || {
        runtime.run(|shard| async move {
            shard.stopping().await;
            shard.spawn_detached("hurries", pending());
            pending::<anyhow::Result<()>>().await
        })
    });
    stopper.stop(hour);
    spawn({
        let stopper = stopper.clone();
        move || {
            super::kit::pause(Duration::from_millis(100));
            stopper.hurry();
        }
    });
    let watch = Watch::start();
    let ended = running.join().unwrap();
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    assert!(watch.elapsed() < Duration::from_secs(20), "{:?}", watch.elapsed());
    let mut lines = story.lines();
    lines.sort();
    assert_eq!(lines, ["0 closes true", "1 closes true"]);
}
