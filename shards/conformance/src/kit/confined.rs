//! A reactor in a process that is confined for good.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use waterwheel_reactor::{
    Address, Backend, Bound, BoundDatagrams, DatagramOptions, Ended, Handle, Launch, ListenOptions, Program,
    Unavailable,
};

/// A reactor under another name, which says how; each thread is confined before it asks for anything.
pub struct Confined<B> {
    name: &'static str,
    backend: B,
    confine: fn(),
    /// What cannot be done twice, or adds up, is done once.
    confined: Mutex<Vec<ThreadId>>,
}

impl<B> Confined<B> {
    /// Behind `confine`, which does nothing if it is the reactor itself that has less. What it does must hold
    /// for the threads that the thread starts from then on, too.
    pub const fn new(name: &'static str, backend: B, confine: fn()) -> Confined<B> {
        Confined { name, backend, confine, confined: Mutex::new(Vec::new()) }
    }

    fn backend(&self) -> &B {
        let mut confined = self.confined.lock().unwrap_or_else(PoisonError::into_inner);
        let id = thread::current().id();
        if !confined.contains(&id) {
            confined.push(id);
            (self.confine)();
        }
        &self.backend
    }
}

impl<B> fmt::Debug for Confined<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Confined").field(&self.name).finish()
    }
}

impl<B: Backend> Backend for Confined<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.backend().probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        self.backend().bind(at, options, count)
    }

    fn steer(&self, group: &[Bound], program: &Program) -> io::Result<()> {
        self.backend().steer(group, program)
    }

    fn bind_datagrams(
        &self,
        at: &Address,
        options: &DatagramOptions,
        count: usize,
    ) -> io::Result<Vec<BoundDatagrams>> {
        self.backend().bind_datagrams(at, options, count)
    }

    fn steer_datagrams(&self, group: &[BoundDatagrams], program: &Program) -> io::Result<()> {
        self.backend().steer_datagrams(group, program)
    }

    fn spare(&self) -> io::Result<Handle> {
        self.backend().spare()
    }

    fn lookup(&self, host: &str, port: u16) -> Option<io::Result<Vec<SocketAddr>>> {
        self.backend().lookup(host, port)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        self.backend().run(launches)
    }
}

/// Lets this thread, and those that it starts from now on, lock so many bytes of memory, whoever it runs as:
/// gives `CAP_IPC_LOCK` up, and lowers `RLIMIT_MEMLOCK`.
///
/// # Panics
/// If the kernel refuses.
pub fn lock_at_most(bytes: u64) {
    let mut own = capabilities(None).expect("asking for our own");
    for set in [&mut own.effective, &mut own.permitted, &mut own.inheritable] {
        set.remove(CapabilitySet::IPC_LOCK);
    }
    set_capabilities(None, own).expect("giving one up");
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum }).expect("a lower limit");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    static CONFINED: AtomicUsize = AtomicUsize::new(0);

    impl Backend for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }

        fn probe(&self) -> Result<(), Unavailable> {
            Err(Unavailable::new(format!("confined {} times", CONFINED.load(SeqCst))))
        }

        fn bind(&self, _: &Address, _: &ListenOptions, _: usize) -> io::Result<Vec<Bound>> {
            Ok(Vec::new())
        }

        fn run(&self, _: Vec<Launch>) -> Result<(), Vec<Ended>> {
            Ok(())
        }
    }

    #[test]
    fn each_thread_is_confined_once_and_before_it_asks_for_anything() {
        let confined = Confined::new("less", Nothing, || {
            CONFINED.fetch_add(1, SeqCst);
        });
        assert_eq!((confined.name(), CONFINED.load(SeqCst)), ("less", 0));
        let said = || confined.probe().unwrap_err().to_string();
        assert_eq!([said(), said()], ["confined 1 times", "confined 1 times"]);
        thread::scope(|scope| scope.spawn(|| confined.run(Vec::new()).unwrap()).join().unwrap());
        assert_eq!(said(), "confined 2 times");
    }

    #[test]
    fn no_more_may_be_locked_than_was_said() {
        // The limit is the process's, but nothing else here locks memory; the capability is this thread's.
        lock_at_most(4096);
        assert_eq!(getrlimit(Resource::Memlock).current, Some(4096));
        assert!(!capabilities(None).unwrap().effective.contains(CapabilitySet::IPC_LOCK));
    }
}
