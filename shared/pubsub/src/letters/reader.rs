//! Reads all letters of a subscription once, and gives them back.
//!
//! Pub/Sub has no way to look at a message without taking it, and one that is given back at once may
//! come again before others have come at all. So each letter stays leased until the reader closes: what
//! comes next is new, and when nothing comes any more, all have been seen. Only their ids are kept.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use pipeline::{Error, Message};
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::pull::{Pulled, Puller};

/// The service tells its time in whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Duration of a lease, and so the longest time that letters stay hidden after a crash.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// Interval at which leases are extended.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(20);
/// Wait after an empty answer.
const PAUSE: Duration = Duration::from_millis(250);
/// Most letters in one page.
const PAGE: usize = 1000;

/// When to stop reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most letters to read.
    pub(super) max: usize,
    /// How long nothing new comes before that is all.
    pub(super) wait: Duration,
}

/// Why letters may have been missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shortfall {
    /// There are more than were asked for.
    Max(usize),
    /// An answer with letters was lost.
    Lost(String),
    /// Pub/Sub went on failing.
    Failed(String),
    /// Somebody ended the reading.
    Interrupted,
}

/// Letters under a lease, read page by page.
pub(super) struct Reader {
    puller: Puller,
    limits: Limits,
    /// Newest lease of each letter that goes back at the close, by message id.
    held: HashMap<String, String>,
    /// Newest lease of each letter that is to be removed.
    finished: HashMap<String, String>,
    /// Letters that were removed: one that comes all the same is removed again.
    removed: HashSet<String>,
    /// Letters published later by the service's clock are left for the next run: a letter that is
    /// replayed and refused again is one of them.
    started_at: Option<OffsetDateTime>,
    read: usize,
    extended_at: Instant,
    shortfall: Option<Shortfall>,
    interrupt: Signal,
    terminate: Signal,
}

impl Shortfall {
    /// What happened, and what to do about it.
    pub(super) fn explain(&self) -> (String, String) {
        let again = |wait: &str| format!("run it again {wait}");
        match self {
            Self::Max(max) => (
                format!("there are more than the {max} letters that were read"),
                "give a larger --max".into(),
            ),
            Self::Lost(why) => (
                format!(
                    "an answer of Pub/Sub was lost ({why}), and the letters in it stay hidden for a while"
                ),
                again("when the subscription's acknowledgement deadline has passed"),
            ),
            Self::Failed(why) => (format!("Pub/Sub failed: {why}"), again("later")),
            Self::Interrupted => ("it was interrupted".into(), again("and let it finish")),
        }
    }
}

