//! The harness and its origins against each other, on every reactor that can run here.

use std::sync::Arc;
use std::time::Duration;

use waterwheel_conformance::kit::wanted;
use waterwheel_reactor::{Address, UnixName};

use super::{closed, open};
use crate::load::job::{Finished, Job};
use crate::load::origin::{EchoOrigin, HttpOrigin, OriginSettings};
use crate::load::plan::Plan;
use crate::load::workload::{BodyLength, Echo, HttpGet, Workload};
use crate::runtime::{Config, Runtime, Service, reactors};

/// Runs an origin with one shard, and a generator with two, in this process.
fn run<S: Service<Settings = OriginSettings>, W: Workload>(
    reactor: &str,
    listen: &str,
    plan: Plan,
    workload: impl FnOnce(&Address) -> W,
) -> Finished {
    let runtime = |cores| {
        let config = Config::default().cores(cores).reactor(reactor);
        Runtime::new(config).unwrap().without_signals()
    };
    let origin = runtime(1);
    let listening = origin.listen(listen).unwrap();
    let at = listening.local().clone();
    let stopper = origin.stopper();
    let job = Arc::new(Job::new(plan, workload(&at), vec![at]));
    std::thread::scope(|scope| {
        let served = scope.spawn(move || origin.serve::<S>(listening, OriginSettings::default()));
        let on_shard = job.clone();
        let ran = runtime(2).run(move |shard| {
            let job = on_shard.clone();
            async move {
                job.generate(&shard).await;
                Ok(())
            }
        });
        stopper.stop(Duration::from_secs(20));
        served.join().unwrap().unwrap();
        ran.unwrap();
    });
    job.finish().unwrap()
}

/// What must hold on any machine, however busy.
fn check(finished: &Finished, connections: u32) {
    let account = finished.tally.account;
    account.settle().unwrap();
    assert!(account.ok > 100, "{account} {:?}", finished.tally.faults);
    assert_eq!(
        (account.http_error, account.transport_error),
        (0, 0),
        "{account} {:?}",
        finished.tally.faults
    );
    assert_eq!((finished.established, finished.established_at_end), (connections, connections));
    assert_eq!(finished.reconnects, 0);
    assert_eq!(finished.shards.len(), 2);
    assert!(finished.shards.iter().all(|shard| shard.planned > 0), "both shards take part");
    assert!(finished.per_connection.iter().all(|count| *count > 0), "every connection is used");
}

fn on_each_reactor(test: impl Fn(&str)) {
    let all = reactors();
    all.iter().filter(|backend| wanted(**backend, &all)).for_each(|backend| test(backend.name()));
}

#[test]
fn http_over_tcp_in_an_open_loop() {
    on_each_reactor(|reactor| {
        // 300 KiB a response: no more than a busy machine does in a debug build.
        let (warm_up, timeout) = (Duration::from_millis(100), Duration::from_secs(30));
        let plan = Plan { warm_up, timeout, ..open(300, 7, 1) };
        let workload = |at: &Address| {
            HttpGet::new(&at.inet().unwrap().to_string(), "/300k", BodyLength::Exactly(300 * 1024))
        };
        let finished = run::<HttpOrigin, _>(reactor, "tcp:127.0.0.1:0", plan, workload);
        check(&finished, 7);
        assert_eq!(finished.tally.account.ok, finished.tally.account.planned, "{}", finished.tally.account);
        assert_eq!(finished.tally.content_bytes, finished.tally.account.ok * 300 * 1024);
    });
}

#[test]
fn messages_larger_than_all_buffers_over_a_unix_socket() {
    on_each_reactor(|reactor| {
        let directory = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}/echo", directory.path().display());
        let plan = Plan { timeout: Duration::from_secs(30), ..closed(4, 2) };
        let finished = run::<EchoOrigin, _>(reactor, &listen, plan, |at| {
            assert!(matches!(at, Address::Unix(UnixName::Path(_))));
            Echo::new(1 << 20).unwrap()
        });
        let account = finished.tally.account;
        assert!(account.ok > 4, "{account}");
        assert_eq!(account.ok, account.planned, "{account} {:?}", finished.tally.faults);
    });
}

#[test]
fn small_messages_in_a_closed_loop() {
    on_each_reactor(|reactor| {
        let plan = Plan { measure: Duration::from_millis(500), ..closed(16, 1) };
        let finished = run::<EchoOrigin, _>(reactor, "tcp:127.0.0.1:0", plan, |_| Echo::new(64).unwrap());
        check(&finished, 16);
    });
}
