//! Datagrams on real sockets: every shard answers, keeps its peers, and outlives handlers that fail.

mod counted;
mod ended;

use std::cell::Cell;
use std::future::pending;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, ensure};
use waterwheel::net::datagram::{
    DatagramGroup, DatagramProtocol, DatagramSender, DatagramSocket, DatagramStats, Received, Request,
    SocketEnded,
};
use waterwheel::reactor::{Address, DatagramOptions, Outgoing};
use waterwheel::runtime::{Config, OnFailure, RunError, Runtime, StartError, Stopper, Supervision};
use waterwheel::shard::Shard;
use waterwheel::steer::{Mode, owner};

use super::kit::{LONG, config, eventually, keep_log, logged, on_each_reactor, spawn};

on_each_reactor![
    the_kernel_takes_each_peer_to_the_shard_that_owns_it,
    shards_hand_over_what_the_kernel_does_not_place,
    segments_that_are_handed_over_are_datagrams_there,
    peers_of_a_shard_that_is_gone_have_one_heir_and_nobody_else_moves,
    what_others_have_for_a_shard_that_fails_waits_for_its_next_life,
    a_handler_that_fails_or_panics_does_so_for_one_datagram,
    tasks_handle_datagrams_within_their_limit,
    segments_arrive_as_datagrams_and_long_ones_are_cut,
    a_peer_that_is_not_there_is_told_and_may_come_back,
    a_shard_that_fails_finds_its_datagrams_in_its_next_life,
    a_task_that_panics_with_its_socket_leaves_it_to_the_next_one,
    an_answer_leaves_from_where_the_question_came,
];

const SEED: u32 = 0xDA7A;

struct Server<T> {
    at: SocketAddr,
    steered: bool,
    stopper: Stopper,
    thread: JoinHandle<Result<Vec<T>, RunError>>,
}

/// Runs `main` with a socket on each shard.
fn start<T, F>(
    config: Config,
    at: &'static str,
    main: impl Fn(Shard, DatagramGroup) -> F + Send + Sync + 'static,
) -> Server<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + 'static,
{
    let (tell, told) = channel();
    let thread = spawn(move || {
        let runtime = Runtime::new(config.steer_seed(SEED)).unwrap().without_signals();
        let runtime = runtime.on_failure(OnFailure::Restart);
        let group = runtime.datagrams(at).unwrap();
        tell.send((group.local().inet().unwrap(), group.is_steered(), runtime.stopper())).unwrap();
        runtime.run(move |shard| main(shard, group.clone()))
    });
    let (at, steered, stopper) = told.recv_timeout(LONG).unwrap();
    Server { at, steered, stopper, thread }
}

impl<T> Server<T> {
    fn stop(self) -> Vec<T> {
        self.stopper.stop(LONG);
        self.thread.join().unwrap().unwrap()
    }
}

