//! A scene played everywhere, and what differs.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use anyhow::ensure;
use waterwheel::runtime::reactors;
use waterwheel::sim::{Check, Options};
use waterwheel_conformance::kit::wanted;

use super::book::{Transcript, difference};
use super::real;
use super::stage::Stage;

/// Worlds in which nothing is drawn but who runs next.
const CALM: u64 = 4;
/// Worlds of which everything is drawn. `WATERWHEEL_SEEDS` asks for more.
const DRAWN: u64 = 40;
/// The same for scenes that take a fifth of a second each, where segments and buffers are small.
const DRAWN_FEW: u64 = 10;

/// The first transcript, and whose it is: the others must equal it.
type First = Arc<OnceLock<(String, Transcript)>>;

/// Plays a scene on every reactor that is compiled in and can run here, then in worlds of many seeds.
///
/// # Panics
/// If two transcripts differ: with both sides of the strands that do, and for a world how to replay it.
pub(crate) fn same_everywhere<F>(scene: impl Fn(Stage) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    same_in(DRAWN, scene);
}

/// The same in fewer worlds, for scenes in which much is moved.
///
/// # Panics
/// As [`same_everywhere`].
pub(crate) fn same_everywhere_at_length<F>(scene: impl Fn(Stage) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    same_in(DRAWN_FEW, scene);
}

fn same_in<F>(drawn: u64, scene: impl Fn(Stage) -> F + Send + Sync + 'static)
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let (scene, first, all) = (Arc::new(scene), First::default(), reactors());
    for reactor in all.iter().filter(|reactor| wanted(**reactor, &all)) {
        let told = real::play(reactor.name(), scene.clone());
        hold(&first, reactor.name(), told).unwrap_or_else(|error| panic!("{error}"));
    }
    for (kind, seeds, options) in [("calm", CALM, Some(Options::calm())), ("drawn", drawn, None)] {
        let (scene, first) = (scene.clone(), first.clone());
        let check = Check::new().seeds(seeds);
        let check = options.into_iter().fold(check, Check::options);
        check.run(move |world| {
            let (scene, first) = (scene.clone(), first.clone());
            async move {
                let (seed, stage) = (world.seed(), Stage::in_world(world));
                scene(stage.clone()).await?;
                hold(&first, &format!("{kind} world of seed {seed}"), stage.book().transcript())
            }
        });
    }
}

fn hold(first: &First, who: &str, told: Transcript) -> anyhow::Result<()> {
    let (first_who, expected) = first.get_or_init(|| (who.to_owned(), told.clone()));
    let text = difference((first_who, expected), (who, &told));
    ensure!(text.is_empty(), "{first_who} and {who} tell different stories\n{text}");
    Ok(())
}
