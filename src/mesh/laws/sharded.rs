//! Instances: one per shard, started and stopped together, asked by closures, and never left hanging.

use std::cell::{Cell, RefCell};
use std::future::{Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::join;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{CallError, CallOptions, Instance, InvokeError, Local, Sharded, SpreadError};
use crate::shard::{Shard, ShardId, deferred};

on_each_reactor![
    an_instance_is_asked_on_its_own_shard_and_answers,
    a_constructor_that_fails_stops_the_others_and_says_which_shard,
    a_stop_waits_for_whoever_uses_the_instance_and_refuses_whoever_comes,
    a_closure_that_panics_or_a_shard_that_ended_is_told_and_nobody_hangs,
    kinds_ask_each_other_and_a_kind_that_asks_itself_is_told,
];

/// Counts its own life on all shards together.
struct Counter {
    shard: ShardId,
    /// Neither may leave its shard.
    count: Rc<Cell<u64>>,
    alive: Arc<AtomicUsize>,
    stopped: Arc<AtomicUsize>,
}

impl Counter {
    fn of(shard: &Shard, alive: &Arc<AtomicUsize>, stopped: &Arc<AtomicUsize>) -> Counter {
        alive.fetch_add(1, SeqCst);
        Counter { shard: shard.id(), count: Rc::default(), alive: alive.clone(), stopped: stopped.clone() }
    }

    fn add(&self, more: u64) -> (ShardId, u64) {
        assert_eq!(Shard::current().map(|shard| shard.id()), Some(self.shard), "it left its shard");
        self.count.set(self.count.get() + more);
        (self.shard, self.count.get())
    }
}

impl Instance for Counter {
    async fn stop(&self) {
        Shard::current().expect("on its shard").yield_now().await;
        self.stopped.fetch_add(1, SeqCst);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

/// Makes counters, on whichever shard.
fn maker(
    alive: &Arc<AtomicUsize>,
    stopped: &Arc<AtomicUsize>,
) -> impl Fn(Shard) -> Ready<Result<Counter, ()>> + Clone + Send + 'static {
    let (alive, stopped) = (alive.clone(), stopped.clone());
    move |there| ready(Ok(Counter::of(&there, &alive, &stopped)))
}

fn counters(mesh: &crate::mesh::Mesh) -> Sharded<Counter> {
    Sharded::declare(mesh, "counters", CallOptions::default()).unwrap()
}

fn an_instance_is_asked_on_its_own_shard_and_answers(bench: &Bench) {
    let mesh = bench.mesh(3);
    let (declared, [alive, stopped]) = (counters(&mesh), <[Arc<AtomicUsize>; 2]>::default());
    let (over, kept) = (Meeting::of(3), alive.clone());
    bench.run(&mesh, move |shard| {
        let (declared, alive, stopped, over) =
            (declared.clone(), alive.clone(), stopped.clone(), over.clone());
        async move {
            let counters = shard.instances(&declared).unwrap();
            if shard.id() != id(0) {
                // Held no longer than needed: a stop would wait for it.
                let own = counters.started().await.unwrap();
                assert_eq!(own.shard, shard.id());
                drop(own);
                return over.wait().await;
            }
            assert!(matches!(counters.local(), Err(InvokeError::NotRunning { .. })), "nobody started it");
            let refused = InvokeError::NotRunning { name: "counters", shard: id(2) };
            assert_eq!(counters.invoke_on(id(2), |_| async {}).await, Err(refused));
            let make = maker(&alive, &stopped);
            counters.start(make.clone()).await.unwrap();
            assert_eq!(alive.load(SeqCst), 3);
            let again = counters.start(make).await;
            assert_eq!(again, Err(SpreadError::AlreadyStarted { shard: id(0) }));
            for round in 1..4 {
                for to in shard.ids() {
                    let add = |counter: Local<Counter>| async move { counter.add(5) };
                    assert_eq!(counters.invoke_on(to, add).await, Ok((to, 5 * round)));
                }
            }
            counters.local().unwrap().add(1);
            let counts = counters.invoke_on_all(|counter: Local<Counter>| async move { counter.add(0).1 });
            assert_eq!(counts.await.unwrap(), [16, 15, 15]);
            let sum = counters.map_reduce(
                |counter: Local<Counter>| async move { counter.add(0).1 },
                100,
                |sum, count| sum + count,
            );
            assert_eq!(sum.await, Ok(146));
            counters.stop().await.unwrap();
            assert_eq!((alive.load(SeqCst), stopped.load(SeqCst)), (0, 3));
            assert_eq!(counters.invoke_on(id(2), |_| async {}).await, Err(refused));
            counters.stop().await.unwrap();
            over.wait().await;
        }
    });
    assert_eq!(kept.load(SeqCst), 0);
}

fn a_constructor_that_fails_stops_the_others_and_says_which_shard(bench: &Bench) {
    let mesh = bench.mesh(3);
    let (declared, [alive, stopped]) = (counters(&mesh), <[Arc<AtomicUsize>; 2]>::default());
    let over = Meeting::of(3);
    bench.run(&mesh, move |shard| {
        let (declared, alive, stopped, over) =
            (declared.clone(), alive.clone(), stopped.clone(), over.clone());
        async move {
            if shard.id() != id(1) {
                // It needs nothing of a shard that its instance lives on, but that it runs.
                return over.wait().await;
            }
            let counters = shard.instances(&declared).unwrap();
            let waits = counters.clone();
            let waiting = shard.spawn("waits", async move { waits.started().await.map(drop) });
            for panics in [false, true] {
                let (live, ended) = (alive.clone(), stopped.clone());
                let outcome = counters
                    .start(move |there| {
                        let made = Counter::of(&there, &live, &ended);
                        async move {
                            there.sleep(Duration::from_micros(50)).await;
                            assert!(!(panics && there.id() == id(2)), "planned");
                            if there.id() == id(2) { Err("no room") } else { Ok(made) }
                        }
                    })
                    .await;
                let expected = match panics {
                    false => SpreadError::Instance { shard: id(2), error: "no room" },
                    true => SpreadError::Call { shard: id(2), error: CallError::Failed("counters") },
                };
                assert_eq!(outcome, Err(expected));
                assert_eq!(alive.load(SeqCst), 0, "an instance was left");
            }
            assert_eq!(stopped.load(SeqCst), 4, "they were not stopped but dropped");
            waiting.await.unwrap().ok();
            counters.start(maker(&alive, &stopped)).await.expect("all is as before the first start");
            counters.stop().await.unwrap();
            over.wait().await;
        }
    });
}

fn a_stop_waits_for_whoever_uses_the_instance_and_refuses_whoever_comes(bench: &Bench) {
    let mesh = bench.mesh(2);
    let (declared, [alive, stopped]) = (counters(&mesh), <[Arc<AtomicUsize>; 2]>::default());
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (declared, alive, stopped, over) =
            (declared.clone(), alive.clone(), stopped.clone(), over.clone());
        async move {
            let counters = shard.instances(&declared).unwrap();
            if shard.id() != id(0) {
                return over.wait().await;
            }
            counters.start(maker(&alive, &stopped)).await.unwrap();
            let (go, gone) = deferred::<()>();
            let local = counters.local().unwrap();
            let user = shard.spawn("uses", async move {
                gone.await.unwrap();
                local.add(7)
            });
            let uses = counters.invoke_on(id(1), |counter| async move {
                Shard::current().expect("a shard").sleep(Duration::from_millis(2)).await;
                counter.add(3)
            });
            let mut stopping = Box::pin(counters.stop());
            let mut uses = Box::pin(uses);
            assert!(futures_util::poll!(&mut uses).is_pending());
            assert!(futures_util::poll!(&mut stopping).is_pending());
            assert_eq!(uses.await, Ok((id(1), 3)), "an instance was stopped under its user");
            assert!(shard.timeout(Duration::from_millis(2), &mut stopping).await.is_err(), "it did not wait");
            assert!(alive.load(SeqCst) >= 1 && counters.local().is_err(), "nobody gets at it any more");
            go.resolve(());
            assert_eq!(user.await, Ok((id(0), 7)));
            stopping.await.unwrap();
            assert_eq!((alive.load(SeqCst), stopped.load(SeqCst)), (0, 2));
            over.wait().await;
        }
    });
}

