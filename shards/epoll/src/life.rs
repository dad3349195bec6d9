//! The loop of one shard: poll the root, sleep in epoll, hand out what came.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use waterwheel_os::Interrupt;
use waterwheel_reactor::{Clock, Doorbell, Life, Root, Start};

use crate::core::{Core, EpollReactor};
use crate::poller;

/// The waker of the root. Whoever keeps it after the reactor's end keeps no descriptor open and wakes nobody.
#[derive(Debug)]
pub(crate) struct Bell {
    door: Doorbell,
    interrupt: Weak<Interrupt>,
}

impl Bell {
    pub(crate) fn new(interrupt: &Arc<Interrupt>) -> Bell {
        Bell { door: Doorbell::default(), interrupt: Arc::downgrade(interrupt) }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.door.ring()
            && let Some(interrupt) = self.interrupt.upgrade()
        {
            interrupt.raise();
        }
    }
}

/// Ends the core when the life is over, be it by a panic.
struct End(Rc<Core>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One life of a shard: makes a reactor, asks for the root and drives it to its end.
pub(crate) fn live(clock: Clock, start: &mut Start) -> io::Result<Life> {
    let interrupt = Arc::new(Interrupt::new()?);
    let bell = Arc::new(Bell::new(&interrupt));
    let core = Core::new(clock, &interrupt)?;
    // Dropped after the root, whose connections then find an open reactor.
    let end = End(core);
    match start(Rc::new(EpollReactor { core: end.0.clone() })) {
        Some(root) => drive(&end.0, &bell, root).map(|()| Life::Ended),
        None => Ok(Life::Over),
    }
}

/// One system call per turn: the wait. It sleeps only if nobody rang since the root was polled, and only looks if
/// somebody did, so a root that always wakes itself still sees input and alarms in every turn.
pub(crate) fn drive(core: &Core, bell: &Arc<Bell>, mut root: Root) -> io::Result<()> {
    let waker = Waker::from(bell.clone());
    let mut cx = Context::from_waker(&waker);
    let mut events = poller::events();
    loop {
        bell.door.awake();
        if root.as_mut().poll(&mut cx).is_ready() {
            return Ok(());
        }
        // The clock is read once per turn, and an alarm that is due by now rings the bell.
        let until_alarm = core.alarm.fire_by(&core.clock);
        let sleeps = bell.door.may_sleep();
        core.poller.wait(&mut events, if sleeps { until_alarm } else { Some(Duration::ZERO) })?;
        // From here on a wake, such as those by the events, need not interrupt anything: the root is polled next.
        bell.door.awake();
        if events.is_empty() && sleeps && until_alarm.is_some() {
            core.alarm.fire(core.clock.now());
        }
        for event in events.drain(..) {
            core.dispatch(event);
        }
    }
}
