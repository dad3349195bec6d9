//! A shard of a model: takes turns with a member of the mesh, and sleeps as a backend does.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::{Condvar, Mutex};
use waterwheel_reactor::Time;

use crate::mesh::calls::ends::{Arrived, CallEnds, Serve};
use crate::mesh::calls::{CallError, CallPort};
use crate::mesh::ends::Ends;
use crate::mesh::hub::Mesh;
use crate::mesh::member::Member;
use crate::mesh::port::Port;
use crate::mesh::stop::{Joined, StopGuard};
use crate::shard::between::{Between, Taken};
use crate::shard::broken::{Break, broken};

/// What a backend sleeps on: a token that is kept until it is taken, as an eventfd keeps its count.
#[derive(Debug)]
pub(super) struct Token {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Token {
    fn wake(self: Arc<Token>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Token>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Token {
    pub(super) fn new() -> Arc<Token> {
        Arc::new(Token { rung: Mutex::new(false), changed: Condvar::new() })
    }

    /// Whether a sleep would have ended at once.
    pub(super) fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().unwrap())
    }

    pub(super) fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// More turns than any model takes that does not turn for ever.
const TURNS_MAX: u32 = 60;

/// One shard.
pub(super) struct Actor {
    pub(super) member: Rc<Member>,
    /// Of an actor that ends as a shard does: held for its drop.
    joined: Option<Joined>,
    pub(super) token: Arc<Token>,
    turns: Cell<u32>,
}

impl Actor {
    /// A shard that never ends.
    pub(super) fn new(mesh: &Arc<Mesh>, id: usize) -> Actor {
        Actor::of(Rc::new(Member::new(mesh.clone(), id)), None)
    }

    /// A shard that ends when it is dropped.
    pub(super) fn mortal(guard: StopGuard) -> Actor {
        let joined = guard.join();
        Actor::of(joined.member().clone(), Some(joined))
    }

    fn of(member: Rc<Member>, joined: Option<Joined>) -> Actor {
        Actor { member, joined, token: Token::new(), turns: Cell::new(0) }
    }

    pub(super) fn ends<M: Send + 'static>(&self, port: &Port<M>) -> Rc<Ends<M>> {
        let ledger = &self.member.ledger;
        let ends = self.member.end(port.shared.id, || Ends::new(port.shared.clone(), ledger.clone()));
        ends.open();
        ends
    }

    pub(super) fn call_ends<Q, R>(&self, port: &CallPort<Q, R>) -> Rc<CallEnds<Q, R>>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        let ledger = &self.member.ledger;
        self.member.end(port.shared.id, || CallEnds::new(port.shared.clone(), ledger.clone()))
    }

    /// One turn of the root, with `tasks` in it.
    pub(super) fn turn(&self, tasks: impl FnOnce()) -> Taken {
        assert!(self.turns.get() < TURNS_MAX, "the shard turns for ever");
        if self.turns.replace(self.turns.get() + 1) == 0 && !broken(Break::WakerAfterPark) {
            self.set_waker();
        }
        let taken = self.member.take();
        tasks();
        self.member.ring();
        taken
    }

    /// Nothing is to do: sleeps, unless something came.
    pub(super) fn rest(&self) {
        if self.member.park() {
            if broken(Break::WakerAfterPark) {
                self.set_waker();
            }
            self.token.sleep();
        }
    }

    /// Takes turns, and rests between them, until `task` is ready. The task is polled when it was woken.
    pub(super) fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.drive(task, false)
    }

    /// The same, but the task is polled in every turn, as if something else woke it too.
    pub(super) fn drive_always<T>(&self, task: impl Future<Output = T>) -> T {
        self.drive(task, true)
    }

    fn drive<T>(&self, task: impl Future<Output = T>, always: bool) -> T {
        let mut task = pin!(task);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let mut output = None;
        loop {
            self.turn(|| {
                if (woken.0.swap(false, Relaxed) || always)
                    && let Poll::Ready(ready) = task.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    output = Some(ready);
                }
            });
            if let Some(output) = output {
                return output;
            }
            self.rest();
        }
    }

    /// Takes turns until nothing is left over, as a root does before it parks.
    pub(super) fn settle(&self) {
        loop {
            self.turn(|| ());
            if self.member.ledger.is_settled() {
                return;
            }
        }
    }

    fn set_waker(&self) {
        self.member.set_waker(&Waker::from(self.token.clone()));
    }

    /// How often it was woken, and how often it went to sleep.
    pub(super) fn wakes_and_parks(&self) -> (u64, u64) {
        (self.member.ledger.bell().wakes(), self.member.ledger.parks.get())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // A model that failed is over: what the end of a shard does finds no model to run in.
        if std::thread::panicking() {
            std::mem::forget(self.joined.take());
        }
    }
}

/// Whether a task of an actor was woken; touched by its own thread only.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Relaxed);
    }
}

/// Keeps requests for the tasks of the turn.
#[derive(Default)]
pub(super) struct Requests(RefCell<Vec<Arrived<u32>>>);

impl Requests {
    pub(super) fn take(&self) -> Vec<Arrived<u32>> {
        self.0.take()
    }
}

impl Serve<u32> for Requests {
    fn start(&self, call: Arrived<u32>) {
        self.0.borrow_mut().push(call);
    }

    fn end(&self) {}
}

/// Calls shard `to` as a task would.
pub(super) async fn ask<R: Send + 'static>(
    ends: &CallEnds<u32, R>,
    to: usize,
    request: u32,
) -> Result<R, CallError> {
    let (mut request, mut place) = (Some(request), None);
    let ticket = poll_fn(|cx| ends.poll_start(to, &mut request, &mut place, cx.waker())).await?;
    poll_fn(|cx| ends.poll_reply(ticket, cx.waker())).await
}

/// The clock of the models stands still.
pub(super) fn no_time() -> Time {
    Time::ZERO
}
