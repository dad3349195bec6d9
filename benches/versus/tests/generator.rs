//! The generator finds what a subject does wrong, and counts what it does right.
#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use waterwheel_versus::load::{Generator, Kind, MIB, Timing, Workload};
use waterwheel_versus::server;

const TIMING: Timing = Timing { warm_up: Duration::from_millis(20), window: Duration::from_millis(300) };

/// What a server does to what it moves.
type Fault = fn(&mut Piece, u64);

/// What is moved at once.
type Piece = Vec<u8>;

/// A server with a thread for each direction, and a fault. Its threads end with their connections.
fn serve(origin: Option<SocketAddrV4>, fault: Fault) -> SocketAddrV4 {
    let listener = server::listen().expect("a listener");
    let SocketAddr::V4(at) = listener.local_addr().expect("its address") else { panic!("no IPv4") };
    std::thread::spawn(move || accept(&listener, origin, fault));
    at
}

fn accept(listener: &TcpListener, origin: Option<SocketAddrV4>, fault: Fault) -> io::Result<()> {
    loop {
        let client = listener.accept()?.0;
        let Some(origin) = origin else {
            std::thread::spawn(move || copy(&client, &client, fault));
            continue;
        };
        let server = TcpStream::connect(origin)?;
        server.set_nodelay(true)?;
        let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || copy(&client, &server, fault));
        std::thread::spawn(move || copy(&server_too, &client_too, |_, _| {}));
    }
}

/// The fault is told how much went through before.
fn copy(mut from: &TcpStream, mut to: &TcpStream, fault: Fault) -> io::Result<()> {
    let (mut buffer, mut before) = (vec![0; 16 * 1024], 0);
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        let mut bytes = buffer[..length].to_vec();
        fault(&mut bytes, before);
        before += length as u64;
        to.write_all(&bytes)?;
    }
}

fn none(_: &mut Piece, _: u64) {}

fn one_wrong_bit(bytes: &mut Piece, before: u64) {
    // Not in the first bytes, so that something went well before; in every piece, since of streams samples
    // are looked at.
    if before > 0 {
        bytes[0] ^= 1;
    }
}

fn one_byte_less(bytes: &mut Piece, before: u64) {
    if before > 0 {
        bytes.pop();
    }
}

fn one_byte_more(bytes: &mut Piece, before: u64) {
    if before > 0 {
        bytes.push(0);
    }
}

fn load(kind: Kind, bytes: usize) -> Workload {
    Workload { name: "test", kind, connections: 3, bytes, message: "message" }
}

fn closed(workload: Workload, through_proxy: bool, fault: Fault) -> anyhow::Result<f64> {
    let mut generator = Generator::new(workload, through_proxy)?;
    let origin = through_proxy.then(|| generator.origin()).transpose()?;
    generator.set_target(serve(origin, fault));
    Ok(generator.closed(TIMING, || Ok(()))?.messages)
}

#[test]
fn good_servers_pass() {
    for (bytes, through_proxy) in [(64, false), (64, true), (16 * 1024, true), (100_000, true)] {
        assert!(closed(load(Kind::Exchange, bytes), through_proxy, none).unwrap() > 0.0);
    }
    assert!(closed(load(Kind::Connect, 64), true, none).unwrap() > 0.0);
    assert!(closed(load(Kind::Stream, MIB), true, none).unwrap() > 0.0);
}

#[test]
fn bad_servers_do_not() {
    let cases: [(Kind, usize, Fault, &str); 8] = [
        (Kind::Exchange, 64, one_wrong_bit, "WRONG BYTES"),
        (Kind::Exchange, 16 * 1024, one_wrong_bit, "WRONG BYTES"),
        (Kind::Exchange, 64, one_byte_more, "WRONG BYTES"),
        (Kind::Exchange, 16 * 1024, one_byte_more, "WRONG BYTES"),
        (Kind::Exchange, 16 * 1024, one_byte_less, ""),
        (Kind::Stream, MIB, one_byte_less, "WRONG BYTES"),
        (Kind::Stream, MIB, one_byte_more, "WRONG BYTES"),
        (Kind::Stream, MIB, one_wrong_bit, "WRONG BYTES"),
    ];
    std::thread::scope(|scope| {
        for (number, (kind, bytes, fault, word)) in cases.into_iter().enumerate() {
            scope.spawn(move || {
                let error = closed(load(kind, bytes), true, fault).unwrap_err();
                assert!(format!("{error:#}").contains(word), "{number}: {error:#}");
            });
        }
    });
}

#[test]
fn a_connection_that_is_closed_is_an_error() {
    let listener = server::listen().unwrap();
    let SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("no IPv4") };
    std::thread::spawn(move || listener.accept().map(drop));
    let mut generator = Generator::new(load(Kind::Exchange, 64), false).unwrap();
    generator.set_target(at);
    assert!(generator.closed(TIMING, || Ok(())).is_err());
}

/// A server that stalls once makes all that were planned meanwhile late, not only the one that it held.
#[test]
fn a_stall_is_seen_by_all_that_were_planned_in_it() {
    fn stall_once(_: &mut Piece, before: u64) {
        if before == 64 * 100 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let mut generator =
        Generator::new(Workload { connections: 1, ..load(Kind::Exchange, 64) }, false).unwrap();
    generator.set_target(serve(None, stall_once));
    let timing = Timing { warm_up: Duration::from_millis(1), window: Duration::from_millis(500) };
    let planned = generator.planned(timing, 1000.0, 1, || Ok(())).unwrap();
    let times = planned.responses;
    assert!(times.len() > 300 && times.is_sorted(), "{}", times.len());
    let late = times.iter().filter(|time| **time > Duration::from_millis(20)).count();
    // Of a hundred or so in the stall, those in its first four fifths.
    assert!((30..).contains(&late), "{late} of {}", times.len());
}

#[test]
fn idle_connections_stay() {
    let mut generator = Generator::new(load(Kind::Exchange, 64), true).unwrap();
    let origin = generator.origin().unwrap();
    generator.set_target(serve(Some(origin), none));
    for count in [0, 20, 50] {
        generator.idle(count).unwrap();
        generator.rest(Duration::from_millis(5)).unwrap();
    }
}
