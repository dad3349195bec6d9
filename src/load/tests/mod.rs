//! The harness against targets whose latencies are known: what it reports must be what happened.

mod origins;
mod real;
mod reports;
mod stops;
mod world;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use waterwheel_reactor::{Address, Time};

use super::histogram::{Percentile, Reading};
use super::job::{Finished, Job, LoadError};
use super::plan::{Mode, Plan};
use super::schedule::Arrivals;
use super::units::Rate;
use super::workload::{BodyLength, Echo, HttpGet, Workload};
use world::{Does, Stage, World, ask_to_end, ask_to_stop};

const SIZE: u64 = 16;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

fn open(per_second: u64, connections: u32, seconds: u64) -> Plan {
    let mode = Mode::Open { rate: Rate::per_second(per_second).unwrap(), arrivals: Arrivals::Poisson };
    Plan {
        mode,
        connections,
        measure: Duration::from_secs(seconds),
        warm_up: Duration::ZERO,
        ..Plan::default()
    }
}

fn closed(connections: u32, seconds: u64) -> Plan {
    Plan { mode: Mode::Closed, ..open(1, connections, seconds) }
}

fn stage<W: Workload>(
    plan: Plan,
    workload: W,
    target: impl FnMut(Time, usize, &[u8]) -> Vec<Does> + 'static,
) -> (Stage, Arc<Job<W>>) {
    let job = Arc::new(Job::new(plan, workload, vec![Address::Inet("127.0.0.1:1".parse().unwrap())]));
    let on_shard = job.clone();
    let stage = Stage::new(target, |shard| async move { on_shard.generate(&shard).await });
    (stage, job)
}

fn echo(plan: Plan, target: impl FnMut(Time, usize, &[u8]) -> Vec<Does> + 'static) -> Finished {
    let (mut stage, job) = stage(plan, Echo::new(SIZE).unwrap(), target);
    stage.run();
    job.finish().unwrap()
}

/// Echoes after a fixed time.
fn after(delay: Duration) -> impl FnMut(Time, usize, &[u8]) -> Vec<Does> {
    move |now, _, bytes| vec![Does::Sends(now + delay, bytes.to_vec())]
}

/// One server that takes `service` per message, first come first served.
fn single_server(service: Duration) -> impl FnMut(Time, usize, &[u8]) -> Vec<Does> {
    let mut free = Time::ZERO;
    move |now, _, bytes| {
        if bytes.is_empty() {
            return vec![];
        }
        free = free.max(now) + service;
        vec![Does::Sends(free, bytes.to_vec())]
    }
}

fn p(text: &str) -> Percentile {
    text.parse().unwrap()
}

/// Within three digits.
fn near(value: u64, expected: Duration) -> bool {
    let expected = expected.as_nanos() as f64;
    (value as f64 - expected).abs() <= expected * 0.002
}

#[test]
fn a_fixed_delay_is_reported_as_it_is() {
    let finished = echo(open(2_000, 100, 5), after(us(700)));
    let tally = &finished.tally;
    assert!((9_500..10_500).contains(&tally.account.planned), "{}", tally.account);
    assert_eq!(tally.account.ok, tally.account.planned);
    for histogram in [&tally.response, &tally.service, &tally.first_byte] {
        assert!(
            near(histogram.min().unwrap(), us(700)) && near(histogram.max().unwrap(), us(700)),
            "{histogram:?}"
        );
    }
    assert_eq!(tally.wake_lag.max(), Some(0));
    assert_eq!(tally.content_bytes, tally.account.ok * SIZE);
    assert_eq!((finished.established, finished.reconnects), (100, 0));
    assert!(finished.over - finished.end < ms(1), "the end waits for the last answer and no longer");
}

