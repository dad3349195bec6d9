//! What a world says of those who wait for ever, of what is left, and of those who drive it.

use std::panic::Location;
use std::task::Waker;
use std::time::Duration;

use waterwheel_conformance::kit::{Mail, accept, sleep, thread};
use waterwheel_reactor::{ConnectOptions, Inspect, StreamOptions, TaskNote};

use super::*;

/// A shard with tasks that are known by the wakers they wait with.
#[derive(Default)]
struct Shown {
    tasks: std::cell::RefCell<Vec<TaskNote>>,
}

impl Shown {
    fn show(&self, name: &'static str, waker: &Waker) {
        let task = TaskNote {
            name,
            spawned: Location::caller(),
            waker: waker.clone(),
            waits: vec!["for bread".to_owned()],
        };
        self.tasks.borrow_mut().push(task);
    }
}

impl Inspect for Shown {
    fn tasks(&self) -> Vec<TaskNote> {
        self.tasks.borrow().clone()
    }
    fn timers(&self) -> usize {
        0
    }
    fn resolvers(&self) -> usize {
        0
    }
    fn panics(&self) -> u64 {
        0
    }
}

#[test]
fn a_deadlock_says_who_waits_for_what() {
    let world = calm(1);
    let host = world.host("lonely");
    let bound = bind(&host, StreamOptions::default());
    let to = at(&host);
    let waits = part(&host, move |reactor| async move {
        let shown = Rc::new(Shown::default());
        let inspect: Rc<dyn Inspect> = shown.clone();
        reactor.inspect(Rc::downgrade(&inspect));
        let mut listener = reactor.listen(bound).unwrap();
        let mut ours = reactor.connect(&to, &ConnectOptions::default()).unwrap();
        flush(&mut *ours.sink).await.unwrap();
        let _theirs = reactor.adopt(accept(&mut listener).await.unwrap()).unwrap();
        let mut first = true;
        poll_fn(|cx| {
            if std::mem::take(&mut first) {
                shown.show("the one who waits", cx.waker());
            }
            let _ = listener.poll_accept(cx);
            ours.source.poll_fill(cx).map(drop)
        })
        .await;
    });
    let stuck = play(&world, vec![waits]).expect_err("nobody will ever write").to_string();
    for part in [
        "deadlock",
        "lonely, shard 0",
        "the one who waits",
        "reports.rs",
        "to read",
        "for bread",
        "to accept on",
    ] {
        assert!(stuck.contains(part), "{part:?} is missing in:\n{stuck}");
    }
}

#[test]
fn a_world_without_an_end_says_so() {
    let world = World::new(2, Options { time_max: Duration::from_secs(60), ..Options::default() });
    let host = world.host("restless");
    let ticks = part(&host, |reactor| async move {
        loop {
            sleep(&reactor, Duration::from_secs(1)).await;
        }
    });
    let stuck = play(&world, vec![ticks]).unwrap_err().to_string();
    assert!(stuck.starts_with("no end: ") && stuck.contains("restless, shard 0"), "{stuck}");
    let world = World::new(2, Options { steps_max: 1_000, ..Options::default() });
    let spins = part(&world.host("spinning"), |_| {
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    });
    let stuck = play(&world, vec![spins]).unwrap_err().to_string();
    assert!(stuck.starts_with("no end: "), "{stuck}");
}

#[test]
fn a_deadlock_of_a_run_is_its_shards_failure() {
    let world = calm(3);
    let never = launch(0, Box::new(|_| Some(Box::pin(std::future::pending()))));
    let ended = world.host("only").run(vec![never]).unwrap_err();
    assert!(ended.len() == 1 && ended[0].to_string().contains("deadlock"), "{ended:?}");
}

