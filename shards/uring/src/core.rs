//! What one reactor owns, and the seam's view of it.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd};
use rustix::io::Errno;
use waterwheel_os::{Fault, Progress, SocketName, StreamPipe};
use waterwheel_reactor::{
    Address, Alarm, Bound, Buffered, Clock, ConnectOptions, Datagrams, Incoming, Listener, Reactor, Time,
    Transport, Watched,
};

use crate::bell::Way;
use crate::buffers::{self, Buffers};
use crate::chain::Links;
use crate::features::{Feature, Features};
use crate::listener::UringListener;
use crate::memory::Share;
use crate::pool::Pool;
use crate::ring::{Completion, Ring};
use crate::seldom::{Causes, Seldom};
use crate::sink::UringSink;
use crate::socket::{Facts, Socket};
use crate::source::UringSource;
use crate::table::{Kind, NO_PLACE, Owner, Table, Token};
use crate::waited::Waited;
use crate::watched::UringWatched;

/// How long a reactor that ends waits for the kernel to let go of what it was asked for. It takes microseconds.
const PARTING: Duration = Duration::from_secs(1);

/// Of what a shard may still hold, one part in so many is promised to the kernel.
const PROMISED_PART: usize = 4;

/// Room for what comes up in one turn, made before the first; there is more where more comes up.
const USUAL: usize = 256;

thread_local! {
    /// The reactor of this thread, whose ring can send messages to others.
    static CURRENT: RefCell<Weak<Core>> = const { RefCell::new(Weak::new()) };
}

/// One reactor's possessions, shared by its objects.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    pub(crate) pool: Pool,
    pub(crate) links: Links,
    pub(crate) ring: Ring,
    // After the ring, so that they are freed after it was closed.
    buffers: Option<Buffers>,
    features: Features,
    table: RefCell<Table>,
    /// Connections that have something to send in this turn.
    due: RefCell<Vec<Rc<Socket>>>,
    /// Those whose send is being tried.
    tried: RefCell<Vec<Rc<Socket>>>,
    /// Where to connect, until the kernel has read it.
    #[expect(clippy::vec_box, reason = "the kernel was told where each lies")]
    addresses: RefCell<Vec<Box<SocketName>>>,
    /// Shards that were sent a message in this turn; it names their rings by descriptors, which they keep open.
    rung: RefCell<Vec<Arc<Way>>>,
    /// The same of the call before, while its completions are looked at. Else empty.
    called: RefCell<Vec<Arc<Way>>>,
    completions: RefCell<Vec<Completion>>,
    /// What streams are forwarded through.
    pub(crate) pipe: StreamPipe,
    causes: Causes,
    seed: u64,
    ended: Cell<bool>,
}

impl Core {
    pub(crate) fn new(clock: Clock, features: Features, share: Share) -> io::Result<Rc<Core>> {
        let (ring, mut features) = Ring::new(features, share.scale)?;
        let mut buffers = None;
        if features.has(Feature::Buffers) && share.buffers {
            match Buffers::new(&ring) {
                Ok(registered) => buffers = Some(registered),
                Err(error) => {
                    tracing::warn!(%error, "this shard receives without buffers: they cannot be registered")
                }
            }
        }
        if buffers.is_none() {
            features = features.without(Feature::Buffers);
        }
        let pipe = if features.has(Feature::Splice) { StreamPipe::new() } else { StreamPipe::none() };
        let core = Rc::new(Core {
            clock,
            alarm: Alarm::default(),
            pool: Pool::default(),
            links: Links::default(),
            ring,
            buffers,
            features,
            table: RefCell::new(Table::new()),
            due: RefCell::new(Vec::with_capacity(USUAL)),
            tried: RefCell::new(Vec::with_capacity(USUAL)),
            addresses: RefCell::default(),
            rung: RefCell::default(),
            called: RefCell::default(),
            completions: RefCell::new(Vec::with_capacity(USUAL)),
            pipe,
            causes: Causes::default(),
            seed: waterwheel_os::random_seed()?,
            ended: Cell::new(false),
        });
        CURRENT.with(|current| *current.borrow_mut() = Rc::downgrade(&core));
        Ok(core)
    }

    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    pub(crate) fn buffers(&self) -> Option<&Buffers> {
        self.buffers.as_ref()
    }

