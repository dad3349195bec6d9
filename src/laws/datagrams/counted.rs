//! What shards hold for each other is bounded by bytes and stands in the quota; what gets lost is counted, and told over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use rustix::net::{AddressFamily, SocketType, bind as bind_to, connect, socket};
use waterwheel::net::Connection;
use waterwheel::runtime::Quotas;

use super::*;
use crate::kit::{Page, client, waits};

on_each_reactor![
    what_is_handed_over_is_bounded_by_its_bytes_and_stands_in_the_quota,
    a_shard_for_which_others_hold_its_quota_accepts_nobody_until_it_has_taken_it,
    what_a_shard_does_not_live_to_receive_is_counted_and_told,
    what_the_kernel_throws_away_is_told_once_over_all_lives,
    a_socket_counts_what_it_receives_and_sends,
];

const BYTES: usize = 60_000;

/// An address whose datagrams belong to shard 1 of two in mode `source`.
fn of_shard_1() -> Address {
    let at = |host: u8| Address::Inet(([127, 0, 0, host], 0).into());
    (1..=254).map(at).find(|at| owner(at, Mode::Source, SEED, 2) == Some(1)).expect("a host for each")
}

/// Has so many datagrams come to shard 0's socket that belong to shard 1: each from another port, until the kernel has chosen
/// so. That many were sent to shard 1's own socket meanwhile.
async fn come_to_shard_0(
    shard: &Shard,
    socket: &DatagramSender,
    bytes: &[u8],
    number: u64,
) -> anyhow::Result<u64> {
    let (from, before) = (of_shard_1(), socket.stats().received);
    for sent in 0..500 {
        let came = socket.stats().received - before;
        if came == number {
            return Ok(sent - came);
        }
        let client = shard.bind_datagrams(&from, &DatagramOptions::default())?;
        client.send_to(bytes, socket.local()).await?;
        // On the loopback it is there, in one of the two sockets.
        for _ in 0..20 {
            if socket.stats().received - before > came {
                break;
            }
            shard.sleep(Duration::from_millis(1)).await;
        }
    }
    bail!("the kernel gives them all to the other one")
}

/// What the shards of these laws tell each other.
#[derive(Default)]
struct Signs {
    /// Shard 1 has its part.
    open: AtomicBool,
    /// All were sent.
    sent: AtomicBool,
    /// Shard 1 is to receive what there is.
    take: AtomicBool,
    held: AtomicUsize,
}

async fn sign(shard: &Shard, sign: &AtomicBool) {
    while !sign.load(SeqCst) {
        shard.sleep(Duration::from_millis(1)).await;
    }
}

/// Receives until nothing comes for a while; answers how much that was.
async fn take_all(shard: &Shard, socket: &mut DatagramSocket) -> anyhow::Result<u64> {
    let mut taken = 0;
    while let Ok(received) = shard.timeout(Duration::from_millis(200), socket.receive()).await {
        received?;
        taken += 1;
    }
    Ok(taken)
}

fn source(reactor: &str, quota: usize) -> Config {
    let quotas = Quotas { buffered_bytes: Some(quota), ..Quotas::default() };
    config(reactor, 2).steer(Mode::Source).steer_program(false).quotas(quotas)
}

