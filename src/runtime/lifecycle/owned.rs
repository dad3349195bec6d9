//! Tasks that go with who waits for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::shard::{Task, TaskEnded};

/// A task that is ended when this is dropped.
pub(in crate::runtime) struct Owned<T>(Option<Task<T>>);

impl<T> Owned<T> {
    pub(in crate::runtime) fn new(task: Task<T>) -> Owned<T> {
        Owned(Some(task))
    }
}

impl<T> Future for Owned<T> {
    type Output = Result<T, TaskEnded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Ready(Err(TaskEnded)),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.cancel();
        }
    }
}
