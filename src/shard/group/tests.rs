//! What groups promise, on a clock that only the tasks' work and the turns move.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use waterwheel_reactor::Time;

use super::*;
use crate::shard::hand::Hand;
use crate::shard::tests::{Bench, ms};
use crate::shard::{Budgets, yield_waker};

/// What a turn costs besides its tasks.
const TURN_COST: Duration = Duration::from_micros(2);

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

fn bench() -> Bench {
    let mut bench = Bench::new(Budgets { stall: None, ..Budgets::default() }, |_| pending());
    while bench.turn() {}
    bench
}

/// Turns until this moment of the clock; sleeps as a reactor does.
fn run_until(bench: &mut Bench, until: Time) {
    while bench.hand.now.get() < until {
        let again = bench.turn();
        pass(&bench.hand, TURN_COST);
        if !again {
            let next = bench.hand.alarm.deadline().unwrap_or(until).min(until);
            bench.hand.now.set(next.max(bench.hand.now.get()));
            bench.hand.alarm.fire(bench.hand.now.get());
        }
    }
}

fn pass(hand: &Hand, time: Duration) {
    hand.now.set(hand.now.get() + time);
}

/// How a task that has always more to do lets others run.
#[derive(Clone, Copy, Debug)]
enum Way {
    Asks,
    Yields,
    Wakes,
}

const WAYS: [Way; 3] = [Way::Asks, Way::Yields, Way::Wakes];

/// Works without end, `chunk` by `chunk`; answers how much it has done.
fn works(bench: &Bench, group: &Group, way: Way, chunk: Duration) -> Rc<Cell<Duration>> {
    let done = Rc::new(Cell::new(Duration::ZERO));
    let (shard, hand, count) = (bench.shard.clone(), bench.hand.clone(), done.clone());
    group.spawn_detached("works", async move {
        loop {
            pass(&hand, chunk);
            count.set(count.get() + chunk);
            match way {
                Way::Asks => shard.yield_if_needed().await,
                Way::Yields => shard.yield_now().await,
                Way::Wakes => wakes_itself().await,
            }
        }
    });
    done
}