#[test]
fn a_frozen_target_shows_in_the_response_and_not_in_the_service_time_of_one_connection() {
    // Frozen from 1 s to 2.4 s of 10 s, and one connection only: one request sees the freeze, 1 400 suffer from it.
    let from = Time::ZERO + ms(1_020);
    let thawed = from + ms(1_400);
    let target = move |now: Time, _: usize, bytes: &[u8]| {
        let at = if now >= from && now < thawed { thawed } else { now };
        vec![Does::Sends(at + us(10), bytes.to_vec())]
    };
    let finished = echo(open(1_000, 1, 10), target);
    let tally = &finished.tally;
    assert_eq!(tally.account.ok, tally.account.planned);
    assert!(near(tally.service.at(p("p99.8")).unwrap(), us(10)), "the service time knows nothing of it");
    // 14 % of all requests wait, uniformly between 0 and 1.4 s: the slowest 1 % more than 1.3 s, 7 % more than 0.7 s.
    let at = |text| match tally.responses().at(p(text)).unwrap() {
        Reading::Exactly(nanos) => nanos as f64 / 1e6,
        other => panic!("{other:?}"),
    };
    assert!((1_250.0..1_350.0).contains(&at("p99")), "p99 {}", at("p99"));
    assert!((620.0..780.0).contains(&at("p93")), "p93 {}", at("p93"));
    assert!(at("p80") < 1.0, "p80 {}", at("p80"));
    assert_eq!(tally.wake_lag.max(), Some(0), "it was not our fault");
    assert!(
        (12..16).contains(&(tally.slot_wait.count() * 100 / tally.account.planned)),
        "the others did not wait"
    );
}

#[test]
fn waiting_times_are_those_of_queueing_theory() {
    // M/D/1 at 70 %: the mean wait is ρ/(2(1−ρ)) service times. Whether the queue is the target's (100 connections)
    // or ours (one connection) must make no difference to the user.
    for connections in [100, 1] {
        let finished = echo(open(700, connections, 100), single_server(ms(1)));
        let mean = finished.tally.response.mean().unwrap() / 1e6;
        let expected = 1.0 + 0.7 / (2.0 * 0.3);
        assert!(
            (mean / expected - 1.0).abs() < 0.03,
            "{connections} connections: {mean} ms, expected {expected} ms"
        );
    }
}

#[test]
fn a_stopped_generator_is_seen_as_our_own_lag() {
    // Whether the requests that we missed find connections (1 000) or wait for one (10).
    for connections in [1_000, 10] {
        let (mut stage, job) = stage(open(1_000, connections, 10), Echo::new(SIZE).unwrap(), after(us(100)));
        stage.stop_generator(ms(3_000), ms(500));
        stage.run();
        let tally = job.finish().unwrap().tally;
        let lag = tally.wake_lag.at(Percentile::P99).unwrap();
        assert!(lag > 300_000_000, "{connections} connections: {lag}");
        assert!(
            tally.response.at(Percentile::P99).unwrap() > 300_000_000,
            "and it is not hidden from the user"
        );
    }
}

#[test]
fn a_closed_loop_sends_as_fast_as_answers_come() {
    let finished = echo(closed(8, 2), after(ms(1)));
    let account = finished.tally.account;
    assert_eq!((account.ok, account.planned), (8 * 2_000, 8 * 2_000), "{account}");
    assert_eq!(finished.per_connection, [2_000; 8]);
    assert_eq!(finished.tally.response.max(), finished.tally.service.max());
}

#[test]
fn a_target_that_never_answers_leaves_requests_unsent_and_in_flight_and_timed_out() {
    let plan = Plan { timeout: Duration::from_secs(3), ..open(100, 4, 1) };
    let finished = echo(plan, |_, _, _| vec![Does::Nothing]);
    let tally = &finished.tally;
    // Four time out after 3 s, and their connections take four more; the drain ends before those do.
    assert_eq!(
        (tally.account.timeout, tally.account.in_flight, tally.account.ok),
        (4, 4, 0),
        "{}",
        tally.account
    );
    assert_eq!(tally.account.unsent, tally.account.planned - 8);
    assert_eq!(tally.unanswered.count(), tally.account.unsent + 4);
    assert!(tally.unanswered.min().unwrap() > 2_900_000_000, "each is at least that slow");
    assert_eq!(finished.over - finished.end, Duration::from_secs(3), "and the run ends");
    assert_eq!(tally.responses().max(), Some(Reading::Infinite));
}

