//! Very many upstreams, all of which go down in one round of checks: every shard learns it, in few messages, and knows it
//! still after a reload that takes half of them away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::proxy::tcp::{Checks, Proxy, Settings, ShardReport, Upstream, UpstreamState};
use waterwheel::shard::ShardId;
use waterwheel::sim::{Check, Host, Running, World};

use crate::started;

const SHARDS: usize = 2;
const MANY: u16 = 2_000;
/// What was found is told once in 10 µs for each of them, at most.
const TOLD_EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

fn checks() -> Checks {
    Checks { fall: 1, interval: Duration::from_secs(1), ..Checks::default() }
}

/// Nobody listens at any of them.
fn settings(proxy: &Host, origins: &Host, ports: impl Iterator<Item = u16>) -> anyhow::Result<Settings> {
    let mut settings = Settings::new(vec![format!("tcp:{}", proxy.at(80)).parse()?], Vec::new());
    settings.checks = Some(checks());
    for port in ports {
        settings.upstreams.push(Upstream::new(format!("tcp:{}", origins.at(port)).parse()?));
    }
    Ok(settings)
}

/// What each shard has counted.
async fn look(
    world: &World,
    proxy: &Proxy,
    running: &Running<ShardReport>,
) -> anyhow::Result<Vec<ShardReport>> {
    let reports = Arc::new(Mutex::new(Vec::new()));
    for shard in (0..SHARDS).map(ShardId::new) {
        let (proxy, told) = (proxy.clone(), reports.clone());
        let asked = running.remote().try_run(shard, move |shard| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.extend(proxy.shard_report(shard));
        });
        ensure!(asked.is_ok(), "{asked:?}");
    }
    world.sleep(Duration::from_millis(500)).await;
    let reports = std::mem::take(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(reports.len() == SHARDS, "a shard says nothing");
    Ok(reports)
}

fn all_are_down(reports: &[ShardReport], count: usize) -> anyhow::Result<()> {
    for report in reports {
        let down = report.upstreams.iter().filter(|upstream| upstream.state == UpstreamState::Down).count();
        let all = report.upstreams.len();
        ensure!((down, all) == (count, count), "shard {}: {down} of {all} are down", report.shard);
    }
    Ok(())
}

async fn scene(world: World) -> anyhow::Result<()> {
    let (host, origins) = (world.host("proxy"), world.host("origins"));
    let runtime = host.runtime(SHARDS);
    let named = |settings| vec![(Some("web".to_owned()), settings)];
    let proxy = Proxy::bind_all(&runtime, named(settings(&host, &origins, 1..=MANY)?))?;
    let running = started::proxy(&host, runtime, &proxy);
    world.sleep(Duration::from_secs(4)).await;
    let reports = look(&world, &proxy, &running).await?;
    all_are_down(&reports, usize::from(MANY))?;
    let health = reports.iter().flat_map(|report| &report.messages.ports);
    let told: u64 = health.filter(|port| port.name.starts_with("health of")).map(|port| port.sent).sum();
    // All are found in the first round; its end and a jitter of a tenth are within the next.
    let most = 2 * checks().interval.as_millis() / TOLD_EVERY.as_millis();
    ensure!((1..=most).contains(&u128::from(told)), "{told} messages, {most} are enough");
    let change = proxy.prepare(named(settings(&host, &origins, (1..=MANY).rev().step_by(2))?))?;
    let changing = proxy.clone();
    let asked = running.remote().try_run(ShardId::new(1), move |shard| {
        let own = shard.clone();
        shard.spawn_detached("reload", async move {
            let changed = changing.change(&own, change).await;
            assert!(changed.is_ok(), "{changed:?}");
        });
    });
    ensure!(asked.is_ok(), "{asked:?}");
    // Not as long as it would take to find it out anew.
    world.sleep(Duration::from_millis(100)).await;
    let reports = look(&world, &proxy, &running).await?;
    ensure!(reports.iter().all(|report| report.version == 1), "the change did not come");
    all_are_down(&reports, usize::from(MANY / 2))?;
    running.stop(Duration::from_secs(1));
    world.shard().timeout(PATIENCE, running).await.context("the proxy hangs")??;
    Ok(())
}

#[test]
fn very_many_go_down_in_few_words_and_are_known_after_a_reload() {
    Check::new().seeds(2).at_most(10).run(scene);
}
