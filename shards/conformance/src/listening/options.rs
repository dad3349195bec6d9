//! What sockets are like: inherited by nobody, never blocking, with the options that were asked for.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use socket2::{SockRef, Socket};
use waterwheel_reactor::{
    Address, Backend, Bound, ConnectOptions, Handle, ListenOptions, Reactor, StreamOptions,
};

use crate::Outcome;
use crate::kit::peer::LOOPBACK;
use crate::kit::stream::flush;
use crate::kit::{Census, accept, local, on_one};

/// LISTEN-5.
pub(super) fn as_asked(backend: &dyn Backend) -> Outcome {
    let plain = StreamOptions::default();
    let special = StreamOptions {
        nodelay: false,
        keepalive: Some(Duration::from_secs(120)),
        receive_buffer: Some(32 << 10),
        send_buffer: Some(48 << 10),
    };
    let inherited = Census::take();
    for stream in [plain, special] {
        let options = ListenOptions { stream, ..ListenOptions::default() };
        let bound = backend.bind(&LOOPBACK, &options, 1).expect("a free port").remove(0);
        let inherited = inherited.clone();
        let reason = on_one(backend, move |reactor| both_sides(reactor, bound, stream, inherited));
        if let Some(outcome) = reason {
            return outcome;
        }
    }
    Outcome::Holds
}

async fn both_sides(
    reactor: Rc<dyn Reactor>,
    bound: Bound,
    stream: StreamOptions,
    inherited: Census,
) -> Option<Outcome> {
    let to = Address::Inet(local(&bound));
    assert_eq!(bound.options.stream, stream);
    let Handle::Os(descriptor) = &bound.handle else {
        return Some(Outcome::NotOffered("no descriptors under this reactor"));
    };
    never_blocks(descriptor.as_fd(), "a bound socket");
    let mut listener = reactor.listen(bound).expect("listening");
    let options = ConnectOptions { stream, ..ConnectOptions::default() };
    let mut connected = reactor.connect(&to, &options).expect("connecting to ourselves");
    let incoming = accept(&mut listener).await.expect("accepting");
    flush(&mut *connected.sink).await.expect("connected");
    match &incoming.handle {
        Handle::Os(descriptor) => never_blocks(descriptor.as_fd(), "an accepted socket"),
        Handle::Virtual(_) => return Some(Outcome::NotOffered("no descriptors under this reactor")),
    }
    nobody_inherits(&inherited);
    let adopted = reactor.adopt(incoming).expect("adopting");
    for (transport, what) in [(&connected, "connected"), (&adopted, "accepted")] {
        let Some(descriptor) = transport.source.descriptor() else {
            return Some(Outcome::NotOffered("a source without a descriptor"));
        };
        never_blocks(descriptor, what);
        has(&SockRef::from(&descriptor), stream, what);
    }
    nobody_inherits(&inherited);
    None
}

fn never_blocks(descriptor: BorrowedFd<'_>, what: &str) {
    let flags = fcntl_getfl(descriptor).expect("the flags of an open descriptor");
    assert!(flags.contains(OFlags::NONBLOCK), "{what} blocks: {flags:?}");
}

/// All that this process has open, but for what it was given itself when it began.
fn nobody_inherits(inherited: &Census) {
    for entry in fs::read_dir("/proc/self/fdinfo").expect("/proc is mounted") {
        let path = entry.expect("an entry").path();
        let number: i32 = path.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
        // Closed meanwhile, as the directory itself: nothing to inherit.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags (proc(5))");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("an octal number");
        let what = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default().display().to_string();
        let ours = inherited.descriptors.get(&number) != Some(&what);
        let stays = flags & OFlags::CLOEXEC.bits() == 0;
        assert!(!(ours && stays), "a child would inherit descriptor {number} ({what})");
    }
}

fn has(socket: &Socket, asked: StreamOptions, what: &str) {
    assert_eq!(socket.tcp_nodelay().expect("TCP_NODELAY"), asked.nodelay, "TCP_NODELAY of what was {what}");
    assert_eq!(socket.keepalive().expect("SO_KEEPALIVE"), asked.keepalive.is_some(), "SO_KEEPALIVE, {what}");
    if let Some(idle) = asked.keepalive {
        assert_eq!(socket.tcp_keepalive_time().expect("TCP_KEEPIDLE"), idle, "{what}");
        assert_eq!(socket.tcp_keepalive_interval().expect("TCP_KEEPINTVL"), idle / 10, "{what}");
    }
    // The kernel doubles what was asked for, to have room for its own notes (socket(7)).
    if let Some(bytes) = asked.receive_buffer {
        assert_eq!(socket.recv_buffer_size().expect("SO_RCVBUF"), 2 * bytes, "{what}");
    }
    if let Some(bytes) = asked.send_buffer {
        assert_eq!(socket.send_buffer_size().expect("SO_SNDBUF"), 2 * bytes, "{what}");
    }
}
