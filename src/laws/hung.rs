//! Starts of programs that hang, and children that outlive whoever started them.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Pid, kill_process};
use waterwheel::process::{Command, Keep, Kept, Stdio};
use waterwheel::runtime::{OnFailure, Runtime, Signal, Supervision};
use waterwheel::shard::Shard;

use super::{
    LONG, SHORT, children, descriptors, on_each_reactor, piped, runs, settles, shell, with_each_reactor,
};

/// A program that nobody can execute, as if it were on a file system that does not answer, until this is dropped: somebody has
/// a lease on it (fcntl(2), `F_SETLEASE`), and takes his time to give it up.
struct Hung {
    program: PathBuf,
    holder: Child,
    _folder: tempfile::TempDir,
}

impl Hung {
    fn new() -> Hung {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // 1024 is F_SETLEASE, 1 is F_WRLCK. Nobody here can make that call without unsafe code.
        let script =
            "open F, '<', $ARGV[0] or die; $SIG{IO} = 'IGNORE'; fcntl(F, 1024, 1) or die \"no lease: $!\";
            $| = 1; print \"held\\n\"; sleep 60";
        let mut holder = std::process::Command::new("perl");
        holder.args(["-e", script]).arg(&program);
        holder.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let mut holder = holder.spawn().expect("perl holds the program");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Hung { program, holder, _folder: folder }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // The end of its input it would not see: what hangs has everything open that this process has.
        let _ = self.holder.kill().and_then(|()| self.holder.wait());
    }
}

/// Threads of this process that are named so.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|known| known.trim_end().starts_with(name)).count()
}

#[test]
fn a_start_that_hangs_holds_up_no_other_and_can_be_given_up() {
    on_each_reactor(async |shard| {
        let hung = Hung::new();
        let (own, command, done) = (shard.clone(), Command::new(&hung.program), Rc::new(Cell::new(false)));
        let started = done.clone();
        let start = shard.spawn("hangs", async move {
            let _child = own.spawn_process(&command).await;
            started.set(true);
        });
        shard.sleep(SHORT).await;
        let other = Command::new("true");
        for other in join_all((0..20).map(|_| shard.output_of(&other))).await {
            assert!(other.unwrap().status.success());
        }
        assert!(!done.get(), "it did not hang");
        assert!((2..=4).contains(&threads("spawn-")), "{}", threads("spawn-"));
        // It is killed, and its thread is free for others. Only who holds the program is left.
        start.cancel();
        while children().len() > 1 {
            shard.sleep(Duration::from_millis(1)).await;
        }
        let again = Command::new(&hung.program);
        for _ in 0..8 {
            assert!(shard.timeout(SHORT, shard.spawn_process(&again)).await.is_err(), "it did not hang");
        }
        assert!(shard.output_of(&other).await.unwrap().status.success());
        drop(hung);
    });
}

#[test]
fn a_start_that_hangs_can_be_given_up_at_any_moment() {
    on_each_reactor(async |shard| {
        let hung = Hung::new();
        // From before its thread is at it, over before that has forked, until it hangs.
        for pause in (0..100).map(|times| Duration::from_micros(20) * times) {
            let (own, command) = (shard.clone(), Command::new(&hung.program));
            let start = shard.spawn("hangs", async move { own.spawn_process(&command).await.map(drop) });
            shard.sleep(pause).await;
            start.cancel();
        }
        let free = async {
            while children().len() > 1 {
                shard.sleep(Duration::from_millis(1)).await;
            }
            assert!(shard.output_of(&Command::new("true")).await.unwrap().status.success());
        };
        shard.timeout(LONG, free).await.expect("a start hangs that nobody waits for");
        drop(hung);
    });
}

#[test]
fn a_monitor_whose_start_hangs_is_stopped_and_begins_anew() {
    on_each_reactor(async |shard| {
        let hung = Hung::new();
        let kept = || shard.keep_running(&Command::new(&hung.program), Keep::new("hangs"));
        let (stopped, ended) = (kept(), kept());
        shard.sleep(SHORT).await;
        stopped.restart();
        shard.sleep(SHORT).await;
        assert_eq!((stopped.starts(), ended.starts()), (0, 0), "it did not hang");
        assert_eq!(stopped.stop().await, Ok(Kept::Stopped));
        shard.stop(LONG);
        assert_eq!(ended.ended().await, Ok(Kept::Stopped));
        drop(hung);
    });
}

