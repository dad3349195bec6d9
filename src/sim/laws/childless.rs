//! What a simulated world does not have: processes and their signals.

use anyhow::ensure;
use waterwheel::process::{Command, Keep, KeepError, SpawnError};
use waterwheel::runtime::{Signal, SignalError};
use waterwheel::sim::{Check, World};

async fn asks_for_both(world: World) -> anyhow::Result<()> {
    let host = world.host("machine");
    let running = host.start(host.runtime(2), |shard| async move {
        let command = Command::new("true");
        ensure!(matches!(shard.spawn_process(&command).await, Err(SpawnError::Unsupported)));
        ensure!(matches!(shard.output_of(&command).await, Err(SpawnError::Unsupported)));
        // Its pauses pass in no time.
        let began = shard.now();
        let kept = shard.keep_running(&command, Keep::new("true")).ended().await;
        let Err(KeepError::TooOften { reason, times: 11, .. }) = kept else { anyhow::bail!("{kept:?}") };
        ensure!(reason == SpawnError::Unsupported.to_string(), "{reason}");
        let pauses: u64 = [0, 1, 2, 4, 8, 16, 32, 60, 60, 60].iter().sum();
        ensure!(shard.now().since(began).as_secs() == pauses, "{:?}", shard.now().since(began));
        ensure!(matches!(shard.signals(&[Signal::Hangup]), Err(SignalError::NotOwner)));
        Ok(())
    });
    running.await?;
    Ok(())
}

#[test]
fn a_program_is_told_that_a_simulation_has_no_processes_and_no_signals() {
    Check::new().seeds(20).run(asks_for_both);
}
