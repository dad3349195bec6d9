//! SIGNAL-1 in a process of its own, since signals, threads and descriptors belong to whole processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal as Number, getpid, kill_process};
use waterwheel::runtime::{Signal, SignalError, Signals};

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
    let number = match signal {
        Signal::Interrupt => Number::INT,
        Signal::Terminate => Number::TERM,
        Signal::Report => Number::USR1,
    };
    kill_process(getpid(), number).unwrap();
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
        for signal in [Signal::Report, Signal::Terminate, Signal::Interrupt, Signal::Report] {
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
    raise(Signal::Report);
    assert_eq!(received.recv_timeout(LONG), Ok(Signal::Report), "the refused one has harmed the owner");
    drop(signals);
    drop(own());
}

#[test]
fn signal_1_nothing_is_left_at_the_end() {
    let _alone = alone();
    let before = traces();
    for _ in 0..3 {
        let (signals, received) = own();
        raise(Signal::Report);
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
        assert_ne!(signal, Signal::Report, "on purpose");
    });
    for signal in [Signal::Report, Signal::Terminate] {
        raise(signal);
        assert_eq!(received.recv_timeout(LONG), Ok(signal));
    }
}