fn client_from(host: u8, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// Asks and waits for the answer.
fn ask(socket: &UdpSocket, question: &[u8]) -> Vec<u8> {
    socket.send(question).unwrap();
    let mut answer = vec![0; 70_000];
    let count = socket.recv(&mut answer).unwrap();
    answer.truncate(count);
    answer
}

/// Answers with its shard; fails or panics where it is told to.
#[derive(Default)]
struct Named {
    shard: u8,
    handled: u64,
}

impl DatagramProtocol for Named {
    fn received(&mut self, sender: &DatagramSender, datagram: &Received<'_>) -> anyhow::Result<()> {
        self.handled += 1;
        match datagram.bytes {
            b"fail" => bail!("planned"),
            b"panic" => panic!("planned"),
            _ => Ok(sender.try_answer(datagram, &[self.shard, self.handled as u8])?),
        }
    }
}

async fn name(shard: Shard, group: DatagramGroup) -> anyhow::Result<u64> {
    let named = Named { shard: shard.id().index() as u8, handled: 0 };
    shard.datagrams_on(&group)?.serve(named).await;
    ensure!(shard.datagrams_on(&group).is_err(), "each shard has one part");
    Ok(shard.stats().panics)
}

fn the_kernel_takes_each_peer_to_the_shard_that_owns_it(reactor: &str) {
    const SHARDS: usize = 3;
    for mode in [Mode::Flow, Mode::Source] {
        let server = start(config(reactor, SHARDS).steer(mode), "udp:127.0.0.1:0", name);
        assert!(server.steered, "this kernel takes the program");
        let mut seen = [0; SHARDS];
        for host in 1..=60 {
            let client = client_from(host, server.at);
            let from = Address::Inet(client.local_addr().unwrap());
            let owner = owner(&from, mode, SEED, SHARDS).unwrap();
            for _ in 0..3 {
                assert_eq!(usize::from(ask(&client, b"who?")[0]), owner, "{from}");
            }
            seen[owner] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        server.stop();
    }
}

/// The shard that owns a client.
fn owner_of(client: &UdpSocket, mode: Mode, shards: usize) -> usize {
    owner(&Address::Inet(client.local_addr().unwrap()), mode, SEED, shards).unwrap()
}

fn shards_hand_over_what_the_kernel_does_not_place(reactor: &str) {
    const SHARDS: usize = 3;
    const EACH: u64 = 3;
    for mode in [Mode::Flow, Mode::Source] {
        let config = config(reactor, SHARDS).steer(mode).steer_program(false);
        let server = start(config, "udp:127.0.0.1:0", |shard, group| async move {
            let socket = shard.datagrams_on(&group)?;
            let sender = socket.sender();
            socket.serve(Named { shard: shard.id().index() as u8, handled: 0 }).await;
            Ok(sender.stats())
        });
        assert!(!server.steered);
        let clients: Vec<UdpSocket> =
            (1..=30).flat_map(|host| [host, host]).map(|host| client_from(host, server.at)).collect();
        for client in &clients {
            for _ in 0..EACH {
                let (answers, owner) = (ask(client, b"who?")[0], owner_of(client, mode, SHARDS));
                assert_eq!(usize::from(answers), owner, "{client:?} in mode {mode}");
            }
        }
        let counted = server.stop();
        let sum = |which: fn(&DatagramStats) -> u64| counted.iter().map(which).sum::<u64>();
        let (handed, taken) = (sum(|one| one.handed_over), sum(|one| one.taken_over));
        assert_eq!((handed, sum(|one| one.kept), sum(DatagramStats::lost)), (taken, 0, 0), "{counted:?}");
        // The kernel places by another hash, and two thirds of them wrong.
        let all = EACH * clients.len() as u64;
        assert!((all / 3..all * 9 / 10).contains(&handed), "{counted:?} of {all}");
    }
}

/// Answers with its shard and the size of what came.
struct Sized(u8);

impl DatagramProtocol for Sized {
    fn received(&mut self, sender: &DatagramSender, datagram: &Received<'_>) -> anyhow::Result<()> {
        let [low, high] = (datagram.bytes.len() as u16).to_le_bytes();
        ensure!(!datagram.is_cut() && datagram.bytes.iter().all(|byte| *byte == datagram.bytes[0]));
        Ok(sender.try_answer(datagram, &[self.0, low, high, datagram.bytes[0]])?)
    }
}

/// Whether the kernel merged them on the way or not.
fn segments_that_are_handed_over_are_datagrams_there(reactor: &str) {
    const SIZES: [usize; 4] = [1_000, 1_000, 1_000, 77];
    let config = config(reactor, 2).steer_program(false);
    let done = Arc::new(AtomicUsize::new(0));
    let counted = done.clone();
    let main = async |shard: Shard, group: DatagramGroup, done: Arc<AtomicUsize>| {
        let socket = shard.datagrams_on(&group)?;
        let (sender, to) = (socket.sender(), group.local().clone());
        shard.spawn_detached("server", socket.serve(Sized(shard.id().index() as u8)));
        let bytes: Vec<u8> = SIZES.iter().enumerate().flat_map(|(at, size)| vec![at as u8; *size]).collect();
        for number in 0..30 {
            let mut client = shard.connect_datagrams(&to, &DatagramOptions::default())?;
            let owner = owner(client.local(), Mode::Flow, SEED, 2).unwrap() as u8;
            client.send_segments(&bytes, SIZES[0], None).await?;
            for (at, size) in SIZES.into_iter().enumerate() {
                let [low, high] = (size as u16).to_le_bytes();
                let answer = shard.timeout(LONG, client.receive()).await??;
                ensure!(answer.bytes == [owner, low, high, at as u8], "{number}: {:?} of {at}", answer.bytes);
            }
        }
        done.fetch_add(1, SeqCst);
        shard.stopping().await;
        Ok(sender.stats())
    };
    let server = start(config, "udp:127.0.0.1:0", move |shard, group| main(shard, group, counted.clone()));
    eventually("all are answered", || (done.load(SeqCst) == 2).then_some(()));
    let counted = server.stop();
    assert!(counted.iter().all(|one| one.lost() == 0), "{counted:?}");
    let handed: u64 = counted.iter().map(|one| one.handed_over).sum();
    assert!(handed > 10, "{counted:?}");
}

/// Asks until there is an answer: what came while a socket was closed is lost with it.
fn insist(client: &UdpSocket) -> usize {
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let answer = eventually("an answer", || {
        let mut answer = [0; 2];
        client.send(b"who?").ok()?;
        client.recv(&mut answer).ok().map(|_| answer)
    });
    usize::from(answer[0])
}

fn peers_of_a_shard_that_is_gone_have_one_heir_and_nobody_else_moves(reactor: &str) {
    const SHARDS: usize = 4;
    for (mode, program) in [(Mode::Flow, true), (Mode::Source, true), (Mode::Source, false)] {
        let config = config(reactor, SHARDS).steer(mode).steer_program(program);
        let server = start(config, "udp:127.0.0.1:0", |shard, group| async move {
            let own = shard.id().index() as u8;
            let mut socket = shard.datagrams_on(&group)?;
            if own != 1 {
                socket.serve(Named { shard: own, handled: 0 }).await;
                return Ok(());
            }
            let sender = socket.sender();
            loop {
                let received = socket.receive().await?;
                sender.try_answer(&received, &[own, 0])?;
                if received.bytes == b"go" {
                    // Its part ends, before its shard does.
                    drop((socket, sender));
                    shard.stopping().await;
                    return Ok(());
                }
            }
        });
        assert_eq!(server.steered, program);
        let clients: Vec<UdpSocket> = (1..=40).map(|host| client_from(host, server.at)).collect();
        let owners: Vec<usize> = clients.iter().map(|client| owner_of(client, mode, SHARDS)).collect();
        let found: Vec<usize> = clients.iter().map(insist).collect();
        assert_eq!(found, owners, "mode {mode}");
        let doomed = owners.iter().position(|owner| *owner == 1).expect("one of 40");
        assert_eq!(ask(&clients[doomed], b"go")[0], 1);
        for (client, owner) in clients.iter().zip(owners) {
            let heir = if owner == 1 { 2 } else { owner };
            // An answer of the one that goes may be on its way.
            let settled = eventually("the one that went answers no more", || {
                let answers = insist(client);
                (answers != 1).then_some(answers)
            });
            assert_eq!(
                (settled, insist(client)),
                (heir, heir),
                "of {owner} in mode {mode}, program {program}"
            );
        }
        server.stop();
    }
}

/// Each comes from another port, and so to either shard; all belong to the second one.
fn what_others_have_for_a_shard_that_fails_waits_for_its_next_life(reactor: &str) {
    const SHARDS: usize = 2;
    keep_log();
    let lives = Arc::new(AtomicUsize::new(0));
    let counted = lives.clone();
    // Its second failure makes it wait, for a time by which the log is told apart from that of other tests.
    let pause = Duration::from_millis(2_000 + u64::from(reactor.as_bytes()[0]));
    let supervision = Supervision { pause, ..Supervision::default() };
    let config = config(reactor, SHARDS).steer(Mode::Source).steer_program(false).supervision(supervision);
    let server = start(config, "udp:127.0.0.1:0", move |shard, group| {
        let lives = counted.clone();
        async move {
            let mut socket = shard.datagrams_on(&group)?;
            if shard.id().index() == 0 {
                socket.serve(Named::default()).await;
                return Ok(());
            }
            let life = lives.fetch_add(1, SeqCst) + 1;
            if life <= 2 {
                while socket.receive().await?.bytes != b"die" {}
                panic!("planned");
            }
            socket.serve(Named { shard: life as u8, handled: 0 }).await;
            Ok(())
        }
    });
    let is_owned = |host: &u8| {
        let at = Address::Inet(([127, 0, 0, *host], 1).into());
        owner(&at, Mode::Source, SEED, SHARDS) == Some(1)
    };
    let host = (1..=254).find(is_owned).expect("a host for each");
    let kill = client_from(host, server.at);
    eventually("it has died twice", || {
        let waits = logged(&["it is restarted", &format!("pause={pause:?}")]);
        if !waits {
            kill.send(b"die").unwrap();
        }
        waits.then_some(())
    });
    let clients: Vec<UdpSocket> = (0..40).map(|_| client_from(host, server.at)).collect();
    for client in &clients {
        client.send(b"who?").unwrap();
    }
    assert_eq!(lives.load(SeqCst), 2, "it was not to be back before all were sent");
    for client in &clients {
        let mut answer = [0; 2];
        client.recv(&mut answer).unwrap();
        assert_eq!(answer[0], 3, "the third life answers all");
    }
    server.stop();
}

fn a_handler_that_fails_or_panics_does_so_for_one_datagram(reactor: &str) {
    let server = start(config(reactor, 1), "udp:127.0.0.1:0", name);
    let client = client_from(1, server.at);
    for _ in 0..3 {
        client.send(b"fail").unwrap();
        client.send(b"panic").unwrap();
    }
    assert_eq!(ask(&client, b"still there?"), [0, 7], "the same value got all seven");
    assert_eq!(server.stop(), [3], "panics are counted");
}

fn tasks_handle_datagrams_within_their_limit(reactor: &str) {
    const LIMIT: usize = 4;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let server = start(config(reactor, 1), "udp:127.0.0.1:0", move |shard, group| {
        let (most, now) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
        async move {
            let handle = {
                let shard = shard.clone();
                move |request: Request| {
                    let (shard, most, now) = (shard.clone(), most.clone(), now.clone());
                    async move {
                        if request.bytes == b"panic" {
                            panic!("planned");
                        }
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        shard.sleep(Duration::from_millis(5)).await;
                        now.fetch_sub(1, SeqCst);
                        request.answer(&request.bytes).await?;
                        Ok(())
                    }
                }
            };
            shard.datagrams_on(&group)?.serve_each(LIMIT, handle).await;
            Ok(())
        }
    });
    let client = client_from(1, server.at);
    for number in 0..20_u8 {
        client.send(if number % 5 == 4 { b"panic" } else { std::slice::from_ref(&number) }).unwrap();
    }
    let mut came: Vec<u8> = (0..16)
        .map(|_| {
            let mut answer = [0; 8];
            assert_eq!(client.recv(&mut answer).unwrap(), 1);
            answer[0]
        })
        .collect();
    came.sort_unstable();
    assert_eq!(came, (0..20).filter(|number| number % 5 != 4).collect::<Vec<u8>>());
    server.stop();
    assert_eq!(most.load(SeqCst), LIMIT, "as many as may, and no more");
}

/// Two sockets of one shard.
fn alone<F>(reactor: &str, main: impl Fn(Shard) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let runtime = Runtime::new(config(reactor, 1)).unwrap().without_signals();
    let main = Arc::new(main);
    runtime
        .run(move |shard| {
            let main = main.clone();
            async move { shard.timeout(LONG, main(shard.clone())).await? }
        })
        .unwrap();
}

fn here() -> Address {
    Address::Inet("127.0.0.1:0".parse().unwrap())
}

fn bind(shard: &Shard) -> anyhow::Result<DatagramSocket> {
    Ok(shard.bind_datagrams(&here(), &DatagramOptions::default())?)
}

fn segments_arrive_as_datagrams_and_long_ones_are_cut(reactor: &str) {
    alone(reactor, |shard| async move {
        let (mut there, sender) = (bind(&shard)?, bind(&shard)?.sender());
        let to = there.local().clone();
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        // Within what the socket's buffer holds, whoever runs beside.
        for (segment, whole) in [(1_200, 60_000), (1_200, 1_200), (1_200, 1_201), (9, 700), (40_000, 100_000)]
        {
            sender.send_segments(&bytes[..whole], segment, Some(&to)).await?;
            for piece in bytes[..whole].chunks(segment) {
                let received = there.receive().await?;
                ensure!(received.bytes == piece, "{} bytes for {}", received.bytes.len(), piece.len());
                ensure!(!received.is_cut() && received.from == sender.local());
            }
        }
        // All at once, and what is not taken of it comes the next time.
        sender.send_segments(&bytes[..3_000], 1_000, Some(&to)).await?;
        ensure!(there.receive_batch().await?.next().is_some_and(|one| one.bytes == &bytes[..1_000]));
        ensure!(there.receive().await?.bytes == &bytes[1_000..2_000]);
        ensure!(there.receive().await?.bytes == &bytes[2_000..3_000]);
        let mut small = there.with_room(2, 100);
        sender.send_segments(&bytes[..350], 150, Some(&to)).await?;
        for (at, size) in [(0, 150), (150, 150), (300, 50)] {
            let received = small.receive().await?;
            ensure!(received.size == size && received.is_cut() == (size > 100));
            ensure!(received.bytes == &bytes[at..at + size.min(100)]);
        }
        ensure!(
            sender
                .send_segments(&bytes, 0, Some(&to))
                .await
                .is_err_and(|e| e.kind() == ErrorKind::InvalidInput)
        );
        // What is too large for one datagram is an error, and the next one goes.
        ensure!(sender.send_to(&bytes, &to).await.is_err());
        sender.send_to(b"", &to).await?;
        ensure!(small.receive().await?.size == 0);
        Ok(())
    });
}

fn a_peer_that_is_not_there_is_told_and_may_come_back(reactor: &str) {
    alone(reactor, |shard| async move {
        let at = bind(&shard)?.local().clone();
        shard.sleep(Duration::from_millis(1)).await;
        let mut socket = shard.connect_datagrams(&at, &DatagramOptions::default())?;
        for _ in 0..3 {
            socket.send(b"anybody?").await?;
            let told = socket.receive().await.map(|received| received.size);
            ensure!(told.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "{told:?}");
        }
        let mut back = shard.bind_datagrams(&at, &DatagramOptions::default())?;
        socket.send(b"you again").await?;
        let sender = back.sender();
        let received = back.receive().await?;
        sender.answer(&received, b"me again").await?;
        ensure!(socket.receive().await?.bytes == b"me again");
        Ok(())
    });
}

fn a_shard_that_fails_finds_its_datagrams_in_its_next_life(reactor: &str) {
    let lives = Arc::new(AtomicUsize::new(0));
    let counted = lives.clone();
    let server = start(config(reactor, 1), "udp:127.0.0.1:0", move |shard, group| {
        let life = counted.fetch_add(1, SeqCst);
        async move {
            // One at a time: what was received before the failure is gone with it.
            let mut socket = shard.datagrams_on(&group)?.with_room(1, 100);
            if life == 0 {
                let first = socket.receive().await?.bytes.to_vec();
                ensure!(first == b"die");
                // The task that has the socket goes with the shard.
                shard.spawn_detached("holder", async move {
                    let _socket = socket;
                    pending().await
                });
                shard.yield_now().await;
                panic!("planned");
            }
            socket.serve(Named { shard: 40 + life as u8, handled: 0 }).await;
            Ok(())
        }
    });
    let client = client_from(1, server.at);
    client.send(b"die").unwrap();
    assert_eq!(ask(&client, b"hello?"), [41, 1], "it waited for the next life");
    server.stop();
    assert_eq!(lives.load(SeqCst), 2);
}

/// Answers with its shard, and panics where it is told to.
async fn answer_or_panic(mut socket: DatagramSocket, shard: u8) -> anyhow::Result<()> {
    let sender = socket.sender();
    loop {
        let received = socket.receive().await?;
        assert!(received.bytes != b"panic", "planned");
        sender.try_answer(&received, &[shard, 0])?;
    }
}

/// With the way by which other shards hand over what is its own; also if a sender outlives the task, which is answered with
/// an error from then on.
fn a_task_that_panics_with_its_socket_leaves_it_to_the_next_one(reactor: &str) {
    const SHARDS: usize = 2;
    const NEXT: usize = 10;
    for outlived in [false, true] {
        let config = config(reactor, SHARDS).steer(Mode::Flow).steer_program(false);
        let server = start(config, "udp:127.0.0.1:0", move |shard, group| async move {
            let own = shard.id().index();
            let socket = shard.datagrams_on(&group)?;
            let sender = outlived.then(|| socket.sender());
            let ended = shard.spawn("receiver", answer_or_panic(socket, own as u8)).await;
            ensure!(ended.is_err(), "it was to panic: {ended:?}");
            let next = Named { shard: (NEXT + own) as u8, handled: 0 };
            shard.datagrams_on(&group)?.serve(next).await;
            ensure!(sender.iter().all(has_ended), "the old one sends through the new one's socket");
            Ok(())
        });
        let clients: Vec<UdpSocket> = (1..=40).map(|host| client_from(host, server.at)).collect();
        let owners: Vec<usize> = clients.iter().map(|client| owner_of(client, Mode::Flow, SHARDS)).collect();
        assert_eq!(clients.iter().map(insist).collect::<Vec<_>>(), owners);
        for shard in 0..SHARDS {
            let one = owners.iter().position(|owner| *owner == shard).expect("one of 40");
            clients[one].send(b"panic").unwrap();
        }
        for (client, owner) in clients.iter().zip(owners) {
            // An answer of the one that panicked may be on its way.
            let settled = eventually("the next one answers", || {
                let answers = insist(client);
                (answers >= NEXT).then_some(answers)
            });
            assert_eq!(settled, NEXT + owner, "outlived by a sender: {outlived}");
        }
        server.stop();
    }
}

/// Whether this sender tells that its socket has ended.
fn has_ended(sender: &DatagramSender) -> bool {
    is_ended(sender.try_send(&Outgoing::new(b"?", sender.local()))) && sender.has_ended()
}

fn is_ended(sent: std::io::Result<()>) -> bool {
    let Err(error) = sent else { return false };
    let inner = error.get_ref().is_some_and(|inner| inner.is::<SocketEnded>());
    inner && error.kind() == ErrorKind::BrokenPipe
}

fn an_answer_leaves_from_where_the_question_came(reactor: &str) {
    for all in ["udp:*:0", "udp:[::]:0"] {
        let server = start(config(reactor, 2), all, name);
        for host in [1, 2, 77] {
            // The kernel would answer from 127.0.0.1, and a connected client hears nobody else than whom it asked.
            let to = SocketAddr::from(([127, 0, 0, host], server.at.port()));
            assert_eq!(ask(&client_from(1, to), b"who?").len(), 2, "{to}");
        }
        server.stop();
    }
}

#[test]
fn an_endpoint_of_the_wrong_kind_says_so() {
    let runtime = Runtime::new(config("epoll", 1)).unwrap().without_signals();
    let told = |refused: StartError| refused.to_string();
    let stream = told(runtime.listen("udp:127.0.0.1:0").unwrap_err());
    assert!(stream.contains("udp:127.0.0.1:0") && stream.contains("no stream"), "{stream}");
    assert!(stream.contains("allowed: tcp:HOST:PORT"), "{stream}");
    let datagrams = told(runtime.datagrams("tcp:127.0.0.1:0").unwrap_err());
    assert!(
        datagrams.contains("no datagrams") && datagrams.contains("allowed: udp:HOST:PORT"),
        "{datagrams}"
    );
    let group = runtime.datagrams("127.0.0.1:0").unwrap();
    let taken = told(runtime.datagrams(&format!("udp:{}", group.local().inet().unwrap())).unwrap_err());
    assert!(taken.contains("udp:127.0.0.1"), "{taken}");
}
