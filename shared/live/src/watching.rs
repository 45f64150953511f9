//! Steps of messages, from all replicas.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::Parts;
use crate::replicas::Replicas;
use crate::rights::Rights;

mod reading;
pub(crate) mod showing;

use reading::{Read, Reader};

/// Hops that wait for a viewer.
const MAX_WAITING: usize = 256;
/// Interval at which new replicas are looked for.
const DISCOVERY: Duration = Duration::from_secs(5);
/// Pause before a replica is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the answers of all replicas, before hops are shown.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Counts about viewers of samples. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taps(Arc<TapCounts>);

#[derive(Debug, Default)]
struct TapCounts {
    viewers: AtomicUsize,
    dropped: AtomicU64,
}

/// A viewer of samples. Dropping it ends its count.
#[derive(Debug)]
pub(crate) struct Tapping(Taps);

impl Taps {
    pub(crate) fn viewers(&self) -> usize {
        self.0.viewers.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) -> Tapping {
        self.0.viewers.fetch_add(1, Ordering::Relaxed);
        Tapping(self.clone())
    }
}

impl Tapping {
    pub(crate) fn count_dropped(&self, dropped: u64) {
        self.0.0.dropped.fetch_add(dropped, Ordering::Relaxed);
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        self.0.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Name and value in a query.
type Pair = (String, String);

/// What replicas tell.
enum Told {
    /// Number of replicas whose answers are waited for.
    Expected(usize),
    /// A replica tells its hops from now on.
    Open,
    /// A replica could not be asked.
    Away { replica: String, why: String },
    Hop(Map<String, Value>),
}

/// Hops of all replicas, while a viewer takes them. Dropping it ends the hooks.
pub(crate) struct Watching {
    told: mpsc::Receiver<Told>,
    dropped: Arc<AtomicU64>,
    rights: Rights,
    _tasks: JoinSet<()>,
}

/// State of the hooks when hops begin to come.
pub(crate) struct Ready {
    pub replicas: usize,
    /// Replicas that could not be asked, with the reason.
    pub missing: Vec<(String, String)>,
}

impl Watching {
    /// Asks all replicas. `query` says which messages.
    pub(crate) fn begin(parts: &Parts, query: &[(&str, &str)], rights: Rights) -> Self {
        let query = query.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (sender, told) = mpsc::channel(MAX_WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let outbox = Outbox { sender, dropped: Arc::clone(&dropped) };
        let mut tasks = JoinSet::new();
        tasks.spawn(discover(parts.replicas.clone(), query, outbox));
        Self { told, dropped, rights, _tasks: tasks }
    }

    /// Waits until all replicas tell their hops, or cannot.
    pub(crate) async fn ready(&mut self) -> Ready {
        let mut ready = Ready { replicas: 0, missing: Vec::new() };
        let mut expected = None;
        let deadline = Instant::now() + READY_TIMEOUT;
        while expected.is_none_or(|expected| ready.replicas + ready.missing.len() < expected) {
            match tokio::time::timeout_at(deadline, self.told.recv()).await {
                Ok(Some(Told::Expected(count))) => expected = Some(count),
                Ok(Some(Told::Open)) => ready.replicas += 1,
                Ok(Some(Told::Away { replica, why })) => ready.missing.push((replica, why)),
                // A message before everybody tells would be shown with holes.
                Ok(Some(Told::Hop(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        ready
    }

    /// Waits for the next hop, as the viewer may see it. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Map<String, Value>> {
        loop {
            if let Told::Hop(mut hop) = self.told.recv().await? {
                if !self.rights.payload {
                    // A detail may quote the message.
                    hop.insert("record".into(), Value::Null);
                    hop.insert("detail".into(), Value::Null);
                }
                return Some(hop);
            }
        }
    }

    /// Returns the number of hops that were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Way of hops to their viewer.
#[derive(Clone)]
struct Outbox {
    sender: mpsc::Sender<Told>,
    dropped: Arc<AtomicU64>,
}

impl Outbox {
    fn hop(&self, hop: Map<String, Value>) {
        if self.sender.try_send(Told::Hop(hop)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the state of a replica. It waits for room, because it is no hop.
    async fn tell(&self, told: Told) {
        // Without a receiver, this task ends soon.
        let _ = self.sender.send(told).await;
    }
}

/// Asks all replicas, also those that come later.
async fn discover(replicas: Replicas, query: Arc<[Pair]>, outbox: Outbox) {
    let mut readers = JoinSet::new();
    let mut known = BTreeSet::new();
    let mut is_first = true;
    loop {
        let mut new = Vec::new();
        let mut unresolved = Vec::new();
        for (index, stage) in replicas.stages().iter().enumerate() {
            match replicas.of(index).await {
                Ok(addresses) => new.extend(addresses.into_iter().filter(|at| known.insert(*at))),
                Err(why) => unresolved.push((stage.name.clone(), why)),
            }
        }
        if is_first {
            outbox.tell(Told::Expected(new.len() + unresolved.len())).await;
            for (replica, why) in unresolved {
                outbox.tell(Told::Away { replica, why }).await;
            }
        }
        is_first = false;
        for replica in new {
            let query = Arc::clone(&query);
            readers.spawn(follow(replicas.clone(), replica, query, outbox.clone()));
        }
        sleep(DISCOVERY).await;
        while let Some(gone) = readers.try_join_next() {
            if let Ok(replica) = gone {
                known.remove(&replica);
            }
        }
    }
}

/// Passes the hops of a replica on until it does not answer any more. Returns the replica, which may
/// come back.
async fn follow(
    replicas: Replicas,
    replica: SocketAddr,
    query: Arc<[Pair]>,
    outbox: Outbox,
) -> SocketAddr {
    let opened = Reader::open(&replicas, replica, &query);
    let opened = timeout(READY_TIMEOUT, opened).await;
    let opened = opened.unwrap_or_else(|_late| Err("does not answer in time".into()));
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(why) => {
            outbox.tell(Told::Away { replica: replica.to_string(), why }).await;
            sleep(PAUSE).await;
            return replica;
        }
    };
    outbox.tell(Told::Open).await;
    while let Some(read) = reader.next().await {
        match read {
            Read::Hop(mut hop) => {
                hop.insert("replica".into(), replica.to_string().into());
                outbox.hop(hop);
            }
            Read::Lost(count) => {
                outbox.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
    replica
}
