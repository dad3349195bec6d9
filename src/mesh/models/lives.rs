//! The next life of a shard: what is sent to it and asked of it, and what it sends and asks, at any moment.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32 as Count;
use std::sync::atomic::Ordering::SeqCst;

use loom::thread;
use waterwheel_reactor::Time;

use super::actor::{Actor, Requests, ask, no_time};
use super::explore;
use super::messages::{receive, send};
use crate::mesh::calls::ends::{Arrived, CallEnds};
use crate::mesh::calls::{CallError, CallOptions, CallPort};
use crate::mesh::ended::ShardEnd;
use crate::mesh::hub::Mesh;
use crate::mesh::port::{Port, PortOptions};
use crate::mesh::stop::StopGuard;
use crate::shard::Shard;

/// Shard `id` in its next life, back once the others know of the end of the one before: as
/// [`reopened`](crate::mesh::stop::reopened), whose pauses are another thread's turn here.
fn back(mesh: &Arc<Mesh>, id: usize) -> Actor {
    let actor = Actor::mortal(StopGuard::new(mesh, id));
    while mesh.unaware_of_the_end(id).is_some() {
        thread::yield_now();
    }
    actor.member.reopen();
    actor
}

/// Waits until `shard` can be sent to, as [`Shard::opened`](crate::shard::Shard::opened).
async fn opened(actor: &Actor, shard: usize) {
    let mut place = None;
    poll_fn(|cx| actor.member.poll_return(shard, &mut place, cx.waker())).await;
}

async fn ended(actor: &Actor, shard: usize) {
    ShardEnd::new(actor.member.clone(), shard).await;
}

/// Shard 0 ends after a turn and is back; shard 1 sends it a message, waits for its end and its return, and sends
/// another. Each life receives its own; the first message may also be refused, or failed and counted.
pub(super) fn target_returns() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let first = StopGuard::new(&mesh, 0);
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        let sender = Actor::new(&their_mesh, 1);
        let ends = sender.ends(&their_port);
        let taken = sender.block_on(async {
            let taken = send(&ends, 0, 0, Time::ZERO).await;
            ended(&sender, 0).await;
            opened(&sender, 0).await;
            assert!(send(&ends, 0, 1, Time::ZERO).await, "a shard that is back refuses a message");
            taken
        });
        sender.settle();
        usize::from(taken)
    });
    let mut received = 0;
    {
        let target = Actor::mortal(first);
        let ends = target.ends(&port);
        target.turn(|| received += usize::from(ends.pop(&no_time).is_some()));
        // As the task that has the mailbox is dropped.
        ends.close();
    }
    let target = back(&mesh, 0);
    let ends = target.ends(&port);
    let found = target.block_on(receive(&ends));
    assert_eq!(found, (1, 1), "a message came to a life that it was not sent to");
    let sent = thread.join().unwrap();
    let failed = usize::try_from(port.undelivered()).unwrap();
    assert_eq!(received + failed, sent, "a message vanished or was counted twice");
}

#[test]
fn each_life_receives_what_was_sent_to_it() {
    explore(3, target_returns);
}

/// Shard 1 sends a message, ends, is back, and sends another; shard 0 receives both, in order. `late`: it opens the port
/// when it has heard of that end.
fn two_lives_send(late: bool) {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 2 }).unwrap();
    let first = StopGuard::new(&mesh, 1);
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        let send_one = |sender: &Actor, n| {
            let ends = sender.ends(&their_port);
            sender.turn(|| assert!(ends.try_send(0, Time::ZERO, n).is_ok()));
        };
        send_one(&Actor::mortal(first), 0);
        let sender = back(&their_mesh, 1);
        send_one(&sender, 1);
    });
    let receiver = Actor::new(&mesh, 0);
    if late {
        receiver.block_on(ended(&receiver, 1));
    }
    let ends = receiver.ends(&port);
    receiver.block_on(async {
        for n in 0..2 {
            assert_eq!(receive(&ends).await, (1, n), "out of order, or lost");
        }
    });
    thread.join().unwrap();
}

pub(super) fn sender_returns() {
    two_lives_send(false);
}

pub(super) fn sender_returns_unheard() {
    two_lives_send(true);
}

#[test]
fn what_each_life_sent_arrives_in_order() {
    explore(3, sender_returns);
}

#[test]
fn what_each_life_sent_to_a_port_that_is_opened_later_arrives_in_order() {
    explore(3, sender_returns_unheard);
}

/// What is answered: which life of the server did, and what it was asked.
type Answer = (u32, u32);

fn answer(ends: &CallEnds<u32, Answer>, life: u32, arrived: Arrived<u32>) -> u32 {
    let Arrived { from, ticket, request } = arrived;
    ends.reply(from, ticket, Ok((life, request)));
    request
}

/// Serves until it has answered `last`.
fn serve(server: &Actor, port: &CallPort<u32, Answer>, life: u32, last: u32) {
    let ends = server.call_ends(port);
    let requests = Rc::new(Requests::default());
    ends.serve(requests.clone());
    let mut done = false;
    while !done {
        server.turn(|| {
            for arrived in requests.take() {
                done |= answer(&ends, life, arrived) == last;
            }
        });
        if !done {
            server.rest();
        }
    }
}

