//! Wakes at the worst moment, and too many of them.

use std::future::poll_fn;
use std::hint::spin_loop;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Poll, Waker};
use std::thread::yield_now;
use std::time::Duration;

use waterwheel_reactor::{Backend, Clock, Reactor, Root, Start};

use crate::Outcome;
use crate::kit::stream::turn;
use crate::kit::{Mail, launch, on_each, on_one, shard, sleep, surroundings, thread, with_deadline};

/// Longer than any wake takes, also on a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// WAKE-2. The next wake follows as soon as the root has acknowledged the one before, which it does just before it
/// returns to its reactor: so the wake falls into the instants in which the reactor decides to sleep. A growing pause
/// moves it through them.
pub(super) fn none_lost(backend: &dyn Backend) -> Outcome {
    const WAKES: u64 = 100_000;
    let (asked, acknowledged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (asking, answered) = (Arc::clone(&asked), Arc::clone(&acknowledged));
    let (give, given) = mpsc::channel::<Waker>();
    let waking = thread(move || {
        let waker = given.recv().expect("the root sends its waker");
        for number in 1..=WAKES {
            for _ in 0..number % 128 {
                spin_loop();
            }
            asking.store(number, SeqCst);
            waker.wake_by_ref();
            acknowledgement(&answered, number);
        }
    });
    on_one(backend, move |_| {
        poll_fn(move |cx| {
            // Once is enough: a root has one waker.
            if acknowledged.load(SeqCst) == 0 {
                let _ = give.send(cx.waker().clone());
            }
            let number = asked.load(SeqCst);
            acknowledged.store(number, SeqCst);
            if number == WAKES { Poll::Ready(()) } else { Poll::Pending }
        })
    });
    waking.join();
    between_shards(backend);
    Outcome::Holds
}

fn acknowledgement(answered: &AtomicU64, number: u64) {
    let clock = Clock::start();
    let late = clock.now() + LATE;
    let mut spins = 0u32;
    while answered.load(SeqCst) != number {
        yield_now();
        spins = spins.wrapping_add(1);
        assert!(!spins.is_multiple_of(1_024) || clock.now() < late, "wake {number} was lost");
    }
}

/// The same between shards, where a reactor may take another way than for foreign threads.
fn between_shards(backend: &dyn Backend) {
    const CALLS: u64 = 20_000;
    let (there, back) = (Mail::default(), Mail::default());
    let (inbox, outbox) = (there.clone(), back.clone());
    let caller = shard(move |reactor: Rc<dyn Reactor>| async move {
        for number in 0..CALLS {
            there.send(number);
            let answer =
                with_deadline(&reactor, LATE, "a wake between shards was lost", back.receive()).await;
            assert_eq!(answer, number);
        }
    });
    let answerer = shard(move |_| async move {
        for _ in 0..CALLS {
            outbox.send(inbox.receive().await);
        }
    });
    on_each(backend, vec![caller, answerer]);
}

/// WAKE-3.
pub(super) fn never_blocks(backend: &dyn Backend) -> Outcome {
    on_a_blocked_shard(backend);
    on_itself(backend);
    on_each_other(backend);
    Outcome::Holds
}

/// As many as no pipe, ring or queue of wakes would hold.
const STORM: u64 = 200_000;

/// The root does not return while the storm lasts, so nobody empties the doorbell.
fn on_a_blocked_shard(backend: &dyn Backend) {
    let (give, given) = mpsc::channel::<Waker>();
    let (end, ended) = mpsc::channel::<()>();
    let storm = thread(move || {
        let waker = given.recv().expect("the root sends its waker");
        for _ in 0..STORM {
            waker.wake_by_ref();
        }
        let _ = end.send(());
    });
    on_one(backend, move |reactor| async move {
        poll_fn(|cx| Poll::Ready(give.send(cx.waker().clone()))).await.expect("the storm waits");
        let blocked = ended.recv_timeout(LATE);
        assert!(blocked.is_ok(), "a wake waits for the shard that it wakes");
        coalesced(&reactor).await;
    });
    storm.join();
}

fn on_itself(backend: &dyn Backend) {
    on_one(backend, |reactor| async move {
        let mut stormed = false;
        let storm = poll_fn(|cx| {
            if stormed {
                return Poll::Ready(());
            }
            stormed = true;
            for _ in 0..STORM {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        storm.await;
        coalesced(&reactor).await;
    });
}

/// Polls the root only a few times more: what came while it was awake is one wake.
async fn coalesced(reactor: &Rc<dyn Reactor>) {
    const POLLS_MAX: u32 = 100;
    let until = reactor.now() + Duration::from_millis(50);
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        reactor.poll_until(cx, until)
    })
    .await;
    assert!(polls <= POLLS_MAX, "{STORM} wakes of a root that was awake made {polls} polls");
}

/// Both shards storm each other, and neither returns to its reactor meanwhile. Shards on one thread storm in turns.
fn on_each_other(backend: &dyn Backend) {
    let at_once = if surroundings().threads() { 2 } else { 1 };
    let together = Arc::new(Barrier::new(at_once));
    let mails: [Mail<Waker>; 2] = [Mail::default(), Mail::default()];
    let shards = (0..2usize).map(|number| {
        let (mine, other) = (mails[number].clone(), mails[1 - number].clone());
        let together = Arc::clone(&together);
        shard(move |reactor: Rc<dyn Reactor>| async move {
            other.send(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
            let waker = with_deadline(&reactor, LATE, "the other shard's waker", mine.receive()).await;
            // What was sent may be kept back until the end of the turn, and the other one waits for it.
            turn().await;
            together.wait();
            for _ in 0..STORM {
                waker.wake_by_ref();
            }
            together.wait();
            // And the doorbells still work.
            other.send(waker);
            with_deadline(&reactor, LATE, "a wake after the storm", mine.receive()).await;
        })
    });
    on_each(backend, shards.collect());
}

/// WAKE-7. A reactor may keep wakes back for the end of the turn, to send them together; it must not keep them longer,
/// whether the turn ended with a root that waits, ended, was dropped or panicked.
pub(super) fn sent_by_the_end(backend: &dyn Backend) -> Outcome {
    const LIVES: u32 = 40;
    let (mail, mut life) = (Mail::<u32>::default(), 0);
    let sender = mail.clone();
    let waking: Box<Start> = Box::new(move |reactor| {
        life += 1;
        let (number, sender) = (life, sender.clone());
        (life <= LIVES).then(|| -> Root { Box::pin(waker_life(reactor, sender, number)) })
    });
    let mut woken = Some(mail);
    let waiting: Box<Start> = Box::new(move |reactor| {
        let mail = woken.take()?;
        Some(Box::pin(async move {
            for number in 1..=LIVES {
                let what = KINDS[number as usize % 4];
                assert_eq!(with_deadline(&reactor, LATE, what, mail.receive()).await, number);
            }
        }))
    });
    let result = backend.run(vec![launch(0, waking), launch(1, waiting)]);
    // Every fourth life of shard 0 panics as planned, and the last one is such a life.
    let ended = result.expect_err("the last life of shard 0 panics");
    assert!(matches!(ended[..], [ref only] if only.shard == 0), "shard 1 missed a wake: {ended:?}");
    Outcome::Holds
}

const KINDS: [&str; 4] = [
    "a wake made while a root is dropped by a panic",
    "a wake made by a root that then waits",
    "a wake made by a root that ends in the same turn",
    "a wake made while a root is dropped at its end",
];

/// Wakes the other shard, which sleeps, in the way that `number` says.
async fn waker_life(reactor: Rc<dyn Reactor>, sender: Mail<u32>, number: u32) {
    sleep(&reactor, Duration::from_millis(2)).await;
    match number % 4 {
        0 => {
            let _sent_while_unwinding = SendOnDrop { sender, number };
            panic!("life {number} fails as planned");
        }
        1 => {
            sender.send(number);
            turn().await;
            sleep(&reactor, Duration::from_millis(1)).await;
        }
        2 => sender.send(number),
        _ => drop(SendOnDrop { sender, number }),
    }
}

#[derive(Debug)]
struct SendOnDrop {
    sender: Mail<u32>,
    number: u32,
}

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        self.sender.send(self.number);
    }
}
