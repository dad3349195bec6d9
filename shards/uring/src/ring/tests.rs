//! A kernel that refuses, takes nothing for a while, or has more to tell than there is room for.

use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, Mutex};

use io_uring::opcode::Nop;

use super::*;

/// No call takes so long unless it hangs.
const HUNG: Duration = Duration::from_secs(10);

const ALL: Features = Features::from_bits(Features::SETS - 1);

fn made(setup: Setup) -> io::Result<IoUring> {
    setup.build(&setup.builder())
}

fn has_io_uring() -> bool {
    Ring::new(Features::NONE, SCALE_MAX).is_ok()
}

/// Numbers operations that do nothing from `first` on.
fn push(ring: &Ring, first: u64, count: u64) {
    for number in first..first + count {
        // SAFETY: names no memory.
        unsafe { ring.push(&Nop::new().build().user_data(number)) };
    }
}

/// What has completed, in order.
fn told(ring: &Ring) -> Vec<u64> {
    let mut completions = Vec::new();
    ring.harvest(&mut completions).unwrap();
    assert!(completions.iter().all(|one| one.result == 0 && !one.more), "{completions:?}");
    completions.into_iter().map(|one| one.about).collect()
}

#[test]
fn what_a_kernel_refuses_is_asked_for_without_its_newest_flags_and_nothing_else_is_hidden() {
    if !has_io_uring() {
        return;
    }
    let asked = RefCell::new(Vec::new());
    let build = |setup: Setup| {
        asked.borrow_mut().push(setup.features);
        if setup.features.is_some() { Err(Errno::INVAL.into()) } else { made(setup) }
    };
    let oldest = ALL.without(Feature::NoSqArray).without(Feature::DeferTaskrun);
    let (_, got) = Ring::made_by(&build, ALL, SCALE_MAX).unwrap();
    assert!(!got.has(Feature::NoSqArray) && !got.has(Feature::DeferTaskrun), "{got}");
    assert_eq!(
        asked.take(),
        [Some(ALL), Some(ALL.without(Feature::NoSqArray)), Some(oldest), None],
        "from the newest on"
    );
    // Nobody asks for the same again.
    Ring::made_by(&build, oldest, SCALE_MAX).unwrap();
    assert_eq!(asked.take(), [Some(oldest), None]);
    let forbids = |setup: Setup| {
        asked.borrow_mut().push(setup.features);
        Err(Errno::PERM.into())
    };
    let error = Ring::made_by(&forbids, ALL, SCALE_MAX).unwrap_err();
    assert_eq!((Errno::from_io_error(&error), asked.take()), (Some(Errno::PERM), vec![Some(ALL)]));
}

#[test]
fn where_memory_is_short_for_a_moment_it_is_asked_for_again_and_else_for_less() {
    if !has_io_uring() {
        return;
    }
    let asked = Cell::new(0);
    let short_for_a_moment = |setup: Setup| {
        asked.set(asked.get() + 1);
        if asked.get() < 3 { Err(Errno::NOMEM.into()) } else { made(setup) }
    };
    let (ring, _) = Ring::made_by(&short_for_a_moment, Features::NONE, 1).unwrap();
    let entries = |ring: &Ring| ring.register(|ring| Ok(ring.params().sq_entries())).unwrap();
    assert_eq!((asked.get(), entries(&ring)), (3, ENTRIES / 2));
    let short = |setup: Setup| {
        if setup.entries > ENTRIES / 8 { Err(Errno::NOMEM.into()) } else { made(setup) }
    };
    let (ring, _) = Ring::made_by(&short, Features::NONE, 1).unwrap();
    assert_eq!(entries(&ring), ENTRIES / 8);
    let error = Ring::made_by(&|_| Err(Errno::NOMEM.into()), Features::NONE, 1).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOMEM));
}

#[test]
fn what_a_kernel_that_takes_nothing_leaves_is_kept_in_order() {
    if !has_io_uring() {
        return;
    }
    // Until it is enabled a ring takes nothing (EBADFD).
    let disabled = |setup: Setup| setup.build(setup.builder().setup_r_disabled());
    let (ring, _) = Ring::made_by(&disabled, Features::NONE, SCALE_MAX).unwrap();
    let room = u64::from(ENTRIES >> SCALE_MAX);
    push(&ring, 0, 3 * room);
    assert_eq!(ring.spilled.borrow().len() as u64, 2 * room);
    assert!(!ring.is_submitted() && !ring.is_quiet());
    assert!(ring.enter(0, None).is_err(), "who looks for it is told");
    assert_eq!(ring.spilled.borrow().len() as u64, 2 * room, "and loses nothing");
    ring.register(|ring| ring.submitter().register_enable_rings()).unwrap();
    // While something finds no room nothing is waited for: it may be what would complete.
    let began = ring.clock.now();
    ring.enter(room as u32 + 1, Some(HUNG)).unwrap();
    assert!(ring.clock.now().since(began) < HUNG);
    let mut all = told(&ring);
    // There is room in the queue now, but others were first.
    push(&ring, 3 * room, 1);
    while !ring.is_submitted() {
        ring.enter(0, None).unwrap();
        all.extend(told(&ring));
    }
    assert!(ring.is_quiet());
    assert_eq!(all, (0..=3 * room).collect::<Vec<_>>());
}

#[test]
fn what_waits_in_the_kernel_when_the_ring_closes_is_dropped() {
    if !has_io_uring() {
        return;
    }
    let disabled = |setup: Setup| setup.build(setup.builder().setup_r_disabled());
    let (ring, _) = Ring::made_by(&disabled, Features::NONE, SCALE_MAX).unwrap();
    push(&ring, 0, 2 * u64::from(ENTRIES >> SCALE_MAX));
    ring.close();
    push(&ring, 0, 1);
    assert!(ring.spilled.borrow().is_empty() && ring.is_submitted() && ring.is_quiet());
}

/// What is logged meanwhile.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn more_completions_than_there_is_room_for_are_all_told_and_that_is_said_once_a_second() {
    if !has_io_uring() {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let lines = || {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().all(|line| line.contains("completions overflow")), "{text}");
        assert!(text.lines().all(|line| line.contains("completions=128")), "{text}");
        text.lines().count()
    };
    tracing::subscriber::with_default(subscriber, || {
        let (ring, _) = Ring::new(Features::NONE, SCALE_MAX).unwrap();
        let room = u64::from(COMPLETIONS >> SCALE_MAX);
        let flood = |count: u64| {
            push(&ring, 0, count);
            ring.enter(0, None).unwrap();
            assert_eq!(told(&ring), (0..count).collect::<Vec<_>>());
        };
        flood(room);
        assert_eq!(lines(), 0, "all found room");
        flood(3 * room);
        assert_eq!(lines(), 1);
        flood(3 * room);
        assert_eq!(lines(), 1, "so soon again");
        ring.overflows.forget();
        flood(3 * room);
        assert_eq!(lines(), 2);
    });
}
