//! What a check says when a test fails: who waits for what, what is left over, how to see it again.

use std::rc::Rc;
use std::time::Duration;

use waterwheel::mesh::{CallPort, Port};
use waterwheel::net::Connection;
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::shard::ShardId;
use waterwheel::sim::{Check, Options, Rule, Verdict, World};

use crate::started;

fn failure<F>(test: impl Fn(World) -> F + Send + Sync + 'static) -> String
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Check::new().seed(7, test).failure.expect("this test fails")
}

#[track_caller]
fn says(failure: &str, parts: &[&str]) {
    for part in parts {
        assert!(failure.contains(part), "{part:?} is missing in:\n{failure}");
    }
}

/// Waits for a client that says nothing.
async fn silent(mut client: Connection) -> anyhow::Result<()> {
    client.fill().await?;
    Ok(())
}

/// Two shards each wait for the other's message; on another host somebody waits to read and nobody writes.
async fn deadlocked(world: World) -> anyhow::Result<()> {
    let mesh = world.host("mesh");
    let runtime = mesh.runtime(2);
    let (port, calls): (Port<()>, CallPort<(), ()>) =
        (runtime.port("letters")?, runtime.call_port("questions")?);
    let running = mesh.start(runtime, move |shard| {
        let (port, calls) = (port.clone(), calls.clone());
        async move {
            let _never = shard.serve(&calls, |_, ()| std::future::pending::<()>())?;
            let caller = shard.caller(&calls)?;
            shard.spawn_detached("asks", async move {
                let _ = caller.call(ShardId::new(0), ()).await;
            });
            let mailbox = shard.open(&port)?;
            shard.spawn("reads letters", async move { mailbox.receive().await }).await?;
            Ok(())
        }
    });
    let server = world.host("server");
    drop(started::server(&server, 1, "tcp:0.0.0.0:7", 10, silent)?);
    let mut silent = world.shard().connect(&Address::Inet(server.at(7)), &ConnectOptions::default()).await?;
    let reading = world.shard().spawn("reads", async move { silent.fill().await.map(<[u8]>::len) });
    running.await?;
    drop(reading);
    Ok(())
}

#[test]
fn sim_2_a_deadlock_is_told_with_who_waits_for_what() {
    let said = failure(deadlocked);
    says(&said, &["deadlock", "mesh, shard 0:", "mesh, shard 1:", "server, shard 0:", "test, shard 0:"]);
    says(&said, &["reads letters (src/sim/laws/checks.rs:", "waits for a message of port letters"]);
    says(&said, &["waits for the reply of shard 0 to a call of port questions"]);
    says(
        &said,
        &["waits to accept on tcp:0.0.0.0:7", "reads (src/sim/laws/checks.rs:", "waits to read (end"],
    );
    says(&said, &["options: Options {", "the last events:", "adopted end"]);
}

#[test]
fn what_never_ends_is_told_with_who_is_alive() {
    let options = Options { time_max: Duration::from_secs(60), ..Options::default() };
    let for_ever = |world: World| async move {
        loop {
            world.sleep(Duration::from_secs(1)).await;
        }
    };
    let said = Check::new().options(options).seed(1, for_ever).failure.expect("it never ends");
    says(&said, &["no end: 60", "test, shard 0:", "main (src/sim/laws/checks.rs:", "waits until 6"]);
}

#[test]
fn sim_3_a_failure_names_the_seed_and_how_to_replay_it() {
    let check = Check::new().seeds(50).without_environment();
    let odd = |world: World| async move {
        anyhow::ensure!(world.seed() % 8 != 5, "of five and its like");
        Ok(())
    };
    let (seed, said) = check.first_failure(odd).expect("seed 5 fails");
    assert_eq!(seed, 5, "the first that fails is told");
    says(&said, &["of five and its like"]);
    let panicked = std::panic::catch_unwind(move || check.run(odd)).expect_err("a check that fails panics");
    let text = panicked.downcast::<String>().expect("with a text");
    let name = "sim_3_a_failure_names_the_seed_and_how_to_replay_it";
    says(&text, &["seed 5", "WATERWHEEL_SEED=5 cargo test", name, "WATERWHEEL_TRACE=FILE"]);
}

