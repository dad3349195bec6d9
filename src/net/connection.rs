//! A connection as tasks use it: a transport with async methods.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use waterwheel_reactor::{Address, Incoming, Sink, Source, Transport};

use super::accepting::Steer;
use super::layer::innermost;
use super::linger::{abort_when_sent, linger};
use crate::shard::Shard;

/// A stream connection that belongs to one shard.
///
/// * Receiving: [`fill`](Connection::fill) and [`consume`](Connection::consume) lend the reactor's buffer;
///   [`read`](Connection::read) and [`read_exact`](Connection::read_exact) copy out of it.
/// * Sending: [`write`](Connection::write), [`write_all`](Connection::write_all), [`flush`](Connection::flush).
/// * Ending: [`close_write`](Connection::close_write) (half-close), [`close`](Connection::close) (in order),
///   [`abort`](Connection::abort) (reset). Dropping it is a close in order; dropping it in a panic is an abort.
/// * Handing over: [`split`](Connection::split) into halves, [`release`](Connection::release) for another shard,
///   [`pump`](Connection::pump) into another connection.
///
/// It also is a `futures_io` reader and writer.
pub struct Connection {
    receiving: Receiving,
    sending: Sending,
}

impl Connection {
    /// A connection out of its two halves.
    pub(crate) fn new(shard: Shard, transport: Transport) -> Connection {
        Connection {
            receiving: Receiving {
                source: Some(transport.source),
                shard,
                ended: false,
                layered: false,
                lingers: true,
                escort: None,
                way: None,
            },
            sending: Sending { sink: Some(transport.sink), escort: None },
        }
    }

    /// The shard it belongs to.
    pub fn shard(&self) -> &Shard {
        &self.receiving.shard
    }

    /// Lends the next bytes, at least one; empty is the end of the stream. What is not consumed is lent again.
    ///
    /// # Errors
    /// `ConnectionReset` and its like.
    pub async fn fill(&mut self) -> io::Result<&[u8]> {
        self.receiving.fill().await
    }

    /// Gives back the first `count` bytes lent.
    ///
    /// # Panics
    /// If that is more than was lent.
    pub fn consume(&mut self, count: usize) {
        self.receiving.consume(count);
    }

