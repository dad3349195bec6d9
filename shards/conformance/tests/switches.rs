//! Every law on the reactor of io_uring, with each of its features switched off in turn, with all of them, and where next to
//! no memory may be locked. Not among the tests that `cargo test` runs by itself, since it takes minutes: `cargo test -p waterwheel-conformance --test switches`.

mod allocations;

use std::io;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use waterwheel_conformance::{Law, laws, main_with};
use waterwheel_reactor::{Address, Backend, Bound, Ended, Launch, ListenOptions, Unavailable};
use waterwheel_uring::{Feature, Features, Uring};

/// The reactor without something, under a name that says so.
#[derive(Debug)]
struct Without {
    name: &'static str,
    uring: Uring,
    /// Whether the process is first left with little memory that it may lock.
    little_memory: bool,
}

impl Without {
    fn reactor(&self) -> Uring {
        if self.little_memory {
            lock_little();
        }
        self.uring
    }
}

impl Backend for Without {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), Unavailable> {
        self.reactor().probe()
    }

    fn bind(&self, at: &Address, options: &ListenOptions, count: usize) -> io::Result<Vec<Bound>> {
        self.reactor().bind(at, options, count)
    }

    fn run(&self, launches: Vec<Launch>) -> Result<(), Vec<Ended>> {
        self.reactor().run(launches)
    }
}

/// Leaves this thread, and those that it starts from now on, 64 KiB, whoever it runs as.
fn lock_little() {
    const LITTLE: u64 = 64 << 10;
    let mut own = capabilities(None).expect("asking for our own");
    for set in [&mut own.effective, &mut own.permitted, &mut own.inheritable] {
        set.remove(CapabilitySet::IPC_LOCK);
    }
    set_capabilities(None, own).expect("giving one up");
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(LITTLE), maximum }).expect("a lower limit");
}

fn name(feature: Feature) -> &'static str {
    match feature {
        Feature::Buffers => "no-buffers",
        Feature::Multishot => "no-multishot",
        Feature::SkipSuccess => "no-skip",
        Feature::MessageRing => "no-msg_ring",
        Feature::DeferTaskrun => "no-defer_taskrun",
        Feature::NoSqArray => "no-no_sqarray",
        Feature::RingFd => "no-ring_fd",
        Feature::Connect => "no-connect",
        Feature::Splice => "no-splice",
        Feature::NoIowait => "no-no_iowait",
    }
}

fn main() -> ExitCode {
    allocations::count();
    let without = |name, off, little_memory| Without { name, uring: Uring::without(off), little_memory };
    let each = |feature| without(name(feature), Features::NONE.with(feature), false);
    let mut reactors: Vec<Without> = Feature::ALL.into_iter().map(each).collect();
    let all = Feature::ALL.into_iter().fold(Features::NONE, Features::with);
    reactors.push(without("nothing", all, false));
    let little = without("memlock", Features::NONE, true);
    let laws = laws();
    // What others lock counts for all of them.
    let alone: Vec<Law> = laws.iter().copied().map(Law::alone).collect();
    let mut held: Vec<(&dyn Backend, &[Law])> =
        reactors.iter().map(|reactor| -> (&dyn Backend, &[Law]) { (reactor, &laws) }).collect();
    held.push((&little, &alone));
    main_with(&held, &[])
}
