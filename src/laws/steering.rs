//! Which shard a connection ends on: what the hash says, and the counters of how it came there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use waterwheel::net::{AcceptStats, Connection};
use waterwheel::reactor::{Address, Handle, ListenOptions};
use waterwheel::runtime::Config;
use waterwheel::shard::ShardId;
use waterwheel::steer::{Mode, owner, program};

use super::kit::{LONG, Server, config, eventually, on_each_reactor, spawn};

on_each_reactor![
    flow_places_every_connection_where_the_hash_says,
    flow_hands_over_what_the_kernel_places_by_a_hash_of_its_own,
    source_keeps_a_client_together,
    kernel_leaves_connections_where_they_came,
    cpu_places_connections_where_their_packets_are_handled,
    least_gives_to_who_has_fewest,
    key_places_connections_by_what_was_read,
    hand_to_an_ended_shard_gives_the_connection_back,
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
    try_client_from(host, to).unwrap()
}

/// The same, to a server that may reset it, also before connect(2) is back.
pub(super) fn try_client_from(host: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    // A process that is started meanwhile would keep it open.
    let end = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&end, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
    connect(&end, &to)?;
    let stream = TcpStream::from(end);
    stream.set_read_timeout(Some(LONG)).unwrap();
    Ok(stream)
}

/// Makes connections from several hosts in turn: who came and which shard served it, and what was counted.
fn place(reactor: &str, mode: Mode, hosts: u8, count: usize) -> (Vec<(SocketAddr, usize)>, AcceptStats) {
    place_with(config(reactor, SHARDS).steer(mode), hosts, count)
}

fn place_with(config: Config, hosts: u8, count: usize) -> (Vec<(SocketAddr, usize)>, AcceptStats) {
    let server = Server::start(config.steer_seed(SEED), name);
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
    // The kernel computes the same.
    assert_eq!((counted.accepted, counted.misplaced, counted.handed_over), (150, 0, 0), "{counted:?}");
    assert_eq!((counted.kept, counted.crowded, counted.dropped, counted.adopt_failed), (0, 0, 0, 0));
}

fn flow_hands_over_what_the_kernel_places_by_a_hash_of_its_own(reactor: &str) {
    let (placed, counted) = place_with(config(reactor, SHARDS).steer_program(false), 1, 150);
    for (peer, shard) in &placed {
        assert_eq!(owner(&Address::Inet(*peer), Mode::Flow, SEED, SHARDS), Some(*shard), "{peer}");
    }
    // About two thirds of them came to the wrong shard.
    assert_eq!((counted.accepted, counted.handed_over), (150, counted.taken_over), "{counted:?}");
    assert!((50..140).contains(&counted.handed_over), "{counted:?}");
    assert_eq!((counted.misplaced, counted.kept), (counted.handed_over, 0), "{counted:?}");
}

fn source_keeps_a_client_together(reactor: &str) {
    let (placed, counted) = place(reactor, Mode::Source, 10, 100);
    for (peer, shard) in &placed {
        assert_eq!(owner(&Address::Inet(*peer), Mode::Source, SEED, SHARDS), Some(*shard), "{peer}");
        let first = placed.iter().find(|(other, _)| other.ip() == peer.ip()).unwrap();
        assert_eq!(first.1, *shard, "{} is on two shards", peer.ip());
    }
    let hosts: Vec<IpAddr> = placed.iter().map(|(peer, _)| peer.ip()).collect();
    assert!(hosts.iter().any(|host| *host != hosts[0]), "{counted:?}");
    assert_eq!((counted.misplaced, counted.handed_over, counted.taken_over), (0, 0, 0), "{counted:?}");
}

fn kernel_leaves_connections_where_they_came(reactor: &str) {
    let (placed, counted) = place(reactor, Mode::Kernel, 1, 100);
    assert_eq!((counted.accepted, counted.handed_over, counted.taken_over), (100, 0, 0));
    assert!(placed.iter().any(|(_, shard)| *shard != placed[0].1), "one shard has all");
}

