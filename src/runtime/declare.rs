//! What a program declares before its shards run: ports, and what is made of them.

use super::Runtime;
use crate::mesh::{
    CallOptions, CallPort, CountLease, DeclareError, Instance, KeyLease, Port, PortOptions, RateLease,
    Replicated, Sharded,
};

impl Runtime {
    /// Declares a port: a typed channel between all shards, opened on each with [`Shard::open`](crate::shard::Shard::open).
    ///
    /// # Errors
    /// The name is taken.
    pub fn port<M: Send + 'static>(&self, name: &'static str) -> Result<Port<M>, DeclareError> {
        self.port_with(name, PortOptions::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// The name is taken, or a limit makes no sense.
    pub fn port_with<M: Send + 'static>(
        &self,
        name: &'static str,
        options: PortOptions,
    ) -> Result<Port<M>, DeclareError> {
        Port::declare(&self.mesh, name, options)
    }

    /// Declares a port for requests with replies: served with [`Shard::serve`](crate::shard::Shard::serve), called
    /// through [`Shard::caller`](crate::shard::Shard::caller).
    ///
    /// # Errors
    /// The name is taken.
    pub fn call_port<Q, R>(&self, name: &'static str) -> Result<CallPort<Q, R>, DeclareError>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        self.call_port_with(name, CallOptions::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// The name is taken, or a limit makes no sense.
    pub fn call_port_with<Q, R>(
        &self,
        name: &'static str,
        options: CallOptions,
    ) -> Result<CallPort<Q, R>, DeclareError>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        CallPort::declare(&self.mesh, name, options)
    }

    /// Declares one instance per shard of a type of the program's own: see [`Instances`](crate::mesh::Instances).
    ///
    /// # Errors
    /// The name is taken.
    pub fn sharded<S: Instance>(&self, name: &'static str) -> Result<Sharded<S>, DeclareError> {
        Sharded::declare(&self.mesh, name, CallOptions::default())
    }

    /// Declares a value of which each shard has a copy: see [`Replica`](crate::mesh::Replica).
    ///
    /// # Errors
    /// The name is taken.
    pub fn replicated<T>(&self, name: &'static str, first: T) -> Result<Replicated<T>, DeclareError>
    where
        T: Clone + Send + Sync + 'static,
    {
        Replicated::declare(&self.mesh, name, first)
    }

    /// Declares a limit of things at once over all shards: see [`CountLimiter`](crate::mesh::CountLimiter).
    ///
    /// # Errors
    /// The name is taken, or the limit is not between 1 and a thousand million.
    pub fn count_lease(&self, name: &'static str, limit: u64) -> Result<CountLease, DeclareError> {
        CountLease::declare(&self.mesh, name, limit)
    }

    /// Declares a limit of things per second over all shards: see [`RateLimiter`](crate::mesh::RateLimiter).
    ///
    /// # Errors
    /// As [`count_lease`](Runtime::count_lease).
    pub fn rate_lease(&self, name: &'static str, per_second: u64) -> Result<RateLease, DeclareError> {
        RateLease::declare(&self.mesh, name, per_second)
    }

    /// Declares limits of things at once and per second for each of many keys: see [`KeyLimiter`](crate::mesh::KeyLimiter).
    ///
    /// # Errors
    /// The name is taken.
    pub fn key_lease<K>(&self, name: &'static str) -> Result<KeyLease<K>, DeclareError>
    where
        K: Ord + Copy + Send + 'static,
    {
        KeyLease::declare(&self.mesh, name)
    }
}
