//! The laws of time: a clock that only goes forward, and one alarm that is neither early nor late nor deaf.

use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::thread::{ClockId, clock_nanosleep_relative};
use waterwheel_reactor::{Backend, Clock, Reactor, Start, Time};

use crate::kit::peer::{Family, Venue, errand};
use crate::kit::stream::{once, read};
use crate::kit::{Mail, launch, on_each, on_one, pause, shard, sleep, thread};
use crate::{Law, Outcome};

pub(crate) const LAWS: &[Law] = &[
    Law::new("TIME-1", "the clock goes back, or shards disagree about it", forward),
    Law::new("TIME-2", "an alarm fires early, or a past deadline waits", never_early),
    Law::new("TIME-3", "an earlier call of the alarm outlives the latest", latest_wins),
    Law::new("TIME-4", "a deadline that overflows stops everything, or fires at once", absurd),
    Law::new("TIME-10", "the timer is as coarse as a tick (glommio: 10 ms took 40 ms)", precise).alone(),
];

/// What a clock may be off by its resolution.
const COARSE: Duration = Duration::from_millis(1);

/// TIME-1. The wall clock is not set here, since that would disturb the machine; instead the reactor's clock is held
/// against the monotonic one, which no change of wall time reaches.
fn forward(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        let wide = Clock::start();
        let begin = reactor.now();
        let narrow = Clock::start();
        let mut last = begin;
        for round in 0..1_000u32 {
            for _ in 0..100 {
                let now = reactor.now();
                assert!(now >= last, "the clock went back from {last:?} to {now:?}");
                last = now;
            }
            if round.is_multiple_of(100) {
                sleep(&reactor, Duration::from_millis(1)).await;
            }
        }
        // Within one turn too: a clock that is read once per turn makes long turns look short.
        let (before, step) = (reactor.now(), Duration::from_millis(5));
        pause(step);
        assert!(reactor.now().since(before) >= step, "the clock stood still while the root worked");
        // The one interval lies within the reactor's, the other around it.
        let least = narrow.now().since(Time::ZERO);
        let ours = reactor.now().since(begin);
        let most = wide.now().since(Time::ZERO);
        assert!(ours + COARSE >= least, "slow: {least:?} passed, {ours:?} by the reactor's clock");
        assert!(ours <= most + COARSE, "fast: {most:?} passed, {ours:?} by the reactor's clock");
    });
    one_origin(backend);
    forward_across_lives(backend);
    Outcome::Holds
}

/// A moment that another shard tells is not in the future here.
fn one_origin(backend: &dyn Backend) {
    let (there, back) = (Mail::<Time>::default(), Mail::<Time>::default());
    let (inbox, outbox) = (there.clone(), back.clone());
    let ping = shard(move |reactor: Rc<dyn Reactor>| async move {
        for _ in 0..1_000 {
            there.send(reactor.now());
            let told = back.receive().await;
            let now = reactor.now();
            assert!(told <= now, "shard 1 said {told:?} when it was {now:?} on shard 0");
        }
    });
    let pong = shard(move |reactor: Rc<dyn Reactor>| async move {
        for _ in 0..1_000 {
            let told = inbox.receive().await;
            let now = reactor.now();
            assert!(told <= now, "shard 0 said {told:?} when it was {now:?} on shard 1");
            outbox.send(reactor.now());
        }
    });
    on_each(backend, vec![ping, pong]);
}

/// A shard that is started again has a new reactor and the same time.
fn forward_across_lives(backend: &dyn Backend) {
    let (mut last, mut life) = (Time::ZERO, 0);
    let start: Box<Start> = Box::new(move |reactor| {
        let now = reactor.now();
        assert!(now >= last, "life {life} began at {now:?}, the one before reached {last:?}");
        last = now + Duration::from_millis(2);
        life += 1;
        (life < 5).then(|| -> waterwheel_reactor::Root {
            Box::pin(async move { sleep(&reactor, Duration::from_millis(2)).await })
        })
    });
    backend.run(vec![launch(0, start)]).expect("lives that end well");
}

/// TIME-2: also while something else wakes the shard all the time. By the reactor's clock, and by another one, since a
/// clock that runs fast would hide it.
fn never_early(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        for past in [Time::ZERO, reactor.now(), Time::from_nanos(reactor.now().as_nanos() - 1)] {
            assert!(
                once(|cx| reactor.poll_until(cx, past)).await.is_ready(),
                "{past:?} is past, yet it waits"
            );
        }
        for nanos in [1, 999, 1_000, 99_999, 999_999, 1_000_000, 1_000_001, 1_500_000, 2_999_999, 10_000_001]
        {
            for _ in 0..20 {
                for restless in [false, true] {
                    let (wait, monotonic) = (Duration::from_nanos(nanos), Clock::start());
                    once_ready(&reactor, reactor.now() + wait, restless).await;
                    let passed = monotonic.now().since(Time::ZERO);
                    // No clock that is worth the name is wrong by a hundredth.
                    assert!(passed >= wait - wait / 100, "fired after {passed:?} instead of {wait:?}");
                }
            }
        }
    });
    Outcome::Holds
}