fn what_is_handed_over_is_bounded_by_its_bytes_and_stands_in_the_quota(reactor: &str) {
    // An eighth of it is four of them, and not five.
    const QUOTA: usize = 8 * (5 * BYTES - 1_000);
    let signs = Arc::<Signs>::default();
    let main = async |shard: Shard, group: DatagramGroup, signs: Arc<Signs>| {
        let mut socket = shard.datagrams_on(&group)?;
        let sender = socket.sender();
        if shard.id().index() == 0 {
            shard.spawn_detached("server", socket.serve(Named::default()));
            sign(&shard, &signs.open).await;
            let missed = come_to_shard_0(&shard, &sender, &[7; BYTES], 10).await?;
            ensure!(sender.stats().received_bytes == 10 * BYTES as u64);
            signs.sent.store(true, SeqCst);
            shard.stopping().await;
            return Ok((sender.stats(), missed));
        }
        signs.open.store(true, SeqCst);
        sign(&shard, &signs.sent).await;
        let held = shard.buffered_bytes();
        ensure!((4 * BYTES..5 * BYTES).contains(&held), "{held} bytes are held");
        let taken = take_all(&shard, &mut socket).await?;
        ensure!(shard.buffered_bytes() == 0, "{} bytes are held", shard.buffered_bytes());
        signs.take.store(true, SeqCst);
        shard.stopping().await;
        Ok((sender.stats(), taken))
    };
    let (inside, done) = (signs.clone(), signs.clone());
    let server = start(source(reactor, QUOTA), "udp:127.0.0.1:0", move |shard, group| {
        main(shard, group, inside.clone())
    });
    eventually("all is taken", || done.take.load(SeqCst).then_some(()));
    let [(first, missed), (second, taken)] = server.stop()[..] else { panic!("two shards") };
    assert_eq!(
        (first.handed_over, first.crowded, first.undelivered, first.lost()),
        (4, 6, 0, 6),
        "{first:?}"
    );
    assert_eq!((second.taken_over, second.received, second.lost()), (4, taken - 4, 0), "{second:?}");
    assert!(second.received <= missed, "what the kernel gave to it itself: {second:?} of {missed}");
}

fn a_shard_for_which_others_hold_its_quota_accepts_nobody_until_it_has_taken_it(reactor: &str) {
    let signs = Arc::<Signs>::default();
    let (tell, told) = channel();
    let shared = signs.clone();
    // Less than one of them.
    let config = source(reactor, BYTES).steer_seed(SEED);
    let thread = spawn(move || {
        let runtime = Runtime::new(config).unwrap();
        let runtime = runtime.without_signals();
        let (group, listening) =
            (runtime.datagrams("udp:127.0.0.1:0").unwrap(), runtime.listen("127.0.0.1:0").unwrap());
        tell.send((listening.local().inet().unwrap(), runtime.stopper())).unwrap();
        runtime.run(move |shard| {
            let (group, listening, signs) = (group.clone(), listening.clone(), shared.clone());
            async move {
                let mut socket = shard.datagrams_on(&group)?;
                let acceptor = shard.accept_on(&listening)?;
                shard.spawn_detached("acceptor", acceptor.serve(usize::MAX, echo));
                if shard.id().index() == 0 {
                    let sender = socket.sender();
                    shard.spawn_detached("server", socket.serve(Named::default()));
                    come_to_shard_0(&shard, &sender, &[7; BYTES], 1).await?;
                    signs.sent.store(true, SeqCst);
                } else {
                    sign(&shard, &signs.sent).await;
                    signs.held.store(shard.buffered_bytes(), SeqCst);
                    sign(&shard, &signs.take).await;
                    take_all(&shard, &mut socket).await?;
                }
                shard.stopping().await;
                Ok(())
            }
        })
    });
    let (at, stopper) = told.recv_timeout(LONG).unwrap();
    let held = eventually("the datagram is held", || Some(signs.held.load(SeqCst)).filter(|held| *held > 0));
    assert!(held >= BYTES, "{held}");
    let mut waiting = client_of_shard_1(at);
    waiting.write_all(b"?").unwrap();
    assert!(!waits(&waiting, Duration::from_millis(100)), "somebody is served, though nothing may be held");
    signs.take.store(true, SeqCst);
    waiting.read_exact(&mut [0]).expect("who waited is served");
    drop(waiting);
    stopper.stop(LONG);
    thread.join().unwrap().unwrap();
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(())
}