fn a_closure_that_panics_or_a_shard_that_ended_is_told_and_nobody_hangs(bench: &Bench) {
    let mesh = bench.mesh(3);
    let (declared, [alive, stopped]) = (counters(&mesh), <[Arc<AtomicUsize>; 2]>::default());
    let (kept, started, over) = (alive.clone(), Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (declared, alive, stopped) = (declared.clone(), alive.clone(), stopped.clone());
        let (started, over) = (started.clone(), over.clone());
        async move {
            match shard.id().index() {
                1 => return over.wait().await,
                2 => return started.wait().await,
                _ => {}
            }
            let counters = shard.instances(&declared).unwrap();
            let make = maker(&alive, &stopped);
            counters.start(make.clone()).await.unwrap();
            let failed = |shard, error| InvokeError::Call { name: "counters", shard, error };
            let outcome = counters
                .invoke_on(id(1), |counter| async move {
                    assert_eq!(counter.add(0).1, 1, "planned");
                })
                .await;
            assert_eq!(outcome, Err(failed(id(1), CallError::Failed("counters"))));
            // One asks while the shard ends, others after it.
            let pending = counters.invoke_on(id(2), |_| std::future::pending::<()>());
            let (outcome, ()) = join(pending, started.wait()).await;
            let closed = failed(id(2), CallError::Closed);
            assert_eq!(outcome, Err(closed));
            let add = |counter: Local<Counter>| async move { counter.add(1).1 };
            assert_eq!(counters.invoke_each(add).await, [Ok(1), Ok(1), Err(closed)]);
            assert_eq!(counters.map_reduce(add, 0, |sum, one| sum + one).await, Err(closed));
            assert_eq!(counters.stop().await, Err(closed));
            let again = counters.start(make).await;
            assert_eq!(again, Err(SpreadError::Call { shard: id(2), error: CallError::Closed }));
            assert!(counters.local().is_err(), "of a start that failed nothing is left");
            over.wait().await;
        }
    });
    assert_eq!(kept.load(SeqCst), 0, "the instance of a shard that ended goes with it");
}

