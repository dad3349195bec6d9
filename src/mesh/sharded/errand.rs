//! What travels to the shard of an instance, and what is done with it there.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::Instance;
use super::place::{Local, Place};
use crate::shard::Shard;

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;
/// What came of it, whatever its type is; the sender knows.
pub(super) type Parcel = Box<dyn Any + Send>;
/// Makes an instance.
pub(super) type Make<S> = Box<dyn FnOnce(Shard) -> Boxed<Result<S, Parcel>> + Send>;
/// Does something with an instance.
pub(super) type Invoke<S> = Box<dyn FnOnce(Local<S>) -> Boxed<Parcel> + Send>;

/// What is asked of a shard.
pub(super) enum Errand<S> {
    Start(Make<S>),
    Invoke(Invoke<S>),
    Stop,
}

/// What it answers.
pub(super) enum Answer {
    Done(Parcel),
    /// There is no instance, or for a start: there is one.
    Refused,
    /// The instance could not be made.
    Failed(Parcel),
}

/// On the shard that is asked, in a task of its own.
pub(super) async fn handle<S: Instance>(place: Rc<Place<S>>, errand: Errand<S>) -> Answer {
    match errand {
        Errand::Start(make) => {
            let Some(starting) = place.begin() else { return Answer::Refused };
            match make(place.shard()).await {
                Ok(instance) => {
                    starting.done(instance);
                    Answer::Done(parcel(()))
                }
                Err(error) => Answer::Failed(error),
            }
        }
        Errand::Invoke(invoke) => match place.local() {
            Some(local) => Answer::Done(invoke(local).await),
            None => Answer::Refused,
        },
        Errand::Stop => {
            place.stop().await;
            Answer::Done(parcel(()))
        }
    }
}

pub(super) fn parcel<T: Send + 'static>(content: T) -> Parcel {
    Box::new(content)
}

/// # Panics
/// If it is another type than the closure that was sent answers: a bug of ours.
pub(super) fn unpack<T: 'static>(parcel: Parcel) -> T {
    *parcel.downcast().expect("an errand answers what its closure does")
}
