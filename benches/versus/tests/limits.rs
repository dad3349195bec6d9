//! The bare loops lose nothing, and what becomes of connections that fail.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use waterwheel_versus::cpus::Cpus;
use waterwheel_versus::subject::{Rank, Running, Subject};
use waterwheel_versus::{server, trial};

const PROXY: &str = env!("CARGO_BIN_EXE_bare_proxy");
const ECHOES: [&str; 2] = [env!("CARGO_BIN_EXE_bare_echo"), env!("CARGO_BIN_EXE_epoll_echo")];

fn start(program: &str, origin: Option<&TcpListener>) -> anyhow::Result<Running> {
    let folder = tempfile::tempdir()?;
    let origin = match origin.map(TcpListener::local_addr).transpose()? {
        Some(SocketAddr::V4(address)) => Some(address),
        Some(SocketAddr::V6(address)) => anyhow::bail!("{address} is no IPv4 address"),
        None => None,
    };
    Subject::small(program, Rank::Limit, program.into(), "").start(Cpus::choose()?, folder.path(), origin)
}

#[test]
fn echoes_to_slow_readers_lose_nothing() {
    for program in ECHOES {
        let running = start(program, None).unwrap();
        // Twice, since places are used again.
        (0..2).for_each(|_| trial::echo(running.at()).unwrap());
    }
}

#[test]
fn the_proxy_loses_nothing_and_passes_ends_on() {
    let origin = server::listen().unwrap();
    let running = start(PROXY, Some(&origin)).unwrap();
    (0..2).for_each(|_| trial::proxy(running.at(), &origin).unwrap());
}

/// More connections at once than there are buffers, each with a message larger than a buffer.
#[test]
fn connections_without_a_buffer_wait_for_one() {
    for program in ECHOES {
        let running = start(program, None).unwrap();
        let clients: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(running.at()).unwrap()).collect();
        let message = |client: usize| vec![client as u8; 40_000];
        clients.iter().enumerate().for_each(|(n, mut client)| client.write_all(&message(n)).unwrap());
        for (n, mut client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut answer = vec![0; 40_000];
            client.read_exact(&mut answer).unwrap();
            assert!(answer == message(n), "client {n}");
        }
    }
}

#[test]
fn an_origin_that_is_not_there_ends_the_connection_and_nothing_else() {
    let origin = server::listen().unwrap();
    let mut running = start(PROXY, Some(&origin)).unwrap();
    drop(origin);
    for _ in 0..3 {
        let mut client = TcpStream::connect(running.at()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The end, or a reset.
        assert!(
            client
                .read(&mut [0])
                .map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |n| n == 0)
        );
    }
    running.check().unwrap();
}

#[test]
fn clients_that_break_off_leave_the_others_alone() {
    let origin = server::listen().unwrap();
    let proxy = start(PROXY, Some(&origin)).unwrap();
    for _ in 0..20 {
        let mut client = TcpStream::connect(proxy.at()).unwrap();
        client.write_all(&[7; 100_000]).unwrap();
        let (mut server, _) = origin.accept().unwrap();
        // Unread bytes at both ends make both closes resets.
        server.write_all(&[7; 100_000]).unwrap();
    }
    trial::proxy(proxy.at(), &origin).unwrap();
    for program in ECHOES {
        let echo = start(program, None).unwrap();
        (0..20).for_each(|_| TcpStream::connect(echo.at()).unwrap().write_all(&[7; 100_000]).unwrap());
        trial::echo(echo.at()).unwrap();
    }
}
