//! A folder as a store of objects: each object is a file.
//!
//! A file is written under another name, made durable, and then linked to its own name. The link
//! fails if that name exists. So a file is whole when it appears, and nothing replaces it.

mod draft;
mod durable;
mod listing;
mod names;

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pipeline::{Error, Recovery};
use rustix::fs::{Access, access};
use service::Dependency;
use service::create::{Created, NotCreated};
use service::tools::preflight::State;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::contract::{ObjectStore, Outage};
use crate::object::Object;
use draft::{Draft, LinkTwice};
use durable::{DurableFolders, sync};

/// Maximum operations at a time. Each takes a thread, even if nobody waits for it any more.
const MAX_THREADS: usize = 64;
/// Names in one page of a listing.
const PAGE: usize = 1000;

/// A folder that keeps objects as files. Clones share their state.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Identity of the root at the first check that found it right. The root of an unmounted disk is
    /// another folder.
    first: OnceLock<FolderId>,
    folders: DurableFolders,
    threads: Arc<Semaphore>,
}

/// Identity of a folder, whatever its path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderId {
    file_system: u64,
    inode: u64,
}

impl FolderId {
    fn of(folder: &Metadata) -> Self {
        Self { file_system: folder.dev(), inode: folder.ino() }
    }
}

impl Folder {
    /// Folder in the store for files that are not objects yet. No name of an object leads to it.
    pub const DRAFTS: &str = names::DRAFTS;

    /// Creates a store on this folder. Touches nothing yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let root = root.to_owned();
        let threads = Arc::new(Semaphore::new(MAX_THREADS));
        let (first, folders) = (OnceLock::new(), DurableFolders::default());
        Self(Arc::new(Inner { root, first, folders, threads }))
    }

    /// Runs work that blocks on another thread. It goes on when the caller gives up: a file may then
    /// appear later, and the next attempt finds it.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.0.threads).acquire_owned().await.map_err(io::Error::other)?;
        let inner = Arc::clone(&self.0);
        let done = spawn_blocking(move || {
            // A thread that hangs keeps its permit, so the threads stay bounded.
            let _permit = permit;
            work(&inner)
        });
        match done.await {
            Ok(result) => result,
            // The pipeline handles panics.
            Err(panicked) if panicked.is_panic() => {
                std::panic::resume_unwind(panicked.into_panic())
            }
            Err(cancelled) => Err(io::Error::other(cancelled)),
        }
    }

    fn retry(&self, action: &'static str, name: &str, error: &io::Error) -> Error {
        Recovery::Retry.because(action, format!("{}: {error}", self.address(name)))
    }

    fn root(&self) -> std::path::Display<'_> {
        self.0.root.display()
    }
}

impl ObjectStore for Folder {
    /// A file of the same name and content counts as created.
    async fn create(&self, object: &Object) -> Result<(), Error> {
        let (name, content) = (object.name.clone(), object.content.clone());
        let created = self.run(move |inner| inner.create(&name, &content)).await;
        created.map_err(|error| self.retry("create file", &object.name, &error))
    }

    async fn list(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let (prefix, after) = (prefix.to_owned(), page.map(str::to_owned));
        let names = self
            .run(move |inner| listing::list(&inner.root, &prefix, after.as_deref(), PAGE))
            .await
            .map_err(|error| self.retry("list files", "", &error))?;
        let next = names.last().filter(|_| names.len() == PAGE).cloned();
        Ok((names, next))
    }

    async fn read(&self, name: &str) -> Result<Bytes, Error> {
        let path = name.to_owned();
        let content = self.run(move |inner| fs::read(names::path(&inner.root, &path)?)).await;
        content.map(Bytes::from).map_err(|error| self.retry("read file", name, &error))
    }

    fn address(&self, name: &str) -> String {
        self.0.root.join(name).display().to_string()
    }

    async fn find(&self) -> Result<(), Outage> {
        self.run(|inner| Ok(inner.find())).await.unwrap_or_else(|error| {
            Err(Outage::Unreachable(format!("folder {}: {error}", self.root())))
        })
    }

    async fn dependency(&self) -> Dependency {
        let state = match self.run(|inner| Ok(inner.state())).await {
            Ok(state) => state,
            Err(error) => State::Unreachable(error.to_string()),
        };
        Dependency { kind: "folder", name: self.root().to_string(), roles: &[], state }
    }

    fn needs_levels(&self) -> bool {
        true
    }

    fn is_creatable(&self) -> bool {
        true
    }

