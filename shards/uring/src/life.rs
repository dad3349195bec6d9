//! The loop of one shard: poll the root if somebody rang, then one call, then hand out what came.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use waterwheel_os::Interrupt;
use waterwheel_reactor::{Clock, Life, Root, Start};

use crate::bell::{Bell, Way};
use crate::core::{Core, UringReactor};
use crate::features::{Feature, Features};
use crate::memory::Share;

/// Ends the core when the life is over, be it by a panic.
struct End {
    core: Rc<Core>,
    way: Arc<Way>,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.core.end(&self.way) {
            tracing::error!(
                "io_uring did not end an operation that was cancelled: its memory is kept for good"
            );
            std::mem::forget(self.core.clone());
        }
    }
}

/// One life of a shard: makes a reactor, asks for the root and drives it to its end.
pub(crate) fn live(clock: Clock, features: Features, share: Share, start: &mut Start) -> io::Result<Life> {
    let core = Core::new(clock, features, share)?;
    let ring = if core.has(Feature::MessageRing) { core.ring.duplicate().ok() } else { None };
    let way = Arc::new(Way { interrupt: Interrupt::new()?, ring });
    core.await_interrupt(&way);
    let bell = Arc::new(Bell::new(&way));
    // Dropped after the root, whose connections then find an open reactor.
    let end = End { core, way };
    match start(Rc::new(UringReactor { core: end.core.clone() })) {
        Some(root) => drive(&end, &bell, root).map(|()| Life::Ended),
        None => Ok(Life::Over),
    }
}

/// One system call per turn. It sleeps only if nobody rang since the root was polled, and there is none at all if
/// somebody did and the kernel has neither to be told something nor has something to tell.
fn drive(end: &End, bell: &Arc<Bell>, mut root: Root) -> io::Result<()> {
    let (core, way) = (&*end.core, &*end.way);
    let waker = Waker::from(bell.clone());
    let mut cx = Context::from_waker(&waker);
    let mut rung = false;
    loop {
        if (rung | bell.door.awake()) && root.as_mut().poll(&mut cx).is_ready() {
            return Ok(());
        }
        // The clock is read once per turn, and an alarm that is due by now rings the bell.
        let until_alarm = core.alarm.fire_by(&core.clock);
        let sleeps = bell.door.may_sleep();
        core.enter(u32::from(sleeps), until_alarm)?;
        // From here on a wake, such as those by completions, need not interrupt anything.
        rung = bell.door.awake();
        if sleeps && until_alarm.is_some() {
            core.alarm.fire(core.clock.now());
        }
        core.deliver(way)?;
    }
}
