//! The admin endpoint: what the program counts and how it stands, over HTTP/1.1.
//!
//! A task of one shard accepts, and not the runtime's listeners: those are spread over the shards, and close when a program
//! is asked to stop, which is when an operator wants to know. It is the first shard that is not gone for good; the socket
//! outlives the shards' lives, and goes from one that has no next life to the next one.

mod answer;
mod client;

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waterwheel_os::AcceptTrouble;
use waterwheel_reactor::{Address, Bound, Incoming, Listener};

use super::registry::Registry;
use crate::net::Places;
use crate::net::door::{Refused, open};
use crate::shard::Shard;

/// Connections served at once; others wait in the backlog. Two scrapers, an operator, and probes of an orchestrator.
const CLIENTS_MAX: usize = 8;
/// How long accepting rests after an error, and the whole after a panic, or when the socket cannot be served.
const REST: Duration = Duration::from_millis(200);
/// It rests twice as long each time that the socket cannot be served, and no longer than this: so often it is said.
const REST_MOST: Duration = Duration::from_secs(10);
/// Clients in a row that were gone before they were accepted, after which accepting rests.
const GONE_MOST: u32 = 100;
/// How often it is said that nobody can be accepted.
const SAID_EACH: Duration = Duration::from_secs(1);

/// The endpoint, bound from the start of the runtime.
#[derive(Debug)]
pub(crate) struct Admin {
    local: Address,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// While no life of a shard serves it.
    bound: Option<Bound>,
    /// By shard: it has no next life.
    gone: Box<[bool]>,
    /// By shard: who waits there for those before it to be gone.
    waiting: Box<[Option<Waker>]>,
}

impl State {
    /// Whose it is to serve it.
    fn turn(&self) -> Option<usize> {
        self.gone.iter().position(|gone| !gone)
    }
}

impl Admin {
    pub(crate) fn new(bound: Bound, shards: usize) -> Arc<Admin> {
        let local = bound.local.clone();
        let (gone, waiting) = (vec![false; shards].into(), vec![None; shards].into());
        Arc::new(Admin { local, state: Mutex::new(State { bound: Some(bound), gone, waiting }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard has no next life: the next one serves it. After the last one clients are refused, and do not wait for ever.
    pub(crate) fn gone(&self, shard: usize) {
        let mut state = self.state();
        state.gone[shard] = true;
        let next = state.turn();
        let waiting = next.and_then(|next| state.waiting[next].take());
        let bound = if next.is_none() { state.bound.take() } else { None };
        drop(state);
        drop(bound);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Ready once it is this shard's to serve it.
    fn poll_turn(&self, shard: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.turn() == Some(shard) {
            return Poll::Ready(());
        }
        state.waiting[shard] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Where it listens, port 0 resolved.
    pub(crate) fn local(&self) -> &Address {
        &self.local
    }

    /// Serves it when it is this shard's to do so, for as long as this life of the shard lasts.
    pub(crate) fn serve(self: &Arc<Admin>, shard: &Shard, registry: &Arc<Registry>) {
        let (admin, registry, own) = (self.clone(), registry.clone(), shard.clone());
        shard.control().spawn_detached("admin", async move {
            let me = own.id().index();
            poll_fn(|cx| admin.poll_turn(me, cx)).await;
            if me > 0 {
                tracing::warn!(shard = me, "serves the admin endpoint, since those before it have ended");
            }
            // Whatever goes wrong in it concerns nobody else, and is tried again: ended by it, this shard would leave the same
            // socket to the next one, and that to the one behind it.
            let mut rest = REST;
            loop {
                let began = own.now();
                let accepting = own.spawn("admin", admin.clone().accept(own.clone(), registry.clone()));
                match accepting.await {
                    Ok(Err(error)) => {
                        tracing::error!(?rest, "the admin endpoint cannot be served, and waits: {error}");
                    }
                    Ok(Ok(())) => return,
                    Err(_) => {}
                }
                own.sleep(rest).await;
                let was_well = own.now().since(began) > REST_MOST * 2;
                rest = if was_well { REST } else { (rest * 2).min(REST_MOST) };
            }
        });
    }

    async fn accept(self: Arc<Admin>, shard: Shard, registry: Arc<Registry>) -> io::Result<()> {
        let Some(bound) = self.state().bound.take() else { return Ok(()) };
        let listener = open(&shard, bound, None).map_err(|refused| {
            let Refused { error, bound } = *refused;
            self.state().bound = bound;
            error
        })?;
        let mut door = Door { admin: self, listener };
        let places = Places::new(CLIENTS_MAX);
        let (mut gone, mut said) = (0, None);
        loop {
            poll_fn(|cx| places.poll_left(cx)).await;
            let incoming: Incoming = match poll_fn(|cx| door.listener.poll_accept(cx)).await {
                Ok(incoming) => {
                    gone = 0;
                    incoming
                }
                Err(error) => {
                    let trouble = AcceptTrouble::of(&error);
                    if matches!(trouble, AcceptTrouble::Broken) {
                        return Err(error);
                    }
                    gone += 1;
                    if matches!(trouble, AcceptTrouble::OneConnection) && gone < GONE_MOST {
                        shard.yield_now().await;
                        continue;
                    }
                    if said.is_none_or(|said| shard.now().since(said) > SAID_EACH) {
                        said = Some(shard.now());
                        tracing::warn!("the admin endpoint cannot accept: {error}");
                    }
                    shard.sleep(REST).await;
                    continue;
                }
            };
            match shard.adopt(incoming) {
                Ok(connection) => {
                    let place = Rc::new(places.take());
                    let (connection, registry) = (connection.escorted(place.clone()), registry.clone());
                    let is_last = !places.are_left();
                    shard.spawn_detached("admin client", async move {
                        if let Err(error) = client::serve(connection, &registry, is_last).await {
                            tracing::debug!("an admin client: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!("the admin endpoint cannot serve a client: {error}");
                    shard.sleep(REST).await;
                }
            }
        }
    }
}

/// The socket at work, which finds its way back for the next life.
struct Door {
    admin: Arc<Admin>,
    listener: Box<dyn Listener>,
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Poll::Ready(bound) = self.listener.poll_close(&mut Context::from_waker(Waker::noop())) {
            self.admin.state().bound = Some(bound);
        }
    }
}
