//! What is known of upstreams through changes of the settings, in simulated worlds.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use waterwheel_reactor::Address;

use super::*;
use crate::proxy::tcp::{Checks, Named, Proxy, Settings, ShardReport, UpstreamState};
use crate::shard::ShardId;
use crate::sim::{Check, Host, Running, World};

const SHARDS: usize = 3;
const PORTS: [u16; 2] = [80, 81];
const SECOND: Duration = Duration::from_secs(1);
const UP: [[bool; 2]; SHARDS] = [[false; 2]; SHARDS];
const DOWN: [[bool; 2]; SHARDS] = [[true; 2]; SHARDS];

struct Scene {
    world: World,
    host: Host,
    /// Nobody is there.
    nowhere: Address,
    proxy: Proxy,
    running: Running<ShardReport>,
}

/// Two proxies; their checks, if they have any, need so many failures before they call an upstream down.
fn wanted(host: &Host, nowhere: &Address, names: [&str; 2], fall: Option<u32>) -> Vec<Named> {
    let endpoint = |text: String| text.parse().expect("an endpoint");
    let proxy = |(name, port): (&str, u16)| {
        let listen = vec![endpoint(format!("tcp:{}", host.at(port)))];
        let settings = Settings::new(listen, vec![endpoint(nowhere.to_string())]);
        let checks = fall.map(|fall| Checks { fall, ..Checks::default() });
        (Some(name.to_owned()), Settings { checks, ..settings })
    };
    names.into_iter().zip(PORTS).map(proxy).collect()
}

impl Scene {
    fn start(world: &World, fall: Option<u32>) -> anyhow::Result<Scene> {
        let host = world.host("proxy");
        let nowhere = Address::Inet(world.host("nowhere").at(7));
        let runtime = host.runtime(SHARDS);
        let proxy = Proxy::bind_all(&runtime, wanted(&host, &nowhere, ["web", "mail"], fall))?;
        let serving = proxy.clone();
        let running = host.start(runtime, move |shard| {
            let serving = serving.clone();
            async move { serving.serve(&shard).await }
        });
        Ok(Scene { world: world.clone(), host, nowhere, proxy, running })
    }

    /// What a shard answers, in its next turn.
    async fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        ask: impl FnOnce(&Shard, &State) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let answer = Arc::new(Mutex::new(None));
        let told = answer.clone();
        let asked = self.running.remote().try_run(ShardId::new(shard), move |shard| {
            let state = shard.kept::<State>().expect("it serves");
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask(shard, &state));
        });
        ensure!(asked.is_ok(), "it has ended");
        for _ in 0..100_000 {
            if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Ok(answer);
            }
            self.world.sleep(Duration::from_micros(10)).await;
        }
        anyhow::bail!("shard {shard} does not answer")
    }

    /// Whether each shard believes that the upstreams of both proxies are down.
    async fn is_down(&self) -> anyhow::Result<[[bool; 2]; SHARDS]> {
        let mut all = [[false; 2]; SHARDS];
        for (shard, is_down) in all.iter_mut().enumerate() {
            let states = self.ask(shard, |shard, state| state.upstreams(shard)).await?;
            ensure!(states.len() == 2, "{states:?}");
            *is_down = [0, 1].map(|place| states[place].state == UpstreamState::Down);
        }
        Ok(all)
    }

    /// Whether it is published that some upstream of a group is down, as each shard has it.
    async fn is_published(&self, group: &'static str) -> anyhow::Result<[bool; SHARDS]> {
        let mut all = [false; SHARDS];
        for (shard, is_published) in all.iter_mut().enumerate() {
            let ask = move |shard: &Shard, state: &State| {
                let replica = shard.replica(state.health());
                replica.map(|replica| replica.value().of(group).is_some())
            };
            *is_published = self.ask(shard, ask).await??;
        }
        Ok(all)
    }

    /// To another version. Meanwhile each shard believes what it did, or what it will; looked at again and again.
    async fn change(&self, names: [&str; 2], fall: Option<u32>, believed: &[bool]) -> anyhow::Result<()> {
        let change = self.proxy.prepare(wanted(&self.host, &self.nowhere, names, fall))?;
        let (answer, proxy) = (Arc::new(Mutex::new(None)), self.proxy.clone());
        let (told, by) = (answer.clone(), self.world.below(SHARDS as u64) as usize);
        self.ask(by, move |shard, _| {
            let own = shard.clone();
            shard.spawn_detached("reload", async move {
                let result = proxy.change(&own, change).await;
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            });
        })
        .await?;
        let (mut looks, mut made) = (0, None);
        while looks < 20 {
            let is_down = self.is_down().await?;
            let fits = is_down.as_flattened().iter().all(|is_down| believed.contains(is_down));
            ensure!(fits, "{names:?}: {is_down:?} is believed");
            made = made.or_else(|| answer.lock().unwrap_or_else(PoisonError::into_inner).take());
            looks += usize::from(made.is_some());
        }
        made.context("it was made")?.context("a change is refused")?;
        Ok(())
    }
}

