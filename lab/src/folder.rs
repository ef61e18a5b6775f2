//! A temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of a scenario's own, removed on drop.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder.
    ///
    /// # Panics
    /// Where the system's temporary folder cannot be written.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weir-lab-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("make a temporary folder");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the system's temporary folder, which the system clears.
        let _ = fs::remove_dir_all(&self.path);
    }
}
