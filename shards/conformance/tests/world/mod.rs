//! Surroundings that are no kernel's: nobody connects, and what listens is a note in a table.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use waterwheel_conformance::kit::{Kernel, PeerListener, PeerSocket, Surroundings};
use waterwheel_reactor::{Address, Bound, Source, StreamOptions};

/// The world. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    open: Mutex<BTreeMap<i32, String>>,
    limited: AtomicBool,
}

impl World {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, String>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Surroundings for World {
    fn connect(&self, _: &Address, _: StreamOptions, _: Duration) -> io::Result<Box<dyn PeerSocket>> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn listen(&self, at: &Address, _: u32) -> io::Result<Box<dyn PeerListener>> {
        const EMFILE: i32 = 24;
        if self.0.limited.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        // Below the others, and below what the kernel gives.
        let number = self.open().keys().next().map_or(-1, |lowest| lowest - 1);
        self.open().insert(number, format!("a note that {at} is listened at"));
        Ok(Box::new(Note { world: self.clone(), number, at: at.clone() }))
    }

    fn still_trying(&self, _: &Address) -> Vec<String> {
        Vec::new()
    }

    fn give_up_after(&self, _: Duration, _: &dyn Source) -> bool {
        false
    }

    fn descriptors(&self) -> BTreeMap<i32, String> {
        let mut all = Kernel.descriptors();
        all.extend(self.open().clone());
        all
    }

    fn leave_descriptors(&self, _: usize) -> Box<dyn Any + Send> {
        self.0.limited.store(true, SeqCst);
        Box::new(Lifted(self.clone()))
    }

    fn raise_descriptors(&self, _: u64) -> Option<Box<dyn Any + Send>> {
        None
    }

    fn files(&self) -> bool {
        false
    }

    fn threads(&self) -> bool {
        false
    }
}

/// Lifts the limit.
struct Lifted(World);

impl Drop for Lifted {
    fn drop(&mut self) {
        self.0.0.limited.store(false, SeqCst);
    }
}

#[derive(Debug)]
struct Note {
    world: World,
    number: i32,
    at: Address,
}

impl PeerListener for Note {
    fn accept(&self, _: Duration) -> io::Result<Box<dyn PeerSocket>> {
        Err(io::ErrorKind::TimedOut.into())
    }

    fn share(&self) -> io::Result<Bound> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local(&self) -> io::Result<Address> {
        Ok(self.at.clone())
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.world.open().remove(&self.number);
    }
}
