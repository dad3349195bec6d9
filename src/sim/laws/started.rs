//! Programs that more than one scene starts on a host.

use waterwheel::net::Connection;
use waterwheel::proxy::tcp::{Proxy, ShardReport};
use waterwheel::runtime::Runtime;
use waterwheel::sim::{Host, Running};

/// Serves connections, so many at once on each shard, until it is stopped.
pub(crate) fn server<F>(
    host: &Host,
    shards: usize,
    listen: &str,
    limit: usize,
    serve: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<Running<()>>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let runtime = host.runtime(shards);
    let listening = runtime.listen(listen)?;
    Ok(host.start(runtime, move |shard| {
        let (listening, serve) = (listening.clone(), serve.clone());
        async move {
            shard.accept_on(&listening)?.serve(limit, serve).await;
            Ok(())
        }
    }))
}

/// A proxy that was bound on this runtime, at work.
pub(crate) fn proxy(host: &Host, runtime: Runtime, proxy: &Proxy) -> Running<ShardReport> {
    let proxy = proxy.clone();
    host.start(runtime, move |shard| {
        let proxy = proxy.clone();
        async move { proxy.serve(&shard).await }
    })
}
