//! MESSAGE-11: `Remote` from any thread, before the shards run and after they ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::{Bench, Meeting, id, on_each_reactor};
use crate::mesh::{Remote, TryRunError};

on_each_reactor![
    ; threads: message_11_jobs_are_run_from_any_thread_before_during_and_refused_after,
    message_11_a_full_queue_gives_the_job_back,
    message_11_jobs_from_many_threads_all_run_or_are_counted,
];

fn message_11_jobs_are_run_from_any_thread_before_during_and_refused_after(bench: &Bench) {
    let mesh = bench.mesh(2);
    let remote = Remote::new(&mesh);
    let ran = Arc::new(AtomicUsize::new(0));
    let meeting = Meeting::of(3);
    let job = |ran: &Arc<AtomicUsize>, meeting: &Meeting, expected: usize| {
        let (ran, meeting) = (ran.clone(), meeting.clone());
        move |shard: &crate::shard::Shard| {
            assert_eq!(shard.id(), id(expected));
            ran.fetch_add(1, SeqCst);
            shard.spawn_detached("job", async move { meeting.wait().await });
        }
    };
    // Before: it waits for them.
    remote.try_run(id(1), job(&ran, &meeting, 1)).unwrap();
    remote.try_run(id(1), |_| panic!("planned")).unwrap();
    thread::scope(|scope| {
        let (outside, ran, meeting) = (remote.clone(), &ran, &meeting);
        let also = meeting.clone();
        // During: from another thread, while a main task waits for what the jobs do.
        scope.spawn(move || outside.try_run(id(0), job(ran, meeting, 0)).unwrap());
        bench.run(&mesh, move |shard| {
            let meeting = also.clone();
            async move {
                if shard.id() == id(0) {
                    meeting.wait().await;
                    shard
                        .run_on(id(1), |there| async move { there.stop(std::time::Duration::ZERO) })
                        .await
                        .ok();
                } else {
                    shard.stopping().await;
                }
            }
        });
    });
    assert_eq!(ran.load(SeqCst), 2);
    let after = remote.try_run(id(0), |_| {});
    assert!(matches!(after, Err(TryRunError::Closed(_))));
}

fn message_11_a_full_queue_gives_the_job_back(bench: &Bench) {
    let mesh = bench.mesh(1);
    let remote = Remote::new(&mesh);
    let mut given = 0;
    let refused = loop {
        match remote.try_run(id(0), |_| {}) {
            Ok(()) => given += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(given, 1_024);
    assert!(matches!(refused, TryRunError::Full(_)));
    // A mesh that never runs loses them, and says so.
    drop(crate::mesh::StopGuard::new(&mesh, 0));
    assert_eq!(remote.lost(id(0)), 1_024);
    assert!(matches!(remote.try_run(id(0), |_| {}), Err(TryRunError::Closed(_))));
}

fn message_11_jobs_from_many_threads_all_run_or_are_counted(bench: &Bench) {
    const THREADS: usize = 4;
    for round in 0..20 {
        let mesh = bench.mesh(1);
        let remote = Remote::new(&mesh);
        let [ran, refused, given]: [Arc<AtomicUsize>; 3] = Default::default();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let (remote, ran, refused, given) = (remote.clone(), &ran, &refused, &given);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let ran = ran.clone();
                        given.fetch_add(1, SeqCst);
                        let job = move |_: &crate::shard::Shard| {
                            ran.fetch_add(1, SeqCst);
                        };
                        if remote.try_run(id(0), job).is_err() {
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
            let seen = ran.clone();
            bench.run(&mesh, move |shard| {
                let seen = seen.clone();
                async move {
                    while seen.load(SeqCst) < round * 20 {
                        shard.yield_now().await;
                    }
                }
            });
        });
        let lost = usize::try_from(remote.lost(id(0))).unwrap();
        let [ran, refused, given] = [ran, refused, given].map(|count| count.load(SeqCst));
        assert_eq!(given, ran + refused + lost, "a job vanished");
    }
}
