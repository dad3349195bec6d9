//! MESSAGE-3 and MESSAGE-6: full lanes, waiting for room, and floods.

use std::cell::Cell;
use std::rc::Rc;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{CallOptions, CallPort, Mailbox, Port, PortOptions, TrySendError};
use crate::shard::Shard;

on_each_reactor![
    message_3_a_full_lane_gives_the_message_back_and_a_send_waits_for_room,
    message_3_those_who_wait_for_room_go_first_come_first_served_and_a_cancelled_one_holds_up_nobody,
    message_6_two_shards_that_flood_each_other_both_finish,
    message_6_a_ring_of_shards_that_flood_each_other_finishes,
    message_6_all_to_all_finishes_oneself_included,
    message_6_calls_that_flood_both_ways_all_get_their_replies,
];

fn message_3_a_full_lane_gives_the_message_back_and_a_send_waits_for_room(bench: &Bench) {
    let mesh = bench.mesh(2);
    let port = Port::declare(&mesh, "full", PortOptions { capacity: 3 }).unwrap();
    let (full, waits) = (Meeting::of(2), Meeting::of(2));
    bench.run(&mesh, move |shard| {
        let (mailbox, full, waits) = (shard.open(&port).unwrap(), full.clone(), waits.clone());
        async move {
            if shard.id() == id(0) {
                // Nothing is received before the sender has found the lane full and waits.
                full.wait().await;
                waits.wait().await;
                for n in 0..5 {
                    assert_eq!(mailbox.receive().await, (id(1), n));
                }
                return;
            }
            for n in 0..3 {
                mailbox.try_send(id(0), n).unwrap();
            }
            assert_eq!(mailbox.try_send(id(0), 3), Err(TrySendError::Full(3)));
            full.wait().await;
            let mut send = Box::pin(mailbox.send(id(0), 3));
            assert!(futures_util::poll!(&mut send).is_pending());
            waits.wait().await;
            assert_eq!(send.await, Ok(()));
            mailbox.send(id(0), 4).await.unwrap();
        }
    });
}

fn message_3_those_who_wait_for_room_go_first_come_first_served_and_a_cancelled_one_holds_up_nobody(
    bench: &Bench,
) {
    let mesh = bench.mesh(1);
    let port = Port::declare(&mesh, "queue", PortOptions { capacity: 1 }).unwrap();
    bench.run(&mesh, move |shard| {
        let mailbox = shard.open(&port).unwrap();
        async move {
            let me = shard.id();
            mailbox.try_send(me, 0).unwrap();
            let mut sends: Vec<_> = (1..=4)
                .map(|n| {
                    let sender = mailbox.sender();
                    Box::pin(async move { sender.send(me, n).await })
                })
                .collect();
            for send in &mut sends {
                assert!(futures_util::poll!(send).is_pending());
            }
            drop(sends.remove(0));
            let senders = shard.spawn("senders", futures_util::future::join_all(sends));
            assert_eq!(mailbox.receive().await.1, 0);
            assert_eq!(mailbox.try_send(me, 9), Err(TrySendError::Full(9)), "it went before those who wait");
            for n in 2..=4 {
                assert_eq!(mailbox.receive().await.1, n);
            }
            assert!(senders.await.unwrap().iter().all(Result::is_ok));
        }
    });
}

/// Sends `count` messages to each of `targets` and receives `expected`, both at once.
async fn flood(shard: Shard, mailbox: Mailbox<u64>, targets: Vec<usize>, count: u64, expected: u64) {
    let sends: Vec<_> = targets
        .into_iter()
        .map(|target| {
            let sender = mailbox.sender();
            shard.spawn("flood", async move {
                for n in 0..count {
                    sender.send(id(target), n).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..expected {
        mailbox.receive().await;
    }
    for send in sends {
        send.await.unwrap();
    }
}

fn message_6_two_shards_that_flood_each_other_both_finish(bench: &Bench) {
    floods(bench, 2, |me| vec![1 - me], 1);
}

fn message_6_a_ring_of_shards_that_flood_each_other_finishes(bench: &Bench) {
    floods(bench, 4, |me| vec![(me + 1) % 4], 1);
}

fn message_6_all_to_all_finishes_oneself_included(bench: &Bench) {
    floods(bench, 4, |_| (0..4).collect(), 4);
}

fn floods(bench: &Bench, shards: usize, targets: fn(usize) -> Vec<usize>, sources: u64) {
    const EACH: u64 = 3_000;
    let mesh = bench.mesh(shards);
    let port = Port::declare(&mesh, "flood", PortOptions { capacity: 2 }).unwrap();
    let meeting = Meeting::of(shards);
    bench.run(&mesh, move |shard| {
        let (mailbox, meeting) = (shard.open(&port).unwrap(), meeting.clone());
        let targets = targets(shard.id().index());
        async move {
            flood(shard, mailbox, targets, EACH, sources * EACH).await;
            meeting.wait().await;
        }
    });
}

fn message_6_calls_that_flood_both_ways_all_get_their_replies(bench: &Bench) {
    const TASKS: u64 = 40;
    const EACH: u64 = 50;
    let mesh = bench.mesh(2);
    let port = CallPort::<u64, u64>::declare(&mesh, "echo", CallOptions { credits: 4 }).unwrap();
    let meeting = Meeting::of(2);
    bench.run(&mesh, move |shard| {
        let at_work = Rc::new((Cell::new(0), Cell::new(0)));
        let (seen, meeting) = (at_work.clone(), meeting.clone());
        let slow = shard.clone();
        let handler = move |_, n| {
            let (seen, shard) = (seen.clone(), slow.clone());
            async move {
                seen.0.set(seen.0.get() + 1);
                seen.1.set(seen.1.get().max(seen.0.get()));
                shard.yield_now().await;
                seen.0.set(seen.0.get() - 1);
                n + 1
            }
        };
        shard.serve(&port, handler).unwrap();
        let caller = shard.caller(&port).unwrap();
        async move {
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (caller, to) = (caller.clone(), id((task % 2) as usize));
                    shard.spawn("calls", async move {
                        for n in 0..EACH {
                            assert_eq!(caller.call(to, n).await, Ok(n + 1));
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            meeting.wait().await;
            assert!(at_work.1.get() <= 8, "{} handlers at once with 2 times 4 credits", at_work.1.get());
            assert!(at_work.1.get() > 1, "handlers never ran side by side");
        }
    });
}