/// Is polled again behind those that are ready, maybe in the same turn.
async fn wakes_itself() {
    let mut first = true;
    poll_fn(|cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn group(bench: &Bench, name: &'static str, shares: u32) -> Group {
    bench.shard.group(name, Shares(shares)).unwrap()
}

#[test]
fn three_to_one_holds_in_each_tenth_of_a_second() {
    for way in WAYS {
        for other in WAYS {
            let mut bench = bench();
            let (more, less) = (group(&bench, "more", 300), group(&bench, "less", 100));
            let one = works(&bench, &more, way, us(20));
            let two = works(&bench, &less, other, us(70));
            let mut before = (Duration::ZERO, Duration::ZERO);
            for tenth in 1..=10 {
                run_until(&mut bench, Time::ZERO + ms(100 * tenth));
                let (one, two) = (one.get() - before.0, two.get() - before.1);
                before = (before.0 + one, before.1 + two);
                let part = one.as_secs_f64() / (one + two).as_secs_f64();
                assert!((0.735..0.765).contains(&part), "{part} of tenth {tenth}, {way:?} and {other:?}");
            }
            let part = before.0.as_secs_f64() / (before.0 + before.1).as_secs_f64();
            assert!((0.745..0.755).contains(&part), "{part} of a second, {way:?} and {other:?}");
            // One task of a group that yields after 20 µs makes short turns, as it does alone.
            let least = if matches!((way, other), (Way::Yields, _)) { ms(900) } else { ms(980) };
            assert!(before.0 + before.1 > least, "turns cost too much: {before:?}, {way:?} and {other:?}");
        }
    }
}

#[test]
fn the_number_of_tasks_does_not_count() {
    let mut bench = bench();
    let (many, one) = (group(&bench, "many", 100), group(&bench, "default", 100));
    let dones: Vec<_> = (0..50).map(|number| works(&bench, &many, WAYS[number % 3], us(10))).collect();
    let alone = works(&bench, &one, Way::Asks, us(10));
    run_until(&mut bench, Time::ZERO + ms(500));
    let all: Duration = dones.iter().map(|done| done.get()).sum();
    let part = alone.get().as_secs_f64() / (all + alone.get()).as_secs_f64();
    assert!((0.48..0.52).contains(&part), "{part}");
    assert!(dones.iter().all(|done| done.get() > Duration::ZERO), "one of a group starves");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_groups_get_their_shares(
        groups in prop::collection::vec((50u32..2_000, 0usize..3, 1u64..150, 1usize..4), 2..7),
    ) {
        let mut bench = bench();
        let dones: Vec<Vec<_>> = groups
            .iter()
            .zip(["default", "b", "c", "d", "e", "f"])
            .map(|((shares, way, chunk, tasks), name)| {
                let group = group(&bench, name, *shares);
                (0..*tasks).map(|_| works(&bench, &group, WAYS[*way], us(*chunk))).collect()
            })
            .collect();
        run_until(&mut bench, Time::ZERO + ms(1_000));
        let done = |of: &Vec<Rc<Cell<Duration>>>| of.iter().map(|done| done.get()).sum::<Duration>();
        let all: Duration = dones.iter().map(done).sum();
        let shares: u32 = groups.iter().map(|(shares, ..)| shares).sum();
        for ((of, (own, ..)), stats) in dones.iter().zip(&groups).zip(bench.shard.group_stats()) {
            let expected = all.mul_f64(f64::from(*own) / f64::from(shares));
            let wrong = done(of).as_secs_f64() - expected.as_secs_f64();
            // Eight turns of 500 µs, in a second.
            prop_assert!(wrong.abs() < 0.004, "{:?}, not {expected:?}", done(of));
            prop_assert!(stats.run >= done(of));
        }
    }
}

#[test]
fn what_one_group_leaves_over_is_the_others() {
    let mut bench = bench();
    let (small, large) = (group(&bench, "small", 1), group(&bench, "large", 10_000));
    let done = works(&bench, &small, Way::Asks, us(50));
    let shard = bench.shard.clone();
    large.spawn_detached("sleeps", async move {
        loop {
            shard.sleep(ms(1)).await;
        }
    });
    run_until(&mut bench, Time::ZERO + ms(100));
    assert!(done.get() > ms(98), "{:?} of 100 ms", done.get());
}

#[test]
fn who_slept_gets_nothing_for_the_past() {
    for (first, second) in [("default", "b"), ("b", "default"), ("b", "c")] {
        let mut bench = bench();
        let (awake, sleeper) = (group(&bench, first, 100), group(&bench, second, 100));
        let one = works(&bench, &awake, Way::Asks, us(20));
        // It has run before, then it sleeps.
        let (shard, hand) = (bench.shard.clone(), bench.hand.clone());
        let two = Rc::new(Cell::new(Duration::ZERO));
        let count = two.clone();
        sleeper.spawn_detached("sleeps long", async move {
            shard.sleep(ms(500)).await;
            loop {
                pass(&hand, us(20));
                count.set(count.get() + us(20));
                shard.yield_if_needed().await;
            }
        });
        run_until(&mut bench, Time::ZERO + ms(500));
        let before = one.get();
        assert!(before > ms(490) && two.get() < ms(1), "{before:?}, {:?}", two.get());
        run_until(&mut bench, Time::ZERO + ms(600));
        let gained = one.get() - before;
        assert!((ms(48)..ms(52)).contains(&gained), "{first} beside {second}: {gained:?} of 100 ms");
    }
}

/// Sleeps and works a little, again and again; answers the longest time from its deadline to its poll.
fn urgent(bench: &Bench, group: &Group, work: Duration) -> Rc<Cell<Duration>> {
    let latest = Rc::new(Cell::new(Duration::ZERO));
    let (shard, hand, late) = (bench.shard.clone(), bench.hand.clone(), latest.clone());
    group.spawn_detached("urgent", async move {
        loop {
            let due = shard.now() + us(1_700);
            shard.sleep_until(due).await;
            late.set(late.get().max(shard.now().since(due)));
            pass(&hand, work);
        }
    });
    latest
}

#[test]
fn the_latency_class_waits_for_one_turn_at_most() {
    for name in ["default", "urgent"] {
        for way in WAYS {
            let mut bench = bench();
            let urgent_ones = group(&bench, name, 100).with_latency_class().with_queue_times();
            let latest = urgent(&bench, &urgent_ones, us(10));
            let groups = ["b", "c", "d"].map(|name| group(&bench, name, 1_000));
            let dones: Vec<_> =
                (0..300).map(|number| works(&bench, &groups[number % 3], way, us(10))).collect();
            run_until(&mut bench, Time::ZERO + ms(500));
            // The turn it became due in, and the poll that ran over its end.
            let most = Budgets::default().turn + us(160) + TURN_COST;
            assert!(latest.get() <= most, "{name} among {way:?}: {:?}", latest.get());
            let stats = stats(&bench, name);
            let waits = stats.queue_times.unwrap();
            assert!(stats.latency_class && waits.count() > 200 && waits.longest() < us(20), "{waits:?}");
            assert!(dones.iter().all(|done| done.get() > Duration::ZERO), "one starves");
        }
    }
}

fn stats(bench: &Bench, name: &str) -> GroupStats {
    bench.shard.group_stats().into_iter().find(|group| group.name == name).unwrap()
}

#[test]
fn the_latency_class_gets_no_more_than_its_shares() {
    for way in WAYS {
        let mut bench = bench();
        let (greedy, other) =
            (group(&bench, "greedy", 100).with_latency_class(), group(&bench, "other", 300));
        let one = works(&bench, &greedy, way, us(20));
        let two = works(&bench, &other, Way::Wakes, us(20));
        run_until(&mut bench, Time::ZERO + ms(1_000));
        let part = one.get().as_secs_f64() / (one.get() + two.get()).as_secs_f64();
        assert!((0.24..0.26).contains(&part), "{part}, {way:?}");
    }
}

#[test]
fn long_polls_do_not_make_turns_longer_than_they_are() {
    let mut bench = bench();
    for name in ["one", "two"] {
        let group = group(&bench, name, 100);
        (0..20).for_each(|_| drop(works(&bench, &group, Way::Wakes, us(100))));
    }
    run_until(&mut bench, Time::ZERO + ms(10));
    let before = bench.shard.stats().turns;
    run_until(&mut bench, Time::ZERO + ms(110));
    let turns = bench.shard.stats().turns - before;
    assert!(turns >= 160, "{turns} turns in 100 ms, each of 500 µs and a poll");
}

#[test]
fn a_group_is_charged_for_its_own_tasks_alone() {
    let mut bench = bench();
    let own = group(&bench, "own", 100);
    let hand = bench.hand.clone();
    bench.shard.spawn_detached("long", async move {
        pass(&hand, us(200));
        let hand = hand.clone();
        own.spawn_detached("brief", async move { pass(&hand, us(10)) });
    });
    while bench.turn() {}
    assert_eq!(stats(&bench, "own").run, us(10));
}

#[test]
fn a_long_task_gives_way_as_soon_as_an_urgent_one_is_woken() {
    let mut bench = bench();
    let urgent = group(&bench, "urgent", 100).with_latency_class();
    let (kept, told) = (Rc::new(RefCell::new(None::<Waker>)), Rc::new(Cell::new(0)));
    let (keep, tell) = (kept.clone(), told.clone());
    urgent.spawn_detached(
        "waits",
        poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            tell.set(tell.get() + 1);
            Poll::<()>::Pending
        }),
    );
    while bench.turn() {}
    let (shard, hand) = (bench.shard.clone(), bench.hand.clone());
    let asks = bench.shard.spawn("long", async move {
        pass(&hand, us(10));
        let before = told.get();
        shard.yield_if_needed().await;
        let unasked = told.get() == before;
        kept.borrow_mut().take().unwrap().wake();
        let inline = told.get() > before;
        shard.yield_if_needed().await;
        (unasked, inline, told.get() > before)
    });
    let answer = Rc::new(Cell::new(None));
    let seen = answer.clone();
    bench.shard.spawn_detached("sees", async move { seen.set(asks.await.ok()) });
    while bench.turn() {}
    assert_eq!(answer.get(), Some((true, false, true)));
}

