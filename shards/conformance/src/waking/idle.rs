//! What an idle shard costs.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use waterwheel_reactor::{Backend, Reactor, Time};

use crate::Outcome;
use crate::kit::peer::{Family, Venue};
use crate::kit::stream::once;
use crate::kit::{Mail, on_each, pause, shard, thread};

/// WAKE-6. A thread that makes a system call which waits is switched away from; one that makes calls which do not
/// wait, or spins, uses time. Two shards are idle, each with a listener, a connection and an alarm that never comes.
pub(super) fn no_ticks(backend: &dyn Backend) -> Outcome {
    const SWITCHES_MAX: u64 = 10;
    const TIME_MAX: Duration = Duration::from_millis(10);
    let (ready, stops) = (Mail::default(), [Mail::default(), Mail::default()]);
    let shards = stops.iter().enumerate().map(|(number, stop)| {
        let (venue, ready, stop) = (Venue::new(backend, Family::Tcp), ready.clone(), Mail::clone(stop));
        shard(move |reactor: Rc<dyn Reactor>| async move {
            let mut meeting = venue.open(&reactor);
            let (mut transport, peer) = meeting.peer().await;
            let (_, mut listener) = meeting.into_listener();
            assert!(once(|cx| transport.source.poll_fill(cx).map_ok(|_| ())).await.is_pending());
            assert!(once(|cx| listener.poll_accept(cx)).await.is_pending());
            if number == 1 {
                assert!(once(|cx| reactor.poll_until(cx, Time::NEVER)).await.is_pending());
            }
            ready.send(());
            stop.receive().await;
            drop(peer);
        })
    });
    let shards = shards.collect();
    let measuring = thread(move || {
        let mut missing = 2;
        while missing > 0 {
            pause(Duration::from_millis(10));
            missing -= ready.try_receive().into_iter().count();
        }
        // What the shards still had to do before they slept is not idleness.
        pause(Duration::from_millis(200));
        let before = Spent::by_others();
        pause(Duration::from_secs(1));
        let after = Spent::by_others();
        stops.iter().for_each(|stop| stop.send(()));
        (after.switches - before.switches, after.time - before.time)
    });
    on_each(backend, shards);
    let (switches, time) = measuring.join();
    assert!(switches <= SWITCHES_MAX, "two idle shards made {switches} context switches in a second");
    assert!(time <= TIME_MAX, "two idle shards used {time:?} of a second");
    Outcome::Holds
}

/// What the threads of this process have used so far.
#[derive(Clone, Copy, Debug)]
struct Spent {
    switches: u64,
    time: Duration,
}

impl Spent {
    /// All but the calling thread's.
    fn by_others() -> Spent {
        let mut spent = Spent { switches: 0, time: Duration::ZERO };
        let own = rustix::thread::gettid().as_raw_nonzero().to_string();
        for task in fs::read_dir("/proc/self/task").expect("/proc is mounted") {
            let task = task.expect("a thread's directory");
            if task.file_name().to_str() == Some(&*own) {
                continue;
            }
            let status = fs::read_to_string(task.path().join("status")).expect("a thread that lives");
            let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
            spent.switches += lines.map(|line| number(line.split_whitespace().nth(1))).sum::<u64>();
            // The first number is the time on a processor in nanoseconds (Documentation/scheduler/sched-stats.rst).
            let schedule = fs::read_to_string(task.path().join("schedstat")).expect("a thread that lives");
            spent.time += Duration::from_nanos(number(schedule.split_whitespace().next()));
        }
        spent
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).expect("a number from /proc")
}