async fn scene(world: World) -> anyhow::Result<()> {
    let scene = Scene::start(&world, Some(1))?;
    world.sleep(SECOND * 5).await;
    ensure!(scene.is_down().await? == DOWN, "nobody is there");
    // Checks are switched off, and on again, soon or late; these do not find it down for long.
    scene.change(["web", "mail"], None, &[true, false]).await?;
    ensure!(scene.is_down().await? == UP, "what nobody checks is up");
    world.sleep(Duration::from_millis(world.below(15_000))).await;
    scene.change(["web", "mail"], Some(1_000), &[false]).await?;
    world.sleep(SECOND / 2).await;
    // Or the next publication would bring it back.
    ensure!(scene.is_published("web").await? == [false; SHARDS], "what was found before is kept");
    world.sleep(SECOND * world.below(20) as u32).await;
    ensure!(scene.is_down().await? == UP, "what was found before counts once more");
    // Stricter checks find it down; and it stays so under another name.
    scene.change(["web", "mail"], Some(1), &[true, false]).await?;
    world.sleep(SECOND * 5).await;
    ensure!(scene.is_down().await? == DOWN, "nobody is there");
    scene.change(["shop", "post"], Some(1), &[true]).await?;
    ensure!(scene.is_published("shop").await? == [true; SHARDS], "it is not told under the new name");
    world.sleep(ALL_CHANGED + SECOND).await;
    ensure!(scene.is_down().await? == DOWN, "it is forgotten under the new name");
    ensure!(scene.is_published("web").await? == [false; SHARDS], "the old name is not forgotten");
    // It goes for good.
    scene.change(["other", "another"], None, &[true, false]).await?;
    world.sleep(ALL_CHANGED + SECOND).await;
    ensure!(scene.is_published("shop").await? == [false; SHARDS], "a proxy that is gone is not forgotten");
    scene.running.stop(SECOND);
    scene.running.await.context("the proxy")?;
    Ok(())
}

/// The first that is ever published is what the checks of a second version find.
async fn first_news(world: World) -> anyhow::Result<()> {
    let scene = Scene::start(&world, None)?;
    world.sleep(SECOND).await;
    ensure!(scene.is_down().await? == UP, "what nobody checks is up");
    let fall = 1 + world.below(3) as u32;
    scene.change(["web", "mail"], Some(fall), &[true, false]).await?;
    world.sleep(SECOND * 15).await;
    ensure!(scene.is_down().await? == DOWN, "nobody is there");
    scene.running.stop(SECOND);
    scene.running.await.context("the proxy")?;
    Ok(())
}

#[test]
fn what_checks_find_first_of_all_counts_on_every_shard() {
    Check::new().seeds(50).run(first_news);
}

#[test]
fn what_is_checked_anew_is_up_and_what_was_known_goes_on_under_other_names_until_it_is_forgotten() {
    Check::new().seeds(30).run(scene);
}