/// Also among tasks that never ask: it is not for the end of their slice that it waits.
#[test]
fn an_urgent_task_that_is_woken_by_another_is_polled_next() {
    for first in ["default", "crowd"] {
        let mut bench = bench();
        let crowd = group(&bench, first, 100);
        let urgent = group(&bench, "urgent", 100).with_latency_class();
        let kept = Rc::new(RefCell::new(None::<Waker>));
        let order = Rc::new(RefCell::new(Vec::new()));
        let (keep, log) = (kept.clone(), order.clone());
        urgent.spawn_detached(
            "waits",
            poll_fn(move |cx| {
                *keep.borrow_mut() = Some(cx.waker().clone());
                log.borrow_mut().push("urgent");
                Poll::<()>::Pending
            }),
        );
        while bench.turn() {}
        order.borrow_mut().clear();
        // Polls are found to be brief, so that nobody looks at the clock after each.
        (0..100).for_each(|_| crowd.spawn_detached("brief", async {}));
        while bench.turn() {}
        for number in 0..3 {
            let (kept, log) = (kept.clone(), order.clone());
            crowd.spawn_detached("wakes", async move {
                log.borrow_mut().push("crowd");
                if number == 1 {
                    kept.borrow_mut().take().unwrap().wake();
                }
            });
        }
        bench.turn();
        assert_eq!(*order.borrow(), ["crowd", "crowd", "urgent", "crowd"]);
    }
}

