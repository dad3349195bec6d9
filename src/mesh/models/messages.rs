//! Messages, room, held messages and jobs, between shards that live.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Wake;

use loom::thread;
use waterwheel_reactor::Time;

use super::actor::{Actor, no_time};
use super::explore;
use crate::mesh::ends::Ends;
use crate::mesh::hub::Mesh;
use crate::mesh::jobs::Jobs;
use crate::mesh::port::{Envelope, Port, PortOptions};

/// Sends one message as a task would.
pub(super) async fn send(ends: &Ends<usize>, to: usize, message: usize, at: Time) -> bool {
    let mut envelope = Some(Envelope { at, message });
    let mut place = None;
    poll_fn(|cx| ends.poll_send(to, &mut envelope, &mut place, cx.waker())).await
}

/// Receives one message as a task would.
pub(super) async fn receive(ends: &Ends<usize>) -> (usize, usize) {
    let mut place = None;
    poll_fn(|cx| ends.poll_receive(&no_time, &mut place, cx.waker())).await
}

/// `senders` shards send `turns` times `per_turn` messages each; shard 0 receives them, `budget` per source and turn,
/// and sleeps in between. All arrive, in order, and it is woken at most as often as it sleeps. `io`: something else
/// may wake it too, at any moment.
fn messages(senders: usize, turns: usize, per_turn: usize, budget: usize, io: bool) {
    let mesh = Mesh::new(senders + 1, budget);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 4 }).unwrap();
    let receiver = Actor::new(&mesh, 0);
    let mut threads: Vec<_> = (1..=senders)
        .map(|id| {
            let (mesh, port) = (mesh.clone(), port.clone());
            thread::spawn(move || {
                let sender = Actor::new(&mesh, id);
                let ends = sender.ends(&port);
                for turn in 0..turns {
                    sender.turn(|| {
                        for n in 0..per_turn {
                            assert!(ends.try_send(0, Time::ZERO, turn * per_turn + n).is_ok());
                        }
                    });
                }
            })
        })
        .collect();
    if io {
        let token = receiver.token.clone();
        threads.push(thread::spawn(move || Wake::wake(token)));
    }
    let ends = receiver.ends(&port);
    let mut next = vec![0; senders + 1];
    receiver.block_on(async {
        for _ in 0..senders * turns * per_turn {
            let (source, n) = receive(&ends).await;
            assert_eq!(n, next[source], "out of order");
            next[source] += 1;
        }
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let (wakes, parks) = receiver.wakes_and_parks();
    assert!(wakes <= parks, "woken {wakes} times in {parks} parks");
}

pub(super) fn one_message() {
    messages(1, 1, 1, 64, false);
}

pub(super) fn one_sender() {
    messages(1, 2, 1, 64, false);
}

pub(super) fn one_sender_and_io() {
    messages(1, 2, 1, 64, true);
}

pub(super) fn more_than_a_budget() {
    messages(1, 1, 2, 1, false);
}

pub(super) fn two_senders() {
    messages(2, 1, 1, 64, false);
}

#[test]
fn the_first_message_of_a_lane_finds_it_made() {
    explore(4, one_message);
}

#[test]
fn every_message_of_one_sender_arrives() {
    explore(4, one_sender);
}

#[test]
fn late_and_spurious_wakes_do_no_harm() {
    explore(4, one_sender_and_io);
}

#[test]
fn messages_beyond_the_budget_are_not_slept_on() {
    explore(4, more_than_a_budget);
}

#[test]
fn every_message_of_two_senders_arrives() {
    explore(3, two_senders);
}

/// A lane with room for one message, and three to send: both sides sleep when they can do nothing. `spurious`: the
/// sender's task is also polled when nobody woke it, once at any moment.
fn room(spurious: bool) {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let sender_awaits = {
        let (mesh, port) = (mesh.clone(), port.clone());
        move || {
            let sender = Actor::new(&mesh, 1);
            let ends = sender.ends(&port);
            let task = async {
                for n in 0..3 {
                    assert!(send(&ends, 0, n, Time::ZERO).await);
                }
            };
            if !spurious {
                return sender.block_on(task);
            }
            let token = sender.token.clone();
            let io = thread::spawn(move || Wake::wake(token));
            sender.drive_always(task);
            io.join().unwrap();
        }
    };
    let thread = thread::spawn(sender_awaits);
    let receiver = Actor::new(&mesh, 0);
    let ends = receiver.ends(&port);
    receiver.block_on(async {
        for n in 0..3 {
            assert_eq!(receive(&ends).await, (1, n));
        }
    });
    thread.join().unwrap();
}

pub(super) fn room_and_sleep() {
    room(false);
}

pub(super) fn room_and_spurious_polls() {
    room(true);
}

#[test]
fn who_waits_for_room_is_told_when_there_is_some() {
    explore(4, room_and_sleep);
}

#[test]
fn who_waits_for_room_may_be_polled_for_nothing() {
    explore(2, room_and_spurious_polls);
}

/// Messages for a time that never comes, through a lane of two: two are accepted and held, and never a third.
pub(super) fn held() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 2 }).unwrap();
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        let sender = Actor::new(&their_mesh, 1);
        let ends = sender.ends(&their_port);
        sender.block_on(async {
            for n in 0..2 {
                assert!(send(&ends, 0, n, Time::NEVER).await);
            }
        });
        assert!(ends.try_send(0, Time::NEVER, 2).is_err(), "more is held than there is room for");
    });
    let receiver = Actor::new(&mesh, 0);
    let ends = receiver.ends(&port);
    loop {
        receiver.turn(|| assert!(ends.pop(&no_time).is_none()));
        if ends.occupied(1) == 2 {
            break;
        }
        receiver.rest();
    }
    thread.join().unwrap();
}

