//! A place where connecting takes for ever.

use std::io::ErrorKind;
use std::time::Duration;

use waterwheel_reactor::{Address, StreamOptions};

use super::peer::LOOPBACK;
use super::{PeerListener, PeerSocket, surroundings};

/// A listening TCP socket whose backlog is full, so that the kernel drops each further SYN: a connect to it stays in
/// progress for as long as this lives and the kernel goes on trying.
#[derive(Debug)]
pub(crate) struct Full {
    at: Address,
    _listening: Box<dyn PeerListener>,
    _queued: Vec<Box<dyn PeerSocket>>,
}

impl Full {
    /// Listens on the loopback and fills the backlog.
    pub(crate) fn new() -> Full {
        let around = surroundings();
        let listening = around.listen(&LOOPBACK, 0).expect("a free port");
        let at = listening.local().expect("a bound socket");
        let mut queued = Vec::new();
        // A backlog of 0 takes one connection; a kernel that takes more than a few does not limit it at all.
        while queued.len() < 16 {
            match around.connect(&at, StreamOptions::default(), Duration::from_millis(200)) {
                Ok(peer) => queued.push(peer),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Full { at, _listening: listening, _queued: queued };
                }
                Err(error) => panic!("filling a backlog: {error}"),
            }
        }
        panic!("the backlog has no limit");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        self.at.clone()
    }
}