    /// Copies what is there into `buffer`, at least one byte; 0 is the end of the stream.
    ///
    /// # Errors
    /// `ConnectionReset` and its like.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receiving.read(buffer).await
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends before.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.receiving.read_exact(buffer).await
    }

    /// Takes some of `bytes` to send, at least one; waits while the peer does not read.
    ///
    /// # Errors
    /// `BrokenPipe`, `ConnectionReset` and their like.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sending.write(bytes).await
    }

    /// Takes all of `bytes` to send. What was taken is sent without anything further.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sending.write_all(bytes).await
    }

    /// Waits until the connection is established and little is queued.
    ///
    /// # Errors
    /// Why it could not be established, or how it broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.sending.flush().await
    }

    /// Sends what was taken, then the end of the stream; reading goes on.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn close_write(&mut self) -> io::Result<()> {
        self.sending.close().await
    }

    /// Closes in order: sends what was taken and the end, and reads on for a while (1 MiB, 2 s) behind the caller's
    /// back, since closing with unread input would reset the connection and destroy what is in flight.
    ///
    /// # Errors
    /// How it broke before the end was sent.
    pub async fn close(mut self) -> io::Result<()> {
        self.sending.close().await
    }

    /// Resets the connection: the peer sees an error, and what is queued is dropped.
    pub fn abort(mut self) {
        self.receiving.abort();
        self.sending.abort();
    }

    /// Resets the connection once its peer has what was sent, behind everybody's back: after 2 s without
    /// progress, or 60 s in all, if it does not take it.
    pub(super) fn abort_when_sent(mut self) {
        let (source, sink) = (self.receiving.source.take(), self.sending.sink.take());
        if let (Some(source), Some(sink)) = (source, sink) {
            let escort = self.receiving.escort.take();
            abort_when_sent(&self.receiving.shard, Transport { source, sink }, escort);
        }
    }

    /// The two halves, for two tasks. Each is dropped on its own; the connection ends with both.
    pub fn split(self) -> (Receiving, Sending) {
        (self.receiving, self.sending)
    }

    /// The halves of one connection as one again.
    pub fn join(receiving: Receiving, sending: Sending) -> Connection {
        Connection { receiving, sending }
    }

    /// Turns it into something that another shard can adopt, with every byte received and not consumed.
    ///
    /// # Errors
    /// It is broken.
    pub async fn release(mut self) -> io::Result<Incoming> {
        self.flush().await?;
        let Some(mut source) = self.receiving.source.take() else { return Err(gone()) };
        poll_fn(|cx| source.poll_release(cx)).await
    }

    /// As [`Source::poll_release`]; until [`put`](Connection::put) gives it another transport, the connection is of no
    /// use afterwards.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        self.receiving.source().map_or_else(|error| Poll::Ready(Err(error)), |source| source.poll_release(cx))
    }

    /// Goes on with another transport; the one before was released.
    pub(super) fn put(&mut self, transport: Transport) {
        self.receiving.source = Some(transport.source);
        self.receiving.ended = false;
        self.sending.sink = Some(transport.sink);
    }

    /// The peer's address.
    ///
    /// # Errors
    /// The connection is gone or not yet established.
    pub fn peer(&self) -> io::Result<Address> {
        self.receiving.source.as_ref().ok_or_else(gone)?.peer()
    }

    /// Our address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local(&self) -> io::Result<Address> {
        self.receiving.source.as_ref().ok_or_else(gone)?.local()
    }

    /// The descriptor, where there is one: for socket options.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.receiving.source.as_ref()?.descriptor()
    }

    /// Puts a layer around it, which is asked before the connection itself from now on: see [`layer`](super::layer).
    /// Keep to what [`Source`] and [`Sink`] promise.
    #[must_use = "the connection with the layer is the answer"]
    pub fn layered(mut self, layer: impl FnOnce(Transport) -> Transport) -> Connection {
        if let (Some(source), Some(sink)) = (self.receiving.source.take(), self.sending.sink.take()) {
            let Transport { source, sink } = layer(Transport { source, sink });
            (self.receiving.source, self.sending.sink) = (Some(source), Some(sink));
            self.receiving.layered = true;
        }
        self
    }

    /// Something more to drop when both halves are gone for good, lingering included.
    pub(crate) fn escorted(mut self, escort: Rc<dyn Any>) -> Connection {
        for place in [&mut self.receiving.escort, &mut self.sending.escort] {
            *place = Some(match place.take() {
                Some(before) => Rc::new((before, escort.clone())),
                None => escort.clone(),
            });
        }
        self
    }

    /// It came by a listener, whose way to other shards this is.
    pub(super) fn of(mut self, way: Rc<Steer>) -> Connection {
        self.receiving.way = Some(way);
        self
    }

    /// Its way to other shards.
    pub(super) fn way(&self) -> io::Result<Rc<Steer>> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "the connection came by no listener");
        self.receiving.way.clone().ok_or_else(none)
    }

    /// What to drop when it is gone, and its way to other shards, for who takes it apart.
    pub(super) fn take_company(&mut self) -> (Option<Rc<dyn Any>>, Option<Rc<Steer>>) {
        (self.receiving.escort.take(), self.receiving.way.take())
    }

    /// The two halves at once, to send and to receive at the same time without giving the connection away.
    pub fn halves(&mut self) -> (&mut Receiving, &mut Sending) {
        (&mut self.receiving, &mut self.sending)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("transport", &self.receiving.source).finish()
    }
}

/// The receiving half of a connection. Dropping it before the end of the stream leaves a task that reads on for a
/// while (1 MiB, 2 s), so that what the other half sent is not destroyed; in a panic the connection is reset.
pub struct Receiving {
    /// `None` once released or closed.
    source: Option<Box<dyn Source>>,
    shard: Shard,
    /// The end of the stream was seen, or an error: nothing is left to be read.
    ended: bool,
    /// The source is a layer around another.
    layered: bool,
    /// Closing with unread input would destroy what the other half sent.
    lingers: bool,
    /// What is to be told when the connection is gone for good, lingering included.
    escort: Option<Rc<dyn Any>>,
    /// How it could go to another shard: by the listener that it came by.
    way: Option<Rc<Steer>>,
}

impl Receiving {
    /// The shard it belongs to.
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Of something that has no other half: a pipe.
    pub(crate) fn alone(shard: Shard, source: Box<dyn Source>) -> Receiving {
        let (ended, layered, lingers) = Default::default();
        Receiving { source: Some(source), shard, ended, layered, lingers, escort: None, way: None }
    }