fn client_of_shard_1(to: SocketAddr) -> TcpStream {
    let own = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind_to(&own, &of_shard_1().inet().unwrap()).unwrap();
    connect(&own, &to).unwrap();
    let stream = TcpStream::from(own);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// What two lives of shard 1 tell shard 0, and the other way round.
#[derive(Default)]
struct Lives {
    begun: AtomicUsize,
    /// How much was sent, in the end of it.
    sent: AtomicUsize,
    taken: AtomicBool,
}

fn what_a_shard_does_not_live_to_receive_is_counted_and_told(reactor: &str) {
    let (lost, taken) = (5, 3);
    let lives = Arc::<Lives>::default();
    let (tell, told) = channel();
    let supervision = Supervision { pause: Duration::ZERO, ..Supervision::default() };
    let config = source(reactor, 64 << 20).steer_seed(SEED).supervision(supervision);
    let config = config.on_failure(OnFailure::Restart).admin("tcp:127.0.0.1:0".parse().unwrap());
    let shared = lives.clone();
    let thread = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        let group = runtime.datagrams("udp:127.0.0.1:0").unwrap();
        let admin = runtime.admin_local().unwrap().inet().unwrap();
        tell.send((group.clone(), admin, runtime.stopper())).unwrap();
        runtime.run(move |shard| {
            let (group, lives) = (group.clone(), shared.clone());
            async move {
                let mut socket = shard.datagrams_on(&group)?;
                let sender = socket.sender();
                if shard.id().index() == 0 {
                    shard.spawn_detached("server", socket.serve(Named::default()));
                    for (life, number) in [(1, lost), (2, taken)] {
                        until(&shard, &lives.begun, life).await;
                        come_to_shard_0(&shard, &sender, b"who?", number).await?;
                        lives.sent.store(life, SeqCst);
                    }
                    shard.stopping().await;
                    return Ok(sender.stats());
                }
                // Both lives send one.
                sender.send_to(b"hello", &Address::Inet("127.0.0.1:9".parse()?)).await?;
                let life = lives.begun.fetch_add(1, SeqCst) + 1;
                until(&shard, &lives.sent, life).await;
                assert!(life > 1, "planned");
                take_all(&shard, &mut socket).await?;
                lives.taken.store(true, SeqCst);
                shard.stopping().await;
                Ok(sender.stats())
            }
        })
    });
    let (group, admin, stopper) = told.recv_timeout(LONG).unwrap();
    eventually("the second life has taken all", || lives.taken.load(SeqCst).then_some(()));
    assert_eq!(group.undelivered(), lost);
    let page = page(admin);
    let told = |name: &str, shard: usize| {
        let socket = format!("socket=udp:{}", group.local().inet().unwrap());
        let (name, reason) = name.split_once(' ').map_or((name, ""), |(name, reason)| (name, reason));
        page.value(&format!("waterwheel_datagrams_{name}_total{{{socket}{reason},shard={shard}}}")) as u64
    };
    assert_eq!([told("handed_over", 0), told("lost ,reason=undelivered", 0)], [lost + taken, lost]);
    assert_eq!([told("received", 0), told("received_bytes", 0)], [lost + taken, 4 * (lost + taken)]);
    assert_eq!([told("taken_over", 1), told("sent", 1), told("sent_bytes", 1)], [taken, 2, 10]);
    for reason in ["crowded", "ownerless", "unread"] {
        assert_eq!([0, 1].map(|shard| told(&format!("lost ,reason={reason}"), shard)), [0; 2], "{reason}");
    }
    stopper.stop(LONG);
    let [first, second] = thread.join().unwrap().unwrap()[..] else { panic!("two shards") };
    assert_eq!((first.handed_over, first.undelivered, first.lost()), (lost + taken, lost, lost), "{first:?}");
    assert_eq!((second.taken_over, second.sent, second.lost()), (taken, 1, 0), "{second:?}");
}

