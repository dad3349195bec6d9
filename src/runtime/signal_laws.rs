//! SIGNAL-1 in a process of its own, since signals, threads and descriptors belong to whole processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal as Number, getpid, kill_process};
use waterwheel::runtime::{
    Config, OnFailure, RunError, Runtime, Signal, SignalError, Signals, Supervision, reactors,
};
use waterwheel::shard::Shard;

const LONG: Duration = Duration::from_secs(30);

/// One test at a time: there is one owner per process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn own() -> (Signals, Receiver<Signal>) {
    let (send, receive) = mpsc::channel();
    (Signals::own(move |signal| send.send(signal).unwrap()).unwrap(), receive)
}

fn raise(signal: Signal) {
    kill_process(getpid(), Number::from_named_raw(signal.number()).unwrap()).unwrap();
}

/// What the kernel knows of this process that owning signals could change: the signals with handlers, the open
/// descriptors, and whether there is a thread for signals.
fn traces() -> (String, BTreeSet<String>, bool) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caught = status.lines().find(|line| line.starts_with("SigCgt:")).unwrap().to_owned();
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.collect::<Vec<_>>()
    };
    let open = names("/proc/self/fd")
        .into_iter()
        .filter_map(|at| Some((at.clone(), fs::read_link(at).ok()?)))
        // Reading the directory opens it.
        .filter(|(_, target)| !target.starts_with("/proc"))
        .map(|(at, target)| format!("{} {}", at.display(), target.display()))
        .collect();
    let thread = names("/proc/self/task")
        .into_iter()
        .any(|at| fs::read_to_string(at.join("comm")).is_ok_and(|name| name.trim_end() == "signals"));
    (caught, open, thread)
}

#[test]
fn signal_1_each_signal_reaches_its_owner_in_every_run_of_a_process() {
    let _alone = alone();
    // The second round fails where handlers are installed only once and restored at the end.
    for _ in 0..2 {
        let (signals, received) = own();
        for signal in [Signal::User1, Signal::Terminate, Signal::Interrupt, Signal::User1] {
            raise(signal);
            assert_eq!(received.recv_timeout(LONG), Ok(signal));
        }
        drop(signals);
    }
}

#[test]
fn signal_1_one_owner_per_process() {
    let _alone = alone();
    let (signals, received) = own();
    assert!(matches!(Signals::own(|_| {}), Err(SignalError::Owned)));
    raise(Signal::User1);
    assert_eq!(received.recv_timeout(LONG), Ok(Signal::User1), "the refused one has harmed the owner");
    drop(signals);
    drop(own());
}

#[test]
fn signal_1_nothing_is_left_at_the_end() {
    let _alone = alone();
    let before = traces();
    for _ in 0..3 {
        let (signals, received) = own();
        raise(Signal::User1);
        received.recv_timeout(LONG).unwrap();
        let during = traces();
        assert_ne!(during.0, before.0, "no handler was installed");
        assert!(during.1.len() > before.1.len() && during.2, "{during:?}");
        drop(signals);
        // The kernel lists a thread for a moment after it was joined.
        let settled = (0..1_000_000).map(|_| traces()).find(|after| after.2 == before.2);
        assert_eq!(settled, Some(before.clone()));
    }
}

#[test]
fn a_callback_that_panics_still_gets_the_next_signal() {
    let _alone = alone();
    let (send, received) = mpsc::channel();
    let _signals = Signals::own(move |signal| {
        send.send(signal).unwrap();
        assert_ne!(signal, Signal::User1, "on purpose");
    });
    for signal in [Signal::User1, Signal::Terminate] {
        raise(signal);
        assert_eq!(received.recv_timeout(LONG), Ok(signal));
    }
}

/// On two shards of each reactor, one after the other.
fn on_each_reactor(main: impl AsyncFn(Shard) -> anyhow::Result<()> + Copy + Send + Sync + 'static) {
    for reactor in reactors().iter().filter(|backend| backend.probe().is_ok()) {
        let config = Config::default().reactor(reactor.name()).cores(2);
        let ended = Runtime::new(config).unwrap().run(move |shard| async move { main(shard).await });
        ended.unwrap_or_else(|error| panic!("{}: {error}", reactor.name()));
    }
}

#[test]
fn signal_1_shards_hear_of_signals_and_all_is_as_before_when_the_run_is_over() {
    let _alone = alone();
    let before = traces().0;
    on_each_reactor(async |shard| {
        let mut one = shard.signals(&[Signal::Hangup, Signal::WindowChange])?;
        let mut two = shard.signals(&[Signal::Hangup])?;
        // Whoever is the last to listen raises.
        static LISTENING: AtomicUsize = AtomicUsize::new(0);
        if LISTENING.fetch_add(1, SeqCst) % 2 == 1 {
            raise(Signal::Hangup);
        }
        assert_eq!(shard.timeout(LONG, one.next()).await?, Signal::Hangup);
        assert_eq!(shard.timeout(LONG, two.next()).await?, Signal::Hangup);
        if LISTENING.fetch_add(1, SeqCst) % 2 == 1 {
            raise(Signal::WindowChange);
        }
        assert_eq!(shard.timeout(LONG, one.next()).await?, Signal::WindowChange);
        let quiet = shard.timeout(Duration::from_millis(20), two.next()).await;
        assert!(quiet.is_err(), "nobody listens for it here: {quiet:?}");
        Ok(())
    });
    assert_eq!(traces().0, before, "a handler is left");
}

#[test]
fn a_signal_that_a_runtime_acts_on_is_heard_too() {
    let _alone = alone();
    on_each_reactor(async |shard| {
        let mut signals = shard.signals(&Signal::OWN)?;
        static LISTENING: AtomicUsize = AtomicUsize::new(0);
        if LISTENING.fetch_add(1, SeqCst) % 2 == 1 {
            raise(Signal::Terminate);
        }
        assert_eq!(shard.timeout(LONG, signals.next()).await?, Signal::Terminate);
        shard.timeout(LONG, shard.stopping()).await?;
        Ok(())
    });
}

