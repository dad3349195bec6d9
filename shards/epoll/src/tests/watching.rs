//! Readiness of descriptors that are no connections.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::task::{Context, Waker};

use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use waterwheel_reactor::Watched;

use super::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

#[test]
fn each_arrival_makes_a_pipe_ready_again() {
    run(async |reactor| {
        let (reader, writer) = pipe();
        let mut watched = reactor.watch(reader).unwrap().unwrap();
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(watched.poll_readable(cx).is_pending())).await);
            write(&writer, b"x").unwrap();
            poll_fn(|cx| watched.poll_readable(cx)).await.unwrap();
            assert_eq!(read(watched.descriptor(), &mut [0; 8]), Ok(1));
            assert_eq!(read(watched.descriptor(), &mut [0; 8]), Err(Errno::AGAIN));
        }
        drop(writer);
        poll_fn(|cx| watched.poll_readable(cx)).await.unwrap();
        assert_eq!(read(watched.descriptor(), &mut [0; 8]), Ok(0), "the end is ready too");
    });
}

#[test]
fn a_full_pipe_becomes_writable_when_it_is_read() {
    run(async |reactor| {
        let (reader, writer) = pipe();
        let mut watched = reactor.watch(writer).unwrap().unwrap();
        poll_fn(|cx| watched.poll_writable(cx)).await.unwrap();
        while write(watched.descriptor(), &[0; 4096]).is_ok() {}
        assert!(poll_fn(|cx| Poll::Ready(watched.poll_writable(cx).is_pending())).await);
        while read(&reader, &mut [0; 4096]).is_ok() {}
        poll_fn(|cx| watched.poll_writable(cx)).await.unwrap();
        assert!(write(watched.descriptor(), b"x").is_ok());
    });
}

#[test]
fn what_the_kernel_cannot_poll_is_refused() {
    run(async |reactor| {
        let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        assert_eq!(reactor.watch(file).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_watched_descriptor_outlives_its_reactor_without_harm() {
    let bench = Bench::new();
    let kept: Rc<RefCell<Option<Box<dyn Watched>>>> = Rc::default();
    let keep = kept.clone();
    bench.run(async move |reactor| {
        *keep.borrow_mut() = reactor.watch(pipe().0).unwrap();
    });
    bench.core.end();
    let mut watched = kept.take().unwrap();
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = watched.poll_readable(cx) else { panic!("must not wait") };
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert_eq!(read(watched.descriptor(), &mut [0; 8]), Ok(0), "the user's descriptor is still open");
}
