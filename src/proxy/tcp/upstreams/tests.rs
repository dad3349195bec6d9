//! Which upstreams are chosen, and which are not.

use super::super::settings::{Balance, Settings};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn start() -> Time {
    Time::ZERO + SECOND
}

fn group(weights: &[u32], change: impl FnOnce(&mut Settings)) -> Upstreams {
    let mut settings = Settings::new(Vec::new(), Vec::new());
    change(&mut settings);
    let target = |(place, weight): (usize, &u32)| Target {
        address: Address::Inet(([127, 0, 0, 1], 1 + place as u16).into()),
        weight: *weight,
        limit: None,
    };
    let targets: Vec<Target> = weights.iter().enumerate().map(target).collect();
    Upstreams::on((None, None), &targets, vec![None; targets.len()], &settings.selection(), (0, 1, 0), None)
}

fn choose(all: &Upstreams, now: Time, tried: &[usize]) -> Result<Lease, Nowhere> {
    all.choose(now, Search { client: None, tried })
}

/// Where the next connections go, each of which ends at once.
fn places(all: &Upstreams, now: Time, count: usize) -> Vec<usize> {
    (0..count).map(|_| choose(all, now, &[]).unwrap().place).collect()
}

fn count(places: &[usize], of: usize) -> usize {
    places.iter().filter(|place| **place == of).count()
}

fn learn(all: &Upstreams, now: Time, ports: &[u16]) {
    let down = ports.iter().map(|port| Address::Inet(([127, 0, 0, 1], *port).into()).to_string().into());
    all.learn(now, Some(&down.collect()));
}

/// A lease of one of three.
fn of(all: &Upstreams, place: usize, now: Time) -> Lease {
    let others: Vec<usize> = (0..all.all().len()).filter(|other| *other != place).collect();
    choose(all, now, &others).unwrap()
}

#[test]
fn round_robin_takes_turns_and_retries_go_on_to_the_next() {
    let all = group(&[1, 1, 1], |_| {});
    assert_eq!(places(&all, start(), 5), [0, 1, 2, 0, 1]);
    let second = |tried: &[usize]| choose(&all, start(), tried).map(|lease| lease.place);
    assert_eq!([second(&[2]), second(&[2, 0]), second(&[0, 1, 2])], [Ok(0), Ok(1), Err(Nowhere::Nobody)]);
}

#[test]
fn least_connections_avoids_the_busy_and_counts_what_ended() {
    let all = group(&[1, 1, 1], |settings| settings.balance = Balance::LeastConnections);
    let held = [of(&all, 0, start()), of(&all, 1, start())];
    assert_eq!(places(&all, start(), 3), [2, 2, 2]);
    let more = [of(&all, 2, start()), of(&all, 2, start())];
    drop(held);
    let chosen = places(&all, start(), 2);
    assert_eq!(chosen.len() + count(&chosen, 2), 2, "{chosen:?}");
    assert_ne!(chosen[0], chosen[1], "equals are taken in turn");
    drop(more);
    assert!(all.counters(start()).iter().all(|upstream| upstream.active == 0));
}

#[test]
fn one_that_failed_is_no_favourite_for_having_no_connections() {
    for balance in Balance::ALL {
        let all = group(&[1, 1, 1], |settings| settings.balance = balance);
        of(&all, 1, start()).fails(start());
        let _busy = [of(&all, 0, start()), of(&all, 2, start())];
        assert_eq!(count(&places(&all, start(), 30), 1), 0, "{balance}");
        assert_eq!(of(&all, 1, start()).place, 1, "if all others failed too it is tried");
        let later = start() + SHUNNED;
        assert!(count(&places(&all, later, 30), 1) > 0, "{balance}: and when its time is over");
        of(&all, 1, later).fails(later);
        of(&all, 1, later).connects();
        assert!(count(&places(&all, later, 30), 1) > 0, "{balance}: it is back");
    }
}

#[test]
fn one_that_is_down_or_draining_gets_nothing() {
    for balance in Balance::ALL {
        let all = group(&[1, 0, 1, 1], |settings| settings.balance = balance);
        learn(&all, start(), &[1]);
        let chosen = places(&all, start(), 40);
        assert_eq!((count(&chosen, 0), count(&chosen, 1)), (0, 0), "{balance}");
        let states: Vec<_> = all.counters(start()).iter().map(|one| one.state.to_string()).collect();
        assert_eq!(states, ["down", "draining", "up", "up"]);
        learn(&all, start(), &[]);
        assert!(count(&places(&all, start(), 40), 0) > 0, "{balance}: it is back");
    }
}

#[test]
fn if_too_few_are_healthy_all_are_used_but_those_that_drain() {
    let of_four = |panic| group(&[1, 1, 1, 1, 0], |settings| settings.panic_percent = panic);
    let all = of_four(50);
    learn(&all, start(), &[1, 2]);
    assert_eq!(places(&all, start(), 4), [2, 3, 2, 3], "half of them is not too few");
    learn(&all, start(), &[1, 2, 3]);
    let chosen = places(&all, start(), 40);
    assert_eq!([0, 1, 2, 3, 4].map(|place| count(&chosen, place) > 0), [true, true, true, true, false]);
    let never = of_four(0);
    learn(&never, start(), &[1, 2, 3, 4]);
    assert_eq!(choose(&never, start(), &[]).unwrap_err(), Nowhere::Nobody);
}

