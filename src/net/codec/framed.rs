//! A connection, frame by frame.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use super::{Decoder, Encoder, FramedReceiving, FramedSending, ReceiveError, SendError};
use crate::net::connection::Connection;

/// A connection that frames are sent and received on.
///
/// * [`receive`](Framed::receive), [`send`](Framed::send), [`flush`](Framed::flush): their futures may be dropped at any
///   moment, as `select` does, and nothing is lost, cut or doubled.
/// * [`close`](Framed::close) ends it in order; dropping it is a close too.
/// * [`split`](Framed::split) for two tasks; [`into_connection`](Framed::into_connection) and
///   [`with_codec`](Framed::with_codec) to go on in another way, with every byte that follows the last frame.
#[derive(Debug)]
pub struct Framed<C> {
    receiving: FramedReceiving<C>,
    sending: FramedSending<C>,
}

impl<C: Decoder + Encoder + Clone> Framed<C> {
    /// Frames on what `connection` carries from here on.
    pub fn new(connection: Connection, codec: C) -> Framed<C> {
        let (receiving, sending) = connection.split();
        Framed {
            receiving: FramedReceiving::new(receiving, codec.clone()),
            sending: FramedSending::new(sending, codec),
        }
    }

    /// The next frame; `None`: the stream ended behind the last one. Meanwhile the rest of a frame whose
    /// [`send`](Framed::send) was dropped is sent.
    ///
    /// # Errors
    /// The connection broke, or the peer sent what is no frame; the same error again if asked again.
    pub async fn receive(&mut self) -> Result<Option<&[u8]>, ReceiveError> {
        let Framed { receiving, sending } = self;
        let found = poll_fn(|cx| {
            let found = receiving.poll_find(cx);
            match sending.poll_rest(cx) {
                Poll::Ready(Err(error)) if found.is_pending() => Poll::Ready(Err(error.into())),
                _ => found,
            }
        });
        let found = found.await?;
        receiving.found(found)
    }

    /// Takes a frame to send; waits while the peer does not read.
    ///
    /// # Errors
    /// The connection broke, or the frame cannot be sent; then nothing of it was.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.sending.send(frame).await
    }

    /// Waits until little is queued; as [`Connection::flush`].
    ///
    /// # Errors
    /// How the connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.sending.flush().await
    }

    /// Closes in order, as [`Connection::close`].
    ///
    /// # Errors
    /// How it broke before the end was sent.
    pub async fn close(mut self) -> io::Result<()> {
        self.sending.close().await
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (FramedReceiving<C>, FramedSending<C>) {
        (self.receiving, self.sending)
    }

    /// The connection, for bytes that are no frames: behind the frame that was received last.
    ///
    /// # Errors
    /// Gives itself back while a frame has begun to arrive, or a part of one is to be sent
    /// ([`flush`](Framed::flush) first).
    pub fn into_connection(self) -> Result<Connection, Box<Framed<C>>> {
        let Framed { receiving, sending } = self;
        if receiving.is_inside_frame() {
            return Err(Box::new(Framed { receiving, sending }));
        }
        match sending.into_sending() {
            Ok(sending) => Ok(Connection::join(receiving.into_bare(), sending)),
            Err(sending) => Err(Box::new(Framed { receiving, sending })),
        }
    }

    /// Frames of another kind from here on.
    ///
    /// # Errors
    /// As [`into_connection`](Framed::into_connection).
    pub fn with_codec<D: Decoder + Encoder + Clone>(self, codec: D) -> Result<Framed<D>, Box<Framed<C>>> {
        Ok(Framed::new(self.into_connection()?, codec))
    }
}
