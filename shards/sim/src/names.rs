//! The names of the world's hosts, and who asks for them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::fault::{Moment, Verdict};
use crate::state::{Occurrence, Shared, State};
use crate::trace::{Id, What};

/// How long a name takes to be answered, at most, faults apart.
const USUAL: Duration = Duration::from_millis(2);
/// How long the resolver asks before it gives up (resolv.conf(5): two attempts of 5 s).
const GIVES_UP: Duration = Duration::from_secs(10);

/// A question under way.
#[derive(Debug)]
pub(crate) struct Asked {
    answer: io::Result<Vec<IpAddr>>,
    ready: bool,
    waker: Option<Waker>,
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is no host of this world"))
}

impl State {
    fn known(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        self.hosts
            .iter()
            .find(|host| &*host.name == name)
            .map(|host| host.ips.clone())
            .ok_or_else(|| unknown(name))
    }

    fn begin_lookup(&mut self, host: usize, name: &str) -> Id {
        self.note(host, None, What::Asked(name.into()));
        let to = self.hosts.iter().position(|host| &*host.name == name).unwrap_or(usize::MAX);
        let mut wait = if self.live { Duration::ZERO } else { self.random.duration(Duration::ZERO, USUAL) };
        let mut answer = self.known(name);
        match self.ask(Moment::Lookup, (host, None), (to, None), None) {
            Some((Verdict::NameLate(late), _)) if late >= GIVES_UP => {
                (wait, answer) = (GIVES_UP, Err(io::ErrorKind::TimedOut.into()));
            }
            Some((Verdict::NameLate(late), _)) => wait = late,
            Some((Verdict::NameUnknown, _)) => answer = Err(unknown(name)),
            _ => {}
        }
        let id = self.id();
        self.lookups.insert(id, Asked { answer, ready: false, waker: None });
        self.after(wait, Occurrence::Found { lookup: id });
        id
    }

    pub(crate) fn found(&mut self, lookup: Id) {
        if let Some(asked) = self.lookups.get_mut(&lookup) {
            asked.ready = true;
            self.wakes.extend(asked.waker.take());
        }
    }
}

impl Shared {
    /// The answer at once, for whoever may block.
    pub(crate) fn lookup_now(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(with_port(self.lock().known(name)?, port))
    }
}

fn with_port(ips: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// Waits for an answer.
pub(crate) struct Looking {
    shared: Arc<Shared>,
    lookup: Id,
    port: u16,
}

impl Looking {
    pub(crate) fn new(shared: &Arc<Shared>, host: usize, name: &str, port: u16) -> Looking {
        let lookup = shared.with(|state| state.begin_lookup(host, name));
        Looking { shared: shared.clone(), lookup, port }
    }
}

impl Future for Looking {
    type Output = io::Result<Vec<SocketAddr>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.shared.with(|state| {
            let Some(asked) = state.lookups.get_mut(&self.lookup) else {
                return Poll::Ready(Err(io::Error::other("an answer was asked for twice")));
            };
            if !asked.ready {
                let before = asked.waker.replace(cx.waker().clone());
                state.old.extend(before);
                return Poll::Pending;
            }
            let answer = state.lookups.remove(&self.lookup).map(|asked| asked.answer);
            Poll::Ready(answer.unwrap_or_else(|| Ok(Vec::new())).map(|ips| with_port(ips, self.port)))
        })
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.shared.with(|state| state.lookups.remove(&self.lookup));
    }
}
