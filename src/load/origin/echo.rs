//! What comes in goes out.

use std::rc::Rc;

use super::OriginSettings;
use super::patience::Patience;
use crate::net::Connection;
use crate::runtime::Service;
use crate::shard::Shard;

/// Sends every byte back, in order. A client that has ended its stream still gets the rest.
#[derive(Debug)]
pub struct EchoOrigin {
    settings: OriginSettings,
}

impl Service for EchoOrigin {
    type Settings = OriginSettings;

    async fn start(_: &Shard, settings: &OriginSettings) -> anyhow::Result<EchoOrigin> {
        Ok(EchoOrigin { settings: *settings })
    }

    async fn connection(self: Rc<Self>, mut connection: Connection) -> anyhow::Result<()> {
        let mut patience = Patience::new(connection.shard().clone(), self.settings.idle);
        let (receiving, sending) = connection.halves();
        while let Some(lent) = patience.fill(receiving).await? {
            if lent.is_empty() {
                break;
            }
            // No more is read than was sent back: a client that does not read is not read from.
            let count = lent.len();
            patience.send(sending, lent).await?;
            receiving.consume(count);
        }
        Ok(connection.close().await?)
    }

    fn limit(&self) -> usize {
        self.settings.connections
    }
}