#[test]
fn a_slice_ends_for_who_asks_only_if_others_are_ready() {
    for beside in [false, true] {
        let mut bench = bench();
        let (one, two) = (group(&bench, "one", 100), group(&bench, "two", 100));
        let _done = works(&bench, &one, Way::Asks, us(10));
        if beside {
            let _done = works(&bench, &two, Way::Asks, us(10));
        }
        let turns = bench.shard.stats().turns;
        run_until(&mut bench, Time::ZERO + ms(100));
        // Alone it gives way when the turn's time is up. Both of them fit in a turn: a slice is shorter.
        let polls = bench.shard.group_stats()[1].polls;
        let turns = bench.shard.stats().turns - turns;
        assert!((190..210).contains(&turns) || beside && turns < 420, "{turns} turns, {polls} polls");
        assert!(polls.abs_diff(turns) < 3 || beside && polls >= turns / 2, "{turns} turns, {polls} polls");
    }
}

#[test]
fn what_a_task_spawns_is_of_its_group() {
    let mut bench = bench();
    let own = group(&bench, "own", 100);
    let shard = bench.shard.clone();
    own.spawn_detached("parent", async move {
        let child = shard.clone();
        let task = shard.spawn("child", async move {
            child.spawn_detached("grandchild", async {});
            child.yield_now().await;
        });
        task.await.unwrap();
        // Another group, from within this one.
        shard.group("default", Shares::DEFAULT).unwrap().spawn("guest", async {}).await.unwrap();
    });
    let before = stats(&bench, "default").polls;
    while bench.turn() {}
    assert_eq!(stats(&bench, "own").polls, 3 + 2 + 1);
    assert_eq!(stats(&bench, "default").polls - before, 1);
    assert_eq!(bench.shard.stats().panics, 0);
}

#[test]
fn what_is_of_no_client_goes_to_the_group_that_somebody_named() {
    let mut bench = bench();
    bench.shard.control().spawn_detached("admin", async {});
    let _control = group(&bench, "control", 100);
    bench.shard.control().spawn_detached("admin", async {});
    while bench.turn() {}
    assert_eq!(stats(&bench, "control").polls, 1);
}

#[test]
fn a_wake_from_another_thread_goes_to_the_task_s_group() {
    let mut bench = bench();
    let own = group(&bench, "own", 100);
    let kept = Rc::new(RefCell::new(None::<Waker>));
    let keep = kept.clone();
    own.spawn_detached(
        "waits",
        poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }),
    );
    while bench.turn() {}
    let polls = stats(&bench, "own").polls;
    let away = kept.borrow_mut().take().unwrap();
    std::thread::scope(|scope| scope.spawn(move || away.wake()).join().unwrap());
    while bench.turn() {}
    assert_eq!(stats(&bench, "own").polls, polls + 1);
    // The shard's own thread, between two turns: the root is woken for it.
    kept.borrow_mut().take().unwrap().wake();
    assert!(bench.wants_a_turn(), "nobody was told");
    while bench.turn() {}
    assert_eq!(stats(&bench, "own").polls, polls + 2);
}

#[test]
fn cancelled_and_panicked_tasks_leave_their_group_in_order() {
    let mut bench = bench();
    let own = group(&bench, "own", 100);
    own.spawn("cancelled", pending::<()>()).cancel();
    own.spawn_detached("bad", async { panic!("planned") });
    let done = works(&bench, &own, Way::Yields, us(10));
    for _ in 0..10 {
        assert!(bench.turn(), "a group that gave way is forgotten");
    }
    assert_eq!(done.get(), us(100));
    assert_eq!(bench.shard.stats().panics, 1);
}

/// As in a simulation, whose tasks take no time.
#[test]
fn where_the_clock_stands_still_groups_take_turns_by_polls() {
    let mut bench = bench();
    let groups = [("default", 100), ("b", 100), ("c", 200)];
    let dones = groups.map(|(name, shares)| {
        let group = group(&bench, name, shares);
        let polls = Rc::new(Cell::new(0u32));
        let count = polls.clone();
        group.spawn_detached("spins", async move {
            loop {
                count.set(count.get() + 1);
                wakes_itself().await;
            }
        });
        polls
    });
    for _ in 0..100 {
        bench.turn();
    }
    let counts = dones.map(|polls| polls.get());
    let all: u32 = counts.iter().sum();
    for (count, (_, shares)) in counts.into_iter().zip(groups) {
        let expected = all * shares / 400;
        assert!(count.abs_diff(expected) < all / 50, "{counts:?}");
    }
}

