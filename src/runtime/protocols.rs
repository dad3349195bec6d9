//! Protocols as a service: a factory per shard, a protocol per connection.

use std::rc::Rc;

use super::{RunError, Runtime, Service};
use crate::net::protocol::Factory;
use crate::net::{Connection, Listening};
use crate::shard::Shard;

/// A [`Factory`] as a [`Service`], for whoever runs services one by one.
#[derive(Debug)]
pub struct Protocols<F> {
    factory: Rc<F>,
}

impl<F: Factory> Service for Protocols<F> {
    type Settings = F::Settings;

    async fn start(shard: &Shard, settings: &Self::Settings) -> anyhow::Result<Self> {
        Ok(Protocols { factory: Rc::new(F::start(shard, settings).await?) })
    }

    async fn connection(self: Rc<Self>, connection: Connection) -> anyhow::Result<()> {
        let connection = self.factory.layer(connection)?;
        match self.factory.build(connection.peer().ok().as_ref()) {
            Some(protocol) => connection.speak(protocol).await,
            None => connection.close().await?,
        }
        Ok(())
    }

    async fn stop(self: Rc<Self>) {
        self.factory.stop();
    }

    fn limit(&self) -> usize {
        self.factory.limit()
    }
}

impl Runtime {
    /// Runs a factory's protocols on every shard until the runtime is asked to stop.
    ///
    /// # Errors
    /// As [`Runtime::serve`].
    pub fn serve_protocol<F: Factory>(
        self,
        listening: Listening,
        settings: F::Settings,
    ) -> Result<(), RunError> {
        self.serve::<Protocols<F>>(listening, settings)
    }
}
