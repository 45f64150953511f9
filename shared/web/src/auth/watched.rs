//! Content of a file or a URL that is read again while the process runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::content;

/// Interval at which files are read.
pub(super) const FILE_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which content is read that was never read with success.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two readings that callers ask for.
const ASKED_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of callers that wait for a reading. Further ones do not wait.
const MAX_WAITING: usize = 64;

/// Place of the content.
pub(super) enum Origin {
    File(PathBuf),
    Url { url: String, client: Client },
}

impl Origin {
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                // A slow file system must block no worker.
                let read = spawn_blocking(move || content::of_file(&path)).await;
                read.unwrap_or_else(|error| Err(format!("read file: {error}")))
            }
            Self::Url { url, client } => content::of_url(client, url).await,
        }
    }
}

/// Instructions for [`Watched::start`].
pub(super) struct Plan<T> {
    /// Key of the setting, for logs.
    pub key: String,
    pub origin: Origin,
    /// Interval between two readings.
    pub interval: Duration,
    /// Makes a value of the content. Its error must not repeat a secret.
    pub parse: fn(&[u8]) -> Result<T, String>,
}

/// Latest good value of a file or a URL. A reading that fails keeps the value before it.
#[derive(Clone)]
pub(super) struct Watched<T> {
    latest: watch::Receiver<Option<Arc<T>>>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
    /// Task that reads. It ends with the last clone.
    _reading: Arc<JoinSet<()>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads once, then again and again. The result of the first reading comes back too: with an
    /// error, there is no value yet.
    pub(super) async fn start(plan: Plan<T>) -> (Self, Result<(), String>) {
        let (sender, latest) = watch::channel(None);
        let (asks, asked) = mpsc::channel(MAX_WAITING);
        let due = Instant::now();
        let mut reader =
            Reader { plan, sender, asked, due, last_asked: None, digest: None, failure: None };
        let first = reader.read().await;
        let mut reading = JoinSet::new();
        reading.spawn(reader.run());
        (Self { latest, asks, _reading: Arc::new(reading) }, first)
    }

    /// Returns the latest good value. Returns nothing if there was never one.
    pub(super) fn latest(&self) -> Option<Arc<T>> {
        self.latest.borrow().clone()
    }

    /// Has the content read at once, and waits until that is done. Returns at once if this was asked
    /// for a short time ago, or if too many wait.
    pub(super) async fn refresh(&self) {
        let (done, wait) = oneshot::channel();
        if self.asks.try_send(done).is_ok() {
            // The reader drops the other end in any case.
            let _ = wait.await;
        }
    }
}

struct Reader<T> {
    plan: Plan<T>,
    sender: watch::Sender<Option<Arc<T>>>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    /// Time of the next reading.
    due: Instant,
    /// Time of the last reading that a caller has asked for.
    last_asked: Option<Instant>,
    /// Digest of the content that was read last.
    digest: Option<Vec<u8>>,
    /// Failure that was logged last.
    failure: Option<String>,
}

impl<T> Reader<T> {
    async fn run(mut self) {
        loop {
            let waiting = tokio::select! {
                () = sleep_until(self.due) => None,
                Some(waiting) = self.asked.recv() => Some(waiting),
            };
            if waiting.is_none() || self.may_be_asked() {
                self.report().await;
            }
            // Those who wait look again, with or without a reading.
            drop(waiting);
        }
    }

    fn may_be_asked(&mut self) -> bool {
        let now = Instant::now();
        let may = self.last_asked.is_none_or(|last| now - last >= ASKED_INTERVAL);
        if may {
            self.last_asked = Some(now);
        }
        may
    }

    /// Reads, and logs what has changed.
    async fn report(&mut self) {
        let key = &self.plan.key.clone();
        match self.read().await {
            Ok(()) => {
                if self.failure.take().is_some() {
                    info!(setting = key, "keys can be read again");
                }
            }
            Err(failure) if self.failure.as_ref() == Some(&failure) => {}
            Err(failure) => {
                warn!(setting = key, error = failure, "keys cannot be read, the last ones stay");
                self.failure = Some(failure);
            }
        }
    }

    /// Reads once, and publishes a value that is new.
    async fn read(&mut self) -> Result<(), String> {
        let read = self.read_new().await;
        let is_there = self.sender.borrow().is_some();
        let wait = if is_there { self.plan.interval } else { RETRY_INTERVAL };
        self.due = Instant::now() + wait;
        read
    }

    async fn read_new(&mut self) -> Result<(), String> {
        let content = self.plan.origin.read().await?;
        let found = digest(&SHA256, &content).as_ref().to_vec();
        if self.digest.as_ref() == Some(&found) {
            return Ok(());
        }
        let value = (self.plan.parse)(&content)?;
        let is_change = self.digest.replace(found).is_some();
        if is_change {
            info!(setting = self.plan.key, "new keys were read");
        }
        self.sender.send_replace(Some(Arc::new(value)));
        Ok(())
    }
}
