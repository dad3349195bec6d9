//! What binding gives, and how it fails.

use std::fs::{self, Permissions};
use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, NotFound, PermissionDenied};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use rustix::process::geteuid;
use rustix::thread::set_thread_uid;
use tempfile::TempDir;
use waterwheel_reactor::{Address, Backend, Bound, ListenOptions, UnixName};

use crate::Outcome;
use crate::kit::peer::{Peer, listening};
use crate::kit::{Census, local, surroundings};

/// LISTEN-1. Each failure must leave nothing behind, above all no socket that was bound before the one that failed.
pub(super) fn typed_errors(backend: &dyn Backend) -> Outcome {
    port_zero(backend);
    in_use(backend);
    no_such_address(backend);
    if surroundings().files() { in_a_directory(backend) } else { Outcome::Holds }
}

fn loopback(port: u16) -> Address {
    Address::Inet(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn port_zero(backend: &dyn Backend) {
    for reuse_port in [true, false] {
        for count in 1..=3 {
            let options = ListenOptions { reuse_port, ..ListenOptions::default() };
            let bound = backend.bind(&loopback(0), &options, count).expect("a free port");
            assert_eq!(bound.len(), count, "one socket per shard");
            let at = local(&bound[0]);
            assert_ne!(at.port(), 0, "port 0 was not resolved");
            assert!(bound.iter().all(|other| local(other) == at), "not all share a port: {bound:?}");
            assert!(bound.iter().all(|bound| bound.options == options), "options changed: {bound:?}");
            // The kernel answers from bind on.
            drop(Peer::connect(&at.into(), Default::default()));
        }
    }
}

fn in_use(backend: &dyn Backend) {
    let (holder, at) = listening();
    let at = Address::Inet(at);
    for reuse_port in [true, false] {
        for count in [1, 3] {
            let options = ListenOptions { reuse_port, ..ListenOptions::default() };
            refused(backend, &at, &options, count, &[AddrInUse]);
        }
    }
    drop(holder);
    backend.bind(&at, &ListenOptions::default(), 1).expect("the port is free again");
    // Without a group, also two calls of the backend's own exclude each other.
    let alone = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    let held = backend.bind(&at, &alone, 1).expect("the port is free");
    refused(backend, &at, &alone, 1, &[AddrInUse]);
    drop(held);
}

fn no_such_address(backend: &dyn Backend) {
    let options = ListenOptions::default();
    // A network for documentation (RFC 5737): nobody's address.
    let elsewhere = Address::Inet(SocketAddr::from(([203, 0, 113, 1], 0)));
    refused(backend, &elsewhere, &options, 2, &[AddrNotAvailable]);
    // Longer than a Unix address holds (108 bytes, unix(7)).
    let long = Address::Unix(UnixName::Path(format!("/tmp/{}", "long".repeat(50)).into()));
    refused(backend, &long, &options, 1, &[InvalidInput]);
    let long = Address::Unix(UnixName::Abstract(vec![b'x'; 200]));
    refused(backend, &long, &options, 1, &[InvalidInput]);
}

/// A path whose directory does not exist, or may not be written to.
fn in_a_directory(backend: &dyn Backend) -> Outcome {
    let nowhere = Address::Unix(UnixName::Path("/no/such/directory/socket".into()));
    refused(backend, &nowhere, &ListenOptions::default(), 1, &[NotFound]);
    permission(backend)
}

fn refused(backend: &dyn Backend, at: &Address, options: &ListenOptions, count: usize, kinds: &[ErrorKind]) {
    let census = Census::take();
    expect_kind(backend.bind(at, options, count), at, kinds);
    assert_eq!(Census::take().descriptors, census.descriptors, "a bind that failed left something behind");
}

fn expect_kind(result: io::Result<Vec<Bound>>, at: &Address, kinds: &[ErrorKind]) {
    match result {
        Ok(bound) => panic!("bound to {at}: {bound:?}"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{at}: {error:?}, expected {kinds:?}"),
    }
}

/// A directory that only its owner, or nobody, may write to. The superuser may do everything, so a thread stops being
/// the superuser first: for the kernel that is a thread's own affair (credentials(7)).
fn permission(backend: &dyn Backend) -> Outcome {
    let directory = TempDir::new().expect("a temporary directory");
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).expect("a directory in our own");
    fs::set_permissions(&closed, Permissions::from_mode(0o500)).expect("our own directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("our own directory");
    let at = Address::Unix(UnixName::Path(closed.join("socket")));
    let outcome = thread::scope(|scope| scope.spawn(|| as_anybody(backend, &at, &closed)).join());
    outcome.unwrap_or_else(|_| panic!("the unprivileged thread failed"))
}

fn as_anybody(backend: &dyn Backend, at: &Address, closed: &Path) -> Outcome {
    const NOBODY: u32 = 65_534;
    if geteuid().is_root() && set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).is_err() {
        return Outcome::NotOffered("permission errors cannot be arranged by this superuser");
    }
    assert!(fs::write(closed.join("probe"), b"").is_err(), "the directory is closed to this thread");
    expect_kind(backend.bind(at, &ListenOptions::default(), 1), at, &[PermissionDenied]);
    Outcome::Holds
}
