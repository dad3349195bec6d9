//! Looking at the first bytes of a connection before it is known what becomes of them.

use std::future::poll_fn;
use std::io;

use waterwheel_reactor::Time;

use super::connection::Connection;
use super::quota::Holding;

/// Why nothing came of looking at a connection. But for [`PeekError::Broken`], what arrived is put back.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    /// The deadline passed: the peer says nothing, or too slowly.
    #[error("the peer sent {bytes} bytes in time, and that is not all")]
    Late {
        /// How many came.
        bytes: usize,
    },
    /// The peer ended its stream too early.
    #[error("the peer ended after {bytes} bytes, and that is not all")]
    Ended {
        /// How many came.
        bytes: usize,
    },
    /// As many bytes as were allowed did not answer the question.
    #[error("{most} bytes, the most that are looked at, are not all")]
    TooLong {
        /// How many were allowed.
        most: usize,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
}

impl Connection {
    /// Lends what has arrived to `look`, again and again while more arrives, until it has an answer; then consumes as
    /// many bytes as it says, and no others. `look` is given all that arrived, at most `most` bytes, and how many of them
    /// it was given before.
    ///
    /// Where the first bytes suffice, which is the rule, nothing is copied. Where they do not, they are kept and put
    /// back with [`unread`](Connection::unread). If the future is dropped before its end, bytes may be lost: the
    /// connection is good for nothing but [`abort`](Connection::abort) then.
    ///
    /// # Errors
    /// No answer by the deadline, by the end of the stream, or in `most` bytes. Everything is put back then.
    ///
    /// # Panics
    /// If more is to be consumed than was lent.
    pub async fn peek_until<T>(
        &mut self,
        deadline: Time,
        most: usize,
        mut look: impl FnMut(&[u8], usize) -> Option<(T, usize)>,
    ) -> Result<T, PeekError> {
        let (mut kept, mut holding) = (Vec::new(), Holding::default());
        let shard = self.shard().clone();
        let (answer, used) = loop {
            let left = deadline.since(shard.turn_time());
            let Ok(lent) = shard.timeout(left, self.fill()).await else {
                let bytes = kept.len();
                self.unread(kept).await?;
                return Err(PeekError::Late { bytes });
            };
            let lent = lent?;
            if lent.is_empty() {
                let bytes = kept.len();
                self.unread(kept).await?;
                return Err(PeekError::Ended { bytes });
            }
            let (before, count) = (kept.len(), lent.len().min(most - kept.len()));
            if before == 0
                && let Some((answer, used)) = look(&lent[..count], 0)
            {
                self.consume(used);
                return Ok(answer);
            }
            kept.extend_from_slice(&lent[..count]);
            holding.set(&shard, kept.capacity());
            self.consume(count);
            if before > 0
                && let Some(answer) = look(&kept, before)
            {
                break answer;
            }
            if kept.len() == most {
                self.unread(kept).await?;
                return Err(PeekError::TooLong { most });
            }
        };
        kept.drain(..used);
        self.unread(kept).await?;
        Ok(answer)
    }

    /// Puts bytes back in front of what is still to be received, as if they had not been consumed: they are lent next,
    /// and go along when the connection is [released](Connection::release) or [pumped](Connection::pump). The reactor's
    /// own source carries them, so that nothing is slower afterwards; it costs about as much as handing the connection
    /// over to another shard. Waits until little is queued to be sent. Without bytes it does nothing.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn unread(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.flush().await?;
        let mut incoming = poll_fn(|cx| self.poll_release(cx)).await?;
        bytes.append(&mut incoming.bytes);
        incoming.bytes = bytes;
        let transport = self.shard().reactor().adopt(incoming)?;
        self.put(transport);
        Ok(())
    }
}
