//! The laws DEFER-1 to DEFER-5.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Wake;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tracing::field::{Field, Visit};
use waterwheel_reactor::Time;

use super::*;
use crate::shard::wheel::Wheel;

/// Counts its wakes and does nothing else, as a task's waker that queues.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (count.clone(), Waker::from(count))
}

/// Counts how often it was dropped.
#[derive(Clone, Default)]
struct Dropped(Rc<Cell<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_dropped_resolver_is_abandoned_at_once_and_not_a_hang() {
    let (count, waker) = counter();
    let (resolver, mut value) = deferred::<u8>();
    assert!(poll(&mut value, &waker).is_pending());
    drop(resolver);
    assert_eq!(count.0.load(Relaxed), 1);
    let Poll::Ready(Err(abandoned)) = poll(&mut value, &waker) else { panic!("not abandoned") };
    assert!(abandoned.to_string().contains("deferred/tests.rs:"), "{abandoned}");
    // Also if nobody had looked before.
    let (_, value) = deferred::<u8>();
    assert!(matches!(value.now_or_never(), Some(Err(_))));
}

#[test]
fn a_panicking_task_abandons_what_it_was_to_resolve() {
    let (resolver, value) = deferred::<u8>();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _resolver = resolver;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(matches!(value.now_or_never(), Some(Err(_))));
}

#[test]
fn nothing_completes_inside_the_caller_of_resolve() {
    let (count, waker) = counter();
    let ran = Cell::new(false);
    let (resolver, value) = deferred();
    let mut task = Box::pin(async {
        let value = value.await;
        ran.set(true);
        value
    });
    assert!(poll(&mut task, &waker).is_pending());
    resolver.resolve(5);
    assert!(!ran.get(), "the waiter ran inside resolve");
    assert_eq!(count.0.load(Relaxed), 1, "woken once");
    assert_eq!(poll(&mut task, &waker), Poll::Ready(Ok(5)));
}

#[test]
fn the_latest_waker_is_the_one_woken() {
    let ((first, before), (second, after)) = (counter(), counter());
    let (resolver, mut value) = deferred();
    assert!(poll(&mut value, &before).is_pending());
    assert!(poll(&mut value, &after).is_pending());
    resolver.resolve(());
    assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (0, 1));
    assert_eq!(Arc::strong_count(&first), 2, "the old waker is still held");
}

#[test]
fn a_dropped_deferred_is_seen_by_its_resolver() {
    let (count, waker) = counter();
    let (mut resolver, mut value) = deferred::<u8>();
    assert!(poll(&mut value, &waker).is_pending());
    assert!(resolver.poll_cancelled(&mut Context::from_waker(&waker)).is_pending());
    assert!(!resolver.is_cancelled());
    drop(value);
    assert_eq!(count.0.load(Relaxed), 1);
    assert!(resolver.is_cancelled());
    assert_eq!(resolver.cancelled().now_or_never(), Some(()));
}

#[test]
fn a_value_is_dropped_exactly_once_whether_late_unread_or_read() {
    let drops = Dropped::default();
    let tally = drops.0.clone();
    // Late.
    let (resolver, value) = deferred();
    drop(value);
    resolver.resolve(drops.clone());
    assert_eq!(tally.get(), 1);
    // Unread.
    let (resolver, value) = deferred();
    resolver.resolve(drops.clone());
    assert_eq!(tally.get(), 1);
    drop(value);
    assert_eq!(tally.get(), 2);
    // Read.
    let (resolver, mut value) = deferred();
    resolver.resolve(drops.clone());
    let taken = poll(&mut value, Waker::noop());
    drop(value);
    assert_eq!(tally.get(), 2);
    drop(taken);
    assert_eq!(tally.get(), 3);
}

#[test]
fn nothing_holds_a_waker_once_either_half_is_done() {
    let (count, waker) = counter();
    let (mut resolver, mut value) = deferred::<u8>();
    assert!(poll(&mut value, &waker).is_pending());
    assert!(resolver.poll_cancelled(&mut Context::from_waker(&waker)).is_pending());
    let held = Arc::strong_count(&count);
    resolver.resolve(1);
    assert_eq!(Arc::strong_count(&count), held - 2);
    let (resolver, mut value) = deferred::<u8>();
    assert!(poll(&mut value, &waker).is_pending());
    drop(value);
    assert_eq!(Arc::strong_count(&count), held - 2);
    drop(resolver);
}

#[test]
fn a_timeout_and_a_value_in_the_same_turn_give_one_outcome() {
    for timer_first in [true, false] {
        let (wheel, (count, waker), drops) = (Wheel::new(Time::ZERO), counter(), Dropped::default());
        let tally = drops.0.clone();
        let (resolver, value) = deferred();
        let key = wheel.insert(Time::from_nanos(10), &waker);
        let timeout = poll_fn(|cx| wheel.poll(key, cx.waker()));
        let mut race = if timer_first {
            select(timeout, value).map(|won| matches!(won, Either::Right((Ok(_), _)))).left_future()
        } else {
            select(value, timeout).map(|won| matches!(won, Either::Left((Ok(_), _)))).right_future()
        };
        assert!(poll(&mut race, &waker).is_pending());
        wheel.fire(Time::from_nanos(10), 1);
        resolver.resolve(drops);
        assert_eq!(count.0.load(Relaxed), 2);
        assert_eq!(poll(&mut race, &waker), Poll::Ready(!timer_first));
        drop(race);
        assert_eq!(tally.get(), 1, "the value has one end");
    }
}

/// Everything that was reported on this thread while `f` ran.
fn reports(f: impl FnOnce()) -> Vec<String> {
    struct Ear(Mutex<Vec<String>>);
    struct Text(RefCell<String>);
    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.get_mut().push_str(&format!("{field}={value:?} "));
        }
    }
    impl tracing::Subscriber for Ear {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "waterwheel::deferred" && *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut text = Text(RefCell::default());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0.into_inner());
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    let ear = Arc::new(Ear(Mutex::default()));
    tracing::subscriber::with_default(ear.clone(), f);
    std::mem::take(&mut ear.0.lock().unwrap())
}

#[test]
fn an_error_that_nobody_looked_at_is_reported_with_where_it_came_from() {
    let (made, resolved) = (Cell::new(0), Cell::new(0));
    let heard = reports(|| {
        made.set(line!() + 1);
        let (resolver, value) = deferred_result::<(), _>();
        resolved.set(line!() + 1);
        resolver.resolve(Err("the disk is full"));
        drop(value);
    });
    let [heard] = &heard[..] else { panic!("{heard:?}") };
    assert!(heard.contains("error=the disk is full"), "{heard}");
    for place in
        [format!("made=src/shard/deferred/tests.rs:{}:", made.get()), format!("tests.rs:{}:", resolved.get())]
    {
        assert!(heard.contains(&place), "{place} is not in: {heard}");
    }
}

#[test]
fn what_was_looked_at_or_came_late_or_is_no_error_is_not_reported() {
    let heard = reports(|| {
        let (resolver, value) = deferred_result::<(), _>();
        resolver.resolve(Err("seen"));
        assert_eq!(value.now_or_never(), Some(Ok(Err("seen"))));
        let (resolver, value) = deferred_result::<(), _>();
        drop(value);
        resolver.resolve(Err("late"));
        let (resolver, value) = deferred_result::<_, &str>();
        resolver.resolve(Ok("fine"));
        drop(value);
        drop(deferred_result::<(), &str>());
    });
    assert!(heard.is_empty(), "{heard:?}");
}
