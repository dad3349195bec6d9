//! Listening and accepting.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::SocketAddrUnix;
use socket2::SockRef;
use waterwheel_reactor::StreamOptions;

use super::*;
use crate::{SocketFile, local, peer};

fn with_port(at: &Address, ip: &str) -> Address {
    Address::Inet(SocketAddr::new(ip.parse().unwrap(), at.inet().unwrap().port()))
}

#[test]
fn port_zero_is_chosen_once_and_shared_by_the_group() {
    let group = bind_group(&loopback(), &ListenOptions::default(), 4).unwrap();
    let ports: BTreeSet<_> = group.iter().map(|bound| local(descriptor(bound)).unwrap()).collect();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports.first(), Some(&group[0].local));
    assert_ne!(group[0].local.inet().unwrap().port(), 0);
    let clients: Vec<_> =
        (0..64).map(|_| connect(&group[0].local, &ConnectOptions::default()).unwrap()).collect();
    let accepted: Vec<_> =
        group.iter().map(|bound| std::iter::from_fn(|| accept(descriptor(bound)).ok()).count()).collect();
    assert_eq!(accepted.iter().sum::<usize>(), clients.len(), "each is in one queue: {accepted:?}");
    // Four shares of 64 by a hash: that one gets all has a probability of 4^-63.
    assert!(accepted.iter().filter(|count| **count > 0).count() > 1, "the kernel spreads: {accepted:?}");
}

