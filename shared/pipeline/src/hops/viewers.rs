//! Viewers of a process, and the hops that wait for them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dead_letters::{RecentDeadLetter, RecentDeadLetters};
use super::{Hop, HopStep, Ids, WaitingBytes};

/// Maximum number of viewers of a process.
const MAX_VIEWERS: usize = 256;
/// Maximum number of hops that wait for one viewer.
const MAX_WAITING: usize = 256;
/// Maximum size of all hops that wait, in bytes.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Maximum size of the identities that messages keep for later steps, in bytes.
const MAX_OWNED_BYTES: usize = 4 * 1024 * 1024;
/// Samples that a viewer of samples gets in a second.
const SAMPLES: u32 = 10;

/// Messages that a viewer wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only messages of this device.
    pub device: Option<String>,
    /// Only the message with this id.
    pub ingest_id: Option<String>,
    /// True for a sample: at most ten hops a second, and only of transformed messages and those that
    /// left the stream without a record.
    pub tap: bool,
}

impl Filter {
    fn takes(&self, ids: &Ids<'_>, step: HopStep) -> bool {
        let is =
            |wanted: &Option<String>, id: &str| wanted.as_ref().is_none_or(|wanted| wanted == id);
        let is_sampled = match step {
            HopStep::Transformed | HopStep::Skipped | HopStep::DeadLettered | HopStep::Dropped => {
                true
            }
            HopStep::Received | HopStep::Durable | HopStep::Nacked => false,
        };
        (is_sampled || !self.tap)
            && is(&self.device, &ids.device_id)
            && is(&self.ingest_id, &ids.ingest_id)
    }

    /// Returns true if the viewer wants to see all steps of a message with these ids.
    fn follows(&self, ids: &Ids<'_>) -> bool {
        self.takes(ids, HopStep::Durable)
    }

    /// Returns true if the viewer may want to see a message with these ids.
    fn may_take(&self, ids: &Ids<'_>) -> bool {
        self.takes(ids, HopStep::Transformed)
    }
}

/// There are as many viewers as a process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_VIEWERS} viewers already")]
pub struct TooManyViewers;

/// Viewers of the pipelines of a process, and its last dead letters. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Hops(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// True while there is a viewer.
    is_watched: AtomicBool,
    /// Replaced as a whole, so that the lock is held for a moment only.
    viewers: Mutex<Arc<[Arc<Watcher>]>>,
    dead_letters: Mutex<RecentDeadLetters>,
    waiting_bytes: Arc<AtomicUsize>,
    owned_bytes: Arc<AtomicUsize>,
    dropped: Counter,
}

/// The pipeline's side of a viewer.
#[derive(Debug)]
struct Watcher {
    filter: Filter,
    sender: mpsc::Sender<Arc<Hop>>,
    dropped: AtomicUsize,
    samples: Mutex<Samples>,
}

/// Samples that a viewer may still get.
#[derive(Debug)]
struct Samples {
    left: f64,
    at: Instant,
}

impl Samples {
    fn take(&mut self, now: Instant) -> bool {
        let most = f64::from(SAMPLES);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * most).min(most);
        self.at = now;
        let may_pass = self.left >= 1.0;
        if may_pass {
            self.left -= 1.0;
        }
        may_pass
    }
}

