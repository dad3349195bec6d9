//! Origins on a clock that moves only as the test says.

use std::cell::OnceCell;

use waterwheel_reactor::ConnectOptions;

use super::*;
use crate::load::origin::{HttpOrigin, OriginSettings};
use crate::runtime::Service;

#[test]
fn a_long_body_to_a_client_that_takes_it_at_once_keeps_nobody_waiting() {
    // Each block costs 100 µs: 4 MiB are 26 ms, and a turn is meant to be half a millisecond.
    let world = Rc::new(OnceCell::<Rc<World>>::new());
    let (costly, received) = (world.clone(), Rc::new(Cell::new(0)));
    let counted = received.clone();
    let client = move |now: Time, _: usize, bytes: &[u8]| {
        if bytes.is_empty() {
            let asks = b"GET /4m HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            return vec![Does::Sends(now, asks.to_vec()), Does::Ends(now + ms(10_000))];
        }
        counted.set(counted.get() + bytes.len());
        costly.get().unwrap().now.set(now + us(100));
        vec![]
    };
    let turns = Rc::new(Cell::new(0));
    let others = turns.clone();
    let mut stage = Stage::new(client, |shard| async move {
        let neighbour = shard.clone();
        shard.spawn_detached("neighbour", async move {
            loop {
                others.set(others.get() + 1);
                neighbour.sleep(us(10)).await;
            }
        });
        let address = Address::Inet("127.0.0.1:1".parse().unwrap());
        let connection = shard.connect(&address, &ConnectOptions::default()).await.unwrap();
        let origin = HttpOrigin::start(&shard, &OriginSettings::default()).await.unwrap();
        Rc::new(origin).connection(connection).await.unwrap();
    });
    world.set(stage.world.clone()).unwrap();
    let most = Cell::new(0);
    stage.run_while(|_, _| {
        if received.get() < 4 << 20 {
            most.set(turns.get());
        }
    });
    assert!(received.get() > 4 << 20, "{} bytes", received.get());
    assert!(most.get() > 20, "the neighbour had {} turns meanwhile", most.get());
}