#[test]
fn what_exceeds_the_queue_is_shed_and_counted() {
    let plan = Plan { waiting_max: 10, ..open(1_000, 1, 1) };
    let finished =
        echo(plan, |now, _, bytes| vec![Does::Sends(now.max(Time::ZERO + ms(900)), bytes.to_vec())]);
    let account = finished.tally.account;
    assert!(account.shed > 700 && account.ok > 10, "{account}");
    assert_eq!(account.shed + account.ok, account.planned);
}

#[test]
fn wrong_bytes_and_short_answers_and_resets_are_no_answers() {
    let mut n = 0;
    let finished = echo(open(1_000, 10, 1), move |now, _, bytes| {
        if bytes.is_empty() {
            return vec![];
        }
        n += 1;
        let mut wrong = bytes.to_vec();
        match n % 10 {
            1 => wrong[7] ^= 1,
            2 => wrong.push(0),
            3 => {
                wrong.pop();
                return vec![Does::Sends(now + us(50), wrong), Does::Ends(now + us(60))];
            }
            4 => return vec![Does::Resets],
            _ => {}
        }
        vec![Does::Sends(now + us(50), wrong)]
    });
    let tally = &finished.tally;
    let bad = tally.account.transport_error as f64 / tally.account.planned as f64;
    assert!((bad - 0.4).abs() < 0.01, "{}", tally.account);
    assert_eq!(tally.account.ok + tally.account.transport_error, tally.account.planned);
    let not_yet = tally.account.transport_error - finished.reconnects;
    assert!(not_yet <= 10, "a connection that went wrong is not used again; {not_yet} were just waiting");
    let what: Vec<String> = tally.faults.by_count().iter().map(|(fault, _)| fault.what.clone()).collect();
    assert_eq!(what.len(), 4, "{what:?}");
}

#[test]
fn the_warm_up_leaves_no_trace() {
    // The target is slow only while it warms up, so that a backlog is there when the measurement begins.
    let target = |now: Time, _: usize, bytes: &[u8]| {
        let slow = now < Time::ZERO + ms(1_020);
        vec![Does::Sends(now + if slow { ms(300) } else { us(10) }, bytes.to_vec())]
    };
    let plan = Plan { warm_up: Duration::from_secs(1), ..open(1_000, 2, 1) };
    let finished = echo(plan, target);
    let tally = &finished.tally;
    assert_eq!(tally.account.ok, tally.account.planned);
    // Uniformly random arrivals on two connections collide now and then; a backlog would take seconds.
    assert!(tally.response.max().unwrap() < 1_000_000, "{:?}", tally.response);
}

#[test]
fn a_connection_that_the_target_closes_while_idle_costs_no_request() {
    // Closed 20 ms after each answer; at 10 requests a second all are idle longer than that.
    let finished = echo(open(10, 1, 20), |now, _, bytes| {
        vec![Does::Sends(now + us(10), bytes.to_vec()), Does::Ends(now + ms(20))]
    });
    let account = finished.tally.account;
    // One that comes between the close and our knowing of it cannot occur on a clock that knows all.
    let raced = account.transport_error;
    assert_eq!(account.ok + raced, account.planned);
    assert!(raced * 5 <= account.planned, "{account}: only those less than 20 ms after another");
    assert!(finished.reconnects > 100);
}

