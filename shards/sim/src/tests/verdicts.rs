//! Each verdict has its effect, and without the rule there is none.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use waterwheel_conformance::kit::{accept, sleep};
use waterwheel_reactor::{ConnectOptions, Lookup, Time, Transport};

use super::*;
use crate::{Rule, Verdict};

/// What a client learns that nobody tells anything.
const NOTHING: ErrorKind = ErrorKind::WouldBlock;

const SECOND: Duration = Duration::from_secs(1);

/// What a client learns when it connects, sends a word and waits for it to come back, and when.
type Learnt = (Result<usize, ErrorKind>, Duration);

/// The client's word comes back in pieces as the server reads them; how many pieces it wrote and the server read.
#[derive(Debug, PartialEq)]
struct Talk {
    learnt: Learnt,
    writes: usize,
    reads: usize,
    accept_errors: Vec<i32>,
    turns: u64,
}

fn talk(rules: &[Rule]) -> Talk {
    let world = World::new(7, Options::calm());
    rules.iter().for_each(|rule| world.rule(rule.clone()));
    let (here, there) = (world.host("client"), world.host("server"));
    let (bound, to) = (bind(&there, Default::default()), at(&there));
    let told = Arc::new(Mutex::new((None, Vec::new(), 0)));
    let (ours, theirs) = (told.clone(), told.clone());
    let client = part(&here, move |reactor| async move {
        let transport = reactor.connect(&to, &ConnectOptions::default()).unwrap();
        // Longer than anybody tries.
        let late = reactor.now() + Duration::from_secs(1_000);
        let mut asking = std::pin::pin!(ask(transport));
        let asked = poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(told) => Poll::Ready(told),
            Poll::Pending => reactor.poll_until(cx, late).map(|()| (Err(NOTHING.into()), 0)),
        });
        let (result, writes) = asked.await;
        let when = reactor.now() - Time::ZERO;
        ours.lock().unwrap().0 = Some(((result.map_err(|error| error.kind()), when), writes));
    });
    let server = part(&there, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        let late = reactor.now() + Duration::from_secs(2_000);
        loop {
            let accepted = poll_fn(|cx| match listener.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => reactor.poll_until(cx, late).map(|()| None),
            });
            match accepted.await {
                None => return,
                Some(Ok(incoming)) => {
                    let echoed = echo(&reactor, late, reactor.adopt(incoming).unwrap()).await;
                    return theirs.lock().unwrap().2 = echoed;
                }
                Some(Err(error)) => {
                    theirs.lock().unwrap().1.extend(error.raw_os_error());
                    sleep(&reactor, Duration::from_millis(100)).await;
                }
            }
        }
    });
    play(&world, vec![server, client]).unwrap();
    let (result, accept_errors, reads) = Arc::try_unwrap(told).unwrap().into_inner().unwrap();
    let (learnt, writes) = result.expect("the client ends");
    Talk { learnt, writes, reads, accept_errors, turns: world.events() }
}

const WORD: &[u8] = b"a word of some length";

async fn ask(transport: Transport) -> (io::Result<usize>, usize) {
    let Transport { mut source, mut sink } = transport;
    let (mut rest, mut writes) = (WORD, 0);
    while !rest.is_empty() {
        match write(&mut *sink, rest).await {
            Ok(taken) => rest = &rest[taken..],
            Err(error) => return (Err(error), writes),
        }
        writes += 1;
    }
    let mut got = 0;
    while got < WORD.len() {
        match read(&mut *source).await {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => got += bytes.len(),
            Err(error) => return (Err(error), writes),
        }
    }
    (Ok(got), writes)
}

/// Sends everything back, to the end or the error, or until it is late; in how many pieces it was lent.
async fn echo(reactor: &Rc<dyn Reactor>, late: Time, transport: Transport) -> usize {
    let Transport { mut source, mut sink } = transport;
    let mut reads = 0;
    loop {
        let bytes = poll_fn(|cx| match source.poll_fill(cx) {
            Poll::Ready(lent) => Poll::Ready(lent.map_or_else(|_| Vec::new(), <[u8]>::to_vec)),
            Poll::Pending => reactor.poll_until(cx, late).map(|()| Vec::new()),
        })
        .await;
        source.consume(bytes.len());
        if bytes.is_empty() || write_all(&mut *sink, &bytes).await.is_err() {
            return reads;
        }
        reads += 1;
    }
}

