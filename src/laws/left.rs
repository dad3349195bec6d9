//! What every law ends with: nothing is left. Whole runtimes, which end in the midst of everything that a shard can have
//! under way, in a process of their own, since descriptors and threads belong to processes.

use std::env;
use std::future::pending;
use std::io::{Read, Write};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use waterwheel::net::Connection;
use waterwheel::reactor::{Address, ConnectOptions};
use waterwheel::runtime::RunError;
use waterwheel::shard::{Shard, ShardId, deferred};
use waterwheel_conformance::kit::Census;

use super::kit::{
    Ended, Pattern, Process, Server, Unreachable, client, config, end_of, on_each_reactor, until_full,
};

on_each_reactor![a_runtime_that_ends_in_the_midst_of_work_leaves_nothing,];

/// In the environment of the process that has this law to itself.
const ALONE: &str = "LAWS_LEFT_ALONE";
const SHARDS: usize = 2;
const HOUR: Duration = Duration::from_secs(3_600);

fn a_runtime_that_ends_in_the_midst_of_work_leaves_nothing(reactor: &str) {
    if env::var_os(ALONE).is_some() {
        // The second time shows what the first may have made for good, and must not have.
        return (0..2).for_each(|_| ends_in_the_midst(reactor));
    }
    let name = format!("left::{reactor}::a_runtime_that_ends_in_the_midst_of_work_leaves_nothing");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let Ended { code, out, err } = Process::start(&mut command).wait();
    assert!(code == Some(0) && out.contains("1 passed"), "{out}{err}");
}

/// Held by everything that must not be left: it is dropped with the last of it.
type Token = Arc<()>;

fn ends_in_the_midst(reactor: &str) {
    let before = Census::take();
    let token = Token::default();
    {
        let unreachable = Unreachable::new();
        let server = server(reactor, &token, Address::Inet(unreachable.at));
        // Enough of them that the hash gives both shards some.
        let mut clients: Vec<_> = (0..12).map(|_| client(server.at)).collect();
        for stream in &mut clients {
            stream.write_all(b"?").unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).unwrap();
        }
        // Nobody reads what comes back.
        until_full(&mut clients[0], &mut Pattern::new(1));
        drop(clients.split_off(8));
        let _late = client(server.at);
        server.stopper.stop(Duration::ZERO);
        let ended = server.stop();
        assert!(matches!(ended, Err(RunError::Stopped { .. })), "not in the midst of work: {ended:?}");
        for mut stream in clients {
            // Ended or reset, but not open any more.
            let _ = end_of(&mut stream);
        }
    }
    let left = Arc::strong_count(&token) - 1;
    assert_eq!(left, 0, "tasks, messages, values or resolvers are left");
    before.assert_restored();
}

/// Echoes, and gives each shard all else that may be under way when it ends.
fn server(reactor: &str, token: &Token, to: Address) -> Server {
    let token = token.clone();
    Server::start_with(config(reactor, SHARDS), move |runtime| {
        let messages = runtime.port::<Token>("left").unwrap();
        let calls = runtime.call_port::<Token, Token>("never answered").unwrap();
        move |shard: &Shard| {
            let next = ShardId::new((shard.id().index() + 1) % SHARDS);
            let (mailbox, caller) = (shard.open(&messages).unwrap(), shard.caller(&calls).unwrap());
            let never = |_, request: Token| async move {
                pending::<()>().await;
                request
            };
            shard.serve(&calls, never).unwrap();
            // A message that is scheduled, as many as the lane takes, and one that waits for room.
            let (sending, held) = (shard.clone(), token.clone());
            shard.spawn_detached("sender", async move {
                let _ = mailbox.send_at(next, held.clone(), sending.now() + HOUR).await;
                while mailbox.send(next, held.clone()).await.is_ok() {}
                pending().await
            });
            let held = token.clone();
            shard.spawn_detached("caller", async move {
                let _ = caller.call(next, held).await;
            });
            wait_for_ever(shard, &token, to.clone());
            let held = token.clone();
            move |connection| echo(connection, held.clone())
        }
    })
}

/// A timer, a connect under way, a value to come whose two ends wait for each other, and a kept value that keeps its
/// keeper.
fn wait_for_ever(shard: &Shard, token: &Token, to: Address) {
    let (sleeping, held) = (shard.clone(), token.clone());
    shard.spawn_detached("sleeper", async move {
        sleeping.sleep(HOUR).await;
        drop(held);
    });
    let (connecting, held) = (shard.clone(), token.clone());
    shard.spawn_detached("connector", async move {
        let _ = connecting.connect(&to, &ConnectOptions::default()).await;
        drop(held);
    });
    let ((resolver, given), held) = (deferred::<Token>(), token.clone());
    shard.spawn_detached("waiter", async move {
        let _ = given.await;
        drop((resolver, held));
    });
    shard.keep(Rc::new((shard.clone(), token.clone())));
}

async fn echo(mut connection: Connection, _held: Token) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = connection.read(&mut buffer).await?;
        if count == 0 {
            return Ok(connection.close().await?);
        }
        connection.write_all(&buffer[..count]).await?;
    }
}