#[test]
fn groups_that_do_nothing_cost_no_look_at_the_clock() {
    let looks = |groups: bool| {
        let mut bench = bench();
        if groups {
            let _idle = [group(&bench, "b", 1), group(&bench, "c", 1).with_latency_class()];
        }
        let shard = bench.shard.clone();
        bench.shard.spawn_detached("works", async move {
            loop {
                wakes_itself().await;
                wakes_itself().await;
                shard.yield_now().await;
            }
        });
        bench.turn();
        let before = bench.hand.now.get();
        bench.hand.step.set(Duration::from_nanos(1));
        for _ in 0..100 {
            bench.turn();
        }
        bench.hand.now.get().since(before).as_nanos()
    };
    assert_eq!(looks(true), looks(false));
    assert_eq!(looks(false), 100, "one at the beginning of each turn");
}

#[test]
fn queue_times_are_from_wake_to_poll() {
    for name in ["default", "own"] {
        let mut bench = bench();
        let (shard, hand) = (bench.shard.clone(), bench.hand.clone());
        let own = group(&bench, name, 100).with_queue_times();
        assert_eq!(stats(&bench, name).queue_times.unwrap().count(), 0);
        for _ in 0..3 {
            let hand = hand.clone();
            own.spawn_detached("takes long", async move { pass(&hand, us(100)) });
        }
        own.spawn_detached("gives way", async move {
            shard.yield_now().await;
        });
        bench.turn();
        pass(&bench.hand, us(50));
        while bench.turn() {}
        let waits = stats(&bench, name).queue_times.unwrap();
        // 0, 100, 200, 300, and the one that gave way: until the next turn.
        assert_eq!((waits.count(), waits.sum(), waits.longest()), (5, us(650), us(300)));
    }
}

/// Asked for by a task of the group itself, which gives way afterwards.
#[test]
fn the_default_group_may_ask_for_more_at_any_time() {
    let mut bench = bench();
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in ["a", "b", "c"] {
        let (shard, log) = (bench.shard.clone(), order.clone());
        bench.shard.spawn_detached(name, async move {
            for _ in 0..3 {
                log.borrow_mut().push(name);
                if name == "b" {
                    drop(shard.group("default", Shares(7)).unwrap().with_queue_times());
                }
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Ready(())
                })
                .await;
                shard.yield_now().await;
            }
        });
    }
    for _ in 0..3 {
        assert!(bench.turn());
        order.borrow_mut().push("|");
    }
    assert!(!bench.turn(), "it never rests");
    assert_eq!(order.borrow().concat(), "abc|abc|abc|");
    assert_eq!(stats(&bench, "default").shares, Shares(7));
}

#[test]
fn what_cannot_be_is_refused_and_names_stand_for_groups() {
    let bench = bench();
    for shares in [0, 10_001, u32::MAX] {
        let error = bench.shard.group("own", Shares(shares)).unwrap_err();
        assert_eq!(error, GroupError::Shares { name: "own", shares: Shares(shares) });
        assert_eq!(
            error.to_string(),
            format!("the group \"own\" cannot have {shares} shares; allowed: from 1 to 10000")
        );
    }
    let own = group(&bench, "own", 5);
    assert_eq!(group(&bench, "own", 6).shares(), own.shares());
    assert_eq!((own.name(), own.shares()), ("own", Shares(6)));
    assert!(own.set_shares(Shares(0)).is_err());
    assert_eq!(own.set_shares(Shares(8)), Ok(()));
    assert_eq!(format!("{own:?}"), "Group(\"own\" of shard 0, 8 shares)");
    let names: [&'static str; 30] = std::array::from_fn(|number| &*format!("{number}").leak());
    names.into_iter().for_each(|name| drop(group(&bench, name, 1)));
    let error = bench.shard.group("one more", Shares(1)).unwrap_err();
    assert_eq!(error.to_string(), "no room for the group \"one more\": a shard has at most 32");
    assert_eq!(bench.shard.group_stats().len(), 32);
}

/// A future written by hand that has used up its share of a turn.
#[test]
fn yield_waker_gives_way_within_the_group() {
    let mut bench = bench();
    let own = group(&bench, "own", 100);
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    own.spawn_detached(
        "yields",
        poll_fn(move |cx| {
            count.set(count.get() + 1);
            yield_waker(cx.waker());
            Poll::<()>::Pending
        }),
    );
    for turn in 1..5 {
        assert!(bench.turn());
        assert_eq!(polls.get(), turn);
    }
}