/// Waits for `deadline` and looks at the clock; `restless`: polls the alarm again in every turn.
async fn once_ready(reactor: &Rc<dyn Reactor>, deadline: Time, restless: bool) {
    std::future::poll_fn(|cx| {
        if reactor.poll_until(cx, deadline).is_pending() {
            if restless {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
    let now = reactor.now();
    assert!(now >= deadline, "fired {:?} early", deadline.since(now));
}

/// TIME-3.
fn latest_wins(backend: &dyn Backend) -> Outcome {
    on_one(backend, |reactor| async move {
        let far = Duration::from_secs(5);
        for round in 0..10 {
            let begin = reactor.now();
            // Sooner: an alarm that keeps its first deadline never comes here.
            set(&reactor, far).await;
            let soon = begin + Duration::from_millis(5);
            once_ready(&reactor, soon, false).await;
            let late = reactor.now().since(soon);
            assert!(late < far / 2, "round {round}: {late:?} late, as if the deadline before still stood");
            // Later: one that keeps its first deadline comes early.
            let begin = reactor.now();
            set(&reactor, Duration::from_millis(2)).await;
            once_ready(&reactor, begin + Duration::from_millis(20), false).await;
            // Back and forth, and across turns in which the reactor has slept on the earlier one.
            set(&reactor, Duration::from_millis(1)).await;
            set(&reactor, far).await;
            let deadline = set(&reactor, Duration::from_millis(3)).await;
            woken_for(&reactor, deadline).await;
            assert!(
                reactor.now().since(begin) < far / 2,
                "round {round}: a deadline before the latest still stood"
            );
        }
    });
    Outcome::Holds
}

/// Sets the alarm to a deadline that has not come yet, and answers it; again if the thread was held up until it had.
async fn set(reactor: &Rc<dyn Reactor>, after: Duration) -> Time {
    for _ in 0..100 {
        let deadline = reactor.now() + after;
        if once(|cx| reactor.poll_until(cx, deadline)).await.is_pending() {
            return deadline;
        }
    }
    panic!("a deadline {after:?} away has come at once");
}

/// Waits for the wake alone, without polling the alarm again: that it was set before must be enough. Before the deadline
/// there may be others.
async fn woken_for(reactor: &Rc<dyn Reactor>, deadline: Time) {
    std::future::poll_fn(|_| if reactor.now() < deadline { Poll::Pending } else { Poll::Ready(()) }).await;
}

/// TIME-4.
fn absurd(backend: &dyn Backend) -> Outcome {
    let deadlines = [
        Time::NEVER,
        Time::from_nanos(u64::MAX - 1),
        Time::from_nanos(1 << 63),
        Time::from_nanos((1 << 63) - 1),
        // Seconds that no 31-bit number holds, and milliseconds that no 32-bit one does.
        Time::from_nanos((1 << 31) * 1_000_000_000),
        Time::from_nanos((1 << 32) * 1_000_000),
    ];
    for deadline in deadlines {
        let mail = Mail::default();
        let sender = mail.clone();
        let venue = Venue::new(backend, Family::Tcp);
        let messages = thread(move || {
            for _ in 0..20 {
                pause(Duration::from_millis(1));
                sender.send(Clock::start());
            }
        });
        on_one(backend, move |reactor| async move {
            let mut meeting = venue.open(&reactor);
            for _ in 0..20 {
                let sent = beside(&reactor, deadline, mail.receive()).await;
                prompt(sent, deadline, "a message");
            }
            let (mut transport, peer) = meeting.peer().await;
            let errand = errand(move || {
                pause(Duration::from_millis(20));
                let sent = Clock::start();
                peer.write_all(b"now");
                sent
            });
            let bytes = beside(&reactor, deadline, read(&mut *transport.source)).await;
            assert_eq!(bytes.expect("reading"), b"now");
            prompt(errand.end().await, deadline, "input");
            // And the alarm itself is as good as before.
            sleep(&reactor, Duration::from_millis(1)).await;
            meeting.close().await;
        });
        messages.join();
    }
    Outcome::Holds
}

/// What `future` gives, the alarm set to `deadline` in every turn meanwhile.
async fn beside<F: Future>(reactor: &Rc<dyn Reactor>, deadline: Time, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        assert!(reactor.poll_until(cx, deadline).is_pending(), "the deadline {deadline:?} came");
        future.as_mut().poll(cx)
    })
    .await
}

fn prompt(sent: Clock, deadline: Time, what: &str) {
    let after = sent.now().since(Time::ZERO);
    assert!(after < Duration::from_secs(1), "{what} took {after:?} while the alarm stood at {deadline:?}");
}

/// TIME-10. Both are measured in turns on the same thread, so that what the machine does meanwhile meets both; a
/// median hides single delays, and a noisy spell is given two more chances.
fn precise(backend: &dyn Backend) -> Outcome {
    const TRIES: usize = 3;
    let mut measured = Vec::new();
    for _ in 0..TRIES {
        let (ours, theirs) =
            on_one(backend, |reactor| async move { errors_of_a_millisecond(&reactor).await });
        if ours <= 2 * theirs {
            return Outcome::Holds;
        }
        measured.push(format!("{ours:?} against {theirs:?}"));
    }
    panic!("median error of a 1 ms sleep, and of clock_nanosleep: {}", measured.join(", then "));
}

/// Median errors of the alarm and of `clock_nanosleep(2)`.
async fn errors_of_a_millisecond(reactor: &Rc<dyn Reactor>) -> (Duration, Duration) {
    const SAMPLES: usize = 301;
    const MILLISECOND: Duration = Duration::from_millis(1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let begin = reactor.now();
        sleep(reactor, MILLISECOND).await;
        ours.push(reactor.now().since(begin).saturating_sub(MILLISECOND));
        let begin = reactor.now();
        let request = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // Interrupted by a signal it would be short, which counts as no error and makes the law stricter.
        let _ = clock_nanosleep_relative(ClockId::Monotonic, &request);
        theirs.push(reactor.now().since(begin).saturating_sub(MILLISECOND));
    }
    let median = |errors: &mut Vec<Duration>| {
        errors.sort_unstable();
        errors[SAMPLES / 2]
    };
    (median(&mut ours), median(&mut theirs))
}
