//! Messages of a fixed size that must come back byte for byte.

use std::sync::Arc;

use futures_util::future::try_join;
use rand_core::Rng;
use rand_pcg::Pcg64;

use super::{Answer, Failure, Marks, Workload};
use crate::net::{Connection, Receiving};

/// How many different messages there are: a prime, so that connections that start apart stay apart.
const MESSAGES: usize = 4093;

/// The largest message: it is sent from one buffer, and a table of all messages is not much larger than one.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// Sends messages of one size and expects each back. Every byte is compared.
///
/// Messages are windows into one table of random bytes, so that neighbours differ and an answer that is late, doubled
/// or another connection's is noticed; nothing is made or copied per message.
#[derive(Clone, Debug)]
pub struct Echo {
    size: usize,
    table: Arc<[u8]>,
}

/// Which message a connection sends next.
#[derive(Debug)]
pub struct EchoClient {
    next: usize,
}

impl Echo {
    /// Messages of `size` bytes, at least one.
    ///
    /// # Errors
    /// Zero, or more than [`MESSAGE_BYTES_MAX`].
    pub fn new(size: u64) -> Result<Echo, String> {
        if !(1..=MESSAGE_BYTES_MAX).contains(&size) {
            return Err(format!("size {size}: a message has 1 byte to 1 GiB"));
        }
        let size = usize::try_from(size).map_err(|_| format!("size {size}: too large for this machine"))?;
        let mut table = vec![0; size + MESSAGES - 1];
        Pcg64::new(0x5eed, 0xec40).fill_bytes(&mut table);
        Ok(Echo { size, table: table.into() })
    }

    fn message(&self, number: usize) -> &[u8] {
        &self.table[number..number + self.size]
    }
}

impl Workload for Echo {
    type Client = EchoClient;

    fn client(&self, number: u64) -> EchoClient {
        EchoClient { next: (number.wrapping_mul(1021) % MESSAGES as u64) as usize }
    }

    async fn exchange(
        &self,
        client: &mut EchoClient,
        connection: &mut Connection,
        marks: &Marks,
    ) -> Result<Answer, Failure> {
        let message = self.message(client.next);
        client.next = (client.next + 1) % MESSAGES;
        let (receiving, sending) = connection.halves();
        marks.sent();
        // At the same time: a message larger than all buffers between comes back before it is sent.
        let send = async { sending.write_all(message).await.map_err(Failure::from) };
        try_join(send, expect(receiving, message, marks)).await?;
        Ok(Answer::ok(self.size as u64))
    }
}

/// Receives what must be exactly `message`.
async fn expect(receiving: &mut Receiving, mut message: &[u8], marks: &Marks) -> Result<(), Failure> {
    while !message.is_empty() {
        let lent = receiving.fill().await?;
        marks.first_byte();
        if lent.is_empty() {
            return Err(Failure::ended());
        }
        let Some((expected, rest)) = message.split_at_checked(lent.len()) else {
            return Err(Failure::Wrong("more came back than was sent".into()));
        };
        if lent != expected {
            return Err(Failure::Wrong("what came back is not what was sent".into()));
        }
        let count = lent.len();
        receiving.consume(count);
        message = rest;
    }
    Ok(())
}
