//! Protocols, frames and layers on real sockets: what clients of each reactor see of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use waterwheel::net::codec::{Codec, Framed, LineEnding, Lines, Netstrings, Prefixed, Width};
use waterwheel::net::layer::{Bucket, Clients, TimedOut, Timeouts};
use waterwheel::net::protocol::{Protocol, Reason, Wire};
use waterwheel::net::{Connection, End};
use waterwheel::reactor::{Address, ConnectOptions};

use super::kit::{LONG, Server, client, config, end_of, eventually, on_each_reactor, reset, spawn};

on_each_reactor![
    a_protocol_answers_and_is_closed_once_for_each_connection,
    a_pump_through_layers_loses_nothing,
    frames_go_on_in_another_way_over_real_sockets,
    a_silent_client_hears_a_last_word_and_one_that_does_not_read_is_reset,
    a_client_with_too_many_connections_is_reset,
];

/// Answers lines in capitals, and counts how often it was closed.
struct Loud(Arc<AtomicUsize>);

impl Protocol for Loud {
    fn codec(&self) -> Box<dyn Codec> {
        Box::new(Lines::new(LineEnding::Lf, 100_000))
    }

    fn received(&mut self, wire: &Wire, line: &[u8]) -> anyhow::Result<()> {
        wire.send(&line.to_ascii_uppercase())?;
        Ok(())
    }