fn what_the_kernel_throws_away_is_told_once_over_all_lives(reactor: &str) {
    const EACH: usize = 100;
    let lives = Arc::<Lives>::default();
    let (tell, told) = channel();
    let supervision = Supervision { pause: Duration::ZERO, ..Supervision::default() };
    let config = config(reactor, 1).supervision(supervision).on_failure(OnFailure::Restart);
    let config = config.admin("tcp:127.0.0.1:0".parse().unwrap());
    let shared = lives.clone();
    let thread = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        let options = DatagramOptions { receive_buffer: Some(8_000), ..DatagramOptions::default() };
        let group = runtime.datagrams_with(&"udp:127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let admin = runtime.admin_local().unwrap().inet().unwrap();
        tell.send((group.local().inet().unwrap(), admin, runtime.stopper())).unwrap();
        runtime.run(move |shard| {
            let (group, lives) = (group.clone(), shared.clone());
            async move {
                let mut socket = shard.datagrams_on(&group)?;
                let life = lives.begun.fetch_add(1, SeqCst) + 1;
                until(&shard, &lives.sent, life).await;
                take_all(&shard, &mut socket).await?;
                assert!(life > 1, "planned");
                lives.taken.store(true, SeqCst);
                shard.stopping().await;
                Ok(())
            }
        })
    });
    let (at, admin, stopper) = told.recv_timeout(LONG).unwrap();
    let client = client_from(1, at);
    for life in [1, 2] {
        eventually("a life", || (lives.begun.load(SeqCst) == life).then_some(()));
        (0..EACH).for_each(|_| assert_eq!(client.send(&[7; 1_000]).unwrap(), 1_000));
        lives.sent.store(life, SeqCst);
    }
    eventually("the second life has taken all", || lives.taken.load(SeqCst).then_some(()));
    let page = page(admin);
    let told = |name: &str| {
        page.value(&format!("waterwheel_datagrams_{name}_total{{socket=udp:{at},shard=0}}")) as usize
    };
    assert!(told("discarded") > EACH, "{} of {}", told("discarded"), 2 * EACH);
    assert_eq!(told("received") + told("discarded"), 2 * EACH);
    stopper.stop(LONG);
    thread.join().unwrap().unwrap();
}

async fn until(shard: &Shard, number: &AtomicUsize, least: usize) {
    while number.load(SeqCst) < least {
        shard.sleep(Duration::from_millis(1)).await;
    }
}

fn page(at: SocketAddr) -> Page {
    let (mut stream, mut text) = (client(at), String::new());
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_string(&mut text).unwrap();
    Page::read(text.split_once("\r\n\r\n").expect("a head").1, false)
}

fn a_socket_counts_what_it_receives_and_sends(reactor: &str) {
    alone(reactor, |shard| async move {
        let (mut there, sender) = (bind(&shard)?, bind(&shard)?.sender());
        let to = there.local().clone();
        sender.send_segments(&[7; 2_500], 1_000, Some(&to)).await?;
        ensure!(sender.send_to(&[7; 70_000], &to).await.is_err());
        let sent = sender.stats();
        ensure!((sent.sent, sent.sent_bytes, sent.send_errors) == (3, 2_500, 1), "{sent:?}");
        // All three are received in one call; two of them are not asked for before the memory goes.
        there.receive().await?;
        let mut small = there.with_room(4, 10);
        sender.send_to(b"longer than that", &to).await?;
        ensure!(small.receive().await?.is_cut());
        let came = small.stats();
        ensure!((came.received, came.received_bytes, came.cut) == (4, 2_516, 1), "{came:?}");
        ensure!((came.unread, came.lost(), came.receive_errors) == (2, 2, 0), "{came:?}");
        let closed = small.sender();
        sender.send_segments(&[7; 20], 10, Some(&to)).await?;
        small.receive().await?;
        drop(small);
        ensure!(closed.stats().unread == 3, "{:?}", closed.stats());
        let nobody = bind(&shard)?.local().clone();
        shard.sleep(Duration::from_millis(1)).await;
        let mut told = shard.connect_datagrams(&nobody, &DatagramOptions::default())?;
        told.send(b"anybody?").await?;
        ensure!(told.receive().await.is_err() && told.stats().receive_errors == 1, "{:?}", told.stats());
        Ok(())
    });
}