#[test]
fn a_start_that_was_given_up_leaves_no_zombie_to_the_next_one() {
    on_each_reactor(async |shard| {
        // From before its thread is at it until it runs.
        for pause in (0..40).map(|times| Duration::from_micros(50) * times) {
            let own = shard.clone();
            let start = shard.spawn("starts", async move {
                // One that is there in time goes with its owner.
                own.spawn_process(&shell("exec sleep 60").kill_on_drop(true)).await.map(drop)
            });
            shard.sleep(pause).await;
            start.cancel();
        }
        while !children().is_empty() {
            shard.sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn output_is_complete_however_long_the_shard_stalls() {
    on_each_reactor(async |shard| {
        let own = shard.clone();
        // Each turn takes many times the patience.
        let stall = shard.spawn("stalls", async move {
            loop {
                waterwheel_conformance::kit::pause(Duration::from_millis(20));
                own.yield_now().await;
            }
        });
        let command = shell("head -c 60000 /dev/zero; printf x >&2").patience(Duration::from_millis(1));
        let output = shard.output_of(&command).await.unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len(), output.ended), (60_000, 1, true));
        // One that is left behind and writes without end does not hold it up all the same.
        let left =
            shard.output_of(&shell("yes & printf $! >&2").patience(Duration::from_millis(1))).await.unwrap();
        assert!(!left.ended && left.status.success());
        stall.cancel();
        let left = String::from_utf8(left.stderr).unwrap().parse().unwrap();
        // SIGPIPE.
        while runs(left) {
            shard.sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_child_that_went_to_another_group_is_signalled_and_killed() {
    on_each_reactor(async |shard| {
        let moved = |then: &str| {
            let script =
                format!("setpgrp(0, getpgrp(getppid())); {then}; $| = 1; print \"moved\\n\"; sleep 60");
            Command::new("perl").arguments(["-e", &script]).stdin(Stdio::Piped).stdout(Stdio::Piped)
        };
        let start = async |command: Command| {
            let mut child = shard.spawn_process(&command).await.unwrap();
            let mut stdout = child.stdout.take().unwrap();
            stdout.read_exact(&mut [0; 6]).await.unwrap();
            child
        };
        let mut child = start(moved("")).await;
        assert_eq!(child.stop(LONG).await.unwrap().signal(), Some(Signal::Terminate.number()));
        let mut deaf = start(moved("$SIG{TERM} = 'IGNORE'")).await;
        assert_eq!(deaf.stop(SHORT).await.unwrap().signal(), Some(Signal::Kill.number()));
        let dropped = start(moved("").kill_on_drop(true)).await;
        let id = dropped.id();
        drop(dropped);
        while runs(id) {
            shard.sleep(Duration::from_millis(1)).await;
        }
    });
}

/// A life that leaves a child running and fails, so many times; then it ends well.
async fn leaves_one(shard: Shard, lives: &AtomicUsize, left: &Mutex<Vec<u32>>) -> anyhow::Result<()> {
    let child = shard.spawn_process(&piped("exec sleep 60")).await?;
    left.lock().unwrap().push(child.id());
    assert!(lives.fetch_sub(1, Relaxed) == 1, "planned");
    Ok(())
}

#[test]
fn children_that_outlive_many_lives_take_one_thread_and_a_descriptor_each() {
    const LIVES: usize = 8;
    with_each_reactor(|config| {
        let before = descriptors().len();
        let supervision = Supervision { restarts: 100, pause: Duration::ZERO, ..Supervision::default() };
        let config = config.supervision(supervision).on_failure(OnFailure::Restart);
        let (lives, left) = (Arc::new(AtomicUsize::new(LIVES)), Arc::<Mutex<Vec<u32>>>::default());
        let (own, ids) = (lives.clone(), left.clone());
        let runtime = Runtime::new(config).unwrap().without_signals();
        let ended = runtime.run(move |shard| {
            let (lives, left) = (own.clone(), ids.clone());
            async move { leaves_one(shard, &lives, &left).await }
        });
        let ids = std::mem::take(&mut *left.lock().unwrap());
        assert_eq!(ids.len(), LIVES);
        assert!(ids.iter().all(|id| runs(*id)), "they were to run on");
        settles("threads are left", || threads("spawn-") == 0);
        assert_eq!(threads("orphans"), 1);
        // Those of glommio, which are known of it, do not count.
        assert_eq!(descriptors().len(), before + LIVES);
        for id in ids {
            kill_process(Pid::from_raw(id as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
        }
        settles("a thread is left", || threads("orphans") == 0);
        ended
    });
}