#[test]
fn a_target_that_dies_and_comes_back_is_used_again() {
    let (mut stage, job) = stage(
        Plan { timeout: Duration::from_secs(1), ..open(100, 4, 10) },
        Echo::new(SIZE).unwrap(),
        |now: Time, _, bytes: &[u8]| match now.as_nanos() {
            3_000_000_000..5_000_000_000 => vec![Does::Resets],
            _ => vec![Does::Sends(now + us(10), bytes.to_vec())],
        },
    );
    stage.run_while(|world, _| {
        let dead = (3_000_000_000..5_000_000_000).contains(&world.now.get().as_nanos());
        world.refuses.set(dead);
    });
    let finished = job.finish().unwrap();
    let account = finished.tally.account;
    assert_eq!(account.transport_error, 4, "one per connection, the others wait: {account}");
    assert_eq!(account.ok, account.planned - 4);
    let slowest = finished.tally.response.max().unwrap();
    assert!(
        (1_800_000_000..3_100_000_000).contains(&slowest),
        "waited for the target to come back: {slowest}"
    );
    assert_eq!(finished.established_at_end, 4);
}

#[test]
fn the_end_waits_for_the_last_answer_and_no_longer() {
    let finished = echo(open(200, 20, 1), after(ms(50)));
    let waited = finished.over - finished.end;
    assert!(waited > Duration::ZERO && waited <= ms(50), "{waited:?}");
    assert_eq!(finished.tally.account.ok, finished.tally.account.planned);
}

#[test]
fn requests_that_wait_at_the_end_are_sent_if_a_connection_frees_in_time() {
    // Dead from 0.8 s to 1.5 s: at the end of planning nothing is in flight, and a fifth of all requests wait.
    let (mut stage, job) =
        stage(open(1_000, 2, 1), Echo::new(SIZE).unwrap(), |now, _, bytes| match now.as_nanos() {
            800_000_000..1_500_000_000 => vec![Does::Resets],
            _ => vec![Does::Sends(now + us(10), bytes.to_vec())],
        });
    stage.run_while(|world, _| {
        world.refuses.set((800_000_000..1_500_000_000).contains(&world.now.get().as_nanos()));
    });
    let finished = job.finish().unwrap();
    let account = finished.tally.account;
    assert!(account.transport_error <= 4, "{account}");
    assert_eq!((account.unsent, account.in_flight), (0, 0), "{account}");
    assert!(finished.over - finished.end < ms(1_500));
}

#[test]
fn a_target_that_resets_at_once_is_not_stormed() {
    let finished = echo(closed(4, 10), |_, _, _| vec![Does::Resets]);
    let account = finished.tally.account;
    // 10 ms, then twice as long each time up to 1 s: about 15 attempts of each connection.
    assert!((40..80).contains(&account.transport_error), "{account}");
}

#[test]
fn no_target_is_an_error_with_the_reason() {
    let (mut stage, job) = stage(open(100, 4, 1), Echo::new(SIZE).unwrap(), after(ms(1)));
    stage.world.refuses.set(true);
    stage.run();
    let error = job.finish().unwrap_err();
    assert!(matches!(&error, LoadError::NoConnection(why) if why.contains("refused")), "{error}");
}

#[test]
fn a_run_that_is_stopped_reports_what_it_has() {
    for plan in [open(1_000, 4, 60), closed(4, 60)] {
        let (mut stage, job) = stage(plan, Echo::new(SIZE).unwrap(), after(ms(1)));
        let asked = Cell::new(false);
        stage.run_while(|world, foreign| {
            if world.now.get() >= Time::ZERO + ms(2_020) && !asked.replace(true) {
                ask_to_stop(foreign);
            }
        });
        let finished = job.finish().unwrap();
        assert!(finished.interrupted);
        assert!(
            (finished.end - finished.start).abs_diff(ms(2_000)) < ms(20),
            "{:?}",
            finished.end - finished.start
        );
        let account = finished.tally.account;
        assert_eq!(account.ok, account.planned, "{account}");
        assert!(account.ok > 1_500, "{account}");
    }
}

