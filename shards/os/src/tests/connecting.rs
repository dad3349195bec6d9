//! Connecting.

use std::io::ErrorKind;
use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::{is_internet, local, met_itself, met_itself_at, peer};

#[test]
fn a_refused_connect_says_so_once() {
    let bound = bind_group(&loopback(), &ListenOptions::default(), 1).unwrap().remove(0);
    let nobody = bound.local.clone();
    drop(bound);
    let (socket, progress) = begin_connect(&nobody, &ConnectOptions::default()).unwrap();
    assert!(matches!(progress, Progress::Begun), "{progress:?}");
    wait(socket.as_fd(), PollFlags::OUT);
    let error = take_error(socket.as_fd()).unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(take_error(socket.as_fd()).unwrap().is_none(), "the kernel tells it once");
    assert_eq!(peer(socket.as_fd()).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn a_chosen_source_address_leaves_the_port_to_connect() {
    let bound = bind_group(&loopback(), &ListenOptions::default(), 1).unwrap().remove(0);
    let from = Some("127.0.0.2:0".parse().unwrap());
    let client = connect(&bound.local, &ConnectOptions { from, ..ConnectOptions::default() }).unwrap();
    let here = local(client.as_fd()).unwrap().inet().unwrap();
    assert_eq!(here.ip().to_string(), "127.0.0.2");
    for (domain, at) in [(Domain::IPV4, "127.0.0.2:0"), (Domain::IPV6, "[::1]:0")] {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        crate::connect::bind_source(&socket, at.parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(port, 0, "a port taken by bind(2) is taken for all peers");
    }
}

#[test]
fn a_source_address_that_is_not_ours_is_an_error_at_once() {
    let from = Some("192.0.2.1:0".parse().unwrap());
    let error = begin_connect(&loopback(), &ConnectOptions { from, ..ConnectOptions::default() });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn unix_sockets_connect_at_once_or_say_why_not() {
    let at = abstract_name("connect");
    assert_eq!(
        connect(&at, &ConnectOptions::default()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "nobody listens"
    );
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let _bound = bind_group(&at, &options, 1).unwrap();
    let clients: Vec<_> = (0..4).map(|_| connect(&at, &ConnectOptions::default())).collect();
    assert!(clients[0].is_ok());
    let full = clients.last().unwrap().as_ref().unwrap_err();
    assert_eq!(full.kind(), ErrorKind::ResourceBusy, "a full queue never becomes an event: {full}");
}

#[test]
fn a_socket_that_connected_to_itself_is_noticed() {
    let (near, far) = pair();
    assert!(!met_itself(near.as_fd()) && !met_itself(far.as_fd()));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&crate::address::to_kernel(&loopback()).unwrap()).unwrap();
    socket.connect(&socket.local_addr().unwrap()).unwrap();
    assert!(met_itself(socket.as_fd()));
    let port = local(socket.as_fd()).unwrap().inet().unwrap().port();
    assert!(met_itself_at(socket.as_fd(), port) && !met_itself_at(socket.as_fd(), port ^ 1));
    assert!(!met_itself_at(far.as_fd(), local(far.as_fd()).unwrap().inet().unwrap().port()));
}

#[test]
fn families_are_told_apart() {
    let (tcp, _far) = pair();
    let (unix, _far) = pair_at(&abstract_name("family"), &ListenOptions::default());
    assert!(is_internet(tcp.as_fd()).unwrap());
    assert!(!is_internet(unix.as_fd()).unwrap());
    assert!(is_internet(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
}
