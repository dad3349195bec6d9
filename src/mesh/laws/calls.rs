//! MESSAGE-8, MESSAGE-9, MESSAGE-10, and `run_on`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{CallError, CallOptions, CallPort, OpenError};

on_each_reactor![
    message_8_a_handler_that_panics_fails_its_caller_and_nobody_else,
    message_9_a_nested_call_on_the_same_port_is_an_error_that_names_the_port,
    message_10_a_cancelled_calls_reply_is_dropped_once_and_its_credit_comes_back_only_then,
    run_on_answers_what_the_closure_does_there,
    a_port_is_opened_once_per_shard_and_only_in_its_runtime,
];

fn message_8_a_handler_that_panics_fails_its_caller_and_nobody_else(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = CallPort::<u32, u32>::declare(&mesh, "panics", CallOptions { credits: 2 }).unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let handler = |_, n| {
            assert_ne!(n, 3, "planned, before the first poll");
            async move {
                assert_ne!(n, 5, "planned, in a poll");
                n
            }
        };
        shard.serve(&port, handler).unwrap();
        let (caller, over) = (shard.caller(&port).unwrap(), over.clone());
        async move {
            if shard.id() == id(1) {
                let calls = (0..8).map(|n| caller.call(id(0), n));
                for (n, outcome) in (0..).zip(futures_util::future::join_all(calls).await) {
                    let bad = n == 3 || n == 5;
                    assert_eq!(outcome, if bad { Err(CallError::Failed("panics")) } else { Ok(n) });
                }
                for n in 10..20 {
                    assert_eq!(caller.call(id(0), n).await, Ok(n), "credits or tasks were lost");
                }
            }
            over.wait().await;
            assert_eq!(shard.stats().panics, if shard.id() == id(0) { 2 } else { 0 });
        }
    });
}

fn message_9_a_nested_call_on_the_same_port_is_an_error_that_names_the_port(bench: &Bench) {
    let mesh = bench.mesh(2);
    let outer =
        CallPort::<u32, Result<u32, CallError>>::declare(&mesh, "outer", CallOptions::default()).unwrap();
    let inner = CallPort::<u32, u32>::declare(&mesh, "inner", CallOptions::default()).unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let (same, other) = (shard.caller(&outer).unwrap(), shard.caller(&inner).unwrap());
        let handler = move |from, n| {
            let (same, other) = (same.clone(), other.clone());
            async move {
                match n {
                    0 => same.call(from, 1).await.and_then(|inner| inner),
                    _ => other.call(from, n).await,
                }
            }
        };
        shard.serve(&outer, handler).unwrap();
        shard.serve(&inner, |_, n| async move { n + 1 }).unwrap();
        let (caller, over) = (shard.caller(&outer).unwrap(), over.clone());
        async move {
            let to = id(1 - shard.id().index());
            let refused = caller.call(to, 0).await.unwrap().unwrap_err();
            assert_eq!(refused, CallError::Nested("outer"));
            assert!(refused.to_string().contains("outer"));
            assert_eq!(caller.call(to, 5).await, Ok(Ok(6)), "another port may be called");
            over.wait().await;
        }
    });
}

/// Counts itself when it is dropped.
#[derive(Debug)]
struct Late(Arc<AtomicUsize>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn message_10_a_cancelled_calls_reply_is_dropped_once_and_its_credit_comes_back_only_then(bench: &Bench) {
    let mesh = bench.mesh(1);
    let port = CallPort::<bool, Late>::declare(&mesh, "late", CallOptions { credits: 1 }).unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    bench.run(&mesh, move |shard| {
        let gate = Rc::new(Cell::new(false));
        let (opened, waiter, made) = (gate.clone(), shard.clone(), count.clone());
        let handler = move |_, waits: bool| {
            let (gate, shard, made) = (opened.clone(), waiter.clone(), made.clone());
            async move {
                while waits && !gate.get() {
                    shard.yield_now().await;
                }
                Late(made)
            }
        };
        shard.serve(&port, handler).unwrap();
        let (caller, dropped) = (shard.caller(&port).unwrap(), count.clone());
        async move {
            let mut cancelled = Box::pin(caller.call(id(0), true));
            assert!(futures_util::poll!(&mut cancelled).is_pending());
            drop(cancelled);
            let mut next = Box::pin(caller.call(id(0), false));
            for _ in 0..20 {
                assert!(futures_util::poll!(&mut next).is_pending(), "the credit came back before the reply");
                shard.yield_now().await;
            }
            gate.set(true);
            let reply = next.await.unwrap();
            assert_eq!(dropped.load(SeqCst), 1, "the late reply is dropped once");
            drop(reply);
        }
    });
    assert_eq!(dropped.load(SeqCst), 2);
}

fn run_on_answers_what_the_closure_does_there(bench: &Bench) {
    let mesh = bench.mesh(2);
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let over = over.clone();
        async move {
            for target in shard.ids() {
                let there = shard.run_on(target, |there| async move {
                    there.yield_now().await;
                    there.id()
                });
                assert_eq!(there.await, Ok(target));
            }
            let panics = shard.run_on(id(0), |_| async { panic!("planned") });
            assert_eq!(panics.await, Err::<(), _>(CallError::Failed("run_on")));
            let nested = shard.run_on(id(1), |there| async move { there.run_on(id(0), |_| async {}).await });
            assert_eq!(nested.await, Ok(Err(CallError::Nested("run_on"))));
            over.wait().await;
        }
    });
}

fn a_port_is_opened_once_per_shard_and_only_in_its_runtime(bench: &Bench) {
    let (mesh, other) = (bench.mesh(1), bench.mesh(1));
    let here = CallPort::<u32, u32>::declare(&mesh, "here", CallOptions::default()).unwrap();
    let there = CallPort::<u32, u32>::declare(&other, "there", CallOptions::default()).unwrap();
    assert!(
        CallPort::<u32, u32>::declare(&mesh, "here", CallOptions::default()).is_err(),
        "the name is taken"
    );
    assert!(CallPort::<u32, u32>::declare(&mesh, "none", CallOptions { credits: 0 }).is_err());
    bench.run(&mesh, move |shard| {
        let serve = |port| shard.serve(port, |_, n| async move { n }).map(drop);
        assert_eq!(serve(&here), Ok(()));
        assert_eq!(serve(&here), Err(OpenError::AlreadyOpen("here")));
        assert_eq!(serve(&there), Err(OpenError::Foreign("there")));
        async {}
    });
}