    /// As [`Connection::fill`].
    ///
    /// # Errors
    /// As there.
    pub async fn fill(&mut self) -> io::Result<&[u8]> {
        poll_fn(|cx| self.poll_fill(cx).map_ok(|_| ())).await?;
        // Lent bytes, the end and errors come back at once, so this poll needs no waker.
        match self.poll_fill(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lent) => lent,
            Poll::Pending => Err(io::Error::other("the reactor lent bytes and took them back")),
        }
    }

    /// As [`Source::poll_fill`], for those who write futures by hand.
    ///
    /// # Errors
    /// As there.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let Receiving { source, ended, .. } = self;
        let Some(source) = source else { return Poll::Ready(Err(gone())) };
        let polled = source.poll_fill(cx);
        if let Poll::Ready(result) = &polled {
            *ended = result.as_ref().map_or(true, |lent| lent.is_empty());
        }
        polled
    }

    /// As [`Connection::consume`].
    ///
    /// # Panics
    /// As there.
    pub fn consume(&mut self, count: usize) {
        match &mut self.source {
            Some(source) => source.consume(count),
            None => assert!(count == 0, "consumed {count} bytes of a connection that is gone"),
        }
    }

    /// As [`Connection::read`].
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_copy(cx, buffer)).await
    }

    /// As [`Connection::read_exact`].
    ///
    /// # Errors
    /// As there.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read(&mut buffer[done..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Resets the connection.
    pub fn abort(&mut self) {
        if let Some(mut source) = self.source.take() {
            source.abort();
        }
    }

    /// The peer's address.
    ///
    /// # Errors
    /// As [`Connection::peer`].
    pub fn peer(&self) -> io::Result<Address> {
        self.source.as_ref().ok_or_else(gone)?.peer()
    }

    pub(super) fn poll_copy(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let lent = std::task::ready!(self.poll_fill(cx))?;
        let count = lent.len().min(buffer.len());
        buffer[..count].copy_from_slice(&lent[..count]);
        self.consume(count);
        Poll::Ready(Ok(count))
    }

    /// The source itself, for forwarding; an error if it is gone.
    pub(super) fn source(&mut self) -> io::Result<&mut dyn Source> {
        self.source.as_deref_mut().ok_or_else(gone)
    }

    pub(super) fn is_layered(&self) -> bool {
        self.layered
    }

    pub(super) fn mark_ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.abort();
        }
        if let Some(source) = self.source.take()
            && !self.ended
            && self.lingers
        {
            linger(&self.shard, innermost(source), self.escort.take());
        }
    }
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").field("source", &self.source).field("ended", &self.ended).finish()
    }
}

/// The sending half of a connection. Dropping it sends what it took, then the end of the stream; in a panic the
/// connection is reset.
#[derive(Debug)]
pub struct Sending {
    /// `None` once aborted.
    sink: Option<Box<dyn Sink>>,
    /// As that of the receiving half.
    escort: Option<Rc<dyn Any>>,
}

impl Sending {
    /// Of something that has no other half: a pipe.
    pub(crate) fn alone(sink: Box<dyn Sink>) -> Sending {
        Sending { sink: Some(sink), escort: None }
    }

    /// As [`Connection::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.sink()?.poll_write(cx, bytes)).await
    }

    /// As [`Connection::write_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.write(bytes).await?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes some of several slices, in order.
    ///
    /// # Errors
    /// As [`Connection::write`].
    pub async fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        poll_fn(|cx| self.sink()?.poll_write_vectored(cx, slices)).await
    }

    /// As [`Connection::flush`].
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.sink()?.poll_flush(cx)).await
    }

    /// As [`Connection::close_write`].
    ///
    /// # Errors
    /// As there.
    pub async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.sink()?.poll_shutdown(cx)).await
    }

    /// Resets the connection.
    pub fn abort(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            sink.abort();
        }
    }

    /// As [`flush`](Sending::flush), polled.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink()?.poll_flush(cx)
    }

    /// As [`close`](Sending::close), polled.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink()?.poll_shutdown(cx)
    }

    /// The sink itself; an error if it is gone.
    pub(super) fn sink(&mut self) -> io::Result<&mut (dyn Sink + 'static)> {
        self.sink.as_deref_mut().ok_or_else(gone)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort();
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection was closed, aborted or released here")
}
