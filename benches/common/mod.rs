//! What the benches share: shards to measure on, and pinned threads to compare with.

#![expect(dead_code, unreachable_pub, reason = "each bench is a crate of its own and uses some of this")]

use std::future::Future;
use std::thread;
use std::time::Duration;

use criterion::Criterion;
use waterwheel::runtime::{Config, Runtime};
use waterwheel::shard::Shard;
use waterwheel_reactor::Clock;

/// Short runs on few samples: what is measured here takes nanoseconds, and noise comes in seconds.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

/// A runtime of `count` pinned shards on `epoll` that spin instead of sleeping, as two busy threads do.
pub fn spinning(count: usize) -> Runtime {
    let config = Config::default().cores(count).reactor("epoll").spin(Duration::from_secs(1)).stall(None);
    Runtime::new(config).expect("two CPUs and epoll").without_signals()
}

/// Runs `main` on every shard; answers what shard 0 measured.
pub fn measure<F, M>(runtime: Runtime, main: M) -> Duration
where
    F: Future<Output = anyhow::Result<Duration>> + 'static,
    M: Fn(Shard) -> F + Send + Sync + 'static,
{
    runtime.run(main).expect("every shard ends well")[0]
}

/// The same on one shard.
pub fn on_one_shard<F, M>(main: M) -> Duration
where
    F: Future<Output = anyhow::Result<Duration>> + 'static,
    M: Fn(Shard) -> F + Send + Sync + 'static,
{
    measure(spinning(1), main)
}

/// Two threads on two CPUs; answers how long `measured` took. `other` runs meanwhile.
pub fn on_two_threads(other: impl FnOnce() + Send, measured: impl FnOnce() + Send) -> Duration {
    let cpus = core_affinity::get_core_ids().filter(|cpus| cpus.len() >= 2).expect("two CPUs");
    thread::scope(|scope| {
        scope.spawn(|| {
            core_affinity::set_for_current(cpus[1]);
            other();
        });
        let measured = scope.spawn(|| {
            core_affinity::set_for_current(cpus[0]);
            let clock = Clock::start();
            measured();
            clock.now().as_nanos()
        });
        Duration::from_nanos(measured.join().expect("the thread ends well"))
    })
}
