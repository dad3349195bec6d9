//! Programs that are kept running, on each reactor.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use waterwheel::process::{Again, Command, Keep, KeepError, Kept, Line, Stream};
use waterwheel::runtime::Supervision;

use super::{LONG, SHORT, on_each_reactor, runs, shell};

/// At most so many restarts, the second after `pause`.
fn keep(tag: &str, restarts: u32, pause: Duration) -> Keep {
    let supervision = Supervision { restarts, within: LONG, pause, pause_most: LONG };
    Keep { supervision, ..Keep::new(tag) }
}

/// The lines that a program will have written.
type Written = Rc<RefCell<Vec<(Stream, String, bool)>>>;

fn listen(written: &Written) -> impl Fn(Line<'_>) + 'static {
    let lines = written.clone();
    move |line| lines.borrow_mut().push((line.stream, line.text.to_owned(), line.goes_on))
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| ToLog).init());
}

/// How many lines were logged that have all of `parts`, which are then forgotten.
fn logged(parts: &[&str]) -> usize {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8(std::mem::take(&mut *log)).unwrap();
    text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[test]
fn one_that_always_fails_is_given_up_with_the_reason_after_pauses_that_grow() {
    on_each_reactor(async |shard| {
        let (keep, written) = (keep("doomed", 3, SHORT), Written::default());
        let began = shard.now();
        let monitor = shard.keep_running_with(
            &shell("echo life; printf 'last words' >&2; exit 7"),
            keep,
            listen(&written),
        );
        let error = monitor.ended().await.unwrap_err();
        let KeepError::TooOften { times: 4, ref reason, .. } = error else { panic!("{error}") };
        assert!(reason.contains("exit status: 7"), "{reason}");
        assert!(error.to_string().starts_with("doomed failed 4 times within 30s"), "{error}");
        // None, one, two.
        assert!(shard.now().since(began) >= SHORT * 3, "it was started again too soon");
        let life =
            [(Stream::Error, "last words".to_owned(), false), (Stream::Output, "life".to_owned(), false)];
        let mut written = written.take();
        for _ in 0..4 {
            let mut two: Vec<_> = written.drain(..2).collect();
            two.sort_by_key(|(stream, ..)| *stream == Stream::Output);
            assert_eq!(two, life, "lines of one life are told before the next begins");
        }
        assert!(written.is_empty());
    });
}

#[test]
fn a_good_life_makes_up_for_the_failures_before_it() {
    on_each_reactor(async |shard| {
        let (mut keep, written) = (keep("phoenix", 1, LONG), Written::default());
        keep.good_after = Duration::from_millis(5);
        let monitor =
            shard.keep_running_with(&shell("echo up; sleep 0.02; kill -KILL $$"), keep, listen(&written));
        while written.borrow().len() < 5 {
            shard.sleep(Duration::from_millis(2)).await;
        }
        assert!(monitor.starts() >= 5);
        assert_eq!(monitor.stop().await, Ok(Kept::Stopped));
    });
}

#[test]
fn what_cannot_be_executed_is_said_once_and_started_as_soon_as_it_can_be() {
    keep_log();
    on_each_reactor(async |shard| {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let keep = Keep { again: Again::OnFailure, ..keep("missing", 50, Duration::from_millis(1)) };
        let mut keep = keep;
        keep.supervision.pause_most = Duration::from_millis(10);
        logged(&[]);
        let began = shard.now();
        let monitor = shard.keep_running(&Command::new(&program), keep.clone());
        let mut said = 0;
        while said == 0 || shard.now().since(began) < SHORT {
            shard.sleep(Duration::from_millis(5)).await;
            said += logged(&["missing", "cannot run", "No such file"]);
        }
        assert_eq!((monitor.starts(), monitor.running(), said), (0, None, 1));
        std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
        let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        assert_eq!(monitor.ended().await, Ok(Kept::Done));
        // And one that never can be is given up, without a spin and without a flood.
        keep.supervision.restarts = 5;
        logged(&[]);
        let error = shard.keep_running(&Command::new("/usr"), keep).ended().await.unwrap_err();
        assert!(error.to_string().contains("cannot run \"/usr\": Permission denied"), "{error}");
        assert_eq!(logged(&["missing", "cannot run"]), 2, "once at first, and once with the end");
    });
}

#[test]
fn one_that_does_not_end_when_asked_is_killed_with_its_group() {
    on_each_reactor(async |shard| {
        let deaf = "trap '' TERM; sleep 60 & echo $!; while :; do sleep 60; done";
        let (mut keep, written) = (keep("deaf", 1, SHORT), Written::default());
        keep.grace = SHORT;
        let monitor = shard.keep_running_with(&shell(deaf), keep, listen(&written));
        while written.borrow().is_empty() {
            shard.sleep(Duration::from_millis(2)).await;
        }
        let (own, other) = (monitor.running().unwrap(), written.borrow()[0].1.parse().unwrap());
        assert!(runs(own) && runs(other));
        assert_eq!(monitor.stop().await, Ok(Kept::Stopped));
        assert!(!runs(own), "its end was told before it came");
        // Of this one init takes the rest.
        while super::state(other).is_some_and(|state| state != 'Z') {
            shard.sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_restart_that_was_asked_for_is_no_failure() {
    on_each_reactor(async |shard| {
        let (keep, written) = (keep("again", 0, LONG), Written::default());
        let monitor = shard.keep_running_with(&shell("echo up; exec sleep 60"), keep, listen(&written));
        let mut ids = Vec::new();
        for life in 1..=4 {
            while written.borrow().len() < life {
                shard.sleep(Duration::from_millis(2)).await;
            }
            ids.push(monitor.running().unwrap());
            monitor.restart();
        }
        ids.dedup();
        assert_eq!(ids.len(), 4, "{ids:?}");
        assert_eq!(monitor.stop().await, Ok(Kept::Stopped));
    });
}

#[test]
fn a_job_is_done_once_and_a_stop_of_the_shard_stops_what_is_kept() {
    on_each_reactor(async |shard| {
        let job = Keep { again: Again::OnFailure, ..keep("job", 5, Duration::ZERO) };
        let folder = tempfile::tempdir().unwrap();
        let script = "[ -e tried ] && exit 0; touch tried; exit 1";
        let monitor = shard.keep_running(&shell(script).directory(folder.path()), job);
        assert_eq!(monitor.ended().await, Ok(Kept::Done));
        let monitor = shard.keep_running(&shell("exec sleep 60"), keep("service", 5, LONG));
        while monitor.running().is_none() {
            shard.sleep(Duration::from_millis(2)).await;
        }
        let waits = shard.keep_running(&shell("exit 1"), keep("waits for its start", 5, LONG));
        while waits.starts() < 2 || waits.running().is_some() {
            shard.sleep(Duration::from_millis(2)).await;
        }
        shard.stop(LONG);
        assert_eq!(monitor.ended().await, Ok(Kept::Stopped));
        assert_eq!(waits.ended().await, Ok(Kept::Stopped));
    });
}

#[test]
fn a_flood_of_lines_is_dropped_and_counted_and_a_long_line_is_cut() {
    keep_log();
    on_each_reactor(async |shard| {
        let (mut keep, written) = (keep("flood", 0, LONG), Written::default());
        (keep.lines_per_second, keep.line_most) = (10, 100);
        logged(&[]);
        let script = "head -c 250 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; sleep 60";
        let monitor = shard.keep_running_with(&shell(script), keep.clone(), listen(&written));
        while written.borrow().len() < 10 {
            shard.sleep(Duration::from_millis(2)).await;
        }
        let lengths: Vec<_> = written.borrow()[..4].iter().map(|(_, text, on)| (text.len(), *on)).collect();
        assert_eq!(lengths, [(100, false), (100, true), (50, true), (1, false)]);
        // It is quiet from then on, and that is enough to hear of those that were dropped.
        while logged(&["flood", "lines of output over 10 in a second were dropped"]) == 0 {
            shard.sleep(Duration::from_millis(10)).await;
        }
        assert!(monitor.running().is_some());
        assert_eq!(monitor.stop().await, Ok(Kept::Stopped));
        // One that never ends keeps nobody else from running.
        let turns = Cell::new(0);
        let monitor = shard.keep_running_with(&Command::new("yes"), keep, listen(&written));
        while turns.get() < 20 {
            shard.sleep(Duration::from_millis(1)).await;
            turns.set(turns.get() + 1);
        }
        assert_eq!(monitor.stop().await, Ok(Kept::Stopped));
    });
}