    // ---- operations

    /// Begins an operation, in the call that ends the turn at the latest.
    ///
    /// # Safety
    /// As [`Ring::push`].
    pub(crate) unsafe fn begin(&self, entry: Entry, token: Token) {
        // SAFETY: as promised by the caller.
        unsafe { self.ring.push(&entry.user_data(token.number())) }
    }

    /// Asks the kernel to end an operation, which then completes.
    pub(crate) fn cancel(&self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.number()).build();
        let entry = if self.has(Feature::SkipSuccess) { entry.flags(Flags::SKIP_SUCCESS) } else { entry };
        // SAFETY: names no memory.
        unsafe { self.begin(entry, Token::new(Kind::Nothing, NO_PLACE)) }
    }

    /// Begins a connect, which completes when it has come to its end.
    pub(crate) fn connect(&self, number: Fd, to: SocketName, token: Token) {
        let to = Box::new(to);
        let entry = opcode::Connect::new(number, to.as_ptr().cast(), to.len()).build();
        // SAFETY: the kernel reads the address when it takes the entry (`io_connect_prep`; Linux 5.11 and later keep a copy),
        // and until then it stays in the list, boxed since that grows.
        unsafe { self.begin(entry, token) };
        self.addresses.borrow_mut().push(to);
    }

    /// Waits for a poll of the interrupt, for ever.
    pub(crate) fn await_interrupt(&self, way: &Way) {
        let number = Fd(way.interrupt.as_fd().as_raw_fd());
        let poll = opcode::PollAdd::new(number, libc::POLLIN as u32);
        let entry = poll.multi(self.has(Feature::Multishot)).build();
        // SAFETY: names no memory.
        unsafe { self.begin(entry, Token::new(Kind::Bell, NO_PLACE)) }
    }

    /// A connection has something to send.
    pub(crate) fn due(&self, socket: Rc<Socket>) {
        self.due.borrow_mut().push(socket);
    }

    /// The end of a turn: everything that came up in it goes to the kernel in one call, which waits for completions as
    /// [`Ring::enter`] does, unless something has to be done behind what is sent. Then [`deliver`](Core::deliver).
    pub(crate) fn enter(&self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.relieve();
        // What the kernel did not take in the call before may have somebody waiting behind it.
        let want = if self.tried.borrow().is_empty() { want } else { 0 };
        let (mut want, frees) = self.begin_sends(want);
        if let Some(buffers) = &self.buffers {
            self.publish(buffers);
            if frees && buffers.are_few() {
                // More are free as soon as these sends are done.
                want = 0;
            }
        }
        if want > 0 || !self.ring.is_quiet() { self.ring.enter(want, timeout) } else { Ok(()) }
    }

    /// Gives the kernel buffers. It fills them without asking, so a shard with a limit promises it a part of what is left.
    fn publish(&self, buffers: &Buffers) {
        let buffered = &self.pool.buffered;
        if buffered.limit().is_none() {
            return buffers.publish(buffers::MOST);
        }
        buffers.publish(buffered.left() / PROMISED_PART / buffers::BYTES);
        buffered.promise(buffers.left() * buffers::BYTES);
    }

    /// Whether the shard holds as much as it may, so that each connection is to make do with little.
    pub(crate) fn is_held_back(&self) -> bool {
        !self.pool.buffered.has_room_for(buffers::BYTES)
    }

    /// Queues what is due. Answers how many completions may be waited for, and whether buffers of the kernel's are sent.
    fn begin_sends(&self, mut want: u32) -> (u32, bool) {
        let mut due = mem::take(&mut *self.due.borrow_mut());
        let (mut waited_for, mut frees) = (false, false);
        for socket in due.drain(..) {
            if let Some(filled) = socket.outbox.begin(&socket, self) {
                frees |= filled;
                waited_for |= socket.is_waited_for();
                self.tried.borrow_mut().push(socket);
                if want > 0 && !self.has(Feature::SkipSuccess) {
                    // Each of them completes in this call.
                    want += 1;
                }
            }
        }
        self.keep_due(due);
        (if waited_for { 0 } else { want }, frees)
    }

    /// Puts the memory of the list back, behind what came meanwhile.
    fn keep_due(&self, mut empty: Vec<Rc<Socket>>) {
        let mut due = self.due.borrow_mut();
        empty.append(&mut due);
        *due = empty;
    }

    /// Hands each completion to whom it concerns; then what the kernel took and said nothing of went well.
    pub(crate) fn deliver(&self, way: &Way) -> io::Result<()> {
        // Wakers may run anything, which may begin operations that the kernel does not know of yet, and ring.
        let submitted = self.ring.is_submitted();
        if submitted {
            mem::swap(&mut *self.rung.borrow_mut(), &mut *self.called.borrow_mut());
            self.addresses.borrow_mut().clear();
        }
        let mut completions = self.completions.take();
        let harvested = self.ring.harvest(&mut completions);
        for completion in completions.drain(..) {
            self.dispatch(way, completion);
        }
        self.completions.replace(completions);
        if submitted {
            self.called.borrow_mut().clear();
            self.settle();
        }
        harvested
    }

    fn dispatch(&self, way: &Way, completion: Completion) {
        let token = Token::from_number(completion.about);
        match token.kind() {
            Kind::Nothing => {}
            Kind::Bell => {
                if !completion.more && completion.result != MESSAGE && !self.ended.get() {
                    way.interrupt.clear();
                    self.await_interrupt(way);
                }
            }
            Kind::Message if completion.result < 0 => self.not_delivered(token.place()),
            Kind::Message => {}
            kind => {
                // Cloned, since waking may run anything, which may end or begin a registration.
                let owner = self.table.borrow().get(token.place()).cloned();
                match owner {
                    Some(Owner::Socket(socket)) => socket.completed(self, kind, completion),
                    Some(Owner::Waited(waited)) => waited.completed(self, kind, completion),
                    None => {}
                }
            }
        }
    }

    /// Sends that said nothing went well.
    fn settle(&self) {
        if self.has(Feature::SkipSuccess) {
            let mut tried = mem::take(&mut *self.tried.borrow_mut());
            for socket in tried.drain(..) {
                socket.sent(self);
            }
            self.tried.replace(tried);
        } else {
            self.tried.borrow_mut().clear();
        }
    }

    /// Whether the kernel may soon find no buffer, so that what is to stay is copied out.
    pub(crate) fn is_short_of_buffers(&self) -> bool {
        let short = self.buffers.as_ref().is_some_and(Buffers::are_few);
        if short && let Some(times) = self.happens(|causes| &causes.few_buffers) {
            tracing::warn!(times, "few buffers are left: those with bytes that nobody takes are copied out");
        }
        short
    }

    /// Gives the kernel buffers back, if it has few, of those who do not use them now.
    fn relieve(&self) {
        let Some(buffers) = &self.buffers else { return };
        if self.is_short_of_buffers() {
            buffers.holders(|place| {
                let holder = self.table.borrow().socket(place).cloned();
                if let Some(socket) = holder {
                    socket.inbox.copy_out(self);
                    socket.outbox.copy_out(self);
                }
            });
        }
    }

    // ---- owners

    pub(crate) fn insert(&self, owner: Owner) -> u32 {
        self.table.borrow_mut().insert(owner)
    }

    pub(crate) fn remove(&self, place: u32) -> Option<Owner> {
        self.table.borrow_mut().remove(place)
    }

    // ---- other shards

    /// Sends a shard a message, with the turn's other operations.
    fn ring(&self, way: &Arc<Way>) -> bool {
        let Some(ring) = &way.ring else { return false };
        if self.ended.get() {
            return false;
        }
        let mut rung = self.rung.borrow_mut();
        let place = rung.len() as u32;
        let bell = Token::new(Kind::Bell, NO_PLACE).number();
        let entry = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), MESSAGE, bell, None).build();
        let entry = entry.flags(Flags::SKIP_SUCCESS);
        // SAFETY: names no memory.
        unsafe { self.begin(entry, Token::new(Kind::Message, place)) };
        rung.push(way.clone());
        true
    }

    /// A message did not arrive: the shard is woken the other way.
    fn not_delivered(&self, place: u32) {
        // Still among the rung ones where the kernel has not taken all.
        let (called, rung) = (self.called.borrow(), self.rung.borrow());
        if let Some(way) = called.get(place as usize).or_else(|| rung.get(place as usize)) {
            way.interrupt.raise();
            if let Some(times) = self.happens(|causes| &causes.no_message) {
                tracing::info!(
                    times,
                    "the kernel did not deliver a message to a shard, which is woken by eventfd"
                );
            }
        }
    }

    /// A peer did not read what was left for it, and was reset.
    pub(crate) fn unread(&self) {
        if let Some(times) = self.happens(|causes| &causes.unread) {
            tracing::info!(
                times,
                "a peer did not read to the end what a closed connection had left for it: reset"
            );
        }
    }

    /// Something happened that the log is told seldom: now? And how often since it was told?
    fn happens(&self, which: impl FnOnce(&Causes) -> &Seldom) -> Option<u64> {
        which(&self.causes).happens(self.clock.now())
    }

    // ---- the end

    /// Ends the reactor: sends what was taken, as far as the kernel takes it, and closes everything, also what somebody
    /// still holds, once the kernel has let go of it. False if it has not.
    pub(crate) fn end(&self, way: &Way) -> bool {
        // Also wakes that came up while the root was dropped.
        let _ = self.enter(0, None).and_then(|()| self.deliver(way));
        self.ended.set(true);
        let everybody = self.table.borrow().everybody();
        let mut cut_off = 0;
        for owner in &everybody {
            match owner {
                Owner::Socket(socket) => {
                    socket.outbox.send_now(socket, self);
                    if socket.outbox.is_empty() {
                        socket.shut_behind_the_last();
                        socket.close(self);
                    } else {
                        // Not to be taken for all that was said.
                        cut_off += 1;
                        socket.abort(self);
                    }
                }
                Owner::Waited(waited) => drop(waited.take(self)),
            }
        }
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "reset at the end of the shard: their peers had not read all"
            );
        }
        let let_go = self.part(way);
        for owner in &everybody {
            match owner {
                Owner::Socket(socket) => socket.forget(),
                Owner::Waited(waited) => waited.forget(),
            }
        }
        // The root's waker holds a descriptor.
        self.alarm.forget();
        // What may not have gone out: a wake too many does no harm.
        for way in self.rung.take().iter().chain(&self.called.take()) {
            way.interrupt.raise();
        }
        self.due.take();
        self.tried.take();
        self.pool.clear();
        self.pipe.close();
        CURRENT.with(|current| *current.borrow_mut() = Weak::new());
        self.ring.close();
        let_go
    }

    /// Cancels everything and waits until the kernel says that it is over.
    fn part(&self, way: &Way) -> bool {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        // SAFETY: names no memory.
        unsafe { self.begin(entry, Token::new(Kind::Nothing, NO_PLACE)) };
        let until = self.clock.now() + PARTING;
        while !self.table.borrow().is_empty() {
            let left = until.since(self.clock.now());
            let gone = self.enter(1, Some(left)).and_then(|()| self.deliver(way));
            if left.is_zero() || gone.is_err() {
                return false;
            }
        }
        true
    }
}