#[test]
fn what_nobody_gives_back_is_left_over() {
    let world = calm(4);
    let host = world.host("forgetful");
    let (bound, to) = (bind(&host, StreamOptions::default()), at(&host));
    let kept = Arc::new(Mutex::new(None));
    let keeps = kept.clone();
    let forgets = part(&host, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        let mut transport = reactor.connect(&to, &ConnectOptions::default()).unwrap();
        flush(&mut *transport.sink).await.unwrap();
        *keeps.lock().unwrap() = Some((accept(&mut listener).await.unwrap(), reactor.spare().unwrap()));
    });
    play(&world, vec![forgets]).unwrap();
    let left = world.left_over();
    assert!(left.len() == 2 && left[0].contains("is on its way to somebody"), "{left:?}");
    assert!(left[1].contains("1 descriptors that are neither"), "{left:?}");
    drop(kept.lock().unwrap().take());
    assert_eq!(world.left_over(), Vec::<String>::new());
    let _never_listened_on = bind(&host, StreamOptions::default());
    let left = world.left_over();
    assert!(left.len() == 1 && left[0].contains("still listens on tcp:0.0.0.0:7000"), "{left:?}");
    assert_eq!(host.descriptors(), 1);
}

#[test]
fn a_run_inside_a_world_is_an_error() {
    let world = calm(5);
    let (outer, inner) = (world.host("outer"), calm(6).host("inner"));
    let runs = part(&outer, move |_| async move {
        let ended = inner.run(vec![launch(3, Box::new(|_| None))]).unwrap_err();
        assert_eq!(ended[0].shard, 3);
        assert!(ended[0].to_string().contains("launch it instead"), "{}", ended[0]);
    });
    play(&world, vec![runs]).unwrap();
}

#[test]
fn a_thread_drives_one_world_after_another() {
    for seed in 0..3 {
        let world = calm(seed);
        let host = world.host("only");
        for _ in 0..2 {
            let sleeps =
                |reactor: Rc<dyn Reactor>| async move { sleep(&reactor, Duration::from_secs(1)).await };
            play(&world, vec![part(&host, sleeps)]).unwrap();
        }
        assert!(world.now().as_nanos() >= 2_000_000_000);
    }
}

#[test]
fn what_is_on_its_way_when_a_run_ends_arrives_in_the_next() {
    let world = calm(7);
    let host = world.host("only");
    let (bound, to) = (bind(&host, StreamOptions::default()), at(&host));
    let kept = Arc::new(Mutex::new(None));
    let (keeps, takes) = (kept.clone(), kept.clone());
    let first = part(&host, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        let mut ours = reactor.connect(&to, &ConnectOptions::default()).unwrap();
        flush(&mut *ours.sink).await.unwrap();
        *keeps.lock().unwrap() = Some(accept(&mut listener).await.unwrap());
        write_all(&mut *ours.sink, b"under way").await.unwrap();
    });
    play(&world, vec![first]).unwrap();
    let second = part(&host, move |reactor| async move {
        let incoming = takes.lock().unwrap().take().unwrap();
        let mut transport = reactor.adopt(incoming).unwrap();
        let (got, end) = drain(&mut *transport.source).await;
        end.unwrap();
        assert_eq!(got, b"under way");
    });
    play(&world, vec![second]).unwrap();
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn a_world_that_another_thread_drives_is_not_driven_twice() {
    let host = World::live().host("only");
    let other = host.clone();
    let told = Mail::default();
    let tells = told.clone();
    let start: Box<Start> = {
        let mut root = Some((told, tells, other));
        Box::new(move |_| {
            let (told, tells, other) = root.take()?;
            Some(Box::pin(async move {
                let second = thread(move || {
                    let ended = other.run(vec![launch(0, Box::new(|_| None))]).unwrap_err();
                    tells.send(ended[0].to_string());
                });
                let why = told.receive().await;
                assert!(why.contains("another thread drives this world"), "{why}");
                second.join();
            }))
        })
    };
    host.run(vec![launch(0, start)]).unwrap();
    host.run(vec![launch(0, Box::new(|_| None))]).expect("nobody drives it any more");
}

#[test]
#[should_panic(expected = "only a live world has threads that wait")]
fn nobody_waits_for_virtual_time() {
    let host = calm(8).host("only");
    let _ = crate::outside::Gate::new(&host, &at(&host), &Default::default());
}