/// Those of the CPUs that this process may use.
fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
}

fn cpu_places_connections_where_their_packets_are_handled(reactor: &str) {
    let cpus = cpus();
    let [first, second, ..] = cpus[..] else { return };
    let list = [second, first].to_vec().try_into().unwrap();
    let server = Server::start(Config::default().reactor(reactor).cpus(list).steer(Mode::Cpu), name);
    let at = server.at;
    for (cpu, expected) in [(second, 0), (first, 1)] {
        // What goes over the loopback is handled on the CPU that sends it.
        let placed = spawn(move || {
            let mut here = CpuSet::new();
            here.set(cpu);
            sched_setaffinity(None, &here).unwrap();
            let shards = (0..20).map(|_| {
                let mut shard = [9];
                let mut stream = client_from(1, at);
                stream.read_exact(&mut shard).unwrap();
                shard[0]
            });
            shards.collect::<Vec<_>>()
        });
        assert_eq!(placed.join().unwrap(), [expected; 20], "from CPU {cpu}");
    }
    let counted = server.stop().unwrap();
    assert_eq!(
        counted.iter().map(|shard| (shard.accepted, shard.handed_over)).collect::<Vec<_>>(),
        [(20, 0); 2]
    );
}

fn least_gives_to_who_has_fewest(reactor: &str) {
    let server = Server::start(config(reactor, SHARDS).steer(Mode::Least), name);
    let come = || {
        let (mut stream, mut shard) = (client_from(1, server.at), [0]);
        stream.read_exact(&mut shard).unwrap();
        (usize::from(shard[0]), stream)
    };
    let mut all: Vec<(usize, TcpStream)> = (0..12).map(|_| come()).collect();
    let counts = |all: &[(usize, TcpStream)]| {
        (0..SHARDS).map(|shard| all.iter().filter(|(on, _)| *on == shard).count()).collect::<Vec<_>>()
    };
    assert_eq!(counts(&all), [4; SHARDS], "each is given to the one with fewest");
    // All of one shard leave; once it knows, it gets the next ones.
    all.retain(|(on, _)| *on != 1);
    eventually("shard 1 gets what comes after its clients have left", || {
        let (on, stream) = come();
        (on == 1).then(|| all.push((on, stream)))
    });
    all.extend((0..3).map(|_| come()));
    assert_eq!(counts(&all), [4; SHARDS]);
    drop(all);
    let counted = server.stop().unwrap().into_iter().fold(AcceptStats::default(), std::ops::Add::add);
    assert_eq!((counted.handed_over, counted.kept), (counted.taken_over, 0), "{counted:?}");
}

/// Serves a connection where its first four bytes say; tells where, and gives back all that it reads.
async fn by_key(mut connection: Connection) -> anyhow::Result<()> {
    const KEY: usize = 4;
    let lent = connection.fill().await?;
    // Clients here send it in one piece.
    let key = lent.get(..KEY).context("a key")?.to_vec();
    let Some(mut connection) = connection.steer_by(&key).await? else { return Ok(()) };
    connection.write_all(&[connection.shard().id().index() as u8]).await?;
    let mut buffer = [0; 100];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(connection.close().await?),
            count => connection.write_all(&buffer[..count]).await?,
        }
    }
}

