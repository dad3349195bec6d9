//! The end of a shard, at any moment.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::SeqCst;

use loom::thread;
use waterwheel_reactor::Time;

use super::actor::{Actor, Requests, ask, no_time};
use super::explore;
use crate::mesh::calls::ends::Arrived;
use crate::mesh::calls::{CallError, CallOptions, CallPort};
use crate::mesh::hub::Mesh;
use crate::mesh::jobs::{Jobs, Refused};
use crate::mesh::port::{Port, PortOptions, TrySendError};
use crate::mesh::stop::StopGuard;
use crate::mesh::wanted::{Bits, bit_of};

/// Shard 0 takes `turns` turns and ends while `senders` shards send it `each` messages. Every message is received,
/// refused, or failed and counted once.
fn stop(senders: usize, each: usize, turns: usize) {
    let mesh = Mesh::new(senders + 1, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 2 }).unwrap();
    let target = StopGuard::new(&mesh, 0);
    let refused = Arc::new(Count::new(0));
    let threads: Vec<_> = (1..=senders)
        .map(|id| {
            let (mesh, port, refused) = (mesh.clone(), port.clone(), refused.clone());
            thread::spawn(move || {
                let sender = Actor::new(&mesh, id);
                let ends = sender.ends(&port);
                for n in 0..each {
                    sender.turn(|| match ends.try_send(0, Time::ZERO, n) {
                        Ok(()) => {}
                        Err(TrySendError::Closed(_)) => drop(refused.fetch_add(1, SeqCst)),
                        Err(TrySendError::Full(_)) => unreachable!("the lane has room for all"),
                    });
                }
                sender.settle();
            })
        })
        .collect();
    let mut received = 0;
    {
        let target = Actor::mortal(target);
        let ends = target.ends(&port);
        for _ in 0..turns {
            target.turn(|| {
                while ends.pop(&no_time).is_some() {
                    received += 1;
                }
            });
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let failed = usize::try_from(port.undelivered()).unwrap();
    assert_eq!(
        received + failed + refused.load(SeqCst),
        senders * each,
        "a message vanished or was counted twice"
    );
}

pub(super) fn stop_one() {
    stop(1, 2, 1);
}

pub(super) fn stop_two() {
    stop(2, 1, 1);
}

pub(super) fn never_started() {
    stop(1, 2, 0);
}

#[test]
fn every_message_to_a_shard_that_ends_is_accounted_for() {
    explore(4, stop_one);
}

#[test]
fn every_message_of_two_to_a_shard_that_ends_is_accounted_for() {
    explore(3, stop_two);
}

#[test]
fn every_message_to_a_shard_that_never_took_a_turn_is_accounted_for() {
    explore(4, never_started);
}

/// Two shards send each other a message in their last turn, and end. Each message is received, refused, or failed and
/// counted once.
pub(super) fn both_end() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let accounted = Arc::new(Count::new(0));
    let guards = [StopGuard::new(&mesh, 0), StopGuard::new(&mesh, 1)];
    let mut lives = guards.into_iter().enumerate().map(|(id, guard)| {
        let (port, accounted) = (port.clone(), accounted.clone());
        move || {
            let shard = Actor::mortal(guard);
            let ends = shard.ends(&port);
            shard.turn(|| {
                if ends.try_send(1 - id, Time::ZERO, 0).is_err() {
                    accounted.fetch_add(1, SeqCst);
                }
                while ends.pop(&no_time).is_some() {
                    accounted.fetch_add(1, SeqCst);
                }
            });
        }
    });
    let (this, other) = (lives.next().unwrap(), lives.next().unwrap());
    let thread = thread::spawn(other);
    this();
    thread.join().unwrap();
    let failed = usize::try_from(port.undelivered()).unwrap();
    assert_eq!(accounted.load(SeqCst) + failed, 2, "a message vanished or was counted twice");
}

#[test]
fn every_message_between_two_shards_that_end_is_accounted_for() {
    explore(3, both_end);
}

