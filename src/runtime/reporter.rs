//! Reports while a program runs, on a thread that may wait for whoever makes or reads them.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use flume::{Receiver, Sender};

use crate::mesh::Remote;

/// How long the end of a run waits for a report that is being made.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a program does when it is asked for a report (SIGUSR1).
pub(super) trait Report: Fn(&Remote) + Send {}
impl<F: Fn(&Remote) + Send> Report for F {}

impl fmt::Debug for dyn Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

/// Asks for reports, and never waits for one. The thread ends with it.
#[derive(Debug)]
pub(super) struct Asking(Sender<()>);

impl Asking {
    /// Whatever is counted when this is called will be in a report: if one waits to be made already, it is that one.
    pub(super) fn ask(&self) {
        let _ = self.0.try_send(());
    }
}

/// The thread that makes reports. To be dropped after what asks for them: it waits for a report that is being made, two
/// seconds at most, and leaves one that takes longer to itself.
#[derive(Debug)]
pub(super) struct Reporter {
    /// Disconnected once the thread has ended.
    ended: Receiver<()>,
}

impl Reporter {
    /// Starts the thread; it inherits the caller's CPU mask, so start it before the first shard is pinned.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(report: Option<Box<dyn Report>>, remote: Remote) -> io::Result<(Asking, Reporter)> {
        // Of requests that nobody has begun to answer one is enough.
        let (ask, asked) = flume::bounded(1);
        let (over, ended) = flume::bounded(0);
        thread::Builder::new().name("reports".to_owned()).spawn(move || {
            let _over: Sender<()> = over;
            for () in asked {
                let Some(report) = &report else {
                    tracing::info!("asked for a report, but this program has none");
                    continue;
                };
                if catch_unwind(AssertUnwindSafe(|| report(&remote))).is_err() {
                    tracing::error!("making a report panicked");
                }
            }
        })?;
        Ok((Asking(ask), Reporter { ended }))
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Nothing is ever sent: it is disconnected or takes too long.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}