/// What comes of a rule; without it all is well, at once.
fn with(verdict: Verdict, change: impl Fn(Rule) -> Rule) -> Talk {
    let without = talk(&[]);
    assert_eq!(without.learnt.0, Ok(WORD.len()));
    assert!(without.learnt.1 < SECOND / 100, "{without:?}");
    assert_eq!((without.writes, without.reads, &*without.accept_errors), (1, 1, &[][..]));
    let elsewhere = talk(&[change(Rule::new(verdict)).to("nobody")]);
    assert_eq!(elsewhere, without, "{verdict} strikes who is not meant");
    talk(&[change(Rule::new(verdict))])
}

fn within(talk: &Talk, range: Range<Duration>) {
    assert!(range.contains(&talk.learnt.1), "{talk:?}, expected within {range:?}");
}

#[test]
fn refuse() {
    let talk = with(Verdict::Refuse, |rule| rule);
    assert_eq!(talk.learnt.0, Err(ErrorKind::ConnectionRefused));
}

#[test]
fn lose() {
    let talk = with(Verdict::Lose, |rule| rule);
    assert_eq!(talk.learnt.0, Err(ErrorKind::TimedOut));
    within(&talk, 127 * SECOND..128 * SECOND);
}

#[test]
fn delay() {
    // The connect, the word and its echo.
    let talk = with(Verdict::Delay(SECOND), |rule| rule);
    assert_eq!(talk.learnt.0, Ok(WORD.len()));
    within(&talk, 3 * SECOND..3 * SECOND + SECOND / 100);
}

#[test]
fn stall() {
    let talk = with(Verdict::Stall(SECOND), |rule| rule);
    assert_eq!(talk.learnt.0, Ok(WORD.len()));
    within(&talk, 2 * SECOND..2 * SECOND + SECOND / 100);
}

#[test]
fn hold() {
    let talk = with(Verdict::Hold, |rule| rule.between(Duration::ZERO..=20 * SECOND));
    assert_eq!(talk.learnt.0, Ok(WORD.len()));
    // A connect is tried again after 1, 3, 7, 15 and 31 seconds.
    within(&talk, 31 * SECOND..32 * SECOND);
    let for_ever = with(Verdict::Hold, |rule| rule);
    assert_eq!(for_ever.learnt.0, Err(ErrorKind::TimedOut));
    within(&for_ever, 127 * SECOND..128 * SECOND);
    // Only what is sent back.
    let back = with(Verdict::Hold, |rule| rule.from("server"));
    assert_eq!((back.learnt.0, back.reads), (Err(NOTHING), 1), "nor does it hear that the server gave up");
}

#[test]
fn reset() {
    let talk = with(Verdict::Reset, |rule| rule);
    assert_eq!(talk.learnt.0, Err(ErrorKind::ConnectionReset));
    assert_eq!(talk.reads, 0);
}

#[test]
fn half_open() {
    let talk = with(Verdict::HalfOpen, |rule| rule);
    assert_eq!(talk.learnt.0, Err(ErrorKind::TimedOut));
    within(&talk, 924 * SECOND..925 * SECOND);
}

#[test]
fn slow_reader() {
    let talk = with(Verdict::SlowReader(7, SECOND), |rule| rule.to("server"));
    assert_eq!((talk.learnt.0, talk.reads), (Ok(WORD.len()), 3));
    within(&talk, 2 * SECOND..2 * SECOND + SECOND / 100);
}

#[test]
fn short_write() {
    let talk = with(Verdict::ShortWrite(7), |rule| rule.from("client"));
    assert_eq!((talk.learnt.0, talk.writes), (Ok(WORD.len()), 3));
}

#[test]
fn accept_fails() {
    const EMFILE: i32 = 24;
    let talk = with(Verdict::AcceptFails(EMFILE), |rule| rule.at_most(3));
    assert_eq!((talk.learnt.0, &*talk.accept_errors), (Ok(WORD.len()), &[EMFILE; 3][..]));
    within(&talk, 3 * SECOND / 10..4 * SECOND / 10);
}

/// How many lives a shard has that ends well once it was not struck, and how long they take together.
fn lives(rule: Option<Rule>) -> (usize, Duration) {
    let world = World::new(8, Options::calm());
    let host = world.host("only");
    world.host("nobody");
    rule.into_iter().for_each(|rule| world.rule(rule));
    let lives = Arc::new(AtomicUsize::new(0));
    let counted = lives.clone();
    let mut ended = false;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let start: Box<Start> = Box::new(move |reactor| {
        if ended || over.load(SeqCst) {
            ended = true;
            return None;
        }
        counted.fetch_add(1, SeqCst);
        let over = over.clone();
        Some(Box::pin(async move {
            sleep(&reactor, Duration::from_millis(1)).await;
            over.store(true, SeqCst);
        }))
    });
    host.run(vec![launch(0, start)]).unwrap();
    (lives.load(SeqCst), world.now() - Time::ZERO)
}