#[test]
fn a_group_that_somebody_else_listens_with_is_refused_and_not_joined() {
    let first = bind_group(&loopback(), &ListenOptions::default(), 2).unwrap();
    let at = first[0].local.clone();
    let error = bind_group(&at, &ListenOptions::default(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    drop(first);
    // Another test's child has copies of them, until it executes its program.
    let again = (0..1_000_000).find_map(|_| bind_group(&at, &ListenOptions::default(), 2).ok());
    let again = again.unwrap();
    assert_eq!(again[1].local, at, "the port is free when the last socket is gone");
}

#[test]
fn a_group_beside_its_own_takes_what_that_does_not_and_all_once_that_is_gone() {
    let narrow = bind_group(&loopback(), &ListenOptions::default(), 2).unwrap();
    let (at, wide) = (narrow[0].local.clone(), with_port(&narrow[0].local, "0.0.0.0"));
    assert_eq!(bind_group(&wide, &ListenOptions::default(), 2).unwrap_err().kind(), ErrorKind::AddrInUse);
    let beside = ListenOptions { beside_own: true, ..ListenOptions::default() };
    let wide = bind_group(&wide, &beside, 2).unwrap();
    let accepted = |group: &[Bound]| group.iter().filter(|bound| accept(descriptor(bound)).is_ok()).count();
    let connect_to = |at: &Address| connect(at, &ConnectOptions::default()).unwrap();
    let elsewhere = with_port(&at, "127.0.0.2");
    let _first = connect_to(&at);
    assert_eq!((accepted(&narrow), accepted(&wide)), (1, 0), "the more exact one has it");
    let _second = connect_to(&elsewhere);
    assert_eq!((accepted(&narrow), accepted(&wide)), (0, 1));
    drop(narrow);
    let _third = connect_to(&at);
    assert_eq!(accepted(&wide), 1, "it has all that is left");
    // And the other way round.
    let narrow = bind_group(&at, &beside, 2).unwrap();
    let _fourth = connect_to(&at);
    assert_eq!((accepted(&narrow), accepted(&wide)), (1, 0));
}

#[test]
fn without_port_sharing_the_descriptors_are_of_one_socket() {
    let options = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    let group = bind_group(&loopback(), &options, 3).unwrap();
    let client = connect(&group[0].local, &ConnectOptions::default()).unwrap();
    assert!(group.iter().all(|bound| is_readable_now(descriptor(bound))), "all see one queue");
    let (_, from) = accept(descriptor(&group[2])).unwrap();
    assert_eq!(from, local(client.as_fd()).unwrap());
    assert_eq!(accept(descriptor(&group[0])).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(bind_group(&group[0].local, &options, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn what_cannot_be_bound_is_a_typed_error_and_leaves_nothing() {
    let kind = |at: &Address, count| {
        bind_group(at, &ListenOptions::default(), count).map(drop).map_err(|error| error.kind())
    };
    let not_ours = Address::Inet("192.0.2.1:0".parse().unwrap());
    assert_eq!(kind(&not_ours, 2), Err(ErrorKind::AddrNotAvailable));
    assert_eq!(kind(&loopback(), 0), Err(ErrorKind::InvalidInput));
    assert_eq!(kind(&Address::Unix(UnixName::Unnamed), 1), Err(ErrorKind::InvalidInput));
    let nowhere = Address::Unix(UnixName::Path(PathBuf::from("/nonexistent/x.sock")));
    assert_eq!(kind(&nowhere, 1), Err(ErrorKind::NotFound));
    // A listener on the IPv4 side alone keeps the dual-stack port from being bound.
    let four = bind_group(&loopback(), &ListenOptions::default(), 1).unwrap();
    let both = with_port(&four[0].local, "::");
    assert_eq!(kind(&both, 2), Err(ErrorKind::AddrInUse));
    drop(four);
    assert_eq!(kind(&both, 2), Ok(()), "the failed attempt left nothing behind");
}

#[test]
fn ipv6_is_dual_stack_unless_told_otherwise() {
    let any = Address::Inet("[::]:0".parse().unwrap());
    let both = bind_group(&any, &ListenOptions::default(), 1).unwrap();
    let client = connect(&with_port(&both[0].local, "127.0.0.1"), &ConnectOptions::default()).unwrap();
    let (_, from) = accept(descriptor(&both[0])).unwrap();
    assert_eq!(from.inet(), local(client.as_fd()).unwrap().inet(), "mapped addresses are seen as IPv4");

    let only = ListenOptions { only_v6: true, ..ListenOptions::default() };
    let six = bind_group(&any, &only, 1).unwrap();
    let refused = connect(&with_port(&six[0].local, "127.0.0.1"), &ConnectOptions::default());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    connect(&with_port(&six[0].local, "::1"), &ConnectOptions::default()).unwrap();
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let at = Address::Unix(UnixName::Path(path.clone()));
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a socket's file outlives it");
    let group = bind_group(&at, &ListenOptions::default(), 2).unwrap();
    assert_eq!(group[0].local, at);

    let error = bind_group(&at, &ListenOptions::default(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let _client = connect(&at, &ConnectOptions::default()).unwrap();
    assert!(accept(descriptor(&group[1])).is_ok(), "the live one still serves");
}

#[test]
fn of_two_starts_at_once_one_gets_the_path_and_is_reached_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let at = Address::Unix(UnixName::Path(path.clone()));
    for _ in 0..200 {
        // Left behind by a process that is gone.
        drop(UnixListener::bind(&path).unwrap());
        let together = Barrier::new(4);
        let start = || {
            together.wait();
            bind_group(&at, &ListenOptions::default(), 1)
        };
        let groups = thread::scope(|threads| {
            let starts = [(); 4].map(|()| threads.spawn(start));
            starts.map(|start| start.join().unwrap())
        });
        let (bound, refused): (Vec<_>, Vec<_>) = groups.into_iter().partition(Result::is_ok);
        assert_eq!(bound.len(), 1, "so many believe that they listen");
        for error in refused.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        let _client = connect(&at, &ConnectOptions::default()).unwrap();
        let group = bound.into_iter().next().unwrap().unwrap();
        assert!(accept(descriptor(&group[0])).is_ok(), "clients reach another one");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
}

#[test]
fn a_socket_file_is_removed_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let at = Address::Unix(UnixName::Path(path.clone()));
    let bind = || {
        let group = bind_group(&at, &ListenOptions::default(), 2).unwrap();
        (group, SocketFile::of(&path).unwrap())
    };
    let (group, file) = bind();
    drop((group, file));
    assert!(!path.exists());
    // Its successor came after its last socket was closed, and before it removed the file.
    let (group, file) = bind();
    drop(group);
    let (successor, own) = bind();
    drop(file);
    let _client = connect(&at, &ConnectOptions::default()).unwrap();
    assert!(accept(descriptor(&successor[0])).is_ok());
    drop(own);
    // Somebody has removed it already, and somebody else has put something in its place.
    let (group, file) = bind();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "data").unwrap();
    drop((group, file));
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    assert_eq!(SocketFile::of(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_folder_that_somebody_else_has_locked_delays_a_bind_and_does_not_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = fs::File::open(folder.path()).unwrap();
    lock.lock().unwrap();
    let at = Address::Unix(UnixName::Path(folder.path().join("x.sock")));
    let group = bind_group(&at, &ListenOptions::default(), 1).unwrap();
    let _client = connect(&at, &ConnectOptions::default()).unwrap();
    assert!(accept(descriptor(&group[0])).is_ok());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "data").unwrap();
    let at = Address::Unix(UnixName::Path(path.clone()));
    let error = bind_group(&at, &ListenOptions::default(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn an_abstract_name_goes_with_its_last_socket() {
    let at = abstract_name("last");
    let group = bind_group(&at, &ListenOptions::default(), 2).unwrap();
    assert_eq!(group[0].local, at);
    assert_eq!(bind_group(&at, &ListenOptions::default(), 1).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(group);
    bind_group(&at, &ListenOptions::default(), 1).unwrap();
}

#[test]
fn accepted_sockets_inherit_the_listeners_options() {
    let stream = StreamOptions {
        nodelay: true,
        keepalive: Some(Duration::from_secs(70)),
        receive_buffer: Some(20_000),
        send_buffer: Some(30_000),
    };
    let (near, far) = pair_at(&loopback(), &ListenOptions { stream, ..ListenOptions::default() });
    let far_options = SockRef::from(&far);
    assert!(far_options.tcp_nodelay().unwrap());
    assert!(far_options.keepalive().unwrap());
    assert_eq!(far_options.tcp_keepalive_time().unwrap(), Duration::from_secs(70));
    assert_eq!(far_options.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
    // The kernel doubles what is asked, for its own records.
    assert_eq!(far_options.recv_buffer_size().unwrap(), 40_000);
    assert_eq!(far_options.send_buffer_size().unwrap(), 60_000);
    // The connecting side had the defaults.
    let near_options = SockRef::from(&near);
    assert!(near_options.tcp_nodelay().unwrap());
    assert!(!near_options.keepalive().unwrap());

    let slow = StreamOptions { nodelay: false, ..StreamOptions::default() };
    let (_near, far) = pair_at(&loopback(), &ListenOptions { stream: slow, ..ListenOptions::default() });
    assert!(!SockRef::from(&far).tcp_nodelay().unwrap());
}

#[test]
fn absurd_options_are_bounded_and_not_refused() {
    let stream = StreamOptions {
        nodelay: true,
        keepalive: Some(Duration::MAX),
        receive_buffer: Some(usize::MAX),
        send_buffer: Some(0),
    };
    let options = ListenOptions { stream, backlog: u32::MAX, ..ListenOptions::default() };
    let (_near, far) = pair_at(&loopback(), &options);
    assert_eq!(SockRef::from(&far).tcp_keepalive_time().unwrap(), Duration::from_secs(32_767));
    pair_at(&abstract_name("absurd"), &options);
}

#[test]
fn every_descriptor_is_close_on_exec_and_non_blocking() {
    let shared = bind_group(&loopback(), &ListenOptions::default(), 2).unwrap();
    let named = bind_group(&abstract_name("flags"), &ListenOptions::default(), 2).unwrap();
    let (near, far) = pair();
    let listeners = shared.iter().chain(&named).map(descriptor);
    for socket in listeners.chain([near.as_fd(), far.as_fd()]) {
        assert!(fcntl_getfd(socket).unwrap().contains(FdFlags::CLOEXEC));
        assert!(fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK));
    }
}

#[test]
fn a_peers_name_of_the_longest_size_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = abstract_name("long");
    let bound = bind_group(&at, &ListenOptions::default(), 1).unwrap().remove(0);
    // 108 bytes fill sun_path, without room for the zero byte that usually ends it.
    let mut path = folder.path().join("").into_os_string().into_string().unwrap();
    path.extend(std::iter::repeat_n('x', 108 - path.len()));
    let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    rustix::net::bind(&client, &SocketAddrUnix::new(path.as_str()).unwrap()).unwrap();
    client.connect(&crate::address::to_kernel(&at).unwrap()).unwrap();
    let (far, from) = accept(descriptor(&bound)).unwrap();
    let named = Address::Unix(UnixName::Path(PathBuf::from(path)));
    assert_eq!(from, named);
    assert_eq!(peer(far.as_fd()).unwrap(), named);
}

#[test]
fn a_client_without_a_name_is_unnamed() {
    let at = abstract_name("unnamed");
    let bound = bind_group(&at, &ListenOptions::default(), 1).unwrap().remove(0);
    let client = connect(&at, &ConnectOptions::default()).unwrap();
    let (far, from) = accept(descriptor(&bound)).unwrap();
    assert_eq!(from, Address::Unix(UnixName::Unnamed));
    assert_eq!(peer(far.as_fd()).unwrap(), Address::Unix(UnixName::Unnamed));
    assert_eq!(peer(client.as_fd()).unwrap(), at);
}