/// What a message from another shard carries, to be told from what a poll answers.
pub(crate) const MESSAGE: i32 = 0x77;

/// Sends a shard a message if this thread has a reactor that can.
pub(crate) fn ring_from_this_thread(way: &Arc<Way>) -> bool {
    let current = CURRENT.try_with(|current| current.try_borrow().ok().and_then(|current| current.upgrade()));
    current.ok().flatten().is_some_and(|core| core.ring(way))
}

/// The seam's view of a core.
#[derive(Debug)]
pub(crate) struct UringReactor {
    pub(crate) core: Rc<Core>,
}

impl UringReactor {
    fn transport(&self, socket: Rc<Socket>, bytes: Vec<u8>, peer: Option<Address>) -> Transport {
        Transport {
            source: Box::new(UringSource::new(self.core.clone(), socket.clone(), bytes, peer)),
            sink: Box::new(UringSink::new(self.core.clone(), socket)),
        }
    }

    fn lives(&self) -> io::Result<()> {
        if self.core.ended.get() { Err(Errno::NOTCONN.into()) } else { Ok(()) }
    }
}

waterwheel_os::datagrams_by_watching!(UringReactor);

impl Reactor for UringReactor {
    fn now(&self) -> Time {
        self.core.clock.now()
    }

    fn unix_time(&self) -> Duration {
        self.core.clock.unix_time()
    }

