//! MESSAGE-4: after the target ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use futures_util::future::join5;
use waterwheel_reactor::Launch;

use super::{Bench, Meeting, id, launch, launch_lives, on_each_reactor};
use crate::mesh::{
    CallError, CallOptions, CallPort, Closed, Port, PortOptions, StopGuard, TrySendError, reopened,
};

on_each_reactor![
    message_4_who_waits_for_room_gets_the_message_back_when_the_target_ends,
    message_4_each_message_to_a_shard_that_ends_meanwhile_is_received_refused_or_counted,
    message_4_pending_and_later_calls_fail_when_the_target_ends,
    message_4_a_reply_that_was_sent_before_the_end_is_received,
    message_4_a_mailbox_that_is_dropped_closes_its_port_on_a_living_shard,
    message_4_a_server_that_stops_answers_what_waits_and_what_comes,
    message_4_a_message_that_panics_when_it_is_swept_keeps_nobody_from_hearing_of_the_end,
    message_4_a_shard_that_never_starts_fails_what_is_sent_to_it,
    message_4_what_a_next_life_wants_to_send_before_it_is_back_waits_and_arrives,
];

fn message_4_who_waits_for_room_gets_the_message_back_when_the_target_ends(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "gone", PortOptions { capacity: 1 }).unwrap();
    let (kept, waits) = (port.clone(), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (mailbox, waits) = (shard.open(&port).unwrap(), waits.clone());
        async move {
            if shard.id() == id(0) {
                return waits.wait().await;
            }
            mailbox.try_send(id(0), "swept").unwrap();
            let mut send = Box::pin(mailbox.send(id(0), "waits"));
            assert!(futures_util::poll!(&mut send).is_pending());
            waits.wait().await;
            assert_eq!(send.await, Err(Closed("waits")));
            assert_eq!(mailbox.try_send(id(0), "late"), Err(TrySendError::Closed("late")));
            assert_eq!(mailbox.send(id(0), "later").await, Err(Closed("later")));
        }
    });
    assert_eq!(kept.undelivered(), 1, "what was in the lane is counted");
}

/// Counts itself when it is dropped.
struct Tracked(Arc<AtomicU64>);

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn message_4_each_message_to_a_shard_that_ends_meanwhile_is_received_refused_or_counted(bench: &Bench) {
    // Many short runs: the end comes at another moment of the flood in each.
    for round in 0..60 {
        let mesh = bench.mesh(3);
        let port = Port::declare(&mesh, "race", PortOptions { capacity: 16 }).unwrap();
        let counts: [Arc<AtomicU64>; 4] = Default::default();
        let [sent, received, refused, dropped] = counts.clone();
        let kept = port.clone();
        bench.run(&mesh, move |shard| {
            let mailbox = shard.open(&port).unwrap();
            let [sent, received, refused, dropped] = [&sent, &received, &refused, &dropped].map(Arc::clone);
            async move {
                if shard.id() == id(0) {
                    for _ in 0..round * 5 {
                        mailbox.receive().await;
                        received.fetch_add(1, SeqCst);
                    }
                    return;
                }
                for _ in 0..500 {
                    sent.fetch_add(1, SeqCst);
                    if mailbox.send(id(0), Tracked(dropped.clone())).await.is_err() {
                        refused.fetch_add(1, SeqCst);
                        return;
                    }
                }
            }
        });
        let [sent, received, refused, dropped] = counts.map(|count| count.load(SeqCst));
        assert_eq!(sent, received + refused + kept.undelivered(), "a message vanished or came twice");
        assert_eq!(dropped, sent, "a message was kept or dropped twice");
    }
}

fn message_4_pending_and_later_calls_fail_when_the_target_ends(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = CallPort::<u32, u32>::declare(&mesh, "never", CallOptions { credits: 2 }).unwrap();
    let (kept, waits) = (port.clone(), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let waits = waits.clone();
        // The first is in work for ever, the second is, the third waits for credit.
        shard.serve(&port, |_, _| std::future::pending()).unwrap();
        let caller = shard.caller(&port).unwrap();
        async move {
            if shard.id() == id(0) {
                return waits.wait().await;
            }
            let mut calls: Vec<_> = (0..3).map(|n| Box::pin(caller.call(id(0), n))).collect();
            for call in &mut calls {
                assert!(futures_util::poll!(call).is_pending());
            }
            waits.wait().await;
            for call in calls {
                assert_eq!(call.await, Err(CallError::Closed));
            }
            assert_eq!(caller.call(id(0), 4).await, Err(CallError::Closed));
        }
    });
    drop(kept);
}

