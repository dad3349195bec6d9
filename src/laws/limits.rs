//! At the limits of a machine: descriptors, memory, and the cost of doing nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::kit::{
    Bench, LONG, Origin, Proxy, Watch, client, end_of, eventually, meet, on_each_reactor, pause, total,
};

on_each_reactor![
    listen_4_at_the_descriptor_limit_new_connections_are_refused_and_old_ones_work,
    what_this_process_lacks_is_not_the_upstreams_fault,
    an_idle_proxy_with_a_thousand_connections_makes_no_system_call,
    nine_thousand_connections_exchange_a_message_and_cost_little_memory,
    nine_thousand_clients_that_leave_at_once_leave_nothing_behind,
];

/// Lets this process have as many descriptors as it may.
fn raise_own_limit() -> u64 {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The same command under a hard limit of descriptors.
fn limited(command: &Command, descriptors: usize) -> Command {
    let mut shell = Command::new("sh");
    // The shell becomes the command, so that its process is ours.
    shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A fresh connection if it is served. If not, it must have been ended and not left hanging.
fn served(at: SocketAddr) -> Option<TcpStream> {
    // Refused it may be before the connect has returned.
    let mut stream = TcpStream::connect_timeout(&at, LONG).ok()?;
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"?").ok()?;
    match stream.read_exact(&mut [0]) {
        Ok(()) => Some(stream),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "a client hangs for {LONG:?}");
            None
        }
    }
}

fn listen_4_at_the_descriptor_limit_new_connections_are_refused_and_old_ones_work(reactor: &str) {
    let origin = Origin::echo();
    let proxy = Proxy::spawn(&mut limited(&Proxy::command(reactor, &[origin.at]), 120));
    let mut open: Vec<TcpStream> = Vec::new();
    // Two rounds: it must find back from the limit, and to it again.
    for _ in 0..2 {
        while let Some(stream) = served(proxy.at) {
            open.push(stream);
            assert!(open.len() < 60, "more connections than descriptors");
        }
        assert!(open.len() >= 8, "only {} are served", open.len());
        let spent = proxy.process.processor_time();
        for _ in 0..10 {
            assert!(served(proxy.at).is_none(), "there is no descriptor for it");
            for stream in &mut open {
                stream.write_all(b"?").unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
            pause(Duration::from_millis(100));
        }
        let spent = proxy.process.processor_time() - spent;
        assert!(spent < Duration::from_millis(500), "{spent:?} of processor time in a second at the limit");
        open.clear();
        open.push(eventually("to be served again", || served(proxy.at)));
    }
    drop(open);
    proxy.counts("active", 0);
    let report = proxy.stop();
    assert!(total(&report, "finished") > 16, "{report}");
}

fn what_this_process_lacks_is_not_the_upstreams_fault(reactor: &str) {
    // A connection takes two descriptors: under one of these limits the last one has its first and not its second.
    let shortages = [120, 121].map(|descriptors| {
        let origin = Origin::echo();
        let proxy =
            Proxy::spawn(&mut limited(&Proxy::command(reactor, &[origin.at, origin.at]), descriptors));
        let open: Vec<TcpStream> = std::iter::from_fn(|| served(proxy.at)).collect();
        assert!(open.len() < 60, "more connections than descriptors");
        drop(open);
        let report = proxy.stop();
        assert_eq!((total(&report, "connect_failed"), total(&report, "no_upstream")), (0, 0), "{report}");
        total(&report, "shortage")
    });
    assert!(shortages.iter().sum::<u64>() > 0, "{shortages:?}");
}

/// Open connections through a proxy, both ends of each in this process's hands.
struct Crowd {
    bench: Bench,
    ends: Vec<(TcpStream, TcpStream)>,
    _only: MutexGuard<'static, ()>,
}

impl Crowd {
    /// Connections made at once: the queues in between hold them.
    const AT_ONCE: usize = 100;

    fn start(reactor: &str) -> Crowd {
        // Two of them at once need more descriptors than a process may have.
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        Crowd { bench: Bench::start(reactor, &[]), ends: Vec::new(), _only: only }
    }

    /// Opens connections until there are `count`, and sends a message both ways over each new one.
    fn grow(&mut self, count: usize) {
        while self.ends.len() < count {
            let fresh = Crowd::AT_ONCE.min(count - self.ends.len());
            let mut clients: Vec<TcpStream> = (0..fresh).map(|_| client(self.bench.proxy.at)).collect();
            for (number, stream) in clients.iter_mut().enumerate() {
                stream.write_all(&[number as u8]).unwrap();
            }
            let mut upstreams: Vec<Option<TcpStream>> = (0..fresh).map(|_| None).collect();
            for _ in 0..fresh {
                let mut stream = meet(&self.bench.listener);
                let mut number = [0];
                stream.read_exact(&mut number).unwrap();
                stream.write_all(&[!number[0]]).unwrap();
                assert!(upstreams[usize::from(number[0])].replace(stream).is_none(), "one came twice");
            }
            for (number, stream) in clients.iter_mut().enumerate() {
                let mut answer = [0];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [!(number as u8)], "another's answer");
            }
            let upstreams = upstreams.into_iter().map(|stream| stream.unwrap());
            self.ends.extend(clients.into_iter().zip(upstreams));
        }
    }

    /// Everybody on both sides says something, which the proxy finds all at once.
    fn talk_at_once(&mut self) {
        let ends = &mut self.ends;
        self.bench.proxy.misses(|| {
            for (client, upstream) in ends.iter_mut() {
                client.write_all(b"up").unwrap();
                upstream.write_all(b"down").unwrap();
            }
        });
        for (client, upstream) in ends {
            let (mut up, mut down) = ([0; 2], [0; 4]);
            upstream.read_exact(&mut up).unwrap();
            client.read_exact(&mut down).unwrap();
            assert_eq!((&up, &down), (b"up", b"down"));
        }
    }
}

