//! What is written down of a connection for the access log, while it lasts.

use std::rc::Rc;

use waterwheel_reactor::{Address, Time};

use super::access::{Record, ShardLog};
use super::first::First;
use super::upstreams::Lease;
use crate::net::Connection;
use crate::shard::Shard;

/// A record in the making.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    log: Rc<ShardLog>,
    shard: Shard,
    began: Time,
    /// When it was known where it goes.
    asked: Time,
}

impl Entry {
    pub(super) fn new(log: Rc<ShardLog>, client: &Connection, proxy: Option<&str>, id: u64) -> Entry {
        let (shard, shown) = (client.shard().clone(), |address: Address| address.to_string());
        let began = shard.turn_time();
        let record = Record {
            began: shard.reactor().unix_time(),
            shard: shard.id().index(),
            id,
            client: client.peer().ok().map(shown),
            listener: client.local().ok().map(shown),
            proxy: proxy.map(str::to_owned),
            ..Record::default()
        };
        Entry { record, log, shard, began, asked: began }
    }

    /// What the first bytes said, and where it goes for that.
    pub(super) fn heard(&mut self, first: &First, group: Option<&str>) {
        self.believes(first.source.as_ref());
        self.record.sni.clone_from(&first.sni);
        self.record.group = group.map(str::to_owned);
        self.asked = self.shard.turn_time();
    }

    /// Who a believed header says that the client is.
    pub(super) fn believes(&mut self, source: Option<&Address>) {
        self.record.believed = source.map(ToString::to_string);
    }

    /// An upstream was connected.
    pub(super) fn connected(&mut self, lease: &Lease) {
        let took = self.shard.turn_time().since(self.asked);
        self.record.upstream = Some(lease.address.to_string());
        self.record.queue = Some(lease.waited);
        self.record.connect = Some(took.saturating_sub(lease.waited));
    }

    /// It has ended.
    pub(super) fn write(mut self: Box<Self>) {
        self.record.duration = self.shard.turn_time().since(self.began);
        self.log.write(&self.record);
    }
}