fn key_places_connections_by_what_was_read(reactor: &str) {
    let server = Server::start(config(reactor, SHARDS).steer(Mode::Key).steer_seed(SEED), by_key);
    let mut found = Vec::new();
    for number in 0..90_u32 {
        let mut stream = client_from(1, server.at);
        let sent = [&(number % 30).to_be_bytes()[..], b" and more"].concat();
        stream.write_all(&sent).unwrap();
        let (mut shard, mut back) = ([9], vec![0; sent.len()]);
        stream.read_exact(&mut shard).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, sent, "every byte, from the first one on");
        found.push(usize::from(shard[0]));
    }
    for number in 30..90 {
        assert_eq!(found[number], found[number % 30], "key {} is on two shards", number % 30);
    }
    for shard in 0..SHARDS {
        assert!(found.contains(&shard), "no key of 30 is on shard {shard}");
    }
    let counted = server.stop().unwrap().into_iter().fold(AcceptStats::default(), std::ops::Add::add);
    assert_eq!((counted.accepted, counted.misplaced), (90, 0), "{counted:?}");
    assert_eq!(counted.handed_over, counted.taken_over);
    assert!((30..90).contains(&counted.handed_over), "{counted:?}");
}

/// Both shards accept; the second one ends its program at the first connection of its own.
fn hand_to_an_ended_shard_gives_the_connection_back(reactor: &str) {
    let server = Server::start(config(reactor, 2).steer(Mode::Kernel), |mut connection| async move {
        let (shard, other) = (connection.shard().clone(), ShardId::new(1));
        if shard.id() == other {
            shard.stop(std::time::Duration::ZERO);
            return Ok(());
        }
        connection.fill().await?;
        let Some(mut kept) = connection.hand_to(other).await? else { return Ok(()) };
        kept.write_all(b"kept ").await?;
        let mut buffer = [0; 4];
        kept.read_exact(&mut buffer).await?;
        kept.write_all(&buffer).await?;
        Ok(kept.close().await?)
    });
    let answer =
        eventually("the second shard has ended, and the first keeps what it would hand over", || {
            let mut stream = client_from(1, server.at);
            stream.write_all(b"mine").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        });
    assert_eq!(answer, "kept mine");
    drop(server);
}

/// A family of sockets: where they listen, and from where clients come.
fn agree(listens: IpAddr, clients: &[IpAddr]) {
    const CONNECTIONS: usize = 10_000;
    let at = Address::Inet(SocketAddr::new(listens, 0));
    let group = match waterwheel_os::bind_group(&at, &ListenOptions::default(), SHARDS) {
        Err(error) if listens.is_ipv6() => {
            eprintln!("not tried, there is no IPv6 here: {error}");
            return;
        }
        group => group.unwrap(),
    };
    let placed = program(Mode::Flow, SEED, SHARDS, &[]).unwrap();
    waterwheel_os::steer(&group, &placed).unwrap();
    let port = group[0].local.inet().unwrap().port();
    for number in 0..CONNECTIONS {
        let client = TcpStream::connect((clients[number % clients.len()], port)).unwrap();
        let peer = Address::Inet(client.local_addr().unwrap());
        let owner = owner(&peer, Mode::Flow, SEED, SHARDS).unwrap();
        let Handle::Os(socket) = &group[owner].handle else { panic!("a socket of the kernel's") };
        let (accepted, from) = waterwheel_os::accept(socket.as_fd()).unwrap_or_else(|error| {
            panic!("{peer} is not at its owner {owner}, connection {number}: {error}")
        });
        assert_eq!(from.inet().map(|at| at.port()), peer.inet().map(|at| at.port()));
        // So that no port waits for a minute until it may be used again.
        waterwheel_os::reset(Handle::Os(accepted));
    }
}

#[test]
fn shard_4_the_kernel_and_the_hash_agree_on_ipv4() {
    agree(Ipv4Addr::LOCALHOST.into(), &[Ipv4Addr::LOCALHOST.into()]);
}

#[test]
fn shard_4_the_kernel_and_the_hash_agree_on_ipv6() {
    agree(Ipv6Addr::LOCALHOST.into(), &[Ipv6Addr::LOCALHOST.into()]);
}

#[test]
fn shard_4_the_kernel_and_the_hash_agree_on_dual_stack() {
    agree(Ipv6Addr::UNSPECIFIED.into(), &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
}
