//! TIME-9: an idle timeout is re-armed for every read, so that it must cost nothing.

use std::time::Duration;

use futures_util::future::poll_immediate;

use super::{count_rounds, on_shards, runtime};

#[test]
fn time_9_rearming_an_idle_timeout_allocates_nothing() {
    on_shards(runtime(), |shard| async move {
        let minute = Duration::from_secs(60);
        let mut sleeps: Vec<_> = (0..100).map(|_| shard.sleep(minute)).collect();
        count_rounds("re-arming", async |number| {
            for sleep in &mut sleeps {
                // Later as a rule, now and then sooner, and now and then it has fired meanwhile.
                let next = if number % 7 == 0 { Duration::from_micros(1) } else { minute };
                sleep.reset(shard.now() + next);
                let _fired = poll_immediate(sleep).await;
            }
            shard.yield_now().await;
        })
        .await;
        Ok(())
    });
}