#[test]
fn a_task_that_panics_fails_the_test_unless_that_is_allowed() {
    let panics = |world: World| async move {
        world.shard().spawn_detached("breaks", async { panic!("planned: of a task") });
        world.sleep(Duration::from_millis(1)).await;
        if world.seed() == 1 {
            world.allow_panics();
        }
        Ok(())
    };
    let said = Check::new().seed(0, panics).failure.expect("a task panicked");
    says(&said, &["test, shard 0: 1 tasks panicked", "task=\"breaks\"", "planned: of a task"]);
    assert_eq!(Check::new().seed(1, panics).failure, None);
}

#[test]
fn a_cycle_that_keeps_a_shard_alive_is_told() {
    let leaks = |world: World| async move {
        let host = world.host("leaky");
        host.start(host.runtime(1), |shard| async move {
            std::mem::forget(Rc::new(shard));
            Ok(())
        })
        .await?;
        Ok(())
    };
    let said = failure(leaks);
    says(&said, &["left over: leaky, shard 0: something still holds the shard"]);
    assert_eq!(Check::new().without_leak_check().seed(7, leaks).failure, None);
}

#[test]
fn a_timer_and_a_connection_that_are_forgotten_are_told() {
    let leaks = |world: World| async move {
        let host = world.host("leaky");
        let close = |client: Connection| async move { Ok(client.close().await?) };
        drop(started::server(&host, 1, "tcp:0.0.0.0:7", 10, close)?);
        let (shard, to) = (world.shard(), Address::Inet(host.at(7)));
        let mut sleep = Box::pin(shard.sleep(Duration::from_secs(900)));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        std::mem::forget(sleep);
        std::mem::forget(shard.connect(&to, &ConnectOptions::default()).await?);
        Ok(())
    };
    says(&failure(leaks), &["test, shard 0: 1 timers outlived their shard"]);
}

#[test]
fn messages_that_nobody_receives_are_told() {
    let leaks = |world: World| async move {
        let host = world.host("mesh");
        let runtime = host.runtime(2);
        let port: Port<u8> = runtime.port("letters")?;
        host.start(runtime, move |shard| {
            let port = port.clone();
            async move {
                let mailbox = shard.open(&port)?;
                if shard.id().index() == 0 {
                    (0..3).for_each(|letter| assert!(mailbox.try_send(ShardId::new(1), letter).is_ok()));
                }
                shard.sleep(Duration::from_millis(10)).await;
                Ok(())
            }
        })
        .await?;
        Ok(())
    };
    says(&failure(leaks), &["left over: mesh: 3 messages of port letters were never received"]);
}

#[test]
fn resolvers_that_are_forgotten_are_told() {
    let leaks = |world: World| async move {
        let (resolver, value) = waterwheel::shard::deferred::<()>();
        std::mem::forget(resolver);
        drop(value);
        world.sleep(Duration::from_millis(1)).await;
        Ok(())
    };
    says(&failure(leaks), &["left over: test, shard 0: 1 resolvers that nobody resolved or dropped"]);
}

#[test]
fn a_program_that_fails_fails_the_test_unless_it_was_asked() {
    let fails = |world: World| async move {
        let host = world.host("server");
        let running = host
            .start(host.runtime(1), |_| async { anyhow::bail!("configured badly") as anyhow::Result<()> });
        if world.seed() == 1 {
            anyhow::ensure!(running.await.is_err());
        }
        world.sleep(Duration::from_millis(5)).await;
        Ok(())
    };
    let said = Check::new().seed(0, fails).failure.expect("it failed");
    says(&said, &["the program on server failed: shard 0: configured badly"]);
    assert_eq!(Check::new().seed(1, fails).failure, None);
}

