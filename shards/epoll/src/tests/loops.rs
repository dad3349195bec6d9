//! The loop and what wakes it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Wake, Waker};

use rustix::event::epoll::EventFlags;
use waterwheel_os::Fault;

use super::*;
use crate::descriptor::Descriptor;

/// Bytes to and fro through one pair, each waited for.
async fn ping_pong(reactor: &EpollReactor, rounds: usize) {
    let (mut near, mut far) = pair(reactor).await;
    for _ in 0..rounds {
        write_all(&mut *near.sink, b"ping").await.unwrap();
        assert_eq!(read(&mut *far.source, 4).await.unwrap(), b"ping");
        write_all(&mut *far.sink, b"pong").await.unwrap();
        assert_eq!(read(&mut *near.source, 4).await.unwrap(), b"pong");
    }
}

#[test]
fn events_wake_the_root_without_the_interrupt() {
    let bench = Bench::new();
    bench.run(async |reactor| {
        ping_pong(&reactor, 10).await;
        let soon = reactor.now() + Duration::from_millis(2);
        poll_fn(|cx| reactor.poll_until(cx, soon)).await;
    });
    assert!(!bench.interrupt.clear(), "a system call per wake, for nothing");
}

#[test]
fn a_waker_that_is_kept_after_the_end_keeps_no_descriptor() {
    let bench = Bench::new();
    let kept = Waker::from(bench.bell.clone());
    let interrupt = Arc::downgrade(&bench.interrupt);
    drop(bench);
    assert!(interrupt.upgrade().is_none(), "an eventfd stays open for a waker that wakes nobody");
    kept.wake();
}

/// Timers of the process are counted below, so that only one test at a time may make any.
fn alone_with_timers() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn without_epoll_pwait2_the_timer_ends_with_its_reactor_though_a_connection_is_kept() {
    let _alone = alone_with_timers();
    let timers = || {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.ends_with("anon_inode:[timerfd]")).count()
    };
    let (before, bench) = (timers(), Bench::new());
    bench.core.poller.use_timer().unwrap();
    // Where the start finds out that it is needed: later, no descriptor may be left for it.
    assert_eq!(timers(), before + 1, "the first deadline will need a descriptor");
    let kept = Rc::new(Cell::new(None));
    let keep = kept.clone();
    bench.run(async move |reactor| {
        let until = reactor.now() + Duration::from_millis(1);
        poll_fn(|cx| reactor.poll_until(cx, until)).await;
        keep.set(Some(pair(&reactor).await));
    });
    assert_eq!(timers(), before + 1, "a second timer");
    bench.core.end();
    assert_eq!(timers(), before, "the timer is still open");
    drop(kept);
}

#[test]
fn without_epoll_pwait2_the_timer_keeps_deadlines_and_wakes_arrive() {
    let _alone = alone_with_timers();
    let bench = Bench::new();
    bench.core.poller.use_timer().unwrap();
    bench.run(async |reactor| {
        ping_pong(&reactor, 10).await;
        for millis in [3, 1, 2] {
            let until = reactor.now() + Duration::from_millis(millis);
            poll_fn(|cx| reactor.poll_until(cx, until)).await;
            assert!(reactor.now() >= until, "an alarm is never early");
        }
        let (give, take) = mpsc::channel::<Waker>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new();
        let waiter = thread.spawn(move || {
            let waker = take.recv().unwrap();
            tell.send(()).unwrap();
            waker.wake();
        });
        let mut asked = false;
        poll_fn(|cx| {
            if !asked {
                asked = true;
                give.send(cx.waker().clone()).unwrap();
            }
            if told.try_recv().is_ok() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        waiter.unwrap().join().unwrap();
    });
}

#[test]
fn a_root_that_always_wakes_itself_sees_its_alarm() {
    run(async |reactor| {
        let until = reactor.now() + Duration::from_millis(5);
        let polls = Rc::new(Cell::new(0_u32));
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            polls.set(polls.get() + 1);
            reactor.poll_until(cx, until)
        })
        .await;
        assert!(reactor.now() >= until);
        assert!(polls.get() > 1);
    });
}

#[test]
fn more_ready_connections_than_one_wait_takes_are_all_served() {
    run(async |reactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Address::Inet(listener.local_addr().unwrap());
        let mut near = Vec::new();
        let mut far = Vec::new();
        for _ in 0..300 {
            near.push(reactor.connect(&at, &ConnectOptions::default()).unwrap());
            let connection = OwnedFd::from(listener.accept().unwrap().0);
            waterwheel_os::send(std::os::fd::AsFd::as_fd(&connection), b"x").unwrap();
            far.push(connection);
        }
        for end in &mut near {
            assert_eq!(read(&mut *end.source, 1).await.unwrap(), b"x");
        }
    });
}

thread_local! {
    /// What `Again` registers with, since wakers must be `Send` and descriptors are not.
    static WAITS_AT: RefCell<Option<Rc<Descriptor>>> = const { RefCell::new(None) };
}

/// Counts its wakes, and at the first one leaves its successor to wait in its place.
struct Again {
    wakes: AtomicU32,
    successor: Option<Waker>,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wakes.fetch_add(1, Relaxed);
        if let Some(successor) = &self.successor {
            let cx = &Context::from_waker(successor);
            WAITS_AT.with_borrow(|at| at.as_ref().unwrap().reader.wait(cx));
        }
    }
}

#[test]
fn who_waits_anew_while_being_woken_is_not_lost() {
    let second = Arc::new(Again { wakes: AtomicU32::new(0), successor: None });
    let successor = Some(Waker::from(second.clone()));
    let first = Arc::new(Again { wakes: AtomicU32::new(0), successor });
    let descriptor = Descriptor::dead(Fault::default());
    WAITS_AT.set(Some(descriptor.clone()));
    descriptor.reader.wait(&Context::from_waker(&Waker::from(first.clone())));
    let wakes = || (first.wakes.load(Relaxed), second.wakes.load(Relaxed));
    descriptor.ready(EventFlags::IN);
    assert_eq!(wakes(), (1, 0));
    descriptor.ready(EventFlags::IN);
    assert_eq!(wakes(), (1, 1));
    descriptor.ready(EventFlags::IN);
    assert_eq!(wakes(), (1, 1), "nobody waits any more");
    WAITS_AT.take();
}

#[test]
fn waiting_again_with_the_same_waker_counts_no_reference() {
    let arc = Arc::new(Again { wakes: AtomicU32::new(0), successor: None });
    let waker = Waker::from(arc.clone());
    let descriptor = Descriptor::dead(Fault::default());
    descriptor.writer.wait(&Context::from_waker(&waker));
    let references = Arc::strong_count(&arc);
    descriptor.ready(EventFlags::OUT);
    assert_eq!(Arc::strong_count(&arc), references, "kept when woken");
    descriptor.writer.wait(&Context::from_waker(&waker));
    assert_eq!(Arc::strong_count(&arc), references);
    descriptor.writer.forget();
    assert_eq!(Arc::strong_count(&arc), references - 1);
}
