//! What is said about a run, and whether it is believed.

use std::time::Duration;

use super::world::Does;
use super::*;
use crate::load::report::Report;
use crate::load::slo::Objective;
use crate::load::verdict::Verdict;

/// The report of a run on the virtual clock, where what this machine's kernel counts means nothing.
pub(super) fn report(plan: &Plan, mut finished: Finished, slo: &str) -> Report {
    finished.shards.iter_mut().for_each(|shard| {
        shard.thread = None;
        shard.cpus.clear();
    });
    let slo = if slo.is_empty() { Objective::default() } else { slo.parse().unwrap() };
    Report::new(plan, "tcp:127.0.0.1:1", "echo of 16 bytes", &finished, &slo)
}

#[test]
fn a_clean_run_is_valid_and_says_what_it_did() {
    let plan = open(2_000, 100, 5);
    let finished = echo(plan.clone(), after(us(700)));
    let planned = finished.tally.account.planned;
    let report = report(&plan, finished, "p99<1ms,err<0.1%");
    assert_eq!((report.verdict(), report.exit_code()), (Verdict::Valid, 0), "{report}");
    let text = report.to_string();
    for part in [
        &format!("planned {planned}  ok {planned}  http-error 0"),
        "open loop, poisson, 2000/s for 5.0 s",
        "generator VALID",
        "slo PASS  p99<1ms: 700µs · err<0.1 %: 0 %",
        "100 of 100 connections on 1 shard",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], "waterwheel/load-run/1");
    assert_eq!(json["account"]["ok"], planned);
    assert_eq!(json["response"]["percentiles"]["p99"]["known"], "exactly");
    assert!(json["response"]["percentiles"]["p99.99"].is_null(), "10 000 samples cannot tell");
    assert_eq!(json["load"]["kind"], "open");
    assert_eq!(json["exit_code"], 0);
}

#[test]
fn a_stopped_generator_is_invalid_whatever_the_thresholds() {
    let plan = open(1_000, 100, 10);
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), after(us(100)));
    stage.stop_generator(ms(3_000), ms(500));
    stage.run();
    let report = report(&plan, job.finish().unwrap(), "p99<1ms");
    assert_eq!((report.verdict(), report.exit_code()), (Verdict::Invalid, 4), "{report}");
    assert!(report.to_string().contains("INVALID: wake lag p99"), "{report}");
}

#[test]
fn a_short_stall_of_our_own_is_named() {
    let plan = open(1_000, 100, 20);
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), after(ms(1)));
    stage.stop_generator(ms(3_000), ms(40));
    stage.run();
    let report = report(&plan, job.finish().unwrap(), "");
    assert_eq!((report.verdict(), report.exit_code()), (Verdict::Suspect, 0), "{report}");
    assert!(report.to_string().contains("the generator itself stalled for "), "{report}");
}

#[test]
fn a_slow_target_misses_a_threshold_and_is_no_fault_of_ours() {
    let plan = open(1_000, 1, 10);
    let finished = echo(plan.clone(), single_server(us(950)));
    let report = report(&plan, finished, "p99<2ms,err<1%");
    assert_eq!((report.verdict(), report.exit_code()), (Verdict::Valid, 3), "{report}");
    assert!(report.to_string().contains("slo MISSED"), "{report}");
    assert!(report.to_string().contains("of all requests waited for a connection"), "{report}");
}

#[test]
fn failures_show_as_infinite() {
    let plan = Plan { timeout: ms(100), ..open(1_000, 100, 5) };
    let mut n = 0;
    let finished = echo(plan.clone(), move |now, _, bytes| {
        n += 1;
        if n % 20 == 0 { vec![Does::Nothing] } else { vec![Does::Sends(now + us(10), bytes.to_vec())] }
    });
    let report = report(&plan, finished, "p99<1s");
    assert_eq!(report.exit_code(), 3, "{report}");
    let response = report.to_string().lines().find(|line| line.starts_with("response")).unwrap().to_owned();
    let cells: Vec<&str> = response.split_whitespace().skip(1).take(6).collect();
    assert_eq!(cells[0], "10µs", "{response}");
    assert_eq!((cells[2], cells[5]), ("∞", "∞"), "{response}");
    assert_eq!(serde_json::to_value(&report).unwrap()["response"]["max"]["known"], "infinite");
}

#[test]
fn a_target_that_is_gone_at_the_end_died() {
    let plan = Plan { timeout: ms(500), ..open(100, 4, 4) };
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), |now: Time, _, bytes: &[u8]| {
        if now > Time::ZERO + ms(2_000) {
            vec![Does::Resets]
        } else {
            vec![Does::Sends(now + us(10), bytes.to_vec())]
        }
    });
    stage.run_while(|world, _| world.refuses.set(world.now.get() > Time::ZERO + ms(2_000)));
    let report = report(&plan, job.finish().unwrap(), "");
    assert_eq!(report.exit_code(), 5, "{report}");
    assert!(report.to_string().contains("the target died"));
}