#[test]
fn a_signal_for_a_listener_that_is_gone_does_not_end_the_program() {
    let _alone = alone();
    on_each_reactor(async |shard| {
        drop(shard.signals(&[Signal::Hangup, Signal::User2])?);
        raise(Signal::Hangup);
        let mut signals = shard.signals(&[Signal::User2])?;
        raise(Signal::User2);
        assert_eq!(shard.timeout(LONG, signals.next()).await?, Signal::User2);
        Ok(())
    });
}

#[test]
fn who_cannot_have_a_signal_is_told_why() {
    let _alone = alone();
    on_each_reactor(async |shard| {
        let before = traces().0;
        for signal in [Signal::Kill, Signal::Stop] {
            let refused = shard.signals(&[Signal::Alarm, signal]).unwrap_err();
            assert!(matches!(refused, SignalError::Uncatchable { signal: named } if named == signal));
        }
        assert_eq!(traces().0, before, "one of them was caught all the same");
        Ok(())
    });
    let runtime = || Runtime::new(Config::default().cores(1)).unwrap();
    let ended = runtime()
        .without_signals()
        .run(|shard| async move { Ok(shard.signals(&[Signal::Hangup]).map(drop)?) });
    assert!(
        matches!(&ended, Err(RunError::Main { error, .. })
        if matches!(error.downcast_ref(), Some(SignalError::NotOwner))),
        "{ended:?}"
    );
    let (signals, _) = own();
    let ended = runtime().run(async |_| Ok(()));
    assert!(matches!(ended, Err(RunError::Signals(SignalError::Owned))), "{ended:?}");
    drop(signals);
}

/// Set for the process that the next test starts.
const STUCK: &str = "WATERWHEEL_TEST_STUCK";

/// Two signals are asked of the program; who is stuck cannot hear of them, and the third acts as without us.
#[test]
fn shard_6_a_third_signal_ends_a_program_whose_shard_is_stuck() {
    if env::var_os(STUCK).is_some() {
        let runtime = Runtime::new(Config::default().cores(1)).unwrap();
        runtime
            .run::<(), _, _>(|_| async {
                println!("stuck");
                loop {
                    std::thread::park();
                }
            })
            .unwrap();
    }
    let _alone = alone();
    let own = "shard_6_a_third_signal_ends_a_program_whose_shard_is_stuck";
    let mut program = Command::new(env::current_exe().unwrap());
    program.args(["--exact", own, "--nocapture"]).env(STUCK, "1").stdin(Stdio::null());
    let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("stuck")), "it did not begin");
    let mut sent = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if sent == 600 {
            child.kill().unwrap();
        }
        // One at a time: the kernel makes one of two that nobody has taken yet.
        kill_process(Pid::from_child(&child), Number::TERM).unwrap();
        sent += 1;
        std::thread::park_timeout(Duration::from_millis(50));
    };
    assert_eq!(status.signal(), Some(Number::TERM.as_raw()), "after {sent} signals: {status}");
    assert!(sent >= 3, "{sent} signals ended it");
}

/// Raises SIGHUP when it is dropped.
struct Last;

impl Drop for Last {
    fn drop(&mut self) {
        raise(Signal::Hangup);
    }
}

/// One shard, whose second failure is followed by a pause like this. SIGHUP comes with it, when nobody listens.
fn fails_at_first(
    runtime: impl FnOnce(Runtime) -> Runtime,
    pause: Duration,
) -> Result<Vec<Signal>, RunError> {
    let supervision = Supervision { pause, pause_most: pause, ..Supervision::default() };
    let config = Config::default().cores(1).on_failure(OnFailure::Restart).supervision(supervision);
    let lives = Arc::new(AtomicUsize::new(0));
    runtime(Runtime::new(config).unwrap()).run(move |shard| {
        let lives = lives.clone();
        async move {
            let life = lives.fetch_add(1, SeqCst);
            // Dropped after what listens.
            let _last = (life == 1).then(|| Last);
            let mut signals = shard.signals(&[Signal::Hangup])?;
            assert!(life > 1, "planned: life {life}");
            Ok(shard.timeout(LONG, signals.next()).await?)
        }
    })
}

#[test]
fn a_signal_that_comes_in_the_pause_of_the_only_shard_is_kept_for_its_next_life() {
    let _alone = alone();
    let ended = fails_at_first(|runtime| runtime, Duration::from_millis(200));
    assert_eq!(ended.unwrap(), [Signal::Hangup]);
}

#[test]
fn what_is_done_on_a_signal_is_done_while_every_shard_pauses_and_nothing_is_left_of_it() {
    let _alone = alone();
    let before = traces();
    let (send, received) = mpsc::channel();
    let acts = |runtime: Runtime| {
        let stopper = runtime.stopper();
        runtime.on_signal(Signal::Hangup, move || {
            send.send(()).unwrap();
            stopper.stop(Duration::ZERO);
        })
    };
    let ended = fails_at_first(acts, LONG * 10);
    assert!(matches!(ended, Err(RunError::Panicked { shard: 0 })), "{ended:?}");
    assert_eq!(received.iter().count(), 1, "and whoever would act is gone with the run");
    assert_eq!(traces().0, before.0, "a handler is left");
    let ended = Runtime::new(Config::default().cores(1))
        .unwrap()
        .on_signal(Signal::Kill, || {})
        .run(async |_| Ok(()));
    assert!(matches!(ended, Err(RunError::Signals(SignalError::Uncatchable { .. }))), "{ended:?}");
}
