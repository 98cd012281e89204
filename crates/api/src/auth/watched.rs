//! A file that is read again when it changes.
//!
//! Every use costs one `stat`; there is no thread and no delay, so a key that is revoked is refused from the next request on.
//! Knows nothing of what is in the file. What happens when it goes bad: a file that is gone has no value (whoever removes the
//! keys means it); a file that cannot be read or understood keeps its last good value, and the log says so once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A change within this time of the last one may leave no trace in the file's times (kernels advance them in ticks of up to
/// 10 ms, network file systems more slowly), so what was read so soon after a change is read again.
const SETTLING: Duration = Duration::from_secs(2);

type Parse<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

/// A file's meaning, kept up to date.
pub(crate) struct Watched<T> {
    path: PathBuf,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// `None` when it was gone or unreadable.
    seen: Option<Stamp>,
    value: Option<Arc<T>>,
    /// What was logged last, so that it is logged once.
    complaint: Option<String>,
}

/// What changes when a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    /// Seconds and nanoseconds. Unlike the time of modification, nobody can set it back.
    changed: (i64, i64),
    settled: bool,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },
}

impl<T> Watched<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or `parse` refuses it.
    pub fn open(
        path: &Path,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let read = |source| FileError::Read {
            path: path.to_owned(),
            source,
        };
        let seen = Stamp::of(path).map_err(read)?;
        let bytes = fs::read(path).map_err(read)?;
        let value = parse(&bytes).map_err(|message| FileError::Content {
            path: path.to_owned(),
            message,
        })?;
        Ok(Self {
            path: path.to_owned(),
            parse: Box::new(parse),
            state: Mutex::new(State {
                seen: Some(seen),
                value: Some(Arc::new(value)),
                complaint: None,
            }),
        })
    }

    /// What the file says now; `None` if there is no file.
    pub fn get(&self) -> Option<Arc<T>> {
        // Before the content: a change in between shows at the next call.
        let stamp = Stamp::of(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match stamp {
            Ok(stamp) if state.seen == Some(stamp) && stamp.settled => {}
            Ok(stamp) => self.read(&mut state, stamp),
            Err(error) => self.unreadable(&mut state, &error),
        }
        state.value.clone()
    }

    fn read(&self, state: &mut State<T>, stamp: Stamp) {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(state, &error),
        };
        let first_look = state.seen.map(Stamp::identity) != Some(stamp.identity());
        state.seen = Some(stamp);
        match (self.parse)(&bytes) {
            Ok(value) => {
                state.value = Some(Arc::new(value));
                state.complaint = None;
                if first_look {
                    tracing::info!(path = %self.path.display(), "read again, because it changed");
                }
            }
            Err(message) => {
                self.complain(
                    state,
                    format!("not usable, so the last good one stays: {message}"),
                );
            }
        }
    }

    fn unreadable(&self, state: &mut State<T>, error: &io::Error) {
        state.seen = None;
        if error.kind() == io::ErrorKind::NotFound {
            state.value = None;
            self.complain(state, "gone: nothing in it holds any more".to_owned());
        } else {
            self.complain(
                state,
                format!("cannot be read, so the last good one stays: {error}"),
            );
        }
    }

    fn complain(&self, state: &mut State<T>, complaint: String) {
        if state.complaint.as_ref() != Some(&complaint) {
            tracing::error!(path = %self.path.display(), "{complaint}");
            state.complaint = Some(complaint);
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let changed_at = SystemTime::UNIX_EPOCH
            + Duration::new(changed.0.max(0) as u64, changed.1.max(0) as u32);
        // A clock that is behind the file's: not settled.
        let age = SystemTime::now()
            .duration_since(changed_at)
            .unwrap_or_default();
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            changed,
            settled: age > SETTLING,
        })
    }

    fn identity(self) -> (u64, u64, u64, (i64, i64)) {
        (self.device, self.inode, self.len, self.changed)
    }
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the value: it may be secret.
        f.debug_struct("Watched").field("path", &self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder_with(text: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn number(bytes: &[u8]) -> Result<u32, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        text.trim()
            .parse()
            .map_err(|_| format!("{text:?} is no number"))
    }

    #[test]
    fn every_change_is_seen_at_the_next_use() {
        let (folder, path) = folder_with("1");
        let watched = Watched::open(&path, number).unwrap();
        // Same length, and faster than the clock of the file system ticks.
        for n in [1, 2, 3, 4, 5, 6, 7, 8, 9] {
            fs::write(&path, n.to_string()).unwrap();
            assert_eq!(watched.get().as_deref(), Some(&n));
        }
        let other = folder.path().join("other");
        fs::write(&other, "77").unwrap();
        fs::rename(other, &path).unwrap();
        assert_eq!(watched.get().as_deref(), Some(&77));
    }

    #[test]
    fn what_is_not_usable_changes_nothing_and_what_is_gone_is_gone() {
        let (_folder, path) = folder_with("1");
        let watched = Watched::open(&path, number).unwrap();
        fs::write(&path, "one").unwrap();
        assert_eq!(watched.get().as_deref(), Some(&1));
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.get(), None);
        fs::write(&path, "2").unwrap();
        assert_eq!(watched.get().as_deref(), Some(&2));
    }

    #[test]
    fn a_file_that_was_never_good_is_an_error() {
        let (folder, path) = folder_with("one");
        let message = Watched::open(&path, number).unwrap_err().to_string();
        assert!(message.ends_with("n: \"one\" is no number"), "{message}");
        let error = Watched::open(&folder.path().join("nothing"), number).unwrap_err();
        assert!(matches!(error, FileError::Read { .. }));
    }
}
