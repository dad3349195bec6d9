//! Runs that are stopped, or that should not go on: what was measured is reported, and what cannot end well ends.

use std::cell::OnceCell;

use super::reports::report;
use super::*;
use crate::load::verdict::Verdict;
use crate::shard::task::Foreign;

/// When, in nanoseconds, somebody wishes what.
type Wish = (u64, fn(&Foreign));

/// Runs with wishes that come at their times.
fn run_with(stage: &mut Stage, wishes: &[Wish]) {
    let said = Cell::new(0);
    wishes.iter().for_each(|(at, _)| stage.world.look_at(Time::from_nanos(*at)));
    stage.run_while(|world, foreign| {
        if let Some((at, wish)) = wishes.get(said.get())
            && world.now.get() >= Time::from_nanos(*at)
        {
            said.set(said.get() + 1);
            wish(foreign);
        }
    });
}

/// A run on a target that never answers, with a generator that would wait for it for ever.
fn hanging(plan: Plan, wishes: &[Wish]) -> (Finished, Time) {
    let plan = Plan { timeout: Duration::from_secs(600), ..plan };
    let (mut stage, job) = stage(plan, Echo::new(SIZE).unwrap(), |_, _, _| vec![Does::Nothing]);
    run_with(&mut stage, wishes);
    (job.finish().unwrap(), stage.world.now.get())
}

const S: u64 = 1_000_000_000;

#[test]
fn a_stop_that_runs_out_of_time_still_reports() {
    for plan in [open(1_000, 4, 60), closed(4, 60)] {
        let (finished, over) = hanging(plan, &[(2 * S, ask_to_stop)]);
        assert!(finished.interrupted);
        assert_eq!(finished.tally.account.in_flight, 4, "{}", finished.tally.account);
        assert_eq!(over, Time::from_nanos(32 * S), "the drain of 30 s");
    }
}

#[test]
fn a_second_signal_still_reports() {
    let first_and_second: &[Wish] = &[(2 * S, ask_to_stop), (3 * S, ask_to_end)];
    for wishes in [first_and_second, &[(2 * S, ask_to_end)]] {
        for plan in [open(1_000, 4, 60), closed(4, 60)] {
            let (finished, over) = hanging(plan, wishes);
            let account = finished.tally.account;
            assert!(finished.interrupted);
            assert_eq!((account.in_flight, account.unsent), (4, account.planned - 4), "{account}");
            assert!(
                finished.end - finished.start < ms(2_000),
                "it was measured for as long as it was planned"
            );
            assert_eq!(over, Time::from_nanos(wishes.last().unwrap().0));
        }
    }
}

#[test]
fn a_generator_that_is_behind_when_it_is_ended_still_reports() {
    // It wakes 5 s late, has 5 000 requests to send, and one poll left.
    let (mut stage, job) = stage(open(1_000, 100, 60), Echo::new(SIZE).unwrap(), after(ms(1)));
    let asked = Cell::new(false);
    stage.run_while(|world, foreign| {
        if world.now.get() >= Time::from_nanos(2 * S) && !asked.replace(true) {
            world.now.set(Time::from_nanos(7 * S));
            ask_to_end(foreign);
        }
    });
    let account = job.finish().unwrap().tally.account;
    assert!((4_500..5_500).contains(&account.unsent), "{account}");
    assert!(account.ok > 1_500, "{account}");
}

#[test]
fn a_stop_while_connecting_is_heard() {
    let (mut stage, job) = stage(open(100, 1_000, 1), Echo::new(SIZE).unwrap(), after(ms(1)));
    stage.world.swallows.set(true);
    run_with(&mut stage, &[(S, ask_to_stop)]);
    assert!(matches!(job.finish().unwrap_err(), LoadError::Stopped));
    assert_eq!(stage.world.now.get(), Time::from_nanos(S));
}

#[test]
fn a_target_that_swallows_connects_costs_one_timeout_and_not_hundreds() {
    let (mut stage, job) = stage(open(100, 10_000, 1), Echo::new(SIZE).unwrap(), after(ms(1)));
    stage.world.swallows.set(true);
    stage.run();
    let error = job.finish().unwrap_err();
    assert!(matches!(&error, LoadError::NoConnection(why) if why.contains("the time was up")), "{error}");
    assert!(stage.world.now.get() < Time::from_nanos(6 * S), "{:?}", stage.world.now.get());
}

#[test]
fn connections_that_could_not_be_made_at_first_are_made_later_and_told() {
    let plan = Plan { warm_up: ms(100), ..open(1_000, 10, 1) };
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), after(us(10)));
    stage.world.refuses_more.set(3);
    stage.run();
    let finished = job.finish().unwrap();
    assert_eq!((finished.established, finished.established_at_end), (7, 10));
    let report = report(&plan, finished, "").to_string();
    assert!(report.contains("fault     3 × connecting: connection refused"), "{report}");
}

#[test]
fn what_one_shard_cannot_send_is_given_up_and_counted() {
    // Each request costs 100 µs of the shard's time: of 100 000 planned in a second it can send 10 000.
    let plan = Plan { timeout: ms(200), ..open(100_000, 20_000, 1) };
    let world = Rc::new(OnceCell::<Rc<World>>::new());
    let costly = world.clone();
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), move |now, _, bytes| {
        if let Some(world) = costly.get() {
            world.now.set(now + us(100));
        }
        vec![Does::Sends(now + us(100), bytes.to_vec())]
    });
    world.set(stage.world.clone()).unwrap();
    stage.run();
    let finished = job.finish().unwrap();
    let account = finished.tally.account;
    assert!((98_000..102_000).contains(&account.planned), "{account}");
    assert!((80_000..95_000).contains(&account.unsent), "{account}");
    assert!(finished.over - finished.end < ms(500), "{:?}", finished.over - finished.end);
    let report = report(&plan, finished, "");
    assert_eq!(report.verdict(), Verdict::Invalid, "{report}");
    assert!(report.to_string().contains("sent after the end or never"), "{report}");
}
