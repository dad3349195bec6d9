//! A protocol of datagrams as a type, and one task per datagram.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waterwheel_reactor::{Address, Congestion, Outgoing, Via};

use super::sender::DatagramSender;
use super::socket::{DatagramSocket, Received};
use crate::net::Places;

/// Errors of receiving one after the other, without a datagram between them, before the socket rests a little: peers that
/// are not there tell so once per datagram, but a machine without memory says so for ever.
const ERRORS_IN_A_ROW: usize = 64;
const REST: Duration = Duration::from_millis(10);

/// What a server of datagrams does about what comes. Its methods are called one at a time, on its shard, and none of them
/// waits; what they send goes at once or not at all ([`DatagramSender::try_answer`]), or in a task of its own.
///
/// A method that fails or panics has done so for one datagram: it is logged, a panic is counted as a task's, and the next
/// datagram comes to the same value. Who keeps state that a panic leaves half changed should not panic.
pub trait DatagramProtocol: 'static {
    /// Called once, before anything else.
    fn started(&mut self, _sender: &DatagramSender) {}

    /// A datagram came.
    ///
    /// # Errors
    /// Whatever is to be logged, at the debug level.
    fn received(&mut self, sender: &DatagramSender, datagram: &Received<'_>) -> anyhow::Result<()>;

    /// Receiving failed for one attempt or one peer: `ConnectionRefused` tells that a connected socket's peer is not there.
    fn failed(&mut self, _sender: &DatagramSender, error: io::Error) {
        tracing::debug!("receiving a datagram failed: {error}");
    }

    /// The shard is to stop; nothing is called after it.
    fn stopping(&mut self, _sender: &DatagramSender) {}
}

/// A datagram of its own, with the way to answer it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What came of it.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: Address,
    /// Its bytes as sent.
    pub size: usize,
    /// Where it came to.
    pub via: Option<Via>,
    /// What the network said of its load.
    pub congestion: Congestion,
    /// The socket that it came through.
    pub sender: DatagramSender,
}

impl Request {
    /// Answers it: see [`DatagramSender::answer`].
    ///
    /// # Errors
    /// As [`DatagramSender::send_to`].
    pub async fn answer(&self, bytes: &[u8]) -> io::Result<()> {
        let answer: Outgoing<'_> = self.sender.answer_to(&self.from, self.via, bytes);
        self.sender.send_some(&[answer]).await.map(drop)
    }
}

impl DatagramSocket {
    /// Lets a protocol have what comes, until the shard is asked to stop.
    pub async fn serve(mut self, mut protocol: impl DatagramProtocol) {
        let sender = self.sender();
        let shard = sender.shared.shard.clone();
        shard.contain("datagrams", || protocol.started(&sender));
        let mut errors = 0;
        while let Some(received) = self.until_stop().await {
            match received {
                Ok(datagram) => {
                    errors = 0;
                    let handled = shard.contain("datagrams", || protocol.received(&sender, &datagram));
                    if let Some(Err(error)) = handled {
                        tracing::debug!(from = %datagram.from, "a datagram was not handled: {error:#}");
                    }
                }
                Err(error) => {
                    errors += 1;
                    shard.contain("datagrams", || protocol.failed(&sender, error));
                    sender.rest(errors).await;
                }
            }
            shard.yield_if_needed().await;
        }
        shard.contain("datagrams", || protocol.stopping(&sender));
    }

    /// Handles each datagram in a task of its own, until the shard is asked to stop; then waits for those at work. At most
    /// `limit`, and at least one, are handled at once; the others wait in the kernel's buffer.
    ///
    /// An error of `handle` is logged at the debug level; neither it nor a panic concerns another datagram.
    pub async fn serve_each<F, H>(mut self, limit: usize, handle: H)
    where
        H: Fn(Request) -> F + 'static,
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let sender = self.sender();
        let shard = sender.shared.shard.clone();
        let (places, handle) = (Places::new(limit.max(1)), Rc::new(handle));
        let mut errors = 0;
        loop {
            let mut stopping = shard.stopping();
            let place = poll_fn(|cx| match Pin::new(&mut stopping).poll(cx) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending => places.poll_left(cx).map(|()| true),
            });
            if !place.await {
                break;
            }
            match self.until_stop().await {
                Some(Ok(datagram)) => {
                    errors = 0;
                    let place = places.take();
                    let (handle, request) = (handle.clone(), Request::of(&datagram, &sender));
                    shard.spawn_detached("datagram", async move {
                        if let Err(error) = handle(request).await {
                            tracing::debug!("a datagram was not handled: {error:#}");
                        }
                        drop(place);
                    });
                }
                Some(Err(error)) => {
                    errors += 1;
                    tracing::debug!("receiving a datagram failed: {error}");
                    sender.rest(errors).await;
                }
                None => break,
            }
            shard.yield_if_needed().await;
        }
        places.free().await;
    }

    /// The next datagram; `None` once the shard is asked to stop.
    async fn until_stop(&mut self) -> Option<io::Result<Received<'_>>> {
        let mut stopping = self.sender().shared.shard.stopping();
        let mut received = pin!(self.receive());
        poll_fn(|cx| match Pin::new(&mut stopping).poll(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => received.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl Request {
    fn of(datagram: &Received<'_>, sender: &DatagramSender) -> Request {
        Request {
            bytes: datagram.bytes.to_vec(),
            from: datagram.from.clone(),
            size: datagram.size,
            via: datagram.via,
            congestion: datagram.congestion,
            sender: sender.clone(),
        }
    }
}

impl DatagramSender {
    /// After so many errors in a row.
    async fn rest(&self, errors: usize) {
        if errors.is_multiple_of(ERRORS_IN_A_ROW) {
            self.shared.shard.sleep(REST).await;
        }
    }
}