#[test]
fn a_rule_about_nobody_is_told() {
    let mistaken = |world: World| async move {
        world.host("server");
        world.rule(Rule::new(Verdict::Refuse).to("sevrer"));
        Ok(())
    };
    says(&failure(mistaken), &["a rule is about host sevrer, which there never was"]);
}

#[test]
fn a_panic_is_told_where_somebody_waits_for_its_task() {
    let waits = |world: World| async move {
        let host = world.host("server");
        let runtime = host.runtime(1);
        let port: Port<()> = runtime.port("letters")?;
        host.start(runtime, move |shard| {
            let port = port.clone();
            async move {
                shard.spawn_detached("writes", async { panic!("planned: before it wrote") });
                shard.open(&port)?.receive().await;
                Ok(())
            }
        })
        .await?;
        Ok(())
    };
    says(&failure(waits), &["deadlock", "for a message of port letters", "planned: before it wrote"]);
}

/// A partition ends with its rule, or with all rules, and nothing of what was said meanwhile is lost.
#[test]
fn a_partition_heals_when_the_rules_end() {
    Check::new().seeds(60).run(|world: World| async move {
        let host = world.host("server");
        drop(started::server(&host, 1, "tcp:0.0.0.0:7", 10, echo)?);
        let to = Address::Inet(host.at(7));
        let mut client = world.shard().connect(&to, &ConnectOptions::default()).await?;
        world.rule(Rule::new(Verdict::Hold).from("test").to("server"));
        world.rule(Rule::new(Verdict::Hold).from("server").to("test"));
        client.write_all(b"hello").await?;
        let mut word = [0; 5];
        let early = world.shard().timeout(Duration::from_secs(20), client.read_exact(&mut word)).await;
        anyhow::ensure!(early.is_err(), "it came through a partition");
        let connecting = world.shard().spawn("connects", {
            let (shard, to) = (world.shard().clone(), to.clone());
            async move { shard.connect(&to, &ConnectOptions::default()).await.map(drop) }
        });
        world.sleep(Duration::from_secs(5)).await;
        world.end_rules();
        client.read_exact(&mut word).await?;
        anyhow::ensure!(word == *b"hello");
        connecting.await??;
        client.close().await?;
        Ok(())
    });
}

async fn echo(mut client: Connection) -> anyhow::Result<()> {
    let mut word = [0; 5];
    client.read_exact(&mut word).await?;
    client.write_all(&word).await?;
    Ok(client.close().await?)
}

/// What a rule does to a whole shard: it ends, and its program says so; the others go on.
#[test]
fn a_rule_that_lets_a_shard_panic_ends_that_shard_alone() {
    Check::new().seeds(30).run(|world: World| async move {
        let host = world.host("crew");
        world.rule(Rule::new(Verdict::Panic).to(("crew", 1)).at_most(1));
        let ended = host.start(host.runtime(3), |shard| async move {
            shard.sleep(Duration::from_millis(20)).await;
            Ok(shard.id())
        });
        let error = ended.await.expect_err("a shard panicked").to_string();
        anyhow::ensure!(error.starts_with("shard 1 panicked: "), "{error}");
        Ok(())
    });
}

#[test]
fn names_that_are_late_or_unknown_are_met_in_time() {
    Check::new().seeds(30).run(|world: World| async move {
        let late = world.host("late");
        world.rule(Rule::new(Verdict::NameLate(Duration::from_secs(3))).to("late"));
        world.rule(Rule::new(Verdict::NameUnknown).to("lost"));
        world.host("lost");
        let (shard, began) = (world.shard(), world.now());
        let found = shard.resolve(&"tcp:late:80".parse()?).await?;
        anyhow::ensure!(found.first() == Some(&Address::Inet(late.at(80))), "{found:?}");
        anyhow::ensure!(world.now().since(began) >= Duration::from_secs(3), "it came too soon");
        for name in ["lost", "nobody"] {
            let error = shard.resolve(&format!("tcp:{name}:80").parse()?).await.expect_err("unknown");
            anyhow::ensure!(error.to_string().contains(name), "{error}");
        }
        Ok(())
    });
}