#[test]
fn a_run_stopped_before_it_measured_says_so() {
    let plan = Plan { warm_up: Duration::from_secs(60), ..open(1_000, 4, 60) };
    let (mut stage, job) = stage(plan, Echo::new(SIZE).unwrap(), after(ms(1)));
    let asked = Cell::new(false);
    stage.run_while(|world, foreign| {
        if world.now.get() >= Time::ZERO + ms(500) && !asked.replace(true) {
            ask_to_stop(foreign);
        }
    });
    assert!(matches!(job.finish().unwrap_err(), LoadError::Stopped));
}

#[test]
fn progress_adds_up_to_the_whole() {
    let job = Job::new(
        open(1_000, 10, 5),
        Echo::new(SIZE).unwrap(),
        vec![Address::Inet(([127, 0, 0, 1], 1).into())],
    );
    let progress = job.progress();
    let job = Arc::new(job);
    let on_shard = job.clone();
    let (mut seconds, mut planned, mut ok) = (Vec::new(), 0, 0);
    let mut show = || {
        while let Some(interval) = progress.try_next() {
            seconds.push(interval.second);
            planned += interval.planned;
            ok += interval.response.count();
            progress.give_back(interval);
        }
    };
    let mut stage = Stage::new(after(ms(1)), |shard| async move { on_shard.generate(&shard).await });
    stage.run_while(|_, _| show());
    show();
    assert_eq!(seconds, [0, 1, 2, 3, 4]);
    let account = job.finish().unwrap().tally.account;
    assert_eq!((planned, ok), (account.planned, account.ok));
    assert!(progress.spare.len() <= 2, "{} intervals were made", progress.spare.len());
}

/// An HTTP target that answers each request with these bytes, so many at a time.
fn http(length: BodyLength, answer: &'static [u8], piece: usize, end: bool) -> Finished {
    let workload = HttpGet::new("localhost:1", "/x?y", length);
    let asked = Rc::new(Cell::new(0));
    let (mut stage, job) = stage(open(100, 2, 1), workload, move |now, _, bytes| {
        if bytes.is_empty() {
            return vec![];
        }
        assert!(
            bytes.starts_with(b"GET /x?y HTTP/1.1\r\nHost: localhost:1\r\n") && bytes.ends_with(b"\r\n\r\n")
        );
        asked.set(asked.get() + 1);
        let at = |n: usize| now + us(10) * n as u32;
        let pieces = answer.chunks(piece).enumerate();
        let mut all: Vec<Does> = pieces.map(|(n, piece)| Does::Sends(at(n), piece.to_vec())).collect();
        all.extend(end.then(|| Does::Ends(at(answer.len()))));
        all
    });
    stage.run();
    job.finish().unwrap()
}

#[test]
fn http_answers_are_understood_however_they_are_framed_and_cut() {
    for (answer, end, content, reused) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], false, 5, true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n", false, 5, true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", false, 0, true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", true, 5, false),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", true, 5, false),
    ] {
        let finished = http(BodyLength::Any, answer, 1, end);
        let account = finished.tally.account;
        assert_eq!(account.ok, account.planned, "{account}: {:?}", finished.tally.faults);
        assert_eq!(finished.tally.content_bytes, account.ok * content);
        assert_eq!(finished.reconnects, if reused { 0 } else { account.planned });
        assert!(finished.tally.first_byte.max() < finished.tally.service.max());
    }
}