/// One turn in which what is asked is answered.
fn serve_a_turn(server: &Actor, port: &CallPort<u32, Answer>, life: u32, answered: &Count) {
    let ends = server.call_ends(port);
    let requests = Rc::new(Requests::default());
    ends.serve(requests.clone());
    server.turn(|| {
        for arrived in requests.take() {
            answer(&ends, life, arrived);
            answered.fetch_add(1, SeqCst);
        }
    });
}

/// Shard 0 ends after a turn and is back; shard 1 calls it, and once more when it is back. Each call has one outcome: the
/// answer of the life that it went to, or, if that sent none, its end.
pub(super) fn server_returns() {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, Answer>::declare(&mesh, "model", CallOptions { credits: 1 }).unwrap();
    let answered = Arc::new(Count::new(0));
    let first = StopGuard::new(&mesh, 0);
    let (their_mesh, their_port, their_answered) = (mesh.clone(), port.clone(), answered.clone());
    let thread = thread::spawn(move || {
        serve_a_turn(&Actor::mortal(first), &their_port, 0, &their_answered);
        serve(&back(&their_mesh, 0), &their_port, 1, 11);
    });
    let caller = Actor::new(&mesh, 1);
    let ends = caller.call_ends(&port);
    caller.block_on(async {
        match ask(&ends, 0, 10).await {
            Ok(said) => assert_eq!(said, (0, 10), "another life answered"),
            Err(error) => {
                assert_eq!(error, CallError::Closed);
                assert_eq!(answered.load(SeqCst), 0, "the caller was told that nobody answers a call");
            }
        }
        ended(&caller, 0).await;
        opened(&caller, 0).await;
        assert_eq!(ask(&ends, 0, 11).await, Ok((1, 11)), "a call of a shard that is back");
    });
    thread.join().unwrap();
}

#[test]
fn each_call_is_answered_by_the_life_it_went_to_or_told_its_end() {
    explore(3, server_returns);
}

/// Shard 1 asks shard 0, ends without waiting, is back and asks again, under the same ticket; shard 0 answers the first, if
/// that has come, when the second is there, and the second a turn after. It is answered, and with its own answer.
pub(super) fn caller_returns() {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, Answer>::declare(&mesh, "model", CallOptions { credits: 2 }).unwrap();
    let first = StopGuard::new(&mesh, 1);
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        ask_in_passing(first, &their_port);
        ask_when_back(&their_mesh, &their_port, 0);
    });
    let server = Actor::new(&mesh, 0);
    let ends = server.call_ends(&port);
    let requests = Rc::new(Requests::default());
    ends.serve(requests.clone());
    let mut owed: Vec<Arrived<u32>> = Vec::new();
    loop {
        server.turn(|| owed.extend(requests.take()));
        if owed.last().is_some_and(|last| last.request == 11) {
            break;
        }
        server.rest();
    }
    for arrived in owed {
        server.turn(|| {
            answer(&ends, 0, arrived);
        });
    }
    thread.join().unwrap();
}

/// Asks in the last turn of its first life.
fn ask_in_passing(first: StopGuard, port: &CallPort<u32, Answer>) {
    let caller = Actor::mortal(first);
    let ends = caller.call_ends(port);
    caller.turn(|| {
        let (mut request, mut place) = (Some(10), None);
        // It may know already that nobody is there.
        let _ = ends.poll_start(0, &mut request, &mut place, std::task::Waker::noop());
    });
}

/// Asks in its second life, until the life `of` of shard 0 answers.
fn ask_when_back(mesh: &Arc<Mesh>, port: &CallPort<u32, Answer>, of: u32) {
    let caller = back(mesh, 1);
    let ends = caller.call_ends(port);
    caller.block_on(async {
        loop {
            match ask(&ends, 0, 11).await {
                Ok((life, request)) => {
                    assert_eq!(request, 11, "what a life before had asked for was answered");
                    if life == of {
                        return;
                    }
                    ended(&caller, 0).await;
                }
                Err(error) => assert_eq!(error, CallError::Closed),
            }
            opened(&caller, 0).await;
        }
    });
}

#[test]
fn a_caller_that_is_back_hears_no_answer_to_the_life_before() {
    explore(3, caller_returns);
}

/// Shard 1 ends and is back; shard 0 begins to serve when it has heard of that end, and so looks at everybody while shard
/// 1 asks. `before`: it has asked in its first life too.
fn served_later(before: bool) {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, Answer>::declare(&mesh, "model", CallOptions { credits: 1 }).unwrap();
    let first = StopGuard::new(&mesh, 1);
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        if before {
            ask_in_passing(first, &their_port);
        } else {
            Actor::mortal(first).turn(|| ());
        }
        ask_when_back(&their_mesh, &their_port, 0);
    });
    let server = Actor::new(&mesh, 0);
    server.block_on(ended(&server, 1));
    serve(&server, &port, 0, 11);
    thread.join().unwrap();
}

