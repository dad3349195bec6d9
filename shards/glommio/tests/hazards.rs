//! What glommio 0.9 gets wrong, and that none of it reaches a shard.

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

use waterwheel_glommio::Glommio;
use waterwheel_reactor::{
    Address, Backend, Clock, Launch, ListenOptions, Listener, Reactor, Root, Sink, Source, Time, Transport,
};

type Made = Pin<Box<dyn Future<Output = ()>>>;

fn launch(mut start: impl FnMut(Rc<dyn Reactor>) -> Option<Made> + Send + 'static) -> Launch {
    Launch {
        shard: 0,
        name: "hazard-0".into(),
        prepare: Box::new(|| {}),
        start: Box::new(move |reactor| start(reactor).map(|root| -> Root { root })),
    }
}

/// One shard, one life.
fn once<F: Future<Output = ()> + 'static>(root: impl FnOnce(Rc<dyn Reactor>) -> F + Send + 'static) {
    let mut root = Some(root);
    Glommio
        .run(vec![launch(move |reactor| root.take().map(|root| -> Made { Box::pin(root(reactor)) }))])
        .expect("it works on this machine");
}

/// Each test counts descriptors or time, so only one runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sleep(reactor: &Rc<dyn Reactor>, duration: Duration) {
    let until = reactor.now() + duration;
    poll_fn(|cx| reactor.poll_until(cx, until)).await;
}

async fn accept(listener: &mut dyn Listener) -> waterwheel_reactor::Incoming {
    poll_fn(|cx| listener.poll_accept(cx)).await.expect("it works on this machine")
}

async fn echo(source: &mut dyn Source, sink: &mut dyn Sink) {
    loop {
        let bytes = poll_fn(|cx| source.poll_fill(cx).map_ok(<[u8]>::to_vec))
            .await
            .expect("it works on this machine");
        if bytes.is_empty() {
            break;
        }
        let taken = poll_fn(|cx| sink.poll_write(cx, &bytes)).await.expect("it works on this machine");
        source.consume(taken);
    }
    poll_fn(|cx| sink.poll_shutdown(cx)).await.expect("it works on this machine");
}

#[test]
fn a_peer_gets_back_what_it_sends() {
    let _alone = alone();
    let at: Address = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let mut bound = Glommio.bind(&at, &ListenOptions::default(), 1).unwrap();
    let at = bound[0].local.inet().unwrap();
    let peer = std::thread::scope(|scope| {
        let peer = scope.spawn(move || {
            let mut peer = TcpStream::connect(at).unwrap();
            let sent: Vec<u8> = (0..1_000_003_u32).map(|n| (n >> 3) as u8).collect();
            let mut back = Vec::new();
            let mut writer = peer.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(std::net::Shutdown::Write).unwrap();
                });
                peer.read_to_end(&mut back).unwrap();
            });
            sent == back
        });
        let bound = bound.remove(0);
        once(async move |reactor| {
            let mut listener = reactor.listen(bound).unwrap();
            let incoming = accept(&mut *listener).await;
            let Transport { mut source, mut sink } = reactor.adopt(incoming).unwrap();
            echo(&mut *source, &mut *sink).await;
        });
        peer.join().unwrap()
    });
    assert!(peer);
}

#[test]
fn a_waker_may_be_cloned_more_often_than_an_i16_counts() {
    let _alone = alone();
    once(async |_| {
        let wakers = poll_fn(|cx| Poll::Ready(vec![cx.waker().clone(); 40_000])).await;
        assert!(wakers[0].will_wake(&wakers[39_999]));
    });
}

#[test]
fn a_deadline_centuries_away_neither_panics_nor_delays_a_wake() {
    let _alone = alone();
    once(async |reactor| {
        let (waker, receive) = mpsc::channel::<Waker>();
        let ringer = std::thread::Builder::new()
            .spawn(move || {
                for waker in receive {
                    waker.wake();
                }
            })
            .unwrap();
        let mut times = Vec::new();
        for _ in 0..100 {
            let (before, mut rung) = (reactor.now(), false);
            poll_fn(|cx| {
                assert!(reactor.poll_until(cx, Time::NEVER).is_pending());
                if rung {
                    return Poll::Ready(());
                }
                rung = true;
                waker.send(cx.waker().clone()).unwrap();
                Poll::Pending
            })
            .await;
            times.push(reactor.now().since(before));
        }
        // A busy machine holds threads up, and not each time.
        times.sort_unstable();
        assert!(times[50] < Duration::from_millis(10), "{times:?}");
        drop(waker);
        ringer.join().unwrap();
    });
}

#[test]
fn a_shard_that_panics_or_ends_lives_again_and_holds_no_more_descriptors_than_before() {
    let _alone = alone();
    let open = |kind: &str| {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter_map(|link| std::fs::read_link(link.path()).ok()).filter(|to| to.ends_with(kind)).count()
    };
    let (lives, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counted, noted) = (lives.clone(), held.clone());
    let ended = Glommio.run(vec![launch(move |reactor| {
        let life = counted.fetch_add(1, SeqCst);
        noted.lock().unwrap().push((open("anon_inode:[eventfd]"), open("anon_inode:[io_uring]")));
        if life == 20 {
            return None;
        }
        Some(Box::pin(async move {
            sleep(&reactor, Duration::from_millis(1)).await;
            assert!(life.is_multiple_of(2), "life {life}");
        }))
    })]);
    assert_eq!(lives.load(SeqCst), 21);
    assert_eq!(ended.unwrap_err()[0].to_string(), "shard 0 panicked: life 19");
    let held = held.lock().unwrap();
    assert!(held.iter().all(|count| *count == held[0]), "eventfds and rings in each life: {held:?}");
    assert_eq!((open("anon_inode:[eventfd]"), open("anon_inode:[io_uring]")), (0, 0), "left by the run");
}