#[test]
fn panic() {
    let rule = Rule::new(Verdict::Panic).at_most(2);
    assert_eq!(lives(None).0, 1);
    assert_eq!(lives(Some(rule.clone().to("nobody"))).0, 1);
    assert_eq!(lives(Some(rule.to(("only", 0)))).0, 3);
}

#[test]
fn slow_turn() {
    assert!(lives(None).1 < SECOND);
    let rule = Rule::new(Verdict::SlowTurn(SECOND)).at_most(1);
    assert!(lives(Some(rule.clone().to("nobody"))).1 < SECOND);
    let (count, took) = lives(Some(rule));
    assert!(count == 1 && (SECOND..SECOND + SECOND / 100).contains(&took), "{took:?}");
}

/// What comes of asking for a name, and when.
fn asked(rule: Option<Rule>) -> (Result<Vec<SocketAddr>, ErrorKind>, Duration) {
    let world = World::new(9, Options::calm());
    let (here, there) = (world.host("client"), world.host("server"));
    rule.into_iter().for_each(|rule| world.rule(rule));
    let told = Arc::new(Mutex::new(None));
    let ours = told.clone();
    let client = part(&here, move |reactor| async move {
        let lookup: Lookup = reactor.lookup("server", PORT).expect("a resolver");
        let answer = lookup.await.map_err(|error| error.kind());
        *ours.lock().unwrap() = Some((answer, reactor.now() - Time::ZERO));
    });
    play(&world, vec![client]).unwrap();
    let answer = told.lock().unwrap().take().unwrap();
    if let Ok(found) = &answer.0 {
        assert!(found.iter().map(SocketAddr::ip).eq(there.ips()), "{found:?}");
    }
    assert_eq!(world.left_over(), Vec::<String>::new());
    answer
}

#[test]
fn names_late_and_unknown() {
    let found = |(answer, when): &(Result<Vec<SocketAddr>, ErrorKind>, Duration), range: Range<Duration>| {
        assert!(answer.is_ok() && range.contains(when), "{answer:?} after {when:?}");
    };
    let late = Rule::new(Verdict::NameLate(3 * SECOND));
    found(&asked(None), Duration::ZERO..SECOND);
    found(&asked(Some(late.clone().to("client"))), Duration::ZERO..SECOND);
    found(&asked(Some(late)), 3 * SECOND..4 * SECOND);
    let (answer, when) = asked(Some(Rule::new(Verdict::NameLate(11 * SECOND))));
    assert_eq!(answer, Err(ErrorKind::TimedOut), "the resolver gives up");
    assert!((10 * SECOND..11 * SECOND).contains(&when), "{when:?}");
    assert_eq!(asked(Some(Rule::new(Verdict::NameUnknown))).0, Err(ErrorKind::NotFound));
}

#[test]
fn a_reset_does_not_cross_a_partition_before_it_has_healed() {
    let world = World::new(10, Options::calm());
    world.rule(Rule::new(Verdict::Hold).between(SECOND..=20 * SECOND));
    let client = |reactor: Rc<dyn Reactor>, transport: Transport| async move {
        let Transport { mut source, sink: _sink } = transport;
        sleep(&reactor, 2 * SECOND).await;
        source.abort();
    };
    let server = |reactor: Rc<dyn Reactor>, transport: Transport| async move {
        let Transport { mut source, sink: _sink } = transport;
        let error = read(&mut *source).await.unwrap_err();
        (error.kind(), reactor.now() - Time::ZERO)
    };
    let ((), (error, when)) = meet(&world, client, server);
    assert_eq!(error, ErrorKind::ConnectionReset);
    assert!((20 * SECOND..21 * SECOND).contains(&when), "{when:?}");
}

#[test]
fn rules_end_when_they_are_told_to() {
    let world = calm(11);
    world.rule(Rule::new(Verdict::Refuse));
    world.end_rules();
    let host = world.host("only");
    let (bound, to) = (bind(&host, Default::default()), at(&host));
    let alone = part(&host, move |reactor| async move {
        let mut listener = reactor.listen(bound).unwrap();
        let mut transport = reactor.connect(&to, &ConnectOptions::default()).unwrap();
        flush(&mut *transport.sink).await.expect("no rule is left");
        drop(accept(&mut listener).await.unwrap());
    });
    play(&world, vec![alone]).unwrap();
}
