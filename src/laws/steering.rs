//! Which shard a connection ends on: what the hash says, and the counters of how it came there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use waterwheel::net::{AcceptStats, Connection};
use waterwheel::reactor::Address;
use waterwheel::steer::{Mode, owner};

use super::kit::{LONG, Server, config, on_each_reactor};

on_each_reactor![
    flow_places_every_connection_where_the_hash_says,
    source_keeps_a_client_together,
    kernel_leaves_connections_where_they_came,
];

const SHARDS: usize = 3;
const SEED: u32 = 0xC0FF_EE00;

/// Tells which shard serves it.
async fn name(mut connection: Connection) -> anyhow::Result<()> {
    connection.write_all(&[connection.shard().id().index() as u8]).await?;
    // Until the client ends, so that its port is not used twice.
    connection.read(&mut [0]).await?;
    Ok(())
}

/// A connection from a loopback address of the caller's choice.
pub(super) fn client_from(host: u8, to: SocketAddr) -> TcpStream {
    let end = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&end, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
    connect(&end, &to).unwrap();
    let stream = TcpStream::from(end);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Makes connections from several hosts in turn: who came and which shard served it, and what was counted.
fn place(reactor: &str, mode: Mode, hosts: u8, count: usize) -> (Vec<(SocketAddr, usize)>, AcceptStats) {
    let server = Server::start(config(reactor, SHARDS).steer(mode).steer_seed(SEED), name);
    let mut placed: Vec<(TcpStream, usize)> = Vec::new();
    for number in 0..count {
        let mut stream = client_from(1 + (number % usize::from(hosts)) as u8, server.at);
        let mut shard = [0];
        stream.read_exact(&mut shard).unwrap();
        placed.push((stream, usize::from(shard[0])));
    }
    let found = placed.iter().map(|(stream, shard)| (stream.local_addr().unwrap(), *shard)).collect();
    placed.iter_mut().for_each(|(stream, _)| stream.write_all(b".").unwrap());
    drop(placed);
    let counted = server.stop().unwrap();
    (found, counted.into_iter().fold(AcceptStats::default(), std::ops::Add::add))
}

fn flow_places_every_connection_where_the_hash_says(reactor: &str) {
    let (placed, counted) = place(reactor, Mode::Flow, 1, 150);
    for (peer, shard) in &placed {
        assert_eq!(owner(&Address::Inet(*peer), Mode::Flow, SEED, SHARDS), Some(*shard), "{peer}");
    }
    for shard in 0..SHARDS {
        assert!(placed.iter().any(|(_, served)| *served == shard), "shard {shard} has none of 150");
    }
    // The kernel does not know the hash yet, so that about two thirds of them came to the wrong shard.
    assert_eq!((counted.accepted, counted.handed_over), (150, counted.taken_over), "{counted:?}");
    assert!((50..140).contains(&counted.handed_over), "{counted:?}");
    assert_eq!((counted.kept, counted.crowded, counted.dropped, counted.adopt_failed), (0, 0, 0, 0));
}

fn source_keeps_a_client_together(reactor: &str) {
    let (placed, counted) = place(reactor, Mode::Source, 10, 100);
    for (peer, shard) in &placed {
        assert_eq!(owner(&Address::Inet(*peer), Mode::Source, SEED, SHARDS), Some(*shard), "{peer}");
        let first = placed.iter().find(|(other, _)| other.ip() == peer.ip()).unwrap();
        assert_eq!(first.1, *shard, "{} is on two shards", peer.ip());
    }
    let hosts: Vec<IpAddr> = placed.iter().map(|(peer, _)| peer.ip()).collect();
    assert!(hosts.iter().any(|host| *host != hosts[0]) && counted.handed_over > 0, "{counted:?}");
    assert_eq!(counted.handed_over, counted.taken_over);
}

fn kernel_leaves_connections_where_they_came(reactor: &str) {
    let (placed, counted) = place(reactor, Mode::Kernel, 1, 100);
    assert_eq!((counted.accepted, counted.handed_over, counted.taken_over), (100, 0, 0));
    assert!(placed.iter().any(|(_, shard)| *shard != placed[0].1), "one shard has all");
}
