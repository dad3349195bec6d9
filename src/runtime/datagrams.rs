//! Ports that all shards receive datagrams on, declared before they run.

use std::io::{Error, ErrorKind};
use std::sync::PoisonError;

use waterwheel_reactor::DatagramOptions;

use super::listeners::file_of;
use super::{Runtime, StartError};
use crate::net::datagram::{DatagramEndpoint, DatagramGroup};

impl Runtime {
    /// Binds an endpoint for datagrams, `udp:0.0.0.0:53`, on all shards: each receives through a socket of its own once it
    /// calls [`Shard::datagrams_on`](crate::shard::Shard::datagrams_on). Of a name's addresses the first one counts.
    ///
    /// The file of a Unix socket is removed when the runtime has run, or is dropped.
    ///
    /// # Errors
    /// The endpoint makes no sense, its name is unknown, or the system refuses it: port in use, no permission; the reactor
    /// has no datagrams.
    pub fn datagrams(&self, endpoint: &str) -> Result<DatagramGroup, StartError> {
        self.datagrams_with(&endpoint.parse()?, &DatagramOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`datagrams`](Runtime::datagrams).
    pub fn datagrams_with(
        &self,
        endpoint: &DatagramEndpoint,
        options: &DatagramOptions,
    ) -> Result<DatagramGroup, StartError> {
        let refused = |error| StartError::Listen { endpoint: endpoint.as_endpoint().clone(), error };
        let addresses = self.listeners().resolve(endpoint.as_endpoint())?;
        let Some((address, others)) = addresses.split_first() else {
            return Err(refused(ErrorKind::AddrNotAvailable.into()));
        };
        let bounds = self.backend.bind_datagrams(address, options, self.shards()).map_err(refused)?;
        let file = bounds.first().and_then(|bound| file_of(&bound.local, &bound.handle));
        self.other_files.lock().unwrap_or_else(PoisonError::into_inner).extend(file);
        if bounds.len() != self.shards() {
            return Err(refused(Error::other("the backend did not bind a socket for each shard")));
        }
        let steered = self.listeners().place(address, options.reuse_port, "datagrams", |program| {
            self.backend.steer_datagrams(&bounds, program)
        });
        let handing_over = self.listeners().hand_over_datagrams(endpoint, &bounds[0].local)?;
        let group = DatagramGroup::new(bounds, steered, handing_over)
            .ok_or_else(|| refused(Error::other("the backend bound nothing")))?;
        self.datagrams.lock().unwrap_or_else(PoisonError::into_inner).push(group.clone());
        for other in others {
            tracing::warn!("{endpoint} is {other} too, which is not received on unless it is given itself");
        }
        Ok(group)
    }
}