#[test]
fn held_messages_count_against_their_lane() {
    explore(4, held);
}

/// Two threads leave a job each for a shard that sleeps until it has both.
pub(super) fn jobs_wake() {
    let jobs = Arc::new(Jobs::<usize>::new(4));
    let mesh = Mesh::new(1, 64);
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let (mesh, jobs) = (mesh.clone(), jobs.clone());
            thread::spawn(move || assert!(jobs.leave(mesh.bell(0), n).is_ok()))
        })
        .collect();
    let shard = Actor::new(&mesh, 0);
    let mut done = 0;
    while done < 2 {
        let taken = shard.turn(|| ());
        if taken.foreign {
            done += std::iter::from_fn(|| jobs.take()).count();
        }
        if done < 2 {
            shard.rest();
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let (wakes, parks) = shard.wakes_and_parks();
    assert!(wakes <= parks);
}

#[test]
fn jobs_from_outside_wake_the_shard() {
    explore(4, jobs_wake);
}

/// A shard closes its mailbox while another waits for room in its lane.
pub(super) fn closes() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let sent = Arc::new(Count::new(0));
    let (their_mesh, their_port, their_sent) = (mesh.clone(), port.clone(), sent.clone());
    let thread = thread::spawn(move || {
        let sender = Actor::new(&their_mesh, 1);
        let ends = sender.ends(&their_port);
        sender.block_on(async {
            for n in 0..3 {
                if !send(&ends, 0, n, Time::ZERO).await {
                    return;
                }
                their_sent.fetch_add(1, SeqCst);
            }
        });
    });
    let receiver = Actor::new(&mesh, 0);
    let ends = receiver.ends(&port);
    receiver.turn(|| ends.close());
    // It lives on, and fails what still comes.
    receiver.settle();
    thread.join().unwrap();
    receiver.settle();
    receiver.settle();
    assert_eq!(port.undelivered() as usize, sent.load(SeqCst), "a message vanished or was failed twice");
}

#[test]
fn who_waits_for_room_is_told_when_the_mailbox_goes() {
    explore(4, closes);
}