#[test]
fn http_refusals_and_wrong_answers_are_told_apart() {
    let refused = http(BodyLength::Any, b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", 9, false);
    assert_eq!(refused.tally.account.http_error, refused.tally.account.planned);
    assert_eq!((refused.reconnects, refused.tally.response.count()), (0, 0));
    for (length, answer) in [
        (BodyLength::LikeFirst, &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"[..]),
        (BodyLength::Any, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        (BodyLength::Any, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (BodyLength::Any, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!"),
        (BodyLength::Any, b"HTTP/1.1 204 No Content\r\n\r\nhello"),
        (BodyLength::Any, b"SSH-2.0-x\r\n"),
        (BodyLength::Any, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (BodyLength::Exactly(6), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        (BodyLength::Any, b""),
    ] {
        let account = http(length, answer, 1_000, true).tally.account;
        let text = String::from_utf8_lossy(answer);
        assert!(account.transport_error > 10, "{account}: {text:?}");
        // Connections that fail twice in a row pause, and the others wait for them.
        assert_eq!(account.transport_error + account.unsent, account.planned, "{account}: {text:?}");
    }
}

#[test]
fn an_answer_that_is_shorter_than_the_first_is_wrong_unless_any_length_is_right() {
    for (length, wrong) in [(BodyLength::LikeFirst, true), (BodyLength::Any, false)] {
        let mut n = 0;
        let (mut stage, job) =
            stage(open(100, 2, 1), HttpGet::new("a", "/", length), move |now, _, bytes| {
                if bytes.is_empty() {
                    return vec![];
                }
                n += 1;
                // Every fourth is truncated, and framed as if it were not.
                let answer = match n % 4 {
                    0 => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                };
                vec![Does::Sends(now + us(10), answer.into())]
            });
        stage.run();
        let tally = job.finish().unwrap().tally;
        let truncated = if wrong { tally.account.planned / 4 } else { 0 };
        assert_eq!(tally.account.transport_error, truncated, "{length:?}: {}", tally.account);
        assert_eq!(tally.account.ok, tally.account.planned - truncated);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_planned_request_ends_in_one_place_whatever_the_target_does(
        behaviour in prop::collection::vec((0u8..8, 0u64..400_000), 1..40), connections in 1u32..9, loops: bool,
        waiting_max in 0usize..50, stop_at_ms in prop::option::of(1_000u64..2_500), refuse_at_ms in 0u64..4_000,
        at_once: bool,
    ) {
        let base = if loops { closed(connections, 2) } else { open(300, connections, 2) };
        let plan = Plan { timeout: ms(200), warm_up: ms(300), waiting_max, ..base };
        let mut n = 0;
        let (mut stage, job) = stage(plan, Echo::new(SIZE).unwrap(), move |now, _, bytes| {
            n += 1;
            let (kind, micros) = behaviour[n % behaviour.len()];
            // A target without any delay would make a closed loop endless on a clock that only waiting moves.
            let at = now + us(500 + micros);
            match kind {
                0..4 => vec![Does::Sends(at, bytes.to_vec())],
                4 => vec![Does::Sends(at, bytes[..bytes.len() / 2].to_vec())],
                5 => vec![Does::Ends(at)],
                6 => vec![Does::Nothing],
                _ => vec![Does::Resets],
            }
        });
        let asked = Cell::new(false);
        stage.run_while(|world: &World, foreign| {
            let now = world.now.get();
            world.refuses.set(now > Time::ZERO + ms(refuse_at_ms) && now < Time::ZERO + ms(refuse_at_ms + 300));
            if stop_at_ms.is_some_and(|at| now >= Time::ZERO + ms(at)) && !asked.replace(true) {
                if at_once { ask_to_end(foreign) } else { ask_to_stop(foreign) }
            }
        });
        match job.finish() {
            Ok(finished) => {
                let tally = &finished.tally;
                prop_assert!(tally.account.settle().is_ok());
                prop_assert_eq!(tally.response.count(), tally.account.ok);
                prop_assert_eq!(tally.unanswered.count(), tally.account.unanswered());
                prop_assert_eq!(tally.responses().count(), tally.account.planned);
                prop_assert_eq!(finished.per_connection.iter().sum::<u64>(), tally.account.finished());
            }
            Err(LoadError::NoConnection(_)) => {}
            Err(LoadError::Stopped) => prop_assert!(stop_at_ms.is_some_and(|at| at < 1_400)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
