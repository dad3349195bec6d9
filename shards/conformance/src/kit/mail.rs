//! Values between shards and threads, for cases that are not about messages.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// An unbounded queue with one receiver, a root; anyone may send. Clones are the same queue.
#[derive(Debug)]
pub struct Mail<T> {
    inside: Arc<Mutex<Inside<T>>>,
}

#[derive(Debug)]
struct Inside<T> {
    queue: VecDeque<T>,
    receiver: Option<Waker>,
}

impl<T> Default for Mail<T> {
    fn default() -> Mail<T> {
        Mail { inside: Arc::new(Mutex::new(Inside { queue: VecDeque::new(), receiver: None })) }
    }
}

impl<T> Clone for Mail<T> {
    fn clone(&self) -> Mail<T> {
        Mail { inside: Arc::clone(&self.inside) }
    }
}

impl<T> Mail<T> {
    /// Queues `value` and wakes the receiver.
    pub fn send(&self, value: T) {
        let receiver = {
            let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
            inside.queue.push_back(value);
            inside.receiver.take()
        };
        if let Some(waker) = receiver {
            waker.wake();
        }
    }

    /// The next value, once there is one.
    pub async fn receive(&self) -> T {
        poll_fn(|cx| {
            let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
            match inside.queue.pop_front() {
                Some(value) => Poll::Ready(value),
                None => {
                    inside.receiver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The next value if there is one now.
    pub fn try_receive(&self) -> Option<T> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).queue.pop_front()
    }
}
