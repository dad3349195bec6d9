//! A socket of a group ends with who receives through it, whoever could send.

use super::*;

on_each_reactor![
    a_sender_that_is_left_keeps_no_peer_from_its_heir,
    a_socket_of_one_shard_stays_for_its_senders,
];

/// Its socket is given up in the middle of waiting for a datagram, with whatever the reactor has under way for that.
fn a_sender_that_is_left_keeps_no_peer_from_its_heir(reactor: &str) {
    const SHARDS: usize = 4;
    for (mode, program) in [(Mode::Flow, true), (Mode::Source, true), (Mode::Source, false)] {
        let config = config(reactor, SHARDS).steer(mode).steer_program(program);
        let server = start(config, "udp:127.0.0.1:0", |shard, group| async move {
            let own = shard.id().index() as u8;
            let socket = shard.datagrams_on(&group)?;
            if own != 1 {
                socket.serve(Named { shard: own, handled: 0 }).await;
                return Ok(());
            }
            let (left, goes) = (socket.sender(), Rc::new(Cell::new(false)));
            let receiver = shard.spawn("receiver", answer_until(socket, own, goes.clone()));
            while !goes.get() {
                shard.sleep(Duration::from_millis(1)).await;
            }
            receiver.cancel();
            while !left.has_ended() {
                shard.yield_now().await;
            }
            let to = here();
            ensure!(has_ended(&left) && is_ended(left.send_to(b"?", &to).await), "it sends");
            ensure!(is_ended(left.send_segments(&[7; 3_000], 1_000, Some(&to)).await), "it sends segments");
            ensure!(left.local() == group.local() && shard.datagrams_on(&group).is_err());
            // As long as its peers ask.
            shard.stopping().await;
            drop(left);
            Ok(())
        });
        let clients: Vec<UdpSocket> = (1..=40).map(|host| client_from(host, server.at)).collect();
        let owners: Vec<usize> = clients.iter().map(|client| owner_of(client, mode, SHARDS)).collect();
        assert_eq!(clients.iter().map(insist).collect::<Vec<_>>(), owners, "mode {mode}");
        let doomed = owners.iter().position(|owner| *owner == 1).expect("one of 40");
        clients[doomed].send(b"go").unwrap();
        for (client, owner) in clients.iter().zip(owners) {
            let heir = if owner == 1 { 2 } else { owner };
            // An answer of the one that goes may be on its way.
            let settled = eventually("the one that went answers no more", || {
                let answers = insist(client);
                (answers != 1).then_some(answers)
            });
            assert_eq!(settled, heir, "of {owner} in mode {mode}, program {program}");
        }
        server.stop();
    }
}

/// Answers with its shard; says so when it is told to go, and then waits for more.
async fn answer_until(mut socket: DatagramSocket, shard: u8, goes: Rc<Cell<bool>>) -> anyhow::Result<()> {
    let sender = socket.sender();
    loop {
        let received = socket.receive().await?;
        sender.try_answer(&received, &[shard, 0])?;
        goes.set(goes.get() || received.bytes == b"go");
    }
}

fn a_socket_of_one_shard_stays_for_its_senders(reactor: &str) {
    alone(reactor, |shard| async move {
        let (mut there, sender) = (bind(&shard)?, bind(&shard)?.sender());
        for _ in 0..3 {
            sender.send_to(b"still here", there.local()).await?;
            ensure!(there.receive().await?.from == sender.local() && !sender.has_ended());
        }
        Ok(())
    });
}
