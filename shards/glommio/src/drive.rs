//! The future that glommio runs for one life of a shard: it polls the root and decides when to sleep.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::timer::Timer;
use waterwheel_reactor::{Root, Time};

use crate::bell::Bell;
use crate::core::Core;

/// A root that woke itself is polled again at once for so long: what a turn of glommio's loop, which looks at input and
/// output, costs. So a busy root gets at least half of the processor, and a root with long turns looks after each.
const SPREE: Duration = Duration::from_micros(20);

/// So often at most, should the clock stand still.
const POLLS_MAX: usize = 16;

/// How long the shortest pause is. glommio looks at its timers after input and output; a timer that is due by then
/// brings the loop back without a sleep. Long enough to be ahead of the clock when it is set, short enough to be due
/// when it is looked at.
const BREATH: Duration = Duration::from_nanos(250);

/// A pause that would have to be this long is not taken: the thread is held up so often that nothing helps.
const BREATH_MAX: Duration = Duration::from_secs(1);

/// The longest sleep asked of glommio: a deadline centuries away overflows its clock. The alarm is set again then.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Polls a root with one waker until it is ready.
pub(crate) struct Drive {
    core: Rc<Core>,
    bell: Arc<Bell>,
    /// The root's waker: an `Arc` of `bell`.
    waker: Waker,
    root: Root,
    alarm: Slumber,
    breath: Option<Timer>,
    installed: bool,
}

impl Drive {
    /// A drive for `root`, whose alarm is `core`'s.
    pub(crate) fn new(core: Rc<Core>, bell: Arc<Bell>, root: Root) -> Drive {
        let waker = Waker::from(Arc::clone(&bell));
        Drive { core, bell, waker, root, alarm: Slumber::default(), breath: None, installed: false }
    }
}

impl Future for Drive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.installed {
            this.bell.install(cx.waker());
            this.installed = true;
        }
        let began = this.core.clock.now();
        for _ in 0..POLLS_MAX {
            let _ = this.core.alarm.fire_by(&this.core.clock);
            if this.bell.door.awake() {
                let as_root = &mut Context::from_waker(&this.waker);
                if this.root.as_mut().poll(as_root).is_ready() {
                    return Poll::Ready(());
                }
                this.core.send_fins(as_root);
            }
            if this.bell.door.may_sleep() {
                this.alarm.set(&this.core, cx);
                return Poll::Pending;
            }
            if this.core.clock.now().since(began) >= SPREE {
                break;
            }
        }
        pause(&mut this.breath, cx);
        Poll::Pending
    }
}

/// Comes back after input and output were looked at. Waking oneself would not do: glommio polls a task that does so
/// again and again, and looks at nothing else.
pub(crate) fn pause(breath: &mut Option<Timer>, cx: &mut Context<'_>) {
    let mut length = BREATH;
    while length < BREATH_MAX {
        let timer = match &mut *breath {
            Some(timer) => {
                timer.reset(length);
                timer
            }
            none => none.insert(Timer::new(length)),
        };
        if Pin::new(timer).poll(cx).is_pending() {
            return;
        }
        // It was over before it was set: a slow build, or the kernel held the thread up.
        length *= 4;
    }
    cx.waker().wake_by_ref();
}

/// glommio's timer for the shard's alarm.
#[derive(Default)]
struct Slumber {
    timer: Option<Timer>,
    /// When the timer brings the loop back, if it is set.
    set_to: Option<Time>,
}

impl Slumber {
    /// Sees to it that the loop comes back when the alarm is due. A timer that is set too early stays: it costs one
    /// wake-up, and moving it each time that a deadline moves away would cost more.
    fn set(&mut self, core: &Core, cx: &mut Context<'_>) {
        let Some(deadline) = core.alarm.deadline() else { return };
        let now = core.clock.now();
        if self.set_to.is_some_and(|at| now < at && at <= deadline) {
            return;
        }
        let wait = deadline.since(now).clamp(BREATH, SLEEP_MAX);
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.reset(wait);
                timer
            }
            none => none.insert(Timer::new(wait)),
        };
        self.set_to = Some(now + wait);
        if Pin::new(timer).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
