//! Scenes on this machine: the scene in a runtime of one shard, each other program in a runtime and on threads of its own.

use std::cell::RefCell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use waterwheel::reactor::Address;
use waterwheel::runtime::{Config, RunError, Runtime};
use waterwheel::shard::Shard;

use super::book::Transcript;
use super::stage::{LONG, Stage};

/// How often a scene looks whether a program has ended; its end wakes nobody here.
const LOOK: Duration = Duration::from_millis(2);

type Job = Box<dyn FnOnce() + Send>;

/// What a scene's shard needs of this machine.
pub(crate) struct Real {
    reactor: &'static str,
    shard: Shard,
    threads: mpsc::Sender<Job>,
    /// Ports that are held so that nobody listens there.
    held: RefCell<Vec<OwnedFd>>,
}

/// Plays a scene and answers what its peers saw.
///
/// # Panics
/// If the scene fails.
pub(crate) fn play<S, F>(reactor: &'static str, scene: Arc<S>) -> Transcript
where
    S: Fn(Stage) -> F + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    // A thread that may use every CPU: those that it makes inherit that, and those that a pinned shard makes do not.
    let (threads, jobs) = mpsc::channel::<Job>();
    let maker = Builder::new().spawn(move || jobs.into_iter().for_each(|job| job())).expect("a thread");
    let runtime = runtime(reactor, 1).expect("a configuration that suits");
    let played = runtime.run(move |shard| {
        let held = RefCell::default();
        let stage = Stage::here(Real { reactor, shard: shard.clone(), threads: threads.clone(), held });
        let scene = scene(stage.clone());
        async move {
            shard.timeout(LONG, scene).await.context("the scene takes too long")??;
            Ok(stage.book().transcript())
        }
    });
    let transcript = played.unwrap_or_else(|error| panic!("{reactor}: {error:#}")).pop();
    maker.join().expect("a thread that panics nowhere");
    transcript.expect("one shard")
}

fn runtime(reactor: &str, shards: usize) -> anyhow::Result<Runtime> {
    Ok(Runtime::new(Config::default().reactor(reactor).cores(shards))?.without_signals())
}

impl Real {
    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let (tell, told) = mpsc::channel();
        let make: Job = Box::new(move || tell.send(Builder::new().spawn(work)).expect("somebody waits"));
        self.threads.send(make).expect("it lives as long as this");
        told.recv().expect("it answers").expect("a thread")
    }

    pub(crate) fn runtime(&self, shards: usize) -> anyhow::Result<Runtime> {
        let reactor = self.reactor;
        // Off this shard, which is pinned: the plan of a runtime is made from the CPUs of the thread that makes it.
        self.thread(move || runtime(reactor, shards)).join().expect("it does not panic")
    }

    pub(crate) fn start<T, F, M>(
        &self,
        runtime: Runtime,
        main: M,
    ) -> impl Future<Output = Result<Vec<T>, RunError>> + use<T, F, M>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + 'static,
        M: Fn(Shard) -> F + Send + Sync + 'static,
    {
        let (running, shard) = (self.thread(move || runtime.run(main)), self.shard.clone());
        async move {
            while !running.is_finished() {
                shard.sleep(LOOK).await;
            }
            running.join().expect("a runtime does not panic")
        }
    }

    pub(crate) fn nobody(&self) -> anyhow::Result<Address> {
        let held = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let at = SocketAddr::try_from(getsockname(held.as_fd())?)?;
        self.held.borrow_mut().push(held);
        Ok(Address::Inet(at))
    }
}
