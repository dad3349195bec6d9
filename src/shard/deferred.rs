//! Stand-in until the other lands.
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::*;
#[derive(Debug)]
struct S<T> {
    v: Option<Result<T, Abandoned>>,
    w: Option<Waker>,
}
/// x
#[derive(Debug)]
pub struct Deferred<T>(Rc<RefCell<S<T>>>);
/// x
#[derive(Debug)]
pub struct Resolver<T>(Rc<RefCell<S<T>>>);
/// x
#[derive(Debug)]
pub struct Abandoned;
/// x
pub fn deferred<T>() -> (Resolver<T>, Deferred<T>) {
    let s = Rc::new(RefCell::new(S { v: None, w: None }));
    (Resolver(s.clone()), Deferred(s))
}
impl<T> Resolver<T> {
    /// x
    pub fn resolve(self, v: T) {
        self.0.borrow_mut().v = Some(Ok(v));
    }
}
impl<T> Drop for Resolver<T> {
    fn drop(&mut self) {
        let mut s = self.0.borrow_mut();
        s.v.get_or_insert(Err(Abandoned));
        if let Some(w) = s.w.take() {
            w.wake()
        }
    }
}
impl<T> Future for Deferred<T> {
    type Output = Result<T, Abandoned>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut s = self.0.borrow_mut();
        match s.v.take() {
            Some(v) => Poll::Ready(v),
            None => {
                s.w = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
