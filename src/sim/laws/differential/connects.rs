//! Connects that come to nothing, and how that is told.

use std::time::Duration;

use anyhow::Context;
use waterwheel::net::Endpoint;
use waterwheel::reactor::{Address, ConnectOptions, ListenOptions};

use super::compare::same_everywhere;
use super::stage::Stage;

/// Far less than the kernel takes to give a connect up, and far more than an answer takes.
const SHORT: Duration = Duration::from_millis(700);

#[test]
fn a_place_without_a_listener_refuses() {
    same_everywhere(async |stage: Stage| {
        let nobody = stage.nobody()?;
        for _ in 0..3 {
            let refused = stage.shard().connect(&nobody, &ConnectOptions::default()).await;
            let error = refused.err().context("somebody listens there")?;
            stage.book().strand("client").note(format!("connect: {:?}", error.kind()));
        }
        Ok(())
    });
}

/// What a system says of a name that it does not know differs, as text; that it says so, and of which endpoint, does not.
#[test]
fn a_name_that_nobody_has_is_an_error_that_names_it() {
    same_everywhere(async |stage: Stage| {
        // RFC 6761: never the name of a host.
        let endpoint: Endpoint = "tcp:nobody.invalid:80".parse()?;
        let client = stage.book().strand("client");
        let error = stage.shard().resolve(&endpoint).await.err().context("there is such a name")?;
        client.note(error.to_string().split(": ").next().unwrap_or_default());
        let error = stage.shard().connect_to(&endpoint, &ConnectOptions::default()).await.err();
        client.note(format!("{:?}", error.context("there is such a host")?.kind()));
        Ok(())
    });
}

/// A backlog of none takes one connection, and lets whoever comes then wait for an answer. Whoever was taken is reset at
/// the listener's end.
#[test]
fn a_full_queue_answers_nobody_and_its_end_resets_who_waits_in_it() {
    same_everywhere(async |stage: Stage| {
        let runtime = stage.runtime("server", 1)?;
        let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
        let at: Address = stage.listen(&runtime, "server", &options)?.local().clone();
        let (shard, options) = (stage.shard(), ConnectOptions::default());
        let mut first = shard.connect(&at, &options).await?;
        let second = shard.timeout(SHORT, shard.connect(&at, &options)).await;
        let second = match second {
            Ok(connected) => format!("answered: {:?}", connected.map(drop).map_err(|error| error.kind())),
            Err(elapsed) => elapsed.to_string(),
        };
        stage.book().strand("second").note(second);
        drop(runtime);
        let told = first.fill().await.map(<[u8]>::len).map_err(|error| error.kind());
        stage.book().strand("first").note(format!("hears {told:?}"));
        Ok(())
    });
}