fn an_idle_proxy_with_a_thousand_connections_makes_no_system_call(reactor: &str) {
    raise_own_limit();
    let mut crowd = Crowd::start(reactor);
    crowd.grow(1_000);
    let process = &crowd.bench.proxy.process;
    let asleep = eventually("the proxy to fall asleep", || {
        let before = process.sleeps()?;
        pause(Duration::from_millis(300));
        process.sleeps().filter(|after| *after == before)
    });
    assert!(asleep.len() >= 3, "two shards and the main thread: {asleep:?}");
    let spent = process.processor_time();
    pause(Duration::from_secs(5));
    // A thread that makes a system call has to run, and to sleep again after it: both are counted.
    assert_eq!(process.sleeps(), Some(asleep), "a thread ran while there was nothing to do");
    assert_eq!(process.processor_time(), spent);
    for (client, upstream) in &mut crowd.ends {
        client.write_all(b"!").unwrap();
        upstream.read_exact(&mut [0]).unwrap();
    }
}

/// The most that is tried of proxied connections.
const MANY: usize = 9_000;

/// How many this process may hold both ends of; the proxy has as many descriptors. Says so where that is
/// fewer than [`MANY`], and answers `None` where it is no crowd.
fn as_many_as_may_be() -> Option<usize> {
    const OTHERS: u64 = 1_000;
    const FEWEST: usize = 2_000;
    let room = raise_own_limit().saturating_sub(OTHERS) as usize / 2;
    if room < MANY {
        eprintln!("only {room} connections: the hard limit of descriptors is too low for {MANY}");
    }
    if room < FEWEST {
        eprintln!("NOT TESTED: {FEWEST} connections need {} descriptors", 2 * FEWEST as u64 + OTHERS);
        return None;
    }
    Some(MANY.min(room))
}

/// User space that a proxied connection may take on average, both sides of it. Measured, in a build without
/// optimisation and with two shards, on Linux 6.18: uring 1598, epoll 1364, glommio 2683 bytes. glommio
/// allocates for every poll of a socket, and each side that is idle has one pending.
fn bytes_max(reactor: &str) -> u64 {
    if reactor == "glommio" { 4 << 10 } else { 2 << 10 }
}

