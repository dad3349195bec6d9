//! What the laws are written with: the command as a process, peers that block, and deadlines.

mod exposition;
mod peer;
mod process;
mod proxy;
mod server;

use std::thread::{self, JoinHandle};
use std::time::Duration;

use waterwheel::reactor::{Clock, Time};
use waterwheel::runtime::reactors;
pub(crate) use waterwheel_conformance::kit::pause;

pub(crate) use exposition::Page;
pub(crate) use peer::{
    Origin, Pattern, Random, Unreachable, client, dead_port, end_of, meet, moment, reset, until_full, waits,
};
pub(crate) use process::{Ended, Process, command, run};
pub(crate) use proxy::{Bench, Proxy, sums_hold, total};
pub(crate) use server::{Server, config, keep_log, logged, times_logged};

/// Longer than anything here takes on a busy machine: what takes longer hangs.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Whether a test is to run on the reactor of this name: see the function of the same name in the laws' kit.
pub(crate) fn wanted(reactor: &str) -> bool {
    let all = reactors();
    let backend = all.iter().find(|backend| backend.name() == reactor);
    waterwheel_conformance::kit::wanted(*backend.expect("a reactor that is compiled in"), &all)
}

/// Makes each function a test on each reactor that is compiled in.
macro_rules! on_each_reactor {
    ($($name:ident,)*) => {
        #[cfg(feature = "epoll")]
        mod epoll {
            $(#[test]
            fn $name() {
                if crate::kit::wanted("epoll") {
                    super::$name("epoll");
                }
            })*
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $(#[test]
            fn $name() {
                if crate::kit::wanted("glommio") {
                    super::$name("glommio");
                }
            })*
        }
        #[cfg(feature = "uring")]
        mod uring {
            $(#[test]
            fn $name() {
                if crate::kit::wanted("uring") {
                    super::$name("uring");
                }
            })*
        }
    };
}
pub(crate) use on_each_reactor;

/// Runs `work` on a thread of its own. Whatever it waits for has a deadline, so joining it has one too.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().spawn(work).expect("a thread")
}

/// When something began, and when it is late.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Clock,
    began: Time,
}

impl Watch {
    pub(crate) fn start() -> Watch {
        let clock = Clock::start();
        Watch { began: clock.now(), clock }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.now().since(self.began)
    }

    /// What is left of [`LONG`].
    ///
    /// # Panics
    /// If nothing is; `what` was awaited.
    pub(crate) fn left(&self, what: &str) -> Duration {
        let elapsed = self.elapsed();
        assert!(elapsed < LONG, "not within {LONG:?}: {what}");
        LONG - elapsed
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let watch = Watch::start();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        watch.left(what);
        pause(Duration::from_millis(5));
    }
}
