//! Files of Unix sockets, which outlive their sockets and which several processes may want at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::thread::nanosleep;
use rustix::time::Timespec;

/// The file of a Unix socket of this process, removed when this is dropped, unless somebody else has taken its name by
/// then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Held open, for the sake of its number alone: else the next file might get it.
    file: File,
}

impl SocketFile {
    /// The file that a socket was just bound to.
    ///
    /// # Errors
    /// There is none, or it is not a socket's: `InvalidInput`.
    pub fn of(path: &Path) -> io::Result<SocketFile> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.file_type().is_socket() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the file is not a socket's"));
        }
        Ok(SocketFile { path: path.to_owned(), file })
    }

    fn is_there(&self) -> io::Result<bool> {
        let (own, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _alone = alone(&self.path);
        // What cannot be removed, as after a change of user, stays for the next bind to replace.
        if self.is_there().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps other processes from binding to a path, or removing it, while this lives: a lock on its folder (flock(2)),
/// which leaves nothing behind. They have to ask for it too, as all that bind with this crate do.
///
/// `None` after a second in which somebody else had it, and where there are no such locks: better a start that two at
/// once may spoil than none.
pub(crate) fn alone(path: &Path) -> Option<File> {
    const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    const STEPS: usize = 200;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).ok()?;
    for _ in 0..STEPS {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            // A signal may end it early, which only makes this a little less patient.
            Err(TryLockError::WouldBlock) => drop(nanosleep(&STEP)),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}
