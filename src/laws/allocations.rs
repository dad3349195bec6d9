//! Nothing is allocated per message, call, scheduled message or forwarded read once lanes, slots and tasks are as many as are in use at
//! once. A test program of its own, since it counts in the global allocator.

mod forwarded;
mod timers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::join;
use waterwheel::mesh::{CallPort, Port, PortOptions};
use waterwheel::net::codec::{Framed, LineEnding, Lines};
use waterwheel::net::layer::{Bucket, Timeouts};
use waterwheel::reactor::ConnectOptions;
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::{Shard, ShardId, Shares};

/// The system's allocator, counting per thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Whether this thread's allocations are counted in [`WATCHED`] too.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// What the threads that are watched have allocated so far, for the other threads to read.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// Counts one; a thread that is ending is not counted.
fn count() {
    let _ended = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    if IS_WATCHED.try_with(Cell::get).unwrap_or(false) {
        WATCHED.fetch_add(1, Relaxed);
    }
}

// SAFETY: every method hands its arguments, unchanged, to the system's allocator, and returns what that returned, so
// the callers' promises and the allocator's carry over. Counting touches a constant-initialised thread-local without a
// destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread has allocated so far.
fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Shards on `epoll` that do, or talk, as `main` says.
fn on_shards<F>(runtime: Runtime, main: impl Fn(Shard) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    runtime.run(main).expect("every shard ends well");
}

fn runtime() -> Runtime {
    // Without the program, so that connections are handed over too.
    let config = Config::default().cores(2).reactor("epoll").steer_program(false);
    Runtime::new(config).expect("epoll").without_signals()
}

/// Rounds before the count begins, in which everything grows to its size, and rounds that are counted.
const WARM: u64 = 300;
const COUNTED: u64 = 2_000;

/// Counts what `round` allocates on this shard once warm.
async fn count_rounds(what: &str, mut round: impl AsyncFnMut(u64)) {
    for number in 0..WARM {
        round(number).await;
    }
    let before = allocations();
    for number in WARM..WARM + COUNTED {
        round(number).await;
    }
    let allocated = allocations() - before;
    assert_eq!(allocated, 0, "{what}: {allocated} allocations in {COUNTED} rounds");
}

#[test]
fn the_allocator_counts() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn messages_to_and_fro_allocate_nothing_waiting_for_room_included() {
    let runtime = runtime();
    let port: Port<[u64; 4]> = runtime.port_with("numbers", PortOptions { capacity: 8 }).expect("a new name");
    on_shards(runtime, move |shard| {
        let port = port.clone();
        async move {
            let mailbox = shard.open(&port)?;
            let other = ShardId::new(1 - shard.id().index());
            // More than the lane holds, both ways at once, so that sends wait for room.
            count_rounds("messages", async |number| {
                let sends = async {
                    for _ in 0..20 {
                        mailbox.send(other, [number; 4]).await.expect("the other lives");
                    }
                };
                let receives = async {
                    for _ in 0..20 {
                        assert_eq!(mailbox.receive().await.1[0], number);
                    }
                };
                join(sends, receives).await;
            })
            .await;
            Ok(())
        }
    });
}

#[test]
fn messages_to_oneself_and_scheduled_ones_allocate_nothing() {
    let runtime = runtime();
    let port: Port<u64> = runtime.port("later").expect("a new name");
    on_shards(runtime, move |shard| {
        let port = port.clone();
        async move {
            let mailbox = shard.open(&port)?;
            count_rounds("scheduled messages", async |number| {
                let soon = shard.now() + Duration::from_micros(20);
                mailbox.send_at(shard.id(), number + 1, soon).await.expect("it lives");
                mailbox.send(shard.id(), number).await.expect("it lives");
                let (first, second) = (mailbox.receive().await.1, mailbox.receive().await.1);
                assert_eq!(first + second, 2 * number + 1);
            })
            .await;
            Ok(())
        }
    });
}

#[test]
fn calls_both_ways_allocate_nothing_on_either_side() {
    let runtime = runtime();
    let port: CallPort<u64, u64> = runtime.call_port("add").expect("a new name");
    let done: CallPort<(), ()> = runtime.call_port("done").expect("a new name");
    on_shards(runtime, move |shard| {
        let (port, done) = (port.clone(), done.clone());
        async move {
            let gate = Rc::new(Gate::default());
            let opened = gate.clone();
            shard.serve(&port, move |_, number| {
                let gate = opened.clone();
                async move {
                    gate.pass().await;
                    number + 1
                }
            })?;
            let other = ShardId::new(1 - shard.id().index());
            let course = Rc::new(Course::default());
            for _ in 0..AT_ONCE {
                let (caller, course, shard) = (shard.caller(&port)?, course.clone(), shard.clone());
                shard.clone().spawn_detached("calls", async move {
                    for number in 0..WARM + COUNTED {
                        if number == WARM {
                            course.warm.set(course.warm.get() + 1);
                            course.reached(&shard, &course.go, 1).await;
                        }
                        assert_eq!(caller.call(other, number).await, Ok(number + 1));
                    }
                    course.over.set(course.over.get() + 1);
                    // Ending a task is not part of a call.
                    std::future::pending::<()>().await;
                });
            }
            course.reached(&shard, &course.warm, AT_ONCE).await;
            let before = allocations();
            course.go.set(1);
            course.reached(&shard, &course.over, AT_ONCE).await;
            assert_eq!(allocations() - before, 0, "in {COUNTED} calls of each of {AT_ONCE} tasks, both ways");
            shard.serve(&done, |_, ()| async {})?;
            shard.caller(&done)?.call(other, ()).await?;
            Ok(())
        }
    });
}

