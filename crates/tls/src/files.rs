//! Something that is made of files, and made again when they change.
//!
//! Files are looked at, not watched: a look costs one `stat` a file, works on every file system and through links that
//! are switched. Several files are replaced one after the other, so a change counts only once it has rested from one
//! look to the next.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::error::TlsError;

/// What tells that a file is not the one that was read. `None`: it is not there, or cannot be looked at.
type Stamp = Option<[u64; 6]>;

fn stamp(file: &Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    Some([
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime().cast_unsigned(),
        found.mtime_nsec().cast_unsigned(),
        found.ctime().cast_unsigned() ^ found.ctime_nsec().cast_unsigned().rotate_left(32),
    ])
}

/// What a look at the files came to.
#[derive(Debug)]
pub enum Look {
    /// They are as they were read.
    Same,
    /// They have changed since the last look; the next one decides.
    Changing,
    /// What they are now is in force.
    Renewed,
    /// What they are now cannot be used; what was in force stays.
    Refused(TlsError),
}

type Make<T> = dyn Fn() -> Result<T, TlsError> + Send + Sync;

/// A value made of files.
pub(crate) struct FromFiles<T> {
    current: ArcSwap<T>,
    files: Vec<PathBuf>,
    make: Box<Make<T>>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// What was read last, in force or refused.
    read: Vec<Stamp>,
    /// What there was at the last look.
    last: Vec<Stamp>,
}

impl<T> FromFiles<T> {
    /// Makes the value for the first time. `make` reads all of `files` and nothing else.
    pub(crate) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // Looked at before they are read: a change in between is seen at the next look.
        let stamps: Vec<Stamp> = files.iter().map(|file| stamp(file)).collect();
        Ok(Self {
            current: ArcSwap::from_pointee(make()?),
            files,
            make: Box::new(make),
            seen: Mutex::new(Seen {
                read: stamps.clone(),
                last: stamps,
            }),
        })
    }

    /// The value in force.
    pub(crate) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Looks whether the files have changed, and reads them if they have and have come to rest.
    pub(crate) fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        if now == seen.read {
            seen.last = now;
            return Look::Same;
        }
        if now != seen.last {
            seen.last = now;
            return Look::Changing;
        }
        seen.read = now;
        match (self.make)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                Look::Renewed
            }
            Err(error) => Look::Refused(error),
        }
    }
}

impl<T> fmt::Debug for FromFiles<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFiles")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    /// A folder that is gone after the test.
    pub(crate) struct Folder(pub(crate) PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-tls-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn number(file: PathBuf) -> FromFiles<u32> {
        let read = file.clone();
        FromFiles::new(vec![file], move || {
            let missing = || TlsError::NoCertificate { file: read.clone() };
            let text = fs::read_to_string(&read).map_err(|_| missing())?;
            text.parse().map_err(|_| missing())
        })
        .unwrap()
    }

    #[test]
    fn a_change_counts_when_it_has_rested() {
        let folder = Folder::new("rest");
        let file = folder.write("a", "1");
        let value = number(file);
        assert!(matches!(value.look(), Look::Same));
        folder.write("a", "22");
        assert!(matches!(value.look(), Look::Changing));
        folder.write("a", "333");
        assert!(matches!(value.look(), Look::Changing));
        assert_eq!(*value.current(), 1);
        assert!(matches!(value.look(), Look::Renewed));
        assert_eq!(*value.current(), 333);
        assert!(matches!(value.look(), Look::Same));
    }

    #[test]
    fn what_cannot_be_used_is_told_once_and_changes_nothing() {
        let folder = Folder::new("bad");
        let file = folder.write("a", "1");
        let value = number(file.clone());
        folder.write("a", "no number");
        assert!(matches!(value.look(), Look::Changing));
        assert!(matches!(value.look(), Look::Refused(_)));
        assert!(matches!(value.look(), Look::Same));
        assert_eq!(*value.current(), 1);
        fs::remove_file(&file).unwrap();
        assert!(matches!(value.look(), Look::Changing));
        assert!(matches!(value.look(), Look::Refused(_)));
        folder.write("a", "4");
        assert!(matches!(value.look(), Look::Changing));
        assert!(matches!(value.look(), Look::Renewed));
        assert_eq!(*value.current(), 4);
    }

    #[test]
    fn a_file_that_is_moved_into_place_is_another_file() {
        let folder = Folder::new("moved");
        let file = folder.write("a", "1");
        let value = number(file.clone());
        let next = folder.write("b", "2");
        fs::rename(next, file).unwrap();
        assert!(matches!(value.look(), Look::Changing));
        assert!(matches!(value.look(), Look::Renewed));
        assert_eq!(*value.current(), 2);
    }
}