fn message_4_a_reply_that_was_sent_before_the_end_is_received(bench: &Bench) {
    for _ in 0..100 {
        let mesh = bench.mesh(2);
        let port = CallPort::<u32, u32>::declare(&mesh, "last", CallOptions::default()).unwrap();
        bench.run(&mesh, move |shard| {
            let handled = Meeting::of(2);
            let seen = handled.clone();
            let handler = move |_, n| {
                let seen = seen.clone();
                async move {
                    // The main task ends, and the shard with it, in the turn that sends the reply.
                    seen.wait().await;
                    n + 1
                }
            };
            shard.serve(&port, handler).unwrap();
            let caller = shard.caller(&port).unwrap();
            async move {
                match shard.id().index() {
                    0 => handled.wait().await,
                    _ => {
                        let outcome = caller.call(id(0), 1).await;
                        assert!(outcome == Ok(2) || outcome == Err(CallError::Closed), "{outcome:?}");
                    }
                }
            }
        });
    }
}

fn message_4_a_mailbox_that_is_dropped_closes_its_port_on_a_living_shard(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "dropped", PortOptions { capacity: 1 }).unwrap();
    let (kept, waits, closed) = (port.clone(), Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (mailbox, waits, closed) = (shard.open(&port).unwrap(), waits.clone(), closed.clone());
        async move {
            if shard.id() == id(0) {
                waits.wait().await;
                drop(mailbox);
                return closed.wait().await;
            }
            mailbox.try_send(id(0), 1).unwrap();
            let mut send = Box::pin(mailbox.send(id(0), 2));
            assert!(futures_util::poll!(&mut send).is_pending());
            waits.wait().await;
            assert_eq!(send.await, Err(Closed(2)));
            assert_eq!(mailbox.try_send(id(0), 3), Err(TrySendError::Closed(3)));
            closed.wait().await;
        }
    });
    assert_eq!(kept.undelivered(), 1);
}

fn message_4_a_server_that_stops_answers_what_waits_and_what_comes(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = CallPort::<u32, u32>::declare(&mesh, "stops", CallOptions::default()).unwrap();
    let over = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let server = shard.serve(&port, |_, n| async move { n }).unwrap();
        let (caller, over) = (shard.caller(&port).unwrap(), over.clone());
        async move {
            if shard.id() == id(0) {
                server.stop();
                return over.wait().await;
            }
            let mut answers = Vec::new();
            while answers.last() != Some(&Err(CallError::NotServed("stops"))) {
                answers.push(caller.call(id(0), 7).await);
            }
            assert!(answers.iter().rev().skip(1).all(|answer| *answer == Ok(7)));
            over.wait().await;
        }
    });
}

/// Panics when it is dropped, once it is told to.
struct Nasty(bool);

impl Drop for Nasty {
    fn drop(&mut self) {
        assert!(!self.0, "planned");
    }
}

fn message_4_a_message_that_panics_when_it_is_swept_keeps_nobody_from_hearing_of_the_end(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "nasty", PortOptions { capacity: 2 }).unwrap();
    let calls = CallPort::<Nasty, ()>::declare(&mesh, "nasty calls", CallOptions { credits: 2 }).unwrap();
    let (kept, kept_calls, sent) = (port.clone(), calls.clone(), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (mailbox, sent) = (shard.open(&port).unwrap(), sent.clone());
        let caller = shard.caller(&calls).unwrap();
        async move {
            if shard.id() == id(0) {
                return sent.wait().await;
            }
            mailbox.try_send(id(0), Nasty(true)).unwrap();
            mailbox.try_send(id(0), Nasty(true)).unwrap();
            let mut send = Box::pin(mailbox.send(id(0), Nasty(false)));
            assert!(futures_util::poll!(&mut send).is_pending());
            // Two requests in the lane, and one that waits for credit.
            let mut requests = [true, true, false].map(|nasty| Box::pin(caller.call(id(0), Nasty(nasty))));
            for request in &mut requests {
                assert!(futures_util::poll!(request).is_pending());
            }
            sent.wait().await;
            assert!(send.await.is_err());
            for request in requests {
                assert_eq!(request.await, Err(CallError::Closed));
            }
        }
    });
    assert_eq!((kept.undelivered(), kept_calls.undelivered()), (2, 2));
}

