//! Folders that are still there after a power cut.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use service::create::Created;

/// Maximum folders that are remembered. Further ones are synced again.
const MAX_KNOWN: usize = 10_000;

/// Folders whose entry in their parent is known to be durable.
#[derive(Debug, Default)]
pub(super) struct DurableFolders(Mutex<HashSet<PathBuf>>);

impl DurableFolders {
    /// Creates a folder below `root`, and makes it durable. Does not create `root` itself.
    ///
    /// A folder that exists may have been made a moment ago by another thread. So its parent is
    /// synced in any case, unless the folder is known to be durable.
    pub(super) fn ensure(&self, root: &Path, folder: &Path) -> io::Result<()> {
        let Some(parent) = folder.parent().filter(|_| folder != root) else { return Ok(()) };
        if self.known().contains(folder) {
            return Ok(());
        }
        self.ensure(root, parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => sync(parent)?,
        }
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }

    /// Forgets all folders, because one of them is gone.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a folder with all folders above it.
pub(super) fn create_all(folder: &Path) -> io::Result<Created> {
    if folder.is_dir() {
        return Ok(Created::Before);
    }
    let parent = folder.parent().ok_or_else(|| io::Error::other("it has no folder above it"))?;
    create_all(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => {}
        // Another replica was faster.
        Err(_) if folder.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync(parent)?;
    Ok(Created::Now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_gone_is_made_again_once_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let (folders, folder) = (DurableFolders::default(), root.path().join("a/b/c"));

        folders.ensure(root.path(), &folder).unwrap();
        fs::remove_dir_all(root.path().join("a")).unwrap();
        folders.ensure(root.path(), &folder).unwrap();
        assert!(!folder.exists(), "it is known");
        folders.forget();
        folders.ensure(root.path(), &folder).unwrap();

        assert!(folder.is_dir());
        let gone = root.path().join("gone");
        let error = folders.ensure(&gone, &gone.join("a")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "the root is not made");
    }

    #[test]
    fn a_whole_path_is_created_once() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");

        assert_eq!(create_all(&folder).unwrap(), Created::Now);
        assert_eq!(create_all(&folder).unwrap(), Created::Before);
        fs::write(folder.join("file"), "").unwrap();
        assert!(create_all(&folder.join("file/c")).is_err());
    }
}
