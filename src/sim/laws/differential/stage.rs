//! Where a scene plays: a simulated world, or this machine with a real reactor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use waterwheel::net::Listening;
use waterwheel::reactor::{Address, ListenOptions};
use waterwheel::runtime::{RunError, Runtime, Stopper};
use waterwheel::shard::Shard;
use waterwheel::sim::{Host, World};

use super::book::Book;
use super::real::Real;

/// Longer than anything here may take.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What a scene is given: the shard that it runs on itself, with all the clients; other programs; a book. Clones are the
/// same stage.
#[derive(Clone)]
pub(crate) struct Stage {
    place: Place,
    book: Book,
}

#[derive(Clone)]
enum Place {
    World { world: World, hosts: Rc<RefCell<BTreeMap<String, Host>>> },
    Here(Rc<Real>),
}

impl Stage {
    pub(crate) fn in_world(world: World) -> Stage {
        Stage { place: Place::World { world, hosts: Rc::default() }, book: Book::default() }
    }

    pub(crate) fn here(real: Real) -> Stage {
        Stage { place: Place::Here(Rc::new(real)), book: Book::default() }
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    pub(crate) fn shard(&self) -> &Shard {
        match &self.place {
            Place::World { world, .. } => world.shard(),
            Place::Here(real) => real.shard(),
        }
    }

    /// A task that panics is part of the scene.
    pub(crate) fn allow_panics(&self) {
        if let Place::World { world, .. } = &self.place {
            world.allow_panics();
        }
    }

    /// The host of a program, where there are several.
    fn host(&self, name: &str) -> Option<Host> {
        let Place::World { world, hosts } = &self.place else { return None };
        let mut hosts = hosts.borrow_mut();
        Some(hosts.entry(name.to_owned()).or_insert_with(|| world.host(name)).clone())
    }

    /// A program to come.
    pub(crate) fn runtime(&self, name: &str, shards: usize) -> anyhow::Result<Runtime> {
        match &self.place {
            Place::World { .. } => Ok(self.host(name).map(|host| host.runtime(shards)).expect("a world")),
            Place::Here(real) => real.runtime(shards),
        }
    }

    /// Listens at a free port of a program's.
    pub(crate) fn listen(
        &self,
        runtime: &Runtime,
        name: &str,
        options: &ListenOptions,
    ) -> anyhow::Result<Listening> {
        Ok(runtime.listen_with(&self.free(name).parse()?, options)?)
    }

    /// A free port of a program's, as an endpoint.
    pub(crate) fn free(&self, name: &str) -> String {
        let ip = self.host(name).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |host| host.ip());
        format!("tcp:{ip}:0")
    }

    /// A place where connects are refused, for as long as the stage stands.
    pub(crate) fn nobody(&self) -> anyhow::Result<Address> {
        match &self.place {
            Place::World { .. } => Ok(Address::Inet(self.host("nobody").expect("a world").at(9))),
            Place::Here(real) => real.nobody(),
        }
    }

    /// Starts a program.
    pub(crate) fn start<T, F, M>(&self, name: &str, runtime: Runtime, main: M) -> Program<T>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + 'static,
        M: Fn(Shard) -> F + Send + Sync + 'static,
    {
        let stopper = runtime.stopper();
        let ended: LocalBoxFuture<'static, _> = match &self.place {
            Place::World { .. } => Box::pin(self.host(name).expect("a world").start(runtime, main)),
            Place::Here(real) => Box::pin(real.start(runtime, main)),
        };
        Program { stopper, ended }
    }
}

/// A program under way, and a future of its end. Dropping it ends it at once.
#[must_use = "dropping it ends it"]
pub(crate) struct Program<T> {
    stopper: Stopper,
    ended: LocalBoxFuture<'static, Result<Vec<T>, RunError>>,
}

impl<T> Program<T> {
    pub(crate) fn stop(&self, drain: Duration) {
        self.stopper.stop(drain);
    }

    /// Asks it to stop, with time enough, and waits for its end.
    pub(crate) async fn end(self) -> anyhow::Result<Vec<T>> {
        self.stop(LONG);
        Ok(self.await?)
    }
}

impl<T> Future for Program<T> {
    type Output = Result<Vec<T>, RunError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.ended.as_mut().poll(cx)
    }
}

impl<T> Drop for Program<T> {
    fn drop(&mut self) {
        self.stopper.stop(Duration::ZERO);
    }
}
