//! Listeners that are given up and wanted again at once, and those that are bound and closed while a shard pauses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use waterwheel::mesh::Remote;
use waterwheel::net::{Connection, Endpoint, Leaving, Listening};
use waterwheel::reactor::ListenOptions;
use waterwheel::runtime::{Config, Listeners, OnFailure, RunError, Runtime, Stopper, Supervision};
use waterwheel::shard::{Shard, ShardId};
use waterwheel::steer::Mode;

use super::kit::{LONG, Watch, client, config, eventually, on_each_reactor, pause, spawn};
use super::reloaded::{Site, ask, file, free, origin, visit};

on_each_reactor![
    a_proxy_that_is_to_listen_again_where_it_was_about_to_close_does,
    who_wants_the_address_of_a_listener_that_closes_waits_for_its_last_socket,
    a_listener_that_a_shard_does_not_leave_is_in_use_and_says_so,
    others_serve_the_clients_of_what_is_bound_while_a_shard_pauses_and_what_is_closed_is_closed,
];

const SHARDS: usize = 3;
/// The one that pauses.
const VICTIM: usize = 1;

fn a_proxy_that_is_to_listen_again_where_it_was_about_to_close_does(reactor: &str) {
    let origin = origin(7);
    let listen = [free(), free()];
    let text = |listen: &[String]| file(listen, origin.at, "connections = 2");
    let site = Site::start(reactor, &text(&listen));
    let sometimes: SocketAddr = listen[1].strip_prefix("tcp:").unwrap().parse().unwrap();
    for round in 0..2 {
        let mut held = [(); 2].map(|()| client(sometimes));
        held.iter_mut().for_each(|held| assert_eq!(ask(held), 7));
        // More than may wait inside, so that the listener is not closed before its second is over.
        let waiting: Vec<TcpStream> = (0..600).map(|_| client(sometimes)).collect();
        site.reload(&text(&listen[..1]), &format!("version {} of the settings", 2 * round + 1));
        site.reload(&text(&listen), &format!("version {} of the settings", 2 * round + 2));
        drop((held, waiting));
        site.proxy.counts("active", 0);
        assert_eq!(visit(sometimes, 2), 7, "it does not listen again");
    }
    site.proxy.stop();
}

struct Running {
    listeners: Listeners,
    remote: Remote,
    stopper: Stopper,
    /// Lives that the victim began.
    lives: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Vec<()>, RunError>>,
}

/// What leaves the listeners of a shard, in the order in which it opened them.
struct Open(std::cell::RefCell<Vec<Leaving>>);

fn start(config: Config, doomed: impl Fn(usize) -> bool + Send + Sync + 'static) -> Running {
    let lives = Arc::new(AtomicUsize::new(0));
    let (counted, (tell, told)) = (lives.clone(), channel());
    let thread = spawn(move || {
        let runtime = Runtime::new(config).unwrap().without_signals();
        tell.send((runtime.listeners(), runtime.remote(), runtime.stopper())).unwrap();
        runtime.run(move |shard| {
            if shard.id().index() == VICTIM {
                let life = counted.fetch_add(1, SeqCst);
                assert!(!doomed(life), "planned: life {life}");
            }
            async move {
                shard.stopping().await;
                Ok(())
            }
        })
    });
    let (listeners, remote, stopper) = told.recv_timeout(LONG).unwrap();
    Running { listeners, remote, stopper, lives, thread }
}

async fn echo(mut connection: Connection) -> anyhow::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(connection.close().await?)
}

fn goes_round(stream: &mut TcpStream) -> bool {
    let mut back = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"x"
}

impl Running {
    fn listen(&self, at: &str) -> Result<Listening, String> {
        let endpoint: Endpoint = at.parse().unwrap();
        self.listeners.listen(&endpoint, &ListenOptions::default()).map_err(|error| error.to_string())
    }

    fn on(&self, shards: &[usize], work: impl Fn(&Shard) + Clone + Send + 'static) {
        for shard in shards {
            let (work, (tell, done)) = (work.clone(), channel());
            let asked = self.remote.try_run(ShardId::new(*shard), move |shard: &Shard| {
                work(shard);
                tell.send(()).unwrap();
            });
            assert!(asked.is_ok(), "{asked:?}");
            done.recv_timeout(LONG).unwrap();
        }
    }