#[test]
fn who_fails_too_often_is_left_alone_and_never_too_many_of_them() {
    let eject = Ejection { failures: 2, time: SECOND * 10, ..Ejection::default() };
    let all = group(&[1, 1, 1, 1], |settings| settings.ejection = Some(eject));
    for place in [0, 1, 2, 0, 1, 2] {
        of(&all, place, start()).fails(start());
    }
    let ejected = |now| all.counters(now).iter().filter(|one| one.state == UpstreamState::Ejected).count();
    assert_eq!(ejected(start()), 2, "half of four");
    // Those that are left take all of it, the one that failed when the others have failed too.
    assert_eq!(places(&all, start(), 4), [3; 4]);
    assert_eq!(choose(&all, start(), &[3]).unwrap().place, 2);
    assert_eq!(ejected(start() + SECOND * 10), 0, "their time is over");
    assert!(count(&places(&all, start() + SECOND * 10, 8), 0) > 0);
    assert_eq!(all.counters(start()).iter().map(|one| one.ejections).collect::<Vec<_>>(), [1, 1, 0, 0]);
}

#[test]
fn who_drains_or_is_down_is_no_place_for_those_of_one_more_that_is_ejected() {
    let eject = || Some(Ejection { failures: 1, ..Ejection::default() });
    let ejected = |all: &Upstreams| {
        all.counters(start()).iter().map(|one| one.state == UpstreamState::Ejected).collect::<Vec<_>>()
    };
    // Two serve; the others get nothing new.
    let all = group(&[1, 1, 0, 0], |settings| settings.ejection = eject());
    (0..2).map(|place| of(&all, place, start())).for_each(|lease| lease.fails(start()));
    assert_eq!(ejected(&all), [true, false, false, false], "one of the two that serve");
    let all = group(&[1; 4], |settings| settings.ejection = eject());
    let leases = [of(&all, 0, start()), of(&all, 1, start())];
    learn(&all, start(), &[3, 4]);
    leases.iter().for_each(|lease| lease.fails(start()));
    assert_eq!(ejected(&all), [false; 4], "half of them are down already");
}

#[test]
fn a_weight_grows_from_a_tenth_to_all_of_it() {
    let all = group(&[4, 4], |settings| settings.slow_start = Some(SECOND * 100));
    let share = |now| count(&places(&all, now, 1_100), 1);
    assert_eq!(share(start()), 550, "at the start all of them are whole");
    learn(&all, start(), &[2]);
    let back = start() + SECOND * 7;
    learn(&all, back, &[]);
    // 10 : 100, then 55 : 100, then the same.
    assert_eq!(share(back), 100);
    assert!((380..400).contains(&share(back + SECOND * 50)));
    assert_eq!(share(back + SECOND * 100), 550);
}

#[test]
fn an_ejection_is_followed_by_a_slow_start_too() {
    let eject = Ejection { failures: 1, time: SECOND * 10, ..Ejection::default() };
    let all = group(&[1, 1], |settings| {
        settings.ejection = Some(eject);
        settings.slow_start = Some(SECOND * 100);
    });
    of(&all, 0, start()).fails(start());
    assert_eq!(count(&places(&all, start() + SECOND * 9, 100), 0), 0);
    assert_eq!(count(&places(&all, start() + SECOND * 10, 1_100), 0), 100);
}

#[test]
fn what_is_known_of_an_upstream_is_known_in_the_next_version() {
    let settings = |change: fn(&mut Settings)| {
        let mut settings = Settings::new(Vec::new(), Vec::new());
        change(&mut settings);
        settings
    };
    let target =
        |port, weight| Target { address: Address::Inet(([127, 0, 0, 1], port).into()), weight, limit: None };
    let make = |targets: &[Target], settings: &Settings, before: Option<&Upstreams>| {
        Upstreams::on(
            (Some("web"), None),
            targets,
            vec![None; targets.len()],
            &settings.selection(),
            (0, 1, 0),
            before,
        )
    };
    let checked = settings(|settings| settings.checks = Some(Default::default()));
    let first = make(&[target(1, 1), target(2, 1)], &checked, None);
    let held = choose(&first, start(), &[1]).unwrap();
    held.connects();
    learn(&first, start(), &[2]);
    // They change places.
    let second = make(&[target(2, 1), target(1, 5), target(3, 1)], &checked, Some(&first));
    let counters = second.counters(start());
    assert_eq!((counters[1].active, counters[1].connected), (1, 1), "{counters:?}");
    assert_eq!(counters[0].state, UpstreamState::Down);
    drop(held);
    let again = choose(&second, start(), &[0, 2]).unwrap();
    assert_eq!(first.counters(start())[0].active, 1, "both versions count the same");
    drop(again);
    // Without checks nobody would find it up again.
    let third = make(&[target(2, 1)], &settings(|_| ()), Some(&second));
    third.begin();
    assert_eq!(third.counters(start())[0].state, UpstreamState::Up);
    assert_eq!(&**third.path(), "web");
}
