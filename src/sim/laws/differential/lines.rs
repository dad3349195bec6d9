//! A server and clients, line by line: what one end of a connection does, and what the other.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::future::{LocalBoxFuture, join_all};
use waterwheel::net::{AcceptStats, Connection, Listening};
use waterwheel::reactor::{Address, ConnectOptions, ListenOptions};
use waterwheel::shard::Shard;

use super::book::Book;
use super::peer::Peer;
use super::stage::{Program, Stage};

/// What an end does.
pub(crate) type Act = Arc<dyn Fn(Peer) -> LocalBoxFuture<'static, ()> + Send + Sync>;

/// An end's doings as a value.
pub(crate) fn act<F: Future<Output = ()> + 'static>(does: impl Fn(Peer) -> F + Send + Sync + 'static) -> Act {
    Arc::new(move |peer| Box::pin(does(peer)))
}

/// One place to connect to. Its connections are numbered in the order in which they come, so let them come in one.
#[derive(Clone)]
pub(crate) struct Role {
    name: String,
    act: Act,
    came: Arc<AtomicUsize>,
    once: bool,
}

impl Role {
    pub(crate) fn new(name: impl Into<String>, act: Act) -> Role {
        Role { name: name.into(), act, came: Arc::default(), once: false }
    }

    /// For one client; those that come later only want to know whether somebody listens.
    pub(crate) fn once(name: impl Into<String>, act: Act) -> Role {
        Role { once: true, ..Role::new(name, act) }
    }

    fn serve(&self, connection: Connection, book: &Book) -> LocalBoxFuture<'static, ()> {
        let name = match self.came.fetch_add(1, Relaxed) {
            0 => format!("{}, server", self.name),
            _ if self.once => return Box::pin(async move { drop(connection) }),
            number => format!("{}, server {}", self.name, number + 1),
        };
        (self.act)(Peer::new(connection, book, &name))
    }
}

/// A program that serves each role at a place of its own; where those are.
pub(crate) fn serve(
    stage: &Stage,
    host: &str,
    shards: usize,
    roles: Vec<Role>,
) -> anyhow::Result<(Program<AcceptStats>, Vec<Address>)> {
    let runtime = stage.runtime(host, shards)?;
    let listen = |_| stage.listen(&runtime, host, &ListenOptions::default());
    let listening: Vec<Listening> = roles.iter().map(listen).collect::<anyhow::Result<_>>()?;
    let places = listening.iter().map(|listening| listening.local().clone()).collect();
    let book = stage.book().clone();
    let program = stage.start(host, runtime, move |shard| {
        let (roles, listening, book) = (roles.clone(), listening.clone(), book.clone());
        async move { play(&shard, &roles, &listening, &book).await }
    });
    Ok((program, places))
}

async fn play(
    shard: &Shard,
    roles: &[Role],
    listening: &[Listening],
    book: &Book,
) -> anyhow::Result<AcceptStats> {
    let (mut serving, mut counters) = (Vec::new(), Vec::new());
    for (role, listening) in roles.iter().zip(listening) {
        let acceptor = shard.accept_on(listening)?;
        counters.push(acceptor.counters());
        let (role, book) = (role.clone(), book.clone());
        serving.push(acceptor.serve(100, move |connection| {
            let serving = role.serve(connection, &book);
            async move {
                serving.await;
                Ok(())
            }
        }));
    }
    join_all(serving).await;
    Ok(counters.iter().map(|one| one.copy()).fold(AcceptStats::default(), std::ops::Add::add))
}

/// Connects and does what a client does; or writes down why it cannot.
pub(crate) async fn client(stage: &Stage, name: &str, to: &Address, act: &Act) {
    let name = format!("{name}, client");
    match stage.shard().connect(to, &ConnectOptions::default()).await {
        Ok(connection) => act(Peer::new(connection, stage.book(), &name)).await,
        Err(error) => stage.book().strand(name).note(format!("connect: {:?}", error.kind())),
    }
}

/// A client and its server.
pub(crate) struct Line {
    name: &'static str,
    server: Act,
    client: Act,
}

pub(crate) fn line<S, C>(
    name: &'static str,
    server: impl Fn(Peer) -> S + Send + Sync + 'static,
    client: impl Fn(Peer) -> C + Send + Sync + 'static,
) -> Line
where
    S: Future<Output = ()> + 'static,
    C: Future<Output = ()> + 'static,
{
    Line { name, server: act(server), client: act(client) }
}

/// Plays all lines at once, then stops the server, and writes down what it counted.
pub(crate) async fn play_all(stage: Stage, lines: Vec<Line>) -> anyhow::Result<()> {
    let roles = lines.iter().map(|line| Role::new(line.name, line.server.clone())).collect();
    let (program, places) = serve(&stage, "server", 2, roles)?;
    join_all(lines.iter().zip(&places).map(|(line, to)| client(&stage, line.name, to, &line.client))).await;
    count(&stage, "server", program.end().await?);
    Ok(())
}

/// Writes down what a server's listeners counted: which shard accepted what depends on a hash, and is not said.
pub(crate) fn count(stage: &Stage, name: &str, counted: Vec<AcceptStats>) {
    let all = counted.into_iter().fold(AcceptStats::default(), std::ops::Add::add);
    let served = all.accepted + all.taken_over - all.handed_over;
    let lost = all.crowded + all.dropped + all.adopt_failed + all.shed + all.errors;
    stage.book().strand(name).note(format!("served {served}, lost {lost}"));
}