/// TIME-9, and what layers and codecs add to a connection: nothing is allocated for a frame, once warm.
#[test]
fn frames_through_layers_allocate_nothing() {
    let config = Config::default().cores(1).reactor("epoll");
    let runtime = Runtime::new(config).expect("epoll").without_signals();
    let listening = runtime.listen("tcp:127.0.0.1:0").expect("a free port");
    on_shards(runtime, move |shard| {
        let listening = listening.clone();
        async move {
            let mut acceptor = shard.accept_on(&listening)?;
            let near = shard.connect(listening.local(), &ConnectOptions::default()).await?;
            let far = acceptor.accept().await.expect("it came")?;
            let hour = Some(Duration::from_secs(3_600));
            let timeouts = Timeouts { idle: hour, first_byte: hour, total: hour, stalled_write: hour };
            let bucket = Bucket::new(&shard, 1 << 40, 1 << 20);
            let near = near.timed(timeouts).throttle_receiving(&bucket).throttle_sending(&bucket);
            let far = far.throttle_sending(&bucket).timed(timeouts);
            let codec = Lines::new(LineEnding::CrLf, 1_000);
            let (mut near, mut far) = (Framed::new(near, codec.clone()), Framed::new(far, codec));
            count_rounds("frames", async |_| {
                near.send(&[b'x'; 500]).await.expect("it is taken");
                assert_eq!(far.receive().await.expect("it comes").map(<[u8]>::len), Some(500));
                far.send(b"yes").await.expect("it is taken");
                assert_eq!(near.receive().await.expect("it comes"), Some(b"yes".as_slice()));
            })
            .await;
            shard.stop(Duration::ZERO);
            Ok(())
        }
    });
}

/// However late it happens: a busy machine may take long to bring about the first turn in which all tasks are ready.
#[test]
fn tasks_that_are_all_woken_in_one_turn_for_the_first_time_allocate_nothing() {
    all_woken("default", false);
    all_woken("default", true);
    all_woken("own", false);
    all_woken("own", true);
}

/// Of the group of this name, whose queue times are asked for when its tasks are there.
fn all_woken(name: &'static str, queue_times: bool) {
    const TASKS: usize = 1_000;
    let config = Config::default().cores(1).reactor("epoll");
    let runtime = Runtime::new(config).expect("epoll").without_signals();
    on_shards(runtime, move |shard| async move {
        let group = shard.group(name, Shares::DEFAULT)?;
        let wakers = Rc::new(RefCell::new(Vec::with_capacity(TASKS)));
        let woken = Rc::new(Cell::new(0));
        for number in 0..TASKS {
            let (own, woken, mut waits) = (wakers.clone(), woken.clone(), true);
            group.spawn_detached("waits", async move {
                poll_fn(|cx| {
                    if std::mem::take(&mut waits) {
                        own.borrow_mut().push(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
                .await;
                woken.set(woken.get() + 1);
                // Ending a task is not part of being woken.
                std::future::pending::<()>().await;
            });
            // Never more than one ready, whenever its group has its turn.
            while wakers.borrow().len() <= number {
                shard.yield_now().await;
            }
        }
        if queue_times {
            drop(group.with_queue_times());
        }
        let before = allocations();
        wakers.borrow().iter().for_each(Waker::wake_by_ref);
        while woken.get() < TASKS {
            shard.yield_now().await;
        }
        assert_eq!(allocations() - before, 0);
        Ok(())
    });
}

/// Tasks that call at once.
const AT_ONCE: u64 = 8;

/// Where the tasks of a shard stand.
#[derive(Default)]
struct Course {
    warm: Cell<u64>,
    go: Cell<u64>,
    over: Cell<u64>,
}

impl Course {
    /// Waits until as many as `count` have come to a point.
    async fn reached(&self, shard: &Shard, point: &Cell<u64>, count: u64) {
        while point.get() < count {
            shard.yield_now().await;
        }
    }
}

/// Holds the first handlers up until there is one for each task that calls, so that there are no more later.
#[derive(Default)]
struct Gate {
    came: Cell<u64>,
    wait: RefCell<Vec<Waker>>,
}

impl Gate {
    async fn pass(&self) {
        self.came.set(self.came.get() + 1);
        poll_fn(|cx| {
            let mut wait = self.wait.borrow_mut();
            if self.came.get() < AT_ONCE {
                wait.push(cx.waker().clone());
                return Poll::Pending;
            }
            wait.drain(..).for_each(Waker::wake);
            Poll::Ready(())
        })
        .await;
    }
}