#[test]
fn an_answer_lost_at_the_end_spoils_neither_the_throughput_nor_the_generators_health() {
    // The last answers never come, and the run waits 5 s for them after 5 s of planning.
    let plan = open(1_000, 100, 5);
    let finished = echo(plan.clone(), |now, _, bytes| match now.as_nanos() {
        ..5_000_000_000 => vec![Does::Sends(now + us(10), bytes.to_vec())],
        _ => vec![Does::Nothing],
    });
    assert!(finished.tally.account.ok < finished.tally.account.planned, "{}", finished.tally.account);
    assert!(finished.over - finished.end > ms(4_900), "{:?}", finished.over - finished.end);
    assert_eq!(
        finished.shards[0].wall,
        Duration::from_secs(5),
        "what the CPU time of its thread is a part of"
    );
    let json = serde_json::to_value(report(&plan, finished, "")).unwrap();
    assert_eq!(json["seconds"], 5.0);
    let a_second = json["ok_per_second"].as_f64().unwrap();
    assert!((930.0..1_070.0).contains(&a_second), "{a_second}");
    assert!((json["content_bytes_per_second"].as_f64().unwrap() - a_second * SIZE as f64).abs() < 1e-6);
}

#[test]
fn answers_that_come_when_nothing_is_planned_any_more_are_no_throughput() {
    // Each answer takes 600 ms: of the three that one connection has asked for in 1.5 s, two have come.
    let plan = Plan { measure: ms(1_500), ..closed(1, 1) };
    let finished = echo(plan.clone(), after(ms(600)));
    assert_eq!(finished.tally.account.ok, 3);
    let json = serde_json::to_value(report(&plan, finished, "")).unwrap();
    assert!((json["ok_per_second"].as_f64().unwrap() - 2.0 / 1.5).abs() < 1e-9, "{json}");
}

#[test]
fn a_run_without_any_good_answer_does_not_blame_its_own_lag() {
    let plan = open(1_000, 4, 1);
    let (mut stage, job) = stage(plan.clone(), Echo::new(SIZE).unwrap(), |now, _, bytes: &[u8]| {
        vec![Does::Sends(now + us(10), bytes.iter().map(|byte| !byte).collect())]
    });
    stage.stop_generator(ms(500), ms(5));
    stage.run();
    let finished = job.finish().unwrap();
    assert_eq!(finished.tally.account.ok, 0);
    assert!(finished.tally.wake_lag.max().unwrap() > 1_000_000);
    let report = report(&plan, finished, "err<1%");
    assert_eq!((report.verdict(), report.exit_code()), (Verdict::Valid, 3), "{report}");
}

#[test]
fn a_closed_loop_is_labelled_and_shows_no_response_time() {
    let plan = closed(4, 1);
    let report = report(&plan, echo(plan.clone(), after(ms(1))), "");
    let text = report.to_string();
    assert!(
        text.contains("closed loop for 1.0 s: service time under saturation, not what a user waits"),
        "{text}"
    );
    assert!(!text.contains("planned → done"), "{text}");
    assert_eq!(report.verdict(), Verdict::Valid, "{text}");
}

#[test]
fn running_out_of_ports_voids_a_run() {
    let plan = open(100, 4, 1);
    let mut finished = echo(plan.clone(), after(ms(1)));
    finished.tally.faults.count(crate::load::tally::Fault::of(
        crate::load::tally::FaultStage::Connect,
        &std::io::Error::from_raw_os_error(99),
    ));
    assert_eq!(report(&plan, finished, "").exit_code(), 4);
}

#[test]
fn a_busy_or_crowded_generator_is_suspect() {
    let plan = open(100, 4, 1);
    let judge = |on_cpu, waiting, spins| {
        let mut finished = echo(plan.clone(), after(ms(1)));
        finished.shards[0].spins = spins;
        let usage = crate::load::usage::ThreadUsage { on_cpu, waiting };
        finished.shards[0].thread = Some(usage);
        Report::new(&plan, "t", "p", &finished, &Objective::default()).verdict()
    };
    assert_eq!(judge(ms(300), Duration::ZERO, false), Verdict::Valid);
    assert_eq!(judge(ms(600), Duration::ZERO, false), Verdict::Suspect);
    assert_eq!(judge(ms(900), Duration::ZERO, false), Verdict::Invalid);
    assert_eq!(judge(ms(300), ms(50), false), Verdict::Suspect);
    assert_eq!(judge(ms(900), Duration::ZERO, true), Verdict::Valid, "it only looks for work");
    assert_eq!(judge(ms(900), ms(50), true), Verdict::Suspect, "somebody else is on its CPU");
}