impl Hops {
    /// Returns true while somebody watches. It costs one relaxed load.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.0.is_watched.load(Ordering::Relaxed)
    }

    /// Adds a viewer. It is removed when it is dropped.
    ///
    /// # Errors
    /// There are too many.
    pub fn watch(&self, filter: Filter) -> Result<Viewer, TooManyViewers> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let samples = Samples { left: f64::from(SAMPLES), at: Instant::now() };
        let (dropped, samples) = (AtomicUsize::new(0), Mutex::new(samples));
        let watcher = Arc::new(Watcher { filter, sender, dropped, samples });
        let mut viewers = lock(&self.0.viewers);
        if viewers.len() >= MAX_VIEWERS {
            return Err(TooManyViewers);
        }
        *viewers = viewers.iter().cloned().chain([Arc::clone(&watcher)]).collect();
        self.0.is_watched.store(true, Ordering::Relaxed);
        Ok(Viewer { hops: self.clone(), watcher, receiver })
    }

    /// Returns the number of viewers.
    #[must_use]
    pub fn viewers(&self) -> usize {
        lock(&self.0.viewers).len()
    }

    /// Returns the last dead letters, the newest first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<RecentDeadLetter> {
        lock(&self.0.dead_letters).all()
    }

    /// Registers the metric with the prefix `dataflow_live`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("dataflow_live");
        let help = "Hops that viewers missed because they were too slow";
        registry.register("dropped_hops", help, self.0.dropped.clone());
    }

    pub(super) fn keep(&self, letter: RecentDeadLetter) {
        lock(&self.0.dead_letters).keep(letter);
    }

    /// Returns true if some viewer may want to see a message with these ids.
    pub(super) fn may_take(&self, ids: &Ids<'_>) -> bool {
        let viewers = Arc::clone(&*lock(&self.0.viewers));
        viewers.iter().any(|viewer| viewer.filter.may_take(ids))
    }

    /// Reserves memory for the identity of a message, which it keeps for later steps. Returns `None` if
    /// no viewer wants to see those, or too many messages keep theirs.
    pub(super) fn reserve(&self, ids: &Ids<'_>, bytes: usize) -> Option<WaitingBytes> {
        let viewers = Arc::clone(&*lock(&self.0.viewers));
        if !viewers.iter().any(|viewer| viewer.filter.follows(ids)) {
            return None;
        }
        let owned = self.0.owned_bytes.fetch_add(bytes, Ordering::Relaxed);
        let reserved = WaitingBytes { waiting: Arc::clone(&self.0.owned_bytes), bytes };
        (owned + bytes <= MAX_OWNED_BYTES).then_some(reserved)
    }

    /// Sends a hop to all viewers that want it. `hop` is called if there is one.
    pub(super) fn send(&self, ids: &Ids<'_>, step: HopStep, hop: impl FnOnce() -> Hop) {
        let viewers = Arc::clone(&*lock(&self.0.viewers));
        let now = Instant::now();
        let wanted = |viewer: &&Arc<Watcher>| {
            viewer.filter.takes(ids, step)
                && (!viewer.filter.tap || lock(&viewer.samples).take(now))
        };
        let mut wanted = viewers.iter().filter(wanted).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let mut hop = hop();
        let bytes = hop.size();
        let waiting = self.0.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        hop.room = WaitingBytes { waiting: Arc::clone(&self.0.waiting_bytes), bytes };
        let has_room = waiting + bytes <= MAX_WAITING_BYTES;
        let hop = Arc::new(hop);
        for viewer in wanted {
            if !has_room || viewer.sender.try_send(Arc::clone(&hop)).is_err() {
                viewer.dropped.fetch_add(1, Ordering::Relaxed);
                self.0.dropped.inc();
            }
        }
    }
}

/// Somebody who watches. Dropping it ends that.
#[derive(Debug)]
pub struct Viewer {
    hops: Hops,
    watcher: Arc<Watcher>,
    receiver: mpsc::Receiver<Arc<Hop>>,
}

