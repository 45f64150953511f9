//! Files that are not objects yet.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::warn;
use uuid::Uuid;

/// Age of a draft that nobody writes any more. Its process has ended.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file under a name of its own. Dropping it removes that name.
#[derive(Debug)]
pub(super) struct Draft(PathBuf);

/// Outcome of a second link to the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkTwice {
    Refused,
    Replaced,
}

impl Draft {
    /// Writes a durable file into a folder.
    pub(super) fn write(folder: &Path, content: &[u8]) -> io::Result<Self> {
        let path = folder.join(Uuid::new_v4().to_string());
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let draft = Self(path);
        file.write_all(content)?;
        file.sync_all()?;
        Ok(draft)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Links the file to a second name, twice.
    pub(super) fn link_twice(&self) -> io::Result<LinkTwice> {
        let linked = Self(self.0.with_extension("link"));
        fs::hard_link(self.path(), linked.path())?;
        match fs::hard_link(self.path(), linked.path()) {
            Ok(()) => Ok(LinkTwice::Replaced),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(LinkTwice::Refused),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                warn!(path = %self.0.display(), %error, "a file that is not needed stays");
            }
        }
    }
}

/// Removes the files of processes that ended while they wrote.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let written = entry.metadata().and_then(|found| found.modified());
        // A file without a time was just removed by its owner.
        let age = written.ok().and_then(|written| now.duration_since(written).ok());
        if age.is_some_and(|age| age > ABANDONED) {
            drop(Draft(entry.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drafts_that_nobody_writes_any_more_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        for path in [&old, &new] {
            fs::write(path, "part").unwrap();
        }
        let long_ago = SystemTime::now() - ABANDONED - Duration::from_secs(60);
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();

        sweep(folder.path()).unwrap();

        assert!(!old.exists() && new.exists());
    }
}