pub(super) fn served_meanwhile() {
    served_later(false);
}

pub(super) fn served_after_both() {
    served_later(true);
}

#[test]
fn what_a_life_asks_is_not_taken_for_what_the_one_before_did() {
    explore(3, served_meanwhile);
}

#[test]
fn what_a_life_had_asked_of_a_port_that_nobody_served_is_not_answered_to_the_next() {
    explore(3, served_after_both);
}

/// Both shards end after a turn and are back; shard 1 asks in both lives, shard 0 answers in both.
pub(super) fn both_return() {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, Answer>::declare(&mesh, "model", CallOptions { credits: 1 }).unwrap();
    let guards = [StopGuard::new(&mesh, 0), StopGuard::new(&mesh, 1)];
    let [server, caller] = guards;
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || {
        ask_in_passing(caller, &their_port);
        ask_when_back(&their_mesh, &their_port, 1);
    });
    serve_a_turn(&Actor::mortal(server), &port, 0, &Count::new(0));
    serve(&back(&mesh, 0), &port, 1, 11);
    thread.join().unwrap();
}

#[test]
fn two_shards_that_are_back_hear_nothing_of_the_lives_before() {
    explore(2, both_return);
}

/// Shard 0 answers in its last turn what shard 1, that has ended meanwhile, had asked; shard 1 is back before or after the
/// last ring of that turn's shard.
pub(super) fn late_answer() {
    let mesh = Mesh::new(2, 64);
    let port = CallPort::<u32, Answer>::declare(&mesh, "model", CallOptions { credits: 1 }).unwrap();
    let [server, caller] = [0, 1].map(|id| StopGuard::new(&mesh, id));
    let server = Actor::mortal(server);
    let ends = server.call_ends(&port);
    let requests = Rc::new(Requests::default());
    ends.serve(requests.clone());
    let caller = Actor::mortal(caller);
    let asking = caller.call_ends(&port);
    caller.turn(|| {
        let (mut request, mut place) = (Some(10), None);
        assert!(asking.poll_start(0, &mut request, &mut place, std::task::Waker::noop()).is_ready());
    });
    drop(asking);
    server.turn(|| {
        drop(caller);
        for arrived in requests.take() {
            answer(&ends, 0, arrived);
        }
    });
    drop(ends);
    let (their_mesh, their_port) = (mesh.clone(), port.clone());
    let thread = thread::spawn(move || ask_when_back(&their_mesh, &their_port, 1));
    drop(server);
    serve(&back(&mesh, 0), &port, 1, 11);
    thread.join().unwrap();
}

#[test]
fn a_late_answer_reaches_no_life_that_did_not_ask() {
    explore(2, late_answer);
}

/// Shard 1 hears of the end of shard 0 and ends itself, while shard 0 is back and sends itself a message. That one is for
/// nobody else to fail.
pub(super) fn beside_a_return() {
    let mesh = Mesh::new(2, 64);
    let port = Port::<usize>::declare(&mesh, "model", PortOptions { capacity: 1 }).unwrap();
    let [first, other] = [0, 1].map(|id| StopGuard::new(&mesh, id));
    let thread = thread::spawn(move || {
        let other = Actor::mortal(other);
        other.block_on(ended(&other, 0));
    });
    drop(Actor::mortal(first));
    let shard = back(&mesh, 0);
    let ends = shard.ends(&port);
    let found = shard.block_on(async {
        assert!(send(&ends, 0, 7, Time::ZERO).await, "a shard that is back refuses its own message");
        receive(&ends).await
    });
    assert_eq!(found, (0, 7));
    thread.join().unwrap();
}

#[test]
fn what_was_sent_to_the_next_life_of_a_shard_is_not_failed_by_one_that_ends() {
    explore(3, beside_a_return);
}

/// Another thread leaves a job for shard 0, that ends and is back; this one leaves another for the next life, which has it.
pub(super) fn jobs_return() {
    let mesh = Mesh::new(1, 64);
    let first = StopGuard::new(&mesh, 0);
    let their_mesh = mesh.clone();
    let thread = thread::spawn(move || {
        // It may know already that nobody is there.
        let _ = their_mesh.jobs(0).leave(their_mesh.bell(0), Box::new(|_: &Shard| ()));
    });
    drop(Actor::mortal(first));
    let _shard = back(&mesh, 0);
    let ours = Arc::new(());
    let theirs = ours.clone();
    let left = mesh.jobs(0).leave(mesh.bell(0), Box::new(move |_: &Shard| drop(theirs)));
    assert!(left.is_ok(), "a shard that is back refuses a job");
    thread.join().unwrap();
    assert_eq!(Arc::strong_count(&ours), 2, "a job of the next life was lost");
}

#[test]
fn a_job_for_the_next_life_of_a_shard_is_not_swept_with_those_of_the_one_before() {
    explore(4, jobs_return);
}