fn message_4_a_shard_that_never_starts_fails_what_is_sent_to_it(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "absent", PortOptions { capacity: 2 }).unwrap();
    let echo = CallPort::<u32, u32>::declare(&mesh, "echo", CallOptions::default()).unwrap();
    let (kept, absent) = (port.clone(), StopGuard::new(&mesh, 0));
    let absent = std::sync::Mutex::new(Some(absent));
    let absent = Arc::new(absent);
    let done = Arc::new(AtomicU64::new(0));
    let seen = done.clone();
    let only = launch(&mesh, StopGuard::new(&mesh, 1), 1, move |shard| {
        let (mailbox, caller) = (shard.open(&port).unwrap(), shard.caller(&echo).unwrap());
        let (absent, done) = (absent.clone(), seen.clone());
        async move {
            mailbox.try_send(id(0), 1).unwrap();
            let mut call = Box::pin(caller.call(id(0), 1));
            assert!(futures_util::poll!(&mut call).is_pending());
            drop(absent.lock().unwrap().take());
            assert_eq!(call.await, Err(CallError::Closed));
            assert!(mailbox.send(id(0), 2).await.is_err());
            done.fetch_add(1, SeqCst);
        }
    });
    // A backend numbers its launches from 0; the shard in this one keeps its own number.
    bench.backend.run(vec![Launch { shard: 0, ..only }]).unwrap();
    assert_eq!(done.load(SeqCst), 1);
    assert_eq!(kept.undelivered(), 1);
}

fn message_4_what_a_next_life_wants_to_send_before_it_is_back_waits_and_arrives(bench: &Bench) {
    let mesh = bench.mesh(2);
    let numbers = Port::<u32>::declare(&mesh, "numbers", PortOptions::default()).unwrap();
    let plus = CallPort::<u32, u32>::declare(&mesh, "plus", CallOptions::default()).unwrap();
    let (first, done, over) = (AtomicBool::new(true), Arc::new(AtomicU64::new(0)), Meeting::of(2));
    let (own, own_numbers, own_plus, own_over) = (done.clone(), numbers.clone(), plus.clone(), over.clone());
    let guards = vec![StopGuard::new(&mesh, 0), StopGuard::new(&mesh, 0)];
    let back = launch_lives(&mesh, guards, 0, move |shard| {
        let is_first = first.swap(false, SeqCst);
        let (numbers, plus, over, done) =
            (own_numbers.clone(), own_plus.clone(), own_over.clone(), own.clone());
        async move {
            if is_first {
                return;
            }
            shard.serve(&plus, |_, n| async move { n + 1 }).unwrap();
            let (caller, mailbox) = (shard.caller(&plus).unwrap(), shard.open(&numbers).unwrap());
            assert_eq!(mailbox.try_send(id(1), 6), Err(TrySendError::Full(6)));
            let called = join5(
                caller.call(id(1), 1),
                caller.call(id(0), 2),
                mailbox.send(id(1), 7),
                mailbox.send(id(0), 8),
                reopened(&shard),
            );
            assert_eq!(called.await, (Ok(2), Ok(3), Ok(()), Ok(()), ()));
            assert_eq!(mailbox.receive().await, (id(0), 8));
            over.wait().await;
            done.fetch_add(1, SeqCst);
        }
    });
    let kept = numbers.clone();
    let other = launch(&mesh, StopGuard::new(&mesh, 1), 1, move |shard| {
        let (numbers, plus, over, done) = (numbers.clone(), plus.clone(), over.clone(), done.clone());
        async move {
            shard.serve(&plus, |_, n| async move { n + 1 }).unwrap();
            assert_eq!(shard.open(&numbers).unwrap().receive().await, (id(0), 7));
            over.wait().await;
            done.fetch_add(1, SeqCst);
        }
    });
    bench.backend.run(vec![back, other]).expect("every shard ends well");
    assert_eq!(kept.undelivered(), 0);
}
