//! A disk that a test can fill to its last byte.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Attempts to shrink the disk while somebody writes to it.
const ATTEMPTS: u32 = 200;

/// A file system in memory, mounted on a folder. Dropping it removes the mount and its files.
///
/// A full one refuses writes as a full disk does: the kernel answers with ENOSPC.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
    bytes: u64,
}

impl SmallDisk {
    /// Mounts a disk of this size on a folder that exists. Only files that are written take memory.
    ///
    /// # Errors
    /// Fails without the right to mount, which usually only root has.
    pub fn mount(folder: &Path, bytes: u64) -> anyhow::Result<Self> {
        let size = format!("size={bytes}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "dataflow-test"]).arg(folder);
        run(&mut command).context("mount a small disk, which takes root")?;
        Ok(Self { folder: folder.to_owned(), bytes })
    }

    /// Returns the folder of the mount.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Shrinks the disk to its files, so that not one page is free.
    ///
    /// # Errors
    /// Fails when the files grow all the time.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut failure = String::new();
        for _ in 0..ATTEMPTS {
            // A file that grows meanwhile makes the kernel refuse.
            match self.resize(self.bytes_of("used")?) {
                Ok(()) if self.bytes_of("avail")? == 0 => return Ok(()),
                Ok(()) => "there is room again".clone_into(&mut failure),
                Err(error) => failure = format!("{error:#}"),
            }
        }
        bail!("fill {}: {failure}", self.folder.display())
    }

    /// Gives the disk its first size again.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn make_room(&self) -> anyhow::Result<()> {
        self.resize(self.bytes)
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        let size = format!("remount,size={bytes}");
        run(Command::new("mount").args(["-o", &size]).arg(&self.folder))
    }

    /// Returns a column of `df`, in bytes.
    fn bytes_of(&self, column: &str) -> anyhow::Result<u64> {
        let mut command = Command::new("df");
        command.args(["--block-size=1", &format!("--output={column}")]).arg(&self.folder);
        let output = command.output().context("run df")?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("read df")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes that still have files open must not keep the mount.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.folder)) {
            tracing::warn!(error = format!("{error:#}"), "the disk of a test stays mounted");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};

    use super::*;

    #[test]
    fn a_full_disk_takes_no_byte_until_there_is_room() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let Ok(disk) = SmallDisk::mount(folder.path(), 1 << 20) else {
            // Writes to stderr directly, because the test runner captures printed output.
            std::io::stderr().write_all(b"SKIPPED: no right to mount a disk\n")?;
            return Ok(());
        };
        std::fs::write(disk.folder().join("first"), [7; 10_000])?;

        disk.fill()?;
        let refused = std::fs::write(disk.folder().join("second"), [7; 10_000]).unwrap_err();
        disk.make_room()?;
        std::fs::write(disk.folder().join("second"), [7; 10_000])?;
        drop(disk);

        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "the files are gone");
        Ok(())
    }
}