    fn seed(&self) -> u64 {
        self.core.seed
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Time) -> Poll<()> {
        self.core.alarm.poll_until(self.core.clock.now(), cx, deadline)
    }

    fn listen(&self, bound: Bound) -> io::Result<Box<dyn Listener>> {
        let file = waterwheel_os::open(bound.handle)?;
        self.lives()?;
        let waited = Waited::new(&self.core, file);
        Ok(Box::new(UringListener::new(self.core.clone(), waited, bound.local, bound.options)))
    }

    fn connect(&self, to: &Address, options: &ConnectOptions) -> io::Result<Transport> {
        self.lives()?;
        if to.inet().is_some() && self.core.has(Feature::Connect) {
            let (file, name) = waterwheel_os::prepare_connect(to, options)?;
            let socket = Socket::new(Some(file), Facts::CONNECTING.and(Facts::BY_RING), Fault::default());
            socket.connects_to(to);
            socket.enter(&self.core);
            socket.begin_connect(&self.core, name);
            return Ok(self.transport(socket, Vec::new(), None));
        }
        // The connect of a Unix socket can wait, or fail for now, which only connect(2) tells apart.
        let (file, progress) = waterwheel_os::begin_connect(to, options)?;
        let socket = match progress {
            Progress::Begun => Socket::new(Some(file), Facts::CONNECTING, Fault::default()),
            Progress::Established => Socket::new(Some(file), Facts::NONE, Fault::default()),
            Progress::Failed(error) => {
                let socket = Socket::new(None, Facts::CLOSING, Fault::of(&error));
                return Ok(self.transport(socket, Vec::new(), None));
            }
        };
        socket.connects_to(to);
        socket.enter(&self.core);
        if socket.is(Facts::CONNECTING) {
            socket.await_writable(&self.core);
        }
        Ok(self.transport(socket, Vec::new(), None))
    }

    fn adopt(&self, incoming: Incoming) -> io::Result<Transport> {
        let file = waterwheel_os::open(incoming.handle)?;
        self.lives()?;
        let socket = Socket::new(Some(file), Facts::NONE, Fault::default());
        socket.enter(&self.core);
        Ok(self.transport(socket, incoming.bytes, incoming.peer))
    }

    fn watch(&self, descriptor: OwnedFd) -> io::Result<Option<Box<dyn Watched>>> {
        self.lives()?;
        if !waterwheel_os::can_be_polled(descriptor.as_fd())? {
            let not_pollable =
                "this descriptor cannot be polled: a regular file or directory is always ready";
            return Err(io::Error::new(ErrorKind::InvalidInput, not_pollable));
        }
        UringWatched::new(self.core.clone(), descriptor)
            .map(|watched| Some(Box::new(watched) as Box<dyn Watched>))
    }

    fn buffered(&self) -> Option<&Rc<Buffered>> {
        Some(&self.core.pool.buffered)
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}
