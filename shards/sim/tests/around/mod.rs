//! What is around a reactor in a live world: the world's own sockets, which wait, for the peers, and its own count of
//! what is open.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use waterwheel_conformance::kit::{Kernel, PeerListener, PeerSocket, Surroundings};
use waterwheel_reactor::{Address, Bound, ListenOptions, Source, StreamOptions};
use waterwheel_sim::{Host, outside};

/// One host is the whole world of a law: its reactor's shards and all peers.
#[derive(Debug)]
pub(crate) struct Around {
    host: Host,
}

impl Around {
    pub(crate) fn new(host: &Host) -> Around {
        Around { host: host.clone() }
    }

    /// Another limit of descriptors, until the guard is dropped.
    fn limit(&self, most: usize) -> Box<dyn Any + Send> {
        let before = self.host.limit_descriptors(most);
        Box::new(Limit { host: self.host.clone(), before })
    }
}

impl Surroundings for Around {
    fn connect(
        &self,
        to: &Address,
        options: StreamOptions,
        patience: Duration,
    ) -> io::Result<Box<dyn PeerSocket>> {
        Ok(Box::new(Peer(outside::Stream::connect(&self.host, to, options, patience)?)))
    }

    fn listen(&self, at: &Address, backlog: u32) -> io::Result<Box<dyn PeerListener>> {
        let options = ListenOptions { backlog, reuse_port: false, ..ListenOptions::default() };
        Ok(Box::new(Gate(outside::Gate::new(&self.host, at, &options)?)))
    }

    fn still_trying(&self, to: &Address) -> Vec<String> {
        outside::still_trying(&self.host, to)
    }

    fn give_up_after(&self, limit: Duration, connecting: &dyn Source) -> bool {
        outside::give_up_after(connecting, limit)
    }

    fn descriptors(&self) -> BTreeMap<i32, String> {
        let mut all = Kernel.descriptors();
        // Below what the kernel gives. The same things open have the same numbers.
        all.extend((1..).map(|number: i32| -number).zip(outside::descriptors(&self.host)));
        all
    }

    fn leave_descriptors(&self, spare: usize) -> Box<dyn Any + Send> {
        self.limit(self.host.descriptors() + spare)
    }

    fn raise_descriptors(&self, wanted: u64) -> Option<Box<dyn Any + Send>> {
        Some(self.limit(usize::try_from(wanted).ok()?))
    }

    fn files(&self) -> bool {
        false
    }

    fn threads(&self) -> bool {
        false
    }
}

/// Restores the limit there was before.
struct Limit {
    host: Host,
    before: usize,
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.host.limit_descriptors(self.before);
    }
}

#[derive(Debug)]
struct Peer(outside::Stream);

impl PeerSocket for Peer {
    fn read(&self, bytes: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.0.read(bytes, Some(patience))
    }

    fn wait_for_input(&self, patience: Duration) -> io::Result<()> {
        // An error is something to tell, too.
        match self.0.peek(Some(patience)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.0.write(bytes, Some(patience))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn reset(&self) -> io::Result<()> {
        self.0.reset();
        Ok(())
    }

    fn local(&self) -> io::Result<Address> {
        Ok(self.0.addresses()?.0)
    }
}

#[derive(Debug)]
struct Gate(outside::Gate);

impl PeerListener for Gate {
    fn accept(&self, patience: Duration) -> io::Result<Box<dyn PeerSocket>> {
        Ok(Box::new(Peer(self.0.accept(Some(patience))?)))
    }

    fn share(&self) -> io::Result<Bound> {
        self.0.shared_with()
    }

    fn local(&self) -> io::Result<Address> {
        Ok(self.0.local().clone())
    }
}
