//! A runtime in this process that serves connections.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Mutex, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use waterwheel::net::{AcceptStats, Connection};
use waterwheel::runtime::{Config, RunError, Runtime, Stopper};

use super::{LONG, spawn};

/// What each shard has counted when it ends.
type Counted = Result<Vec<AcceptStats>, RunError>;

/// Serves connections on a free port until it is stopped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) stopper: Stopper,
    running: Option<JoinHandle<Counted>>,
}

/// So many shards on this reactor; the rest as it is by default.
pub(crate) fn config(reactor: &str, shards: usize) -> Config {
    Config::default().reactor(reactor).cores(shards)
}

impl Server {
    pub(crate) fn start<F>(
        config: Config,
        serve: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
    ) -> Server
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        Server::start_with(config, move |_| move |_: &_| serve.clone())
    }

    /// The same where the runtime has to be prepared, and each shard after it.
    pub(crate) fn start_with<P, S, F>(
        config: Config,
        prepare: impl FnOnce(&Runtime) -> P + Send + 'static,
    ) -> Server
    where
        P: Fn(&waterwheel::shard::Shard) -> S + Send + Sync + 'static,
        S: Fn(Connection) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let (tell, told) = channel();
        let running = spawn(move || {
            let runtime = Runtime::new(config).expect("a configuration that suits").without_signals();
            let listening = runtime.listen("127.0.0.1:0").expect("a free port");
            let at = listening.local().inet().expect("an internet address");
            let prepared = prepare(&runtime);
            tell.send((at, runtime.stopper())).expect("somebody waits");
            runtime.run(move |shard| {
                let (listening, serve) = (listening.clone(), prepared(&shard));
                async move {
                    let acceptor = shard.accept_on(&listening)?;
                    let counters = acceptor.counters();
                    acceptor.serve(usize::MAX, serve).await;
                    Ok(counters.copy())
                }
            })
        });
        let (at, stopper) = told.recv_timeout(LONG).expect("a server that starts");
        Server { at, stopper, running: Some(running) }
    }

    /// Lets connections finish, and answers what was counted.
    pub(crate) fn stop(mut self) -> Counted {
        self.stopper.stop(LONG);
        self.running.take().expect("stopped once").join().expect("a runtime does not panic")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopper.stop(Duration::ZERO);
        if let Some(running) = self.running.take() {
            // The test has failed already.
            let _ = running.join();
        }
    }
}

static LOG: Mutex<String> = Mutex::new(String::new());

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps what is logged in this process from here on.
pub(crate) fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(|| ToLog);
        log.try_init().expect("nobody else logs here");
    });
}

/// Whether a line was logged that has all of `parts`.
pub(crate) fn logged(parts: &[&str]) -> bool {
    times_logged(parts) > 0
}

/// How many such lines were logged.
pub(crate) fn times_logged(parts: &[&str]) -> usize {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}
