//! Streams.

use super::*;

#[test]
fn bytes_go_both_ways_and_end() {
    on_shard(async |reactor| {
        let (mut near, mut far) = pair(&*reactor).await;
        write_all(&mut *near.sink, b"ping").await.unwrap();
        assert_eq!(read(&mut *far.source, 4).await.unwrap(), b"ping");
        write_all(&mut *far.sink, b"pong").await.unwrap();
        drop(far);
        assert_eq!(read(&mut *near.source, 100).await.unwrap(), b"pong");
    });
}