    async fn ensure(&self, _project: &str) -> Result<Created, NotCreated> {
        let created = self.run(|inner| durable::create_all(&inner.root)).await;
        created.map_err(|error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => NotCreated::Yet(error.to_string()),
            _ => NotCreated::Ever(format!("{error}: give this user the right to write there")),
        })
    }
}

impl Inner {
    fn create(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = names::path(&self.root, name)?;
        let folder = path.parent().unwrap_or(&self.root);
        self.link(&path, folder, content).inspect_err(|error| self.forget_if_gone(error))
    }

    fn link(&self, path: &Path, folder: &Path, content: &[u8]) -> io::Result<()> {
        // Nothing is made below another root.
        self.expect_root()?;
        let drafts = self.root.join(names::DRAFTS);
        self.folders.ensure(&self.root, &drafts)?;
        self.folders.ensure(&self.root, folder)?;
        let draft = Draft::write(&drafts, content)?;
        match fs::hard_link(draft.path(), path) {
            Ok(()) => {}
            // An attempt without an answer may have made it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::read(path)? != content {
                    return Err(io::Error::other("a file of this name has another content"));
                }
            }
            Err(error) => return Err(error),
        }
        // An earlier attempt may have failed here, so the folder is synced in any case.
        sync(folder)?;
        // The disk may have gone meanwhile, and the file be on the one below.
        self.expect_root()
    }

    fn expect_root(&self) -> io::Result<()> {
        self.look().map(drop).map_err(|outage| io::Error::other(outage.to_string()))
    }

    /// Forgets all folders if one of them is gone. The next attempt makes it again.
    fn forget_if_gone(&self, error: &io::Error) {
        if error.kind() == ErrorKind::NotFound {
            self.folders.forget();
        }
    }

    /// Returns the identity of the root. The root must be a folder, and the one of the first check.
    fn look(&self) -> Result<FolderId, Outage> {
        let folder = self.root.display();
        let found = fs::metadata(&self.root).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Outage::Missing(format!("folder {folder} does not exist")),
            _ => Outage::Unreachable(format!("folder {folder}: {error}")),
        })?;
        if !found.is_dir() {
            return Err(Outage::Missing(format!("{folder} is not a folder")));
        }
        let id = FolderId::of(&found);
        if self.first.get().is_some_and(|first| *first != id) {
            return Err(Outage::Missing(format!(
                "folder {folder} is another one than at the start: mount its disk again, or restart \
                 the service to use this folder"
            )));
        }
        Ok(id)
    }

    /// Checks the root. The first success decides which folder it is from then on.
    fn find(&self) -> Result<(), Outage> {
        let id = self.look()?;
        self.probe()?;
        // A disk that was mounted during the check has another folder. The next check takes that.
        if self.look()? != id {
            let folder = self.root.display();
            return Err(Outage::Unreachable(format!(
                "folder {folder} was replaced during a check"
            )));
        }
        self.first.get_or_init(|| id);
        Ok(())
    }

    /// Tries to create a file twice. The second time must fail.
    fn probe(&self) -> Result<(), Outage> {
        let folder = self.root.display();
        let unreachable = |error: io::Error| {
            self.forget_if_gone(&error);
            Outage::Unreachable(format!("folder {folder}: {error}"))
        };
        let drafts = self.root.join(names::DRAFTS);
        self.folders.ensure(&self.root, &drafts).map_err(unreachable)?;
        draft::sweep(&drafts).map_err(unreachable)?;
        let draft = Draft::write(&drafts, b"").map_err(unreachable)?;
        match draft.link_twice() {
            Ok(LinkTwice::Refused) => Ok(()),
            Ok(LinkTwice::Replaced) => {
                Err(Outage::Unfit(format!("the file system of {folder} replaces files")))
            }
            // The same user has just made the file there, so it is not about rights.
            Err(error)
                if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) =>
            {
                Err(Outage::Unfit(format!(
                    "the file system of {folder} has no hard links ({error}), so no file would appear whole: \
                     use another folder"
                )))
            }
            Err(error) => Err(unreachable(error)),
        }
    }

    fn state(&self) -> State {
        match self.look() {
            Err(Outage::Missing(why)) => State::Missing(why),
            Err(Outage::Unreachable(why) | Outage::Unfit(why)) => State::Unreachable(why),
            Ok(_) => match access(&self.root, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => State::Ready,
                Err(error) => State::Denied(format!("this user may not write there: {error}")),
            },
        }
    }
}