    /// These shards serve it.
    fn serve(&self, shards: &[usize], listening: &Listening) {
        let listening = listening.clone();
        self.on(shards, move |shard| {
            let acceptor = shard.accept_on(&listening).unwrap();
            let open = shard.kept::<Open>().unwrap_or_else(|| {
                let open = Rc::new(Open(Default::default()));
                drop(shard.keep(open.clone()));
                open
            });
            open.0.borrow_mut().push(acceptor.leaving());
            shard.spawn_detached("serves", acceptor.serve(usize::MAX, echo));
        });
    }

    /// These shards leave the one that they opened first.
    fn leave(&self, shards: &[usize]) {
        self.on(shards, |shard| shard.kept::<Open>().unwrap().0.borrow_mut().remove(0).leave());
    }

    fn stop(self) -> Result<Vec<()>, RunError> {
        self.stopper.stop(LONG);
        self.thread.join().unwrap()
    }
}

fn who_wants_the_address_of_a_listener_that_closes_waits_for_its_last_socket(reactor: &str) {
    const ALL: [usize; SHARDS] = [0, 1, 2];
    let running = start(config(reactor, SHARDS), |_| false);
    let mut listening = running.listen("tcp:127.0.0.1:0").unwrap();
    running.serve(&ALL, &listening);
    let at = listening.local().to_string();
    assert!(running.listen(&at).is_err(), "one that is not closed has its address");
    for _ in 0..3 {
        running.listeners.close(&listening);
        running.leave(&ALL[..2]);
        let watch = Watch::start();
        let (listeners, endpoint) = (running.listeners.clone(), at.parse::<Endpoint>().unwrap());
        let again = spawn(move || listeners.listen(&endpoint, &ListenOptions::default()));
        pause(Duration::from_millis(100));
        assert!(!again.is_finished(), "before the last shard has left");
        running.leave(&ALL[2..]);
        listening = again.join().unwrap().unwrap();
        assert!(watch.elapsed() < LONG / 2);
        running.serve(&ALL, &listening);
        for number in 0..20 {
            assert!(goes_round(&mut client(listening.local().inet().unwrap())), "client {number}");
        }
    }
    running.stop().unwrap();
}

fn a_listener_that_a_shard_does_not_leave_is_in_use_and_says_so(reactor: &str) {
    let running = start(config(reactor, SHARDS), |_| false);
    let listening = running.listen("tcp:127.0.0.1:0").unwrap();
    running.serve(&[0, 1, 2], &listening);
    running.listeners.close(&listening);
    running.leave(&[0, 1]);
    let at = listening.local().to_string();
    let refused = running.listen(&at).unwrap_err();
    assert!(refused.contains(&at) && refused.contains("a shard still serves it"), "{refused}");
    // Of another port nobody has to wait.
    let watch = Watch::start();
    running.listen("tcp:127.0.0.1:0").unwrap();
    assert!(watch.elapsed() < Duration::from_secs(2));
    running.leave(&[2]);
    running.listen(&at).unwrap();
    running.stop().unwrap();
}

fn others_serve_the_clients_of_what_is_bound_while_a_shard_pauses_and_what_is_closed_is_closed(
    reactor: &str,
) {
    let long = Duration::from_secs(3_600);
    let supervision = Supervision { pause: long, pause_most: long, ..Supervision::default() };
    for mode in [Mode::Kernel, Mode::Flow] {
        let config = config(reactor, SHARDS).steer(mode).on_failure(OnFailure::Restart);
        let running = start(config.supervision(supervision), |life| life < 2);
        eventually("the pause", || (running.lives.load(SeqCst) == 2).then_some(()));
        let listening = running.listen("tcp:127.0.0.1:0").unwrap();
        let at = listening.local().inet().unwrap();
        running.serve(&[0, 2], &listening);
        for number in 0..50 {
            assert!(goes_round(&mut client(at)), "client {number} waits in mode {mode}");
        }
        running.listeners.close(&listening);
        running.leave(&[0, 2]);
        eventually("the last socket to close", || TcpStream::connect(at).is_err().then_some(()));
        // So the address is free for another one, which is served as well.
        let again = running.listen(&format!("tcp:{at}")).unwrap();
        running.serve(&[0, 2], &again);
        assert!((0..20).all(|_| goes_round(&mut client(at))));
        assert_eq!(running.lives.load(SeqCst), 2);
        assert!(matches!(running.stop(), Err(RunError::Panicked { shard: VICTIM })));
    }
}