impl Reader {
    /// Prepares to read; nothing is sent yet.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(super) fn new(puller: Puller, limits: Limits) -> anyhow::Result<Self> {
        Ok(Self {
            puller,
            limits,
            held: HashMap::new(),
            finished: HashMap::new(),
            removed: HashSet::new(),
            started_at: None,
            read: 0,
            extended_at: Instant::now(),
            shortfall: None,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// Number of letters that were read.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Whether a letter may have been published after this run began: the service tells whole seconds.
    pub(super) fn may_be_new(&self, letter: &Message) -> bool {
        let certainly_old = |at: OffsetDateTime| letter.publish_time < at - 2 * SECOND;
        !self.started_at.is_some_and(certainly_old)
    }

    /// Takes what comes from now on for new.
    #[cfg(test)]
    pub(super) fn forget_the_second(&mut self) {
        self.started_at = self.started_at.map(|time| time - Duration::from_secs(2));
    }

    /// Takes the last extension for one of a minute ago.
    #[cfg(test)]
    pub(super) fn forget_the_extension(&mut self) {
        self.extended_at -= Duration::from_secs(60);
    }

    /// Why letters may have been missed, if so.
    pub(super) fn shortfall(&self) -> Option<&Shortfall> {
        self.shortfall.as_ref()
    }

    /// Letters that were not read before; `None` when nothing new comes, or a limit is reached.
    ///
    /// # Errors
    /// When Pub/Sub cannot be read at all.
    pub(super) async fn page(&mut self) -> anyhow::Result<Option<Vec<Message>>> {
        let quiet_since = Instant::now();
        while !self.is_interrupted().await {
            self.extend_leases().await;
            // One more than wanted tells whether there are more.
            let room = self.limits.max - self.read;
            let pulled = match self.puller.pull(room.clamp(1, PAGE)).await {
                Ok(pulled) => pulled,
                Err(error) if self.read == 0 => return Err(error.into()),
                Err(error) => {
                    self.shortfall = Some(Shortfall::Failed(format!("{error:#}")));
                    return Ok(None);
                }
            };
            let fresh = self.take(pulled).await;
            if !fresh.is_empty() && room == 0 {
                self.shortfall = Some(Shortfall::Max(self.limits.max));
                return Ok(None);
            }
            if !fresh.is_empty() {
                self.read += fresh.len();
                return Ok(Some(fresh));
            }
            if quiet_since.elapsed() >= self.limits.wait {
                return Ok(None);
            }
            sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// Whether somebody wants the tool to end. It does so in order: what is leased goes back first.
    pub(super) async fn is_interrupted(&mut self) -> bool {
        let is_interrupted = tokio::select! {
            biased;
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => true,
            () = ready(()) => self.shortfall == Some(Shortfall::Interrupted),
        };
        if is_interrupted {
            self.shortfall = Some(Shortfall::Interrupted);
        }
        is_interrupted
    }

    /// Notes the leases, and returns the letters that are new.
    async fn take(&mut self, pulled: Pulled) -> Vec<Message> {
        if let Some(why) = pulled.lost {
            self.shortfall = Some(Shortfall::Lost(why));
        }
        let now = || pulled.served_at.unwrap_or_else(OffsetDateTime::now_utc);
        let started_at = *self.started_at.get_or_insert_with(|| now() + SECOND);
        let ack_ids: Vec<_> = pulled.leased.iter().map(|leased| &*leased.ack_id).collect();
        // The subscription's own lease may be as short as 10 s.
        if let Err(error) = self.puller.lease(&ack_ids, LEASE).await {
            debug!(
                error = format!("{error:#}"),
                "leases were not extended, letters may come again"
            );
        }
        let mut fresh = Vec::new();
        for leased in pulled.leased {
            let (message, ack_id) = (leased.message, leased.ack_id);
            if self.removed.contains(&message.id) || self.finished.contains_key(&message.id) {
                self.finished.insert(message.id, ack_id);
                continue;
            }
            if self.held.insert(message.id.clone(), ack_id).is_some() {
                continue;
            }
            if message.publish_time <= started_at {
                fresh.push(message);
            }
        }
        fresh
    }

    /// Runs a step that may take long, and extends the leases beside it.
    pub(super) async fn while_leased<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            let extension = async {
                sleep_until(self.extended_at + EXTENSION_INTERVAL).await;
                self.extend_leases().await;
            };
            tokio::select! {
                outcome = &mut step => return outcome,
                // An extension that is cut short is due at once.
                () = extension => {}
            }
        }
    }

    /// Extends the leases when it is time to; must be called between all steps that take long.
    pub(super) async fn extend_leases(&mut self) {
        if self.extended_at.elapsed() < EXTENSION_INTERVAL {
            return;
        }
        let began = Instant::now();
        // What is not removed yet would come again, too.
        let leases = [ack_ids(&self.held), ack_ids(&self.finished)].concat();
        let extended = self.puller.lease(&leases, LEASE).await;
        self.extended_at = began;
        if let Err(error) = extended {
            debug!(
                error = format!("{error:#}"),
                "leases were not extended, letters may come again"
            );
        }
    }

    /// Marks a letter as done with; it is removed with the next [`Reader::remove`].
    pub(super) fn finish(&mut self, id: &str) {
        if let Some(ack_id) = self.held.remove(id) {
            self.finished.insert(id.to_owned(), ack_id);
        }
    }

    /// Removes the letters that are done with, and returns when that is confirmed.
    ///
    /// # Errors
    /// When some may come again.
    pub(super) async fn remove(&mut self) -> Result<(), Error> {
        self.puller.acknowledge(&ack_ids(&self.finished)).await?;
        self.removed.extend(self.finished.drain().map(|(id, _)| id));
        Ok(())
    }

    /// Removes what is done with and gives the other letters back, and returns when both are confirmed.
    ///
    /// # Errors
    /// When some stay hidden, or come again.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        let removed = self.remove().await;
        let held = ack_ids(&self.held);
        let returned = self.puller.lease(&held, Duration::ZERO).await;
        removed.and(returned)
    }
}

fn ack_ids(leases: &HashMap<String, String>) -> Vec<&str> {
    leases.values().map(String::as_str).collect()
}