#[test]
fn a_root_that_always_wakes_itself_still_sees_its_alarm_and_its_connections() {
    let _alone = alone();
    let at: Address = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let bound = Glommio.bind(&at, &ListenOptions::default(), 1).unwrap().remove(0);
    let at = bound.local.inet().unwrap();
    once(async move |reactor| {
        let mut listener = reactor.listen(bound).unwrap();
        let peer = TcpStream::connect(at).unwrap();
        let mut polls = 0;
        let incoming = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            listener.poll_accept(cx)
        })
        .await
        .unwrap();
        let Transport { mut source, .. } = reactor.adopt(incoming).unwrap();
        (&peer).write_all(b"x").unwrap();
        polls = 0;
        poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            source.poll_fill(cx).map(|lent| assert_eq!(lent.unwrap(), b"x"))
        })
        .await;
        assert!(polls < 50, "input was looked at after {polls} polls");
        let until = reactor.now() + Duration::from_millis(2);
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            reactor.poll_until(cx, until)
        })
        .await;
        assert!(reactor.now() >= until);
    });
}

#[test]
fn a_root_that_is_due_when_its_thread_is_held_up_is_not_slept_on() {
    let _alone = alone();
    let at: Address = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let bound = Glommio.bind(&at, &ListenOptions::default(), 1).unwrap().remove(0);
    let at = bound.local.inet().unwrap();
    let stop = Arc::new(AtomicUsize::new(0));
    let root = async move |reactor: Rc<dyn Reactor>| {
        let mut listener = reactor.listen(bound).unwrap();
        let incoming = accept(&mut *listener).await;
        let Transport { mut source, mut sink } = reactor.adopt(incoming).unwrap();
        echo(&mut *source, &mut *sink).await;
    };
    let mut root = Some(root);
    let mut launch = launch(move |reactor| root.take().map(|root| -> Made { Box::pin(root(reactor)) }));
    launch.prepare = Box::new(share_a_processor);
    std::thread::scope(|scope| {
        let stop = &stop;
        // The thread that shares the shard's processor, and takes it away for a few milliseconds each time.
        scope.spawn(|| {
            share_a_processor();
            let clock = Clock::start();
            while stop.load(SeqCst) == 0 {
                if clock.now() > Time::ZERO + Duration::from_secs(30) {
                    eprintln!("the shard slept on with its root due");
                    // It cannot be ended, so neither can this test in any other way.
                    std::process::abort();
                }
            }
        });
        scope.spawn(move || {
            let mut peer = TcpStream::connect(at).unwrap();
            peer.set_nodelay(true).unwrap();
            let mut byte = [7];
            for _ in 0..10_000 {
                peer.write_all(&byte).unwrap();
                peer.read_exact(&mut byte).unwrap();
            }
        });
        Glommio.run(vec![launch]).unwrap();
        stop.store(1, SeqCst);
    });
}

#[test]
fn descriptors_that_glommio_cannot_wait_on_are_watched_in_both_directions() {
    let _alone = alone();
    once(async |reactor| {
        let (reader, writer) = std::io::pipe().unwrap();
        let filler = writer.try_clone().unwrap();
        let mut reading = reactor.watch(reader.try_clone().unwrap().into()).unwrap().unwrap();
        let mut writing = reactor.watch(writer.into()).unwrap().unwrap();
        for _ in 0..3 {
            // Full: not writable until somebody reads.
            rustix::io::ioctl_fionbio(&filler, true).unwrap();
            while rustix::io::write(&filler, &[1; 4096]).is_ok() {}
            poll_fn(|cx| reading.poll_readable(cx)).await.unwrap();
            assert!(poll_fn(|cx| Poll::Ready(writing.poll_writable(cx))).await.is_pending());
            let mut drain = reader.try_clone().unwrap();
            let thread = std::thread::Builder::new()
                .spawn(move || drain.read_exact(&mut [0; 16 * 4096]).unwrap())
                .unwrap();
            poll_fn(|cx| writing.poll_writable(cx)).await.unwrap();
            thread.join().unwrap();
            // Empty: not readable until somebody writes.
            assert!(poll_fn(|cx| Poll::Ready(reading.poll_readable(cx))).await.is_pending());
            let mut fill = filler.try_clone().unwrap();
            let thread = std::thread::Builder::new().spawn(move || fill.write_all(&[1]).unwrap()).unwrap();
            poll_fn(|cx| reading.poll_readable(cx)).await.unwrap();
            thread.join().unwrap();
            assert_eq!((&reader).read(&mut [0; 2]).unwrap(), 1);
        }
        drop((filler, writing));
        poll_fn(|cx| reading.poll_readable(cx)).await.unwrap();
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let refused = reactor.watch(file.into()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "a regular file is always ready");
    });
}

/// Moves the calling thread to the first processor that it may use.
fn share_a_processor() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let may = sched_getaffinity(None).expect("one's own processors can be asked for");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| may.is_set(*cpu)).expect("there is one");
    let mut only = CpuSet::new();
    only.set(first);
    sched_setaffinity(None, &only).expect("one of one's own processors");
}