impl Viewer {
    /// Waits for the next hop. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Hop>> {
        self.receiver.recv().await
    }

    /// Waits for the next hop, but not longer than this.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Arc<Hop>> {
        tokio::time::timeout(limit, self.next()).await.ok().flatten()
    }

    /// Returns the number of hops that were dropped since the last call.
    pub fn take_dropped(&self) -> usize {
        self.watcher.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut viewers = lock(&self.hops.0.viewers);
        *viewers = viewers.iter().filter(|one| !Arc::ptr_eq(one, &self.watcher)).cloned().collect();
        self.hops.0.is_watched.store(!viewers.is_empty(), Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::RecordText;
    use super::*;

    fn ids(device: &str) -> Ids<'_> {
        Ids { ingest_id: "i".into(), device_id: device.into() }
    }

    fn hop(text: &str) -> Hop {
        Hop {
            stage: "test",
            step: HopStep::Transformed,
            at: time::OffsetDateTime::UNIX_EPOCH,
            ingest_id: String::new(),
            device_id: String::new(),
            message_id: String::new(),
            source: String::new(),
            destination: None,
            reason: None,
            detail: None,
            record: Some(RecordText::new(super::super::RecordKind::Payload, text.as_bytes())),
            room: WaitingBytes::default(),
        }
    }

    fn send(hops: &Hops, device: &str, step: HopStep) {
        hops.send(&ids(device), step, || hop("x"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_gets_the_hops_that_it_asked_for() {
        let hops = Hops::default();
        let device = Some("a".to_owned());
        let mut viewer = hops.watch(Filter { device, ..Filter::default() }).unwrap();

        send(&hops, "b", HopStep::Durable);
        assert!(hops.is_watched());
        assert!(hops.may_take(&ids("a")) && !hops.may_take(&ids("b")));
        assert!(viewer.next_within(Duration::ZERO).await.is_none());
        send(&hops, "a", HopStep::Durable);
        assert!(viewer.next().await.is_some());

        drop(viewer);
        assert!(!hops.is_watched());
        assert_eq!(hops.viewers(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_has_ten_hops_a_second() {
        let hops = Hops::default();
        let mut viewer = hops.watch(Filter { tap: true, ..Filter::default() }).unwrap();
        let mut count = async |hops: &Hops| {
            (0..100).for_each(|_| send(hops, "a", HopStep::Transformed));
            send(hops, "a", HopStep::Durable);
            let mut count = 0;
            while viewer.next_within(Duration::ZERO).await.is_some() {
                count += 1;
            }
            count
        };

        assert_eq!(count(&hops).await, 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(count(&hops).await, 5);
        assert_eq!(viewer.take_dropped(), 0, "what is no sample is not missed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_viewer_does_not_take_is_counted_and_its_memory_is_bounded() {
        let hops = Hops::default();
        let mut viewer = hops.watch(Filter::default()).unwrap();
        let other = hops.watch(Filter::default()).unwrap();
        drop(other);

        (0..MAX_WAITING + 3).for_each(|_| send(&hops, "a", HopStep::Durable));
        assert_eq!(viewer.take_dropped(), 3);
        assert_eq!(hops.0.dropped.get(), 3);
        while viewer.next_within(Duration::ZERO).await.is_some() {}
        assert_eq!(hops.0.waiting_bytes.load(Ordering::Relaxed), 0);

        let text = "x".repeat(super::super::MAX_RECORD_BYTES);
        let viewers: Vec<_> = (0..4).map(|_| hops.watch(Filter::default()).unwrap()).collect();
        for index in 0..2000 {
            hops.send(&ids("a"), HopStep::Durable, || hop(&text));
            if index % 100 == 0 {
                while viewer.next_within(Duration::ZERO).await.is_some() {}
            }
        }
        assert!(hops.0.waiting_bytes.load(Ordering::Relaxed) <= MAX_WAITING_BYTES);
        drop((viewer, viewers));
        assert_eq!(hops.0.waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn messages_keep_their_identity_for_those_who_follow_them_within_a_bound() {
        let hops = Hops::default();
        let _samples = hops.watch(Filter { tap: true, ..Filter::default() }).unwrap();
        assert!(hops.reserve(&ids("a"), 1).is_none(), "a sample has no later steps");

        let device = Some("a".to_owned());
        let _follower = hops.watch(Filter { device, ..Filter::default() }).unwrap();
        assert!(hops.reserve(&ids("b"), 1).is_none());
        let kept = hops.reserve(&ids("a"), MAX_OWNED_BYTES);
        assert!(kept.is_some());
        assert!(hops.reserve(&ids("a"), 1).is_none());
        drop(kept);
        assert!(hops.reserve(&ids("a"), MAX_OWNED_BYTES).is_some());
    }

    #[test]
    fn there_is_a_limit_on_viewers() {
        let hops = Hops::default();
        let mut all: Vec<_> =
            (0..MAX_VIEWERS).map(|_| hops.watch(Filter::default()).unwrap()).collect();

        assert_eq!(hops.watch(Filter::default()).err(), Some(TooManyViewers));
        all.pop();
        assert!(hops.watch(Filter::default()).is_ok());
    }
}
