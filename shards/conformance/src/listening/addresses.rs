//! Every kind of address, and what becomes of a file that stands where a socket should.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process;
use std::time::Duration;

use tempfile::TempDir;
use waterwheel_reactor::{Address, Backend, Bound, ListenOptions, UnixName};

use crate::Outcome;
use crate::kit::peer::{Peer, errand};
use crate::kit::stream::{read, write_all};
use crate::kit::{accept, on_one, surroundings};

/// LISTEN-7.
pub(super) fn every_family(backend: &dyn Backend) -> Outcome {
    unix(backend);
    stale_paths(backend);
    served(backend, bind(backend, &Ipv4Addr::LOCALHOST.into()), None);
    if surroundings().listen(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into(), 1).is_err() {
        return Outcome::NotOffered("no IPv6 on this machine");
    }
    six(backend);
    Outcome::Holds
}

fn bind(backend: &dyn Backend, at: &std::net::IpAddr) -> Bound {
    bind_at(backend, &Address::Inet(SocketAddr::new(*at, 0)), &ListenOptions::default())
}

fn bind_at(backend: &dyn Backend, at: &Address, options: &ListenOptions) -> Bound {
    let bound = backend.bind(at, options, 1);
    bound.unwrap_or_else(|error| panic!("{at}: {error}")).remove(0)
}

/// Accepts one client on `bound`, exchanges a word with it, and compares what both say of each other's address.
/// `through`: where the client connects, if not where the socket says that it listens.
fn served(backend: &dyn Backend, bound: Bound, through: Option<Address>) -> Bound {
    let to = through.unwrap_or_else(|| bound.local.clone());
    on_one(backend, move |reactor| async move {
        let mut listener = reactor.listen(bound).expect("listening");
        let client = Peer::connect(&to, Default::default());
        let incoming = accept(&mut listener).await.unwrap_or_else(|error| panic!("{to}: {error}"));
        let told = incoming.peer.clone();
        let mut transport = reactor.adopt(incoming).expect("adopting");
        client.write_all(b"hello");
        assert_eq!(read(&mut *transport.source).await.expect("reading"), b"hello", "{to}");
        write_all(&mut *transport.sink, b"welcome").await.expect("writing");
        let welcomed = errand(move || {
            client.expect_bytes(b"welcome");
            client
        });
        let client = welcomed.end().await;
        let peer = transport.source.peer().expect("connected");
        assert!(told.is_none_or(|told| told == peer), "{to}: accept told of another peer than {peer}");
        let local = transport.source.local().expect("connected");
        match &to {
            Address::Inet(at) => {
                assert_eq!(peer.inet(), client.local().inet(), "{to}: the client's own address");
                assert_eq!(local.inet(), Some(*at), "{to}: where the client connected");
            }
            Address::Unix(_) => {
                assert_eq!(peer, Address::Unix(UnixName::Unnamed), "{to}: a client without a name");
                assert_eq!(local, to, "where the client connected");
            }
        }
        crate::kit::close_listener(listener).await
    })
}

fn six(backend: &dyn Backend) {
    served(backend, bind(backend, &Ipv6Addr::LOCALHOST.into()), None);
    // Dual stack: one socket serves both, and an IPv4 client is known by its IPv4 address.
    let both = bind(backend, &Ipv6Addr::UNSPECIFIED.into());
    let port = both.local.inet().expect("an internet address").port();
    let both = served(backend, both, Some(Address::Inet((Ipv6Addr::LOCALHOST, port).into())));
    served(backend, both, Some(Address::Inet((Ipv4Addr::LOCALHOST, port).into())));
    let options = ListenOptions { only_v6: true, ..ListenOptions::default() };
    let any = Address::Inet((Ipv6Addr::UNSPECIFIED, 0).into());
    let only = bind_at(backend, &any, &options);
    let port = only.local.inet().expect("an internet address").port();
    let four = Address::Inet((Ipv4Addr::LOCALHOST, port).into());
    let refused = surroundings().connect(&four, Default::default(), Duration::from_secs(5));
    let refused = refused.expect_err("IPv4 on a socket for IPv6 only");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    served(backend, only, Some(Address::Inet((Ipv6Addr::LOCALHOST, port).into())));
}

fn unix(backend: &dyn Backend) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = Address::Unix(UnixName::Path(directory.path().join("socket")));
    let name = Address::Unix(UnixName::Abstract(format!("waterwheel/law/{}", process::id()).into_bytes()));
    for at in [path, name] {
        // A Unix socket has no group: all are the same socket, and any of them serves.
        let mut bound = backend.bind(&at, &ListenOptions::default(), 2).expect("a name of our own");
        assert_eq!(bound.len(), 2, "one socket per shard");
        assert!(bound.iter().all(|bound| bound.local == at), "{bound:?}");
        let second = bound.pop().expect("two");
        drop(bound);
        let second = served(backend, second, None);
        let taken = backend.bind(&at, &ListenOptions::default(), 1).expect_err("somebody listens there");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{at}: {taken:?}");
        drop(second);
        drop(bind_at(backend, &at, &ListenOptions::default()));
    }
}

/// Where paths are no files, only what is served matters: a path that nobody holds is free.
fn stale_paths(backend: &dyn Backend) {
    let (around, directory) = (surroundings(), TempDir::new().expect("a temporary directory"));
    let path = directory.path().join("socket");
    let at = Address::Unix(UnixName::Path(path.clone()));
    let remove = || {
        if around.files() {
            fs::remove_file(&path).expect("the socket's file");
        }
    };
    // Nobody answers: the file of a server that died.
    drop(around.listen(&at, 1).expect("a path of our own"));
    assert_eq!(path.exists(), around.files(), "a socket's file outlives it");
    drop(served(backend, bind_at(backend, &at, &ListenOptions::default()), None));
    remove();
    // Somebody answers, and goes on.
    let alive = around.listen(&at, 16).expect("a path of our own");
    in_use(backend, &at, "a server that answers");
    drop(Peer::connect(&at, Default::default()));
    drop(alive);
    remove();
    if around.files() {
        // No socket at all: somebody's data.
        fs::write(&path, b"precious").expect("a file of our own");
        in_use(backend, &at, "a file");
        assert_eq!(fs::read(&path).expect("the file is still there"), b"precious");
    }
}

fn in_use(backend: &dyn Backend, at: &Address, what: &str) {
    match backend.bind(at, &ListenOptions::default(), 1) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        other => panic!("{what} stands at {at}, yet binding gives {other:?}"),
    }
}
