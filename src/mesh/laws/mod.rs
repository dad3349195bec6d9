//! The laws about messages (MESSAGE-1 to MESSAGE-12 of the contract), on real threads and on every reactor that is
//! compiled in and can run here; and in simulated worlds, where a seed decides who runs next and when a wake arrives.

mod calls;
mod ends;
mod keyed;
mod leases;
mod order;
mod rates;
mod remote;
mod replicas;
mod room;
mod sharded;
mod turns;
mod wakes;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

use waterwheel_conformance::kit::wanted;
use waterwheel_reactor::{Backend, Launch};

use super::{Mesh, StopGuard};
use crate::shard::core::Core;
use crate::shard::root::RootFuture;
use crate::shard::task::Foreign;
use crate::shard::{Budgets, Shard, ShardId};

/// Longer than any law takes on a busy machine; a law that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The reactors that are compiled in.
fn reactors() -> Vec<&'static dyn Backend> {
    vec![
        #[cfg(feature = "epoll")]
        &waterwheel_epoll::Epoll,
        #[cfg(feature = "glommio")]
        &waterwheel_glommio::Glommio,
        #[cfg(feature = "uring")]
        const {
            &waterwheel_uring::Uring::new()
        },
    ]
}

/// Makes each law a test on each reactor that is compiled in, and in simulated worlds: those after `threads:` in one in
/// real time, since they talk to threads that are no shards; those after `kernel:` in none.
macro_rules! on_each_reactor {
    ($($law:ident,)* $(; threads: $($threads:ident,)*)? $(; kernel: $($kernel:ident,)*)?) => {
        #[cfg(feature = "epoll")]
        mod epoll {
            $crate::mesh::laws::on_a_reactor!("epoll": $($law,)* $($($threads,)*)? $($($kernel,)*)?);
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $crate::mesh::laws::on_a_reactor!("glommio": $($law,)* $($($threads,)*)? $($($kernel,)*)?);
        }
        #[cfg(feature = "uring")]
        mod uring {
            $crate::mesh::laws::on_a_reactor!("uring": $($law,)* $($($threads,)*)? $($($kernel,)*)?);
        }
        #[cfg(feature = "sim")]
        mod sim {
            $(#[test]
            fn $law() {
                crate::mesh::laws::hold_in_worlds(super::$law);
            })*
            $($(#[test]
            fn $threads() {
                crate::mesh::laws::hold_in_a_live_world(super::$threads);
            })*)?
        }
    };
}
macro_rules! on_a_reactor {
    ($reactor:literal: $($law:ident,)*) => {
        $(#[test]
        fn $law() {
            crate::mesh::laws::hold($reactor, super::$law);
        })*
    };
}
use {on_a_reactor, on_each_reactor};

/// Worlds in which each law is held.
#[cfg(feature = "sim")]
const WORLDS: u64 = 60;

/// Holds a law in simulated worlds, each of another seed.
#[cfg(feature = "sim")]
fn hold_in_worlds(law: fn(&Bench)) {
    for seed in 0..WORLDS {
        let world = waterwheel_sim::World::drawn(seed);
        let host = world.host("law");
        let held = catch_unwind(AssertUnwindSafe(|| law(&Bench { backend: &host })));
        assert!(
            held.is_ok(),
            "the law fails in the world of seed {seed}; the last events:\n{}",
            world.tail(30)
        );
    }
}

/// In one in real time, under a deadline as on a real reactor.
#[cfg(feature = "sim")]
fn hold_in_a_live_world(law: fn(&Bench)) {
    under_a_deadline("sim", move || law(&Bench { backend: &waterwheel_sim::World::live().host("law") }));
}

/// Runs a law on the reactor of this name, if that is to be tried, under a deadline, so that a hang is a failure with a
/// name.
fn hold(name: &'static str, law: fn(&Bench)) {
    let all = reactors();
    let backend = *all.iter().find(|backend| backend.name() == name).expect("it is compiled in");
    if !wanted(backend, &all) {
        return;
    }
    under_a_deadline(name, move || law(&Bench { backend }));
}

fn under_a_deadline(name: &str, law: impl FnOnce() + Send + 'static) {
    let (done, over) = mpsc::channel();
    let run = move || {
        law();
        done.send(()).expect("the test waits");
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
    match over.recv_timeout(DEADLINE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the law hangs on {name}"),
        _ => assert!(thread.join().is_ok(), "the law fails on {name}"),
    }
}

on_each_reactor!(what_is_left_of_a_shard_after_its_end_fails_the_law,);

fn what_is_left_of_a_shard_after_its_end_fails_the_law(bench: &Bench) {
    let mesh = bench.mesh(1);
    let leak = || bench.run(&mesh, |shard| async { std::mem::forget(shard) });
    assert!(catch_unwind(AssertUnwindSafe(leak)).is_err(), "a shard was kept, and nothing noticed");
}

/// One reactor to run shards on.
struct Bench<'a> {
    backend: &'a dyn Backend,
}

