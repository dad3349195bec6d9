//! At the limits of a machine: descriptors, memory, and the cost of doing nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::kit::{
    Bench, LONG, Origin, Proxy, client, end_of, eventually, meet, on_each_reactor, pause, total,
};

on_each_reactor![
    listen_4_at_the_descriptor_limit_new_connections_are_refused_and_old_ones_work,
    what_this_process_lacks_is_not_the_upstreams_fault,
    an_idle_proxy_with_a_thousand_connections_makes_no_system_call,
    nine_thousand_connections_exchange_a_message_and_cost_little_memory,
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

fn nine_thousand_connections_exchange_a_message_and_cost_little_memory(reactor: &str) {
    const FEW: usize = 1_000;
    const MANY: usize = 9_000;
    const BYTES_MAX: u64 = 4 << 10;
    // Both ends are here, and the proxy has as many.
    let room = raise_own_limit().saturating_sub(1_000) as usize / 2;
    if room < MANY {
        eprintln!("only {room} connections: the hard limit of descriptors is too low for {MANY}");
    }
    let many = MANY.min(room);
    assert!(many >= 2 * FEW, "a hard limit of at least 5000 descriptors is needed");
    let mut crowd = Crowd::start(reactor);
    crowd.grow(FEW);
    let before = crowd.bench.proxy.process.anonymous_bytes();
    crowd.grow(many);
    let after = crowd.bench.proxy.process.anonymous_bytes();
    let each = (after - before) / (many - FEW) as u64;
    eprintln!(
        "{reactor}: {each} bytes for each proxied connection ({before} with {FEW}, {after} with {many})"
    );
    assert!(each <= BYTES_MAX, "{each} bytes for each proxied connection");
    assert_eq!(total(&crowd.bench.proxy.report(), "active"), many as u64);
    for (client, upstream) in &mut crowd.ends {
        upstream.write_all(b"still there?").unwrap();
        client.read_exact(&mut [0; 12]).unwrap();
    }
    crowd.ends.drain(..).for_each(|(client, mut upstream)| {
        drop(client);
        assert_eq!(end_of(&mut upstream), Ok(0));
    });
    crowd.bench.proxy.counts("active", 0);
    assert_eq!(total(&crowd.bench.proxy.stop(), "finished"), many as u64);
}
