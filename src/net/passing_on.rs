//! The parts of a shard that pauses: who comes to them is served by others.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::listener::{HANDED_WITHIN, Listening, Steering};
use super::places::Places;
use super::queue::Queue;
use crate::shard::{Shard, Task};
use crate::steer::Mode;

/// See [`Shard::pass_on_clients_of`].
#[derive(Debug)]
pub(crate) struct PassingOn {
    own: Rc<Queue>,
    accepting: Option<Task<()>>,
}

impl Shard {
    /// Until it is dropped, clients that come to this shard's part of a listener are handed on to other shards; the socket
    /// stays then. What other shards send here waits.
    pub(crate) fn pass_on_clients_of(&self, listening: &Listening) -> io::Result<PassingOn> {
        let sender = self.sender(listening.handoff()).map_err(io::Error::other)?;
        let held = self.take_part(listening)?;
        let Steering { mode, seed, .. } = listening.steering();
        // In mode `source` they wait for this shard: no other has what it will know of them. Else whoever has room is as good.
        let mode = if mode == Mode::Source { mode } else { Mode::Flow };
        let steering = Steering { mode, seed, placed: true };
        let stays = Rc::new(Cell::new(true));
        let (own, _, accepting) = self.accept_by(listening, held, sender, steering, stays)?;
        // With no place of its own, it has none for anybody.
        own.serve_in(&Places::new(0));
        Ok(PassingOn { own, accepting: Some(self.spawn("pass on", accepting.run())) })
    }
}

impl PassingOn {
    /// The listener is closed: so is this part, once who waits in its backlog is passed on, as far as that takes a second.
    pub(crate) fn leave(self, shard: &Shard) {
        self.own.drain();
        let over = shard.sleep(HANDED_WITHIN);
        shard.spawn_detached("leave", async move {
            over.await;
            drop(self);
        });
    }
}

impl Drop for PassingOn {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.take() {
            task.cancel();
        }
        self.own.close();
    }
}