/// Keeps names in a cell, and asks the counters.
struct Names(RefCell<Vec<&'static str>>);

impl Instance for Names {}

fn kinds_ask_each_other_and_a_kind_that_asks_itself_is_told(bench: &Bench) {
    let mesh = bench.mesh(2);
    let (declared, [alive, stopped]) = (counters(&mesh), <[Arc<AtomicUsize>; 2]>::default());
    let names = Sharded::<Names>::declare(&mesh, "names", CallOptions::default()).unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (declared, names, over) = (declared.clone(), names.clone(), over.clone());
        let (alive, stopped) = (alive.clone(), stopped.clone());
        async move {
            let (counters, listed) = (shard.instances(&declared).unwrap(), shard.instances(&names).unwrap());
            if shard.id() == id(0) {
                counters.start(maker(&alive, &stopped)).await.unwrap();
                listed.start(|_| async { Ok::<_, ()>(Names(RefCell::default())) }).await.unwrap();
                let counted = listed.invoke_on(id(1), move |own| async move {
                    own.0.borrow_mut().push("mill");
                    let shard = Shard::current().expect("a shard");
                    let counters = shard.instances(&declared).unwrap();
                    let counted = counters.invoke_on(id(0), |counter| async move { counter.add(4) }).await;
                    let itself = shard.instances(&names).unwrap().invoke_on(id(0), |_| async {}).await;
                    (counted, itself)
                });
                let error = CallError::Nested("names");
                let nested = InvokeError::Call { name: "names", shard: id(0), error };
                assert_eq!(counted.await, Ok((Ok((id(0), 4)), Err(nested))));
            }
            over.wait().await;
        }
    });
}