/// Shard 1 calls shard 0, which rings it for nothing, answers if it sees the request, and ends. The caller never hangs;
/// if a reply was sent it is not told that the target ended.
pub(super) fn call() {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, u32>::declare(&mesh, "model", CallOptions { credits: 1 }).unwrap();
    let replied = Arc::new(Count::new(0));
    let guard = StopGuard::new(&mesh, 0);
    let (their_mesh, their_port, their_replied) = (mesh.clone(), port.clone(), replied.clone());
    let thread = thread::spawn(move || {
        let target = Actor::mortal(guard);
        let ends = target.call_ends(&their_port);
        let requests = Rc::new(Requests::default());
        ends.serve(requests.clone());
        let nothing = Bits::default();
        nothing.insert(bit_of(their_port.shared.id));
        their_mesh.wanted(0, 1).tell(&nothing);
        their_mesh.bell(1).ring(0);
        target.turn(|| {
            for Arrived { from, ticket, request } in requests.take() {
                ends.reply(from, ticket, Ok(request + 1));
                their_replied.fetch_add(1, SeqCst);
            }
        });
    });
    let caller = Actor::new(&mesh, 1);
    let ends = caller.call_ends(&port);
    let outcome = caller.block_on(ask(&ends, 0, 1));
    match outcome {
        Ok(reply) => assert_eq!(reply, 2),
        Err(error) => {
            assert_eq!(error, CallError::Closed);
            assert_eq!(
                replied.load(SeqCst),
                0,
                "a reply was sent, and the caller was told that nobody answers"
            );
        }
    }
    thread.join().unwrap();
}

#[test]
fn a_caller_hears_the_reply_or_the_end() {
    explore(4, call);
}

/// Shard 1 waits for room in its lane to shard 0, which ends without receiving.
pub(super) fn room_at_the_end() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let guard = StopGuard::new(&mesh, 0);
    let their_port = port.clone();
    let thread = thread::spawn(move || {
        let target = Actor::mortal(guard);
        let _ends = target.ends(&their_port);
        target.turn(|| ());
    });
    let sender = Actor::new(&mesh, 1);
    let ends = sender.ends(&port);
    let sent = sender.block_on(async {
        let mut sent = 0;
        for message in 0..2 {
            let mut envelope = Some(crate::mesh::port::Envelope { at: Time::ZERO, message });
            let mut place = None;
            let taken = poll_fn(|cx| ends.poll_send(0, &mut envelope, &mut place, cx.waker())).await;
            sent += u64::from(taken);
        }
        sent
    });
    sender.settle();
    thread.join().unwrap();
    assert_eq!(port.undelivered(), sent);
}

#[test]
fn who_waits_for_room_is_told_when_the_target_ends() {
    explore(4, room_at_the_end);
}

/// Two threads leave a job each for a shard that takes one turn and ends.
pub(super) fn jobs() {
    let mesh = Mesh::new(1, 64);
    let jobs = Arc::new(Jobs::<usize>::new(4));
    let refused = Arc::new(Count::new(0));
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let (mesh, jobs, refused) = (mesh.clone(), jobs.clone(), refused.clone());
            thread::spawn(move || match jobs.leave(mesh.bell(0), n) {
                Ok(()) => {}
                Err(Refused::Closed(_)) => drop(refused.fetch_add(1, SeqCst)),
                Err(Refused::Full(_)) => unreachable!("there is room for both"),
            })
        })
        .collect();
    let mut done = 0;
    {
        let shard = Actor::new(&mesh, 0);
        if shard.turn(|| ()).foreign {
            done += std::iter::from_fn(|| jobs.take()).count();
        }
        mesh.bell(0).stop();
        jobs.sweep();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let lost = usize::try_from(jobs.lost()).unwrap();
    assert_eq!(done + lost + refused.load(SeqCst), 2, "a job vanished");
}

#[test]
fn every_job_for_a_shard_that_ends_is_accounted_for() {
    explore(4, jobs);
}