    fn closed(self, _: Reason) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn a_protocol_answers_and_is_closed_once_for_each_connection(reactor: &str) {
    let closed = Arc::<AtomicUsize>::default();
    let inside = closed.clone();
    let server = Server::start(config(reactor, 2), move |connection| {
        let speaking = connection.speak(Loud(inside.clone()));
        async move {
            speaking.await;
            Ok(())
        }
    });
    // More than its queue and all buffers hold, to somebody who reads more slowly than he writes.
    let line = [&[b'x'; 9_999][..], b"\n"].concat();
    let mut talker = client(server.at);
    let (mut writer, sent) = (talker.try_clone().unwrap(), line.clone());
    let writing = spawn(move || {
        (0..500).for_each(|_| writer.write_all(&sent).unwrap());
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    talker.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(back.len(), 500 * line.len());
    assert!(back.chunks(line.len()).all(|own| own == line.to_ascii_uppercase()));
    let so_many =
        |count| eventually("protocols to be closed", || (closed.load(Relaxed) == count).then_some(()));
    so_many(1);
    // One that goes in order, one that is reset, one that stays until the stop.
    let (orderly, mut broken, mut staying) = (client(server.at), client(server.at), client(server.at));
    drop(orderly);
    broken.write_all(&line).unwrap();
    reset(broken);
    staying.write_all(b"still here\n").unwrap();
    staying.read_exact(&mut [0; 11]).unwrap();
    so_many(3);
    server.stop().unwrap();
    assert_eq!(end_of(&mut staying), Ok(0), "a stop closes in order");
    assert_eq!(closed.load(Relaxed), 4);
}

fn a_pump_through_layers_loses_nothing(reactor: &str) {
    const BYTES: usize = 3_000_000;
    let origin = Server::start(config(reactor, 1), |mut connection| async move {
        let mut left = BYTES;
        while left > 0 {
            let lent = connection.fill().await?;
            let part = lent.to_vec();
            ensure!(!part.is_empty(), "it ended early");
            connection.consume(part.len());
            connection.write_all(&part).await?;
            left -= part.len();
        }
        Ok(connection.close().await?)
    });
    let to = Address::Inet(origin.at);
    let proxy = Server::start(config(reactor, 1), move |near| {
        let to = to.clone();
        async move {
            let shard = near.shard().clone();
            let far = shard.connect(&to, &ConnectOptions::default()).await?;
            let hour = Some(Duration::from_secs(3_600));
            let timeouts = Timeouts { idle: hour, first_byte: hour, total: hour, stalled_write: hour };
            let bucket = Bucket::new(&shard, 20_000_000, 100_000);
            let near = near.timed(timeouts).throttle_receiving(&bucket);
            let far = far.throttle_sending(&bucket).throttle_receiving(&bucket).timed(timeouts);
            let exchange = near.pump(far, None).await;
            ensure!(matches!(exchange.end, End::Finished), "{exchange:?}");
            Ok(())
        }
    });
    let mut stream = client(proxy.at);
    let pattern: Vec<u8> =
        (0..BYTES as u32).map(|at| at.wrapping_mul(0x85eb_ca6b).rotate_left(9) as u8).collect();
    let (mut writer, sent) = (stream.try_clone().unwrap(), pattern.clone());
    let writing = spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == pattern, "{} bytes came back, or others", back.len());
    proxy.stop().unwrap();
    origin.stop().unwrap();
}

/// Lines, then raw bytes, then netstrings, then lengths.
async fn speaks_all(connection: Connection) -> anyhow::Result<()> {
    let mut lines = Framed::new(connection, Lines::new(LineEnding::CrLf, 100));
    ensure!(lines.receive().await? == Some(b"hello".as_slice()));
    lines.send(b"raw").await?;
    let mut bare = lines.into_connection().ok().context("between frames")?;
    let mut raw = [0; 3];
    bare.read_exact(&mut raw).await?;
    bare.write_all(&raw).await?;
    let mut strings = Framed::new(bare, Netstrings::new(100_000));
    let long = strings.receive().await?.context("a string")?.to_vec();
    strings.send(&long).await?;
    let mut counted = strings.with_codec(Prefixed::new(Width::Bits16, 100)).ok().context("between frames")?;
    while let Some(frame) = counted.receive().await?.map(<[u8]>::to_vec) {
        counted.send(&frame).await?;
    }
    Ok(counted.close().await?)
}

fn frames_go_on_in_another_way_over_real_sockets(reactor: &str) {
    let server = Server::start(config(reactor, 1), speaks_all);
    let string = [&b"70000:"[..], &[b'y'; 70_000], b","].concat();
    let say = [&b"hello\r\n\0\n,"[..], &string, b"\0\x02ab\0\0\0\x01c"].concat();
    let back = [&b"raw\r\n\0\n,"[..], &string, b"\0\x02ab\0\0\0\x01c"].concat();
    // At once, and in small pieces.
    for size in [say.len(), 7] {
        let mut stream = client(server.at);
        let (mut writer, say) = (stream.try_clone().unwrap(), say.clone());
        let writing = spawn(move || {
            say.chunks(size).for_each(|piece| writer.write_all(piece).unwrap());
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        writing.join().unwrap();
        assert!(all == back, "{} bytes of {}, or others", all.len(), back.len());
    }
    server.stop().unwrap();
}

fn a_silent_client_hears_a_last_word_and_one_that_does_not_read_is_reset(reactor: &str) {
    let short = Duration::from_millis(300);
    let server = Server::start(config(reactor, 1), move |connection| async move {
        let timeouts =
            Timeouts { first_byte: Some(short), stalled_write: Some(short), ..Timeouts::default() };
        let mut connection = connection.timed(timeouts);
        if let Err(error) = connection.fill().await.map(<[u8]>::len) {
            ensure!(TimedOut::of(&error) == Some(TimedOut::FirstByte(short)), "{error:?}");
            connection.write_all(b"too late").await?;
            return Ok(connection.close().await?);
        }
        loop {
            connection.write_all(&[7; 65_536]).await?;
        }
    });
    let (mut silent, mut deaf) = (client(server.at), client(server.at));
    deaf.write_all(b"?").unwrap();
    let mut said = String::new();
    silent.read_to_string(&mut said).unwrap();
    assert_eq!(said, "too late");
    // It is over without having read anything.
    server.stop().unwrap();
    assert_eq!(end_of(&mut deaf), Err(ErrorKind::ConnectionReset));
}

fn a_client_with_too_many_connections_is_reset(reactor: &str) {
    let server = Server::start_with(config(reactor, 1), |_| {
        |_: &_| {
            let clients = Clients::new(2);
            move |connection| {
                let clients = clients.clone();
                async move {
                    let mut connection = clients.admit(connection)?;
                    connection.write_all(b"!").await?;
                    connection.fill().await?;
                    Ok(())
                }
            }
        }
    });
    let greeted = || {
        // A reset may come before the connect is told that it is done.
        let mut stream = TcpStream::connect(server.at).ok()?;
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read_exact(&mut [0]).ok().map(|()| stream)
    };
    let (first, second) = (greeted().unwrap(), greeted().unwrap());
    assert!(greeted().is_none(), "a third one is served");
    drop(first);
    let third = eventually("a place", greeted);
    drop((second, third));
    server.stop().unwrap();
}
