//! The law of watching, a capability: what a reactor without it does not break.

use std::fs::File;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::join;
use rustix::io::{Errno, dup, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use waterwheel_reactor::{Backend, Reactor, Watched};

use crate::kit::stream::once;
use crate::kit::{on_one, pause, sleep, thread, with_deadline};
use crate::{Law, Outcome};

pub(crate) const LAWS: &[Law] =
    &[Law::new("WATCH-1", "a watched descriptor is ready too late, for the wrong half, or never", law)];

/// Longer than any readiness takes, also on a busy machine.
const LATE: Duration = Duration::from_secs(10);

fn law(backend: &dyn Backend) -> Outcome {
    if on_one(backend, |reactor| async move { reactor.watch(pipe().0).expect("a pipe").is_none() }) {
        return Outcome::NotOffered("watch");
    }
    on_one(backend, each_arrival);
    on_one(backend, room_again);
    on_one(backend, both_ways);
    on_one(backend, the_latest_waker);
    on_one(backend, twice);
    on_one(backend, hang_up);
    on_one(backend, closed_when_dropped);
    on_one(backend, what_cannot_be_polled);
    Outcome::Holds
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe")
}

fn watch(reactor: &Rc<dyn Reactor>, descriptor: OwnedFd) -> Box<dyn Watched> {
    reactor.watch(descriptor).expect("watched").expect("it was offered before")
}

/// Reads one byte, as often as the readiness turns out to be none; `None` at the end.
async fn read_one(watched: &mut dyn Watched) -> Option<u8> {
    loop {
        let mut byte = [0];
        match read(watched.descriptor(), &mut byte) {
            Ok(count) => return (count > 0).then_some(byte[0]),
            Err(Errno::AGAIN) => poll_fn(|cx| watched.poll_readable(cx)).await.expect("readable"),
            Err(error) => panic!("reading: {error}"),
        }
    }
}

/// Writes until there is no room, and says how many bytes that were.
fn fill(watched: &dyn Watched) -> usize {
    let mut count = 0;
    loop {
        match write(watched.descriptor(), &[7; 4096]) {
            Ok(more) => count += more,
            Err(Errno::AGAIN) => return count,
            Err(error) => panic!("writing: {error}"),
        }
    }
}

/// Waits until there is room, and uses it.
async fn write_one(watched: &mut dyn Watched) {
    loop {
        match write(watched.descriptor(), b"x") {
            Ok(_) => return,
            Err(Errno::AGAIN) => poll_fn(|cx| watched.poll_writable(cx)).await.expect("writable"),
            Err(error) => panic!("writing: {error}"),
        }
    }
}

/// Lets the readiness that is there be taken, until waiting for more is pending.
async fn settled(
    watched: &mut dyn Watched,
    mut poll: impl FnMut(&mut dyn Watched, &mut Context<'_>) -> bool,
) {
    for _ in 0..1_000 {
        if once(|cx| Poll::Ready(poll(watched, cx))).await == Poll::Ready(true) {
            return;
        }
    }
    panic!("ready again and again, though every attempt has to wait");
}

/// A reactor that sleeps is woken by each arrival, and not ready before.
async fn each_arrival(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut watched = watch(&reactor, reader);
    let sender = thread(move || {
        for number in 0..20 {
            pause(Duration::from_millis(u64::from(number % 4)));
            write(&writer, &[number]).expect("room for one");
        }
    });
    for number in 0..20 {
        let got = with_deadline(&reactor, LATE, "a byte", read_one(&mut *watched)).await;
        assert_eq!(got, Some(number));
    }
    sender.join();
    assert_eq!(with_deadline(&reactor, LATE, "the end", read_one(&mut *watched)).await, None);
    let (reader, _writer) = pipe();
    let mut silent = watch(&reactor, reader);
    settled(&mut *silent, |watched, cx| watched.poll_readable(cx).is_pending()).await;
}

/// Who found no room goes on when the other side has taken something.
async fn room_again(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut watched = watch(&reactor, writer);
    for _ in 0..3 {
        let full = fill(&*watched);
        assert!(full > 0, "there was room");
        settled(&mut *watched, |watched, cx| watched.poll_writable(cx).is_pending()).await;
        let again = dup(&reader).expect("a descriptor");
        let taker = thread(move || {
            pause(Duration::from_millis(2));
            let mut taken = 0;
            while taken < full {
                taken += read(&again, &mut [0; 8192]).expect("it is full");
            }
        });
        with_deadline(&reactor, LATE, "room", write_one(&mut *watched)).await;
        taker.join();
        while read(&reader, &mut [0; 8192]).is_ok() {}
    }
}

/// Both directions of one descriptor at once: what happens to one wakes who waits for it.
async fn both_ways(reactor: Rc<dyn Reactor>) {
    let (here, there) = UnixStream::pair().expect("a pair");
    here.set_nonblocking(true).expect("non-blocking");
    let mut watched = watch(&reactor, here.into());
    let full = fill(&*watched);
    let (came, room) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let received = Arc::clone(&came);
    let waiting = poll_fn(|cx| {
        if let Poll::Ready(ready) = watched.poll_readable(cx) {
            ready.expect("readable");
            let got = read(watched.descriptor(), &mut [0; 8]);
            came.fetch_or(got == Ok(1), SeqCst);
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(ready) = watched.poll_writable(cx) {
            ready.expect("writable");
            room.fetch_or(write(watched.descriptor(), b"x").is_ok(), SeqCst);
            cx.waker().wake_by_ref();
        }
        if came.load(SeqCst) && room.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    });
    let peer = thread(move || {
        pause(Duration::from_millis(2));
        write(&there, b"y").expect("room for one");
        // Not before: or else who waits for room is woken, and looks for the byte as well.
        let looks = (0..10_000).find(|_| {
            pause(Duration::from_millis(1));
            received.load(SeqCst)
        });
        looks.expect("the byte is received");
        let mut taken = 0;
        while taken < full {
            taken += read(&there, &mut [0; 8192]).expect("there is more");
        }
        there
    });
    with_deadline(&reactor, LATE, "a byte and room", waiting).await;
    drop(peer.join());
}

/// Remembers that it was woken, and wakes the root.
#[derive(Debug)]
struct Noted {
    woken: AtomicBool,
    root: Waker,
}

impl Wake for Noted {
    fn wake(self: Arc<Noted>) {
        self.woken.store(true, SeqCst);
        self.root.wake_by_ref();
    }
}

/// Of two polls the later one's waker is woken.
async fn the_latest_waker(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut watched = watch(&reactor, reader);
    settled(&mut *watched, |watched, cx| watched.poll_readable(cx).is_pending()).await;
    let noted = |root: &Waker| Arc::new(Noted { woken: AtomicBool::new(false), root: root.clone() });
    let (first, later) = poll_fn(|cx| Poll::Ready((noted(cx.waker()), noted(cx.waker())))).await;
    for waker in [&first, &later].map(|noted| Waker::from(Arc::clone(noted))) {
        assert!(watched.poll_readable(&mut Context::from_waker(&waker)).is_pending(), "nothing came");
    }
    write(&writer, b"x").expect("room for one");
    let woken = poll_fn(|_| if later.woken.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending });
    with_deadline(&reactor, LATE, "the later poll to be woken", woken).await;
    assert_eq!(with_deadline(&reactor, LATE, "a byte", read_one(&mut *watched)).await, Some(b'x'));
}

/// The same open file under two descriptors: each is told.
async fn twice(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut other = watch(&reactor, dup(&reader).expect("a descriptor"));
    let mut watched = watch(&reactor, reader);
    for one in [&mut watched, &mut other] {
        settled(&mut **one, |watched, cx| watched.poll_readable(cx).is_pending()).await;
    }
    let told = join(poll_fn(|cx| watched.poll_readable(cx)), poll_fn(|cx| other.poll_readable(cx)));
    let mut told = pin!(told);
    assert!(once(|cx| told.as_mut().poll(cx)).await.is_pending(), "nothing came");
    write(&writer, b"x").expect("room for one");
    let (one, two) = with_deadline(&reactor, LATE, "both", told).await;
    assert!(one.is_ok() && two.is_ok());
}

/// A peer that goes is news in both directions.
async fn hang_up(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut watched = watch(&reactor, writer);
    fill(&*watched);
    settled(&mut *watched, |watched, cx| watched.poll_writable(cx).is_pending()).await;
    let gone = thread(move || {
        pause(Duration::from_millis(2));
        drop(reader);
    });
    with_deadline(&reactor, LATE, "news of the end", poll_fn(|cx| watched.poll_writable(cx)))
        .await
        .expect("ready to fail");
    // A program that is killed by SIGPIPE does not get here: Rust's own ignores it.
    assert_eq!(write(watched.descriptor(), b"x"), Err(Errno::PIPE));
    gone.join();
}

/// Nothing of a dropped one stays open, also while it waited.
async fn closed_when_dropped(reactor: Rc<dyn Reactor>) {
    let (reader, writer) = pipe();
    let mut watched = watch(&reactor, writer);
    fill(&*watched);
    settled(&mut *watched, |watched, cx| watched.poll_writable(cx).is_pending()).await;
    drop(watched);
    let closed = async {
        loop {
            match read(&reader, &mut [0; 8192]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::AGAIN) => sleep(&reactor, Duration::from_millis(1)).await,
                Err(error) => panic!("reading: {error}"),
            }
        }
    };
    // The root's one alarm is the sleep's; the runner has a limit for each law.
    closed.await;
}

/// A regular file is always ready, and says so by an error that is about the descriptor.
async fn what_cannot_be_polled(reactor: Rc<dyn Reactor>) {
    let file = File::open("/proc/self/exe").expect("our own program");
    let error = reactor.watch(file.into()).expect_err("a regular file");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