impl Bench<'_> {
    /// A mesh of `shards` shards, with the usual budget.
    fn mesh(&self, shards: usize) -> Arc<Mesh> {
        Mesh::new(shards, Budgets::default().messages)
    }

    /// Runs `main` on every shard of a mesh to its end.
    fn run<F, W>(&self, mesh: &Arc<Mesh>, main: F)
    where
        F: Fn(Shard) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + 'static,
    {
        let finished = Arc::new(AtomicUsize::new(0));
        let main = Arc::new(main);
        let launches = (0..mesh.shards())
            .map(|shard| {
                let (main, finished) = (main.clone(), finished.clone());
                launch(mesh, StopGuard::new(mesh, shard), shard, move |shard| {
                    let finished = finished.clone();
                    let main = main(shard);
                    async move {
                        main.await;
                        finished.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        self.backend.run(launches).expect("every shard ends well");
        assert_eq!(finished.load(SeqCst), mesh.shards(), "a shard's main task panicked or was dropped");
    }
}

thread_local! {
    /// The shards that run on this thread, by their mesh and number, to see that nothing is left of them after their end:
    /// whatever is left there, a task, a value or a resolver, holds the shard or is held by it.
    static ENDED: RefCell<BTreeMap<(u64, usize), Weak<Core>>> = const { RefCell::new(BTreeMap::new()) };
}

/// A shard to run, with its guard. Fails the run if the shard outlives its root.
fn launch<W: Future<Output = ()> + 'static>(
    mesh: &Arc<Mesh>,
    guard: StopGuard,
    shard: usize,
    main: impl Fn(Shard) -> W + Send + 'static,
) -> Launch {
    launch_lives(mesh, vec![guard], shard, main)
}

/// The same, with a guard for each of its lives.
fn launch_lives<W: Future<Output = ()> + 'static>(
    mesh: &Arc<Mesh>,
    mut guards: Vec<StopGuard>,
    shard: usize,
    main: impl Fn(Shard) -> W + Send + 'static,
) -> Launch {
    let mesh = mesh.clone();
    Launch {
        shard,
        name: format!("shard-{shard}"),
        prepare: Box::new(|| {}),
        start: Box::new(move |reactor| {
            // Asked again on the same thread after the end of the root.
            let ended = ENDED.with_borrow_mut(|ended| ended.remove(&(mesh.id(), shard)));
            if let Some(core) = ended.and_then(|ended| ended.upgrade()) {
                panic!("something still holds the shard that has ended: {core:?}");
            }
            let joined = guards.pop()?.join();
            let foreign = Arc::new(Foreign::new(mesh.bell(shard).clone()));
            let (id, count) = (ShardId::new(shard), mesh.shards());
            // Turns that end by the clock would make counts depend on the machine.
            let budgets = Budgets { turn: Duration::from_secs(60), ..Budgets::default() };
            let core = Core::new(id, count, reactor, joined.member().clone(), foreign, budgets);
            ENDED.with_borrow_mut(|ended| ended.insert((mesh.id(), shard), Rc::downgrade(&core)));
            let shard = Shard::from_core(core.clone());
            joined.start(&shard);
            Some(Box::pin(RootFuture::new(core, main(shard), Box::new(joined))))
        }),
    }
}

/// Where tasks of several shards wait for each other. Also wakes tasks from other threads, which nothing else here does.
#[derive(Clone)]
struct Meeting {
    expected: usize,
    state: Arc<Mutex<(usize, Vec<Waker>)>>,
}

impl Meeting {
    fn of(expected: usize) -> Meeting {
        Meeting { expected, state: Arc::default() }
    }

    /// Waits until as many as are expected are here. Once for each who comes.
    async fn wait(&self) {
        let mut came = false;
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap();
            state.0 += usize::from(!std::mem::replace(&mut came, true));
            if state.0 == self.expected {
                state.1.drain(..).for_each(Waker::wake);
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A turn of a shard that does not end until another one says so.
#[derive(Clone)]
struct Stuck {
    free: Arc<Mutex<Option<mpsc::Sender<()>>>>,
    stuck: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Stuck {
    fn new() -> Stuck {
        let (free, stuck) = mpsc::channel();
        Stuck { free: Arc::new(Mutex::new(Some(free))), stuck: Arc::new(Mutex::new(stuck)) }
    }

    /// In the middle of a turn.
    fn hang(&self) {
        assert!(self.stuck.lock().unwrap().recv().is_err());
    }

    fn free(&self) {
        drop(self.free.lock().unwrap().take());
    }
}

/// The shard with this number.
fn id(index: usize) -> ShardId {
    ShardId::new(index)
}