fn nine_thousand_connections_exchange_a_message_and_cost_little_memory(reactor: &str) {
    let Some(many) = as_many_as_may_be() else { return };
    let (least, mut crowd) = bytes_of_each(reactor, many);
    assert!(least <= bytes_max(reactor), "{least} bytes for each proxied connection");
    assert_eq!(total(&crowd.bench.proxy.report(), "active"), many as u64);
    for (client, upstream) in &mut crowd.ends {
        upstream.write_all(b"still there?").unwrap();
        client.read_exact(&mut [0; 12]).unwrap();
    }
    let (clients, mut upstreams): (Vec<TcpStream>, Vec<TcpStream>) = crowd.ends.drain(..).unzip();
    drop(clients);
    upstreams.iter_mut().for_each(|upstream| assert_eq!(end_of(upstream), Ok(0)));
    drop(upstreams);
    crowd.bench.proxy.counts("active", 0);
    assert_eq!(total(&crowd.bench.proxy.stop(), "finished"), many as u64);
}

/// What each further connection takes, and a crowd of `many`. The least of a few tries, made only if there is
/// need: what a shard has for all of its connections together may come into use meanwhile (uring: its receive
/// buffers, a page of each for small messages, 4 MiB), which is no cost of theirs.
fn bytes_of_each(reactor: &str, many: usize) -> (u64, Crowd) {
    const FEW: usize = 1_000;
    const TRIES: u32 = 2;
    let (mut least, mut tries) = (u64::MAX, 0);
    loop {
        let mut crowd = Crowd::start(reactor);
        crowd.grow(FEW);
        let before = crowd.bench.proxy.process.anonymous_bytes();
        crowd.grow(many);
        let after = crowd.bench.proxy.process.anonymous_bytes();
        let each = (after - before) / (many - FEW) as u64;
        eprintln!(
            "{reactor}: {each} bytes for each proxied connection ({before} with {FEW}, {after} with {many})"
        );
        (least, tries) = (least.min(each), tries + 1);
        if least <= bytes_max(reactor) || tries == TRIES {
            return (least, crowd);
        }
    }
}

fn nine_thousand_clients_that_leave_at_once_leave_nothing_behind(reactor: &str) {
    // Less than the smallest allocation, 32 bytes, for each connection. The first crowds need memory that is
    // kept for the next.
    const BYTES_LEFT_MAX: u64 = 24;
    const CROWDS_MAX: u64 = 8;
    let Some(many) = as_many_as_may_be() else { return };
    let mut crowd = Crowd::start(reactor);
    let descriptors = crowd.bench.proxy.process.descriptors();
    let (mut held, mut crowds) = (0, 0);
    loop {
        crowd.grow(many);
        crowd.talk_at_once();
        let proxy = &crowd.bench.proxy;
        assert_eq!(proxy.process.descriptors(), descriptors + 2 * many, "each connection takes two");
        let (clients, mut upstreams): (Vec<TcpStream>, Vec<TcpStream>) = crowd.ends.drain(..).unzip();
        proxy.misses(|| drop(clients));
        let watch = Watch::start();
        for upstream in &mut upstreams {
            assert_eq!(end_of(upstream), Ok(0), "the origin's end of a connection that is over");
            watch.left("the end of each connection");
        }
        drop(upstreams);
        proxy.counts("active", 0);
        let restored = || (proxy.process.descriptors() == descriptors).then_some(());
        eventually("every descriptor to be closed", restored);
        let before = held;
        held = proxy.process.anonymous_bytes();
        crowds += 1;
        eprintln!("{reactor}: {held} bytes are held after {many} connections ended at once, time {crowds}");
        if held <= before + BYTES_LEFT_MAX * many as u64 {
            break;
        }
        assert!(crowds < CROWDS_MAX, "each crowd leaves something behind");
    }
    assert_eq!(total(&crowd.bench.proxy.stop(), "finished"), crowds * many as u64);
}
