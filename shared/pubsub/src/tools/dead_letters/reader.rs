//! Reads all dead letters of a subscription once, and returns them.
//!
//! Pub/Sub cannot show a message without delivering it. A message that is returned at once may be
//! redelivered before others are delivered for the first time. So the reader keeps a lease on each
//! dead letter until it closes. Every further message is then new. When no more arrive, all have
//! been seen. Only their ids are kept in memory.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::TypedValueParser;
use clap::{Args, value_parser};
use message::Message;
use pipeline::Error;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::pull::{Pulled, Puller};

/// Resolution of the time that Pub/Sub reports.
const SECOND: Duration = Duration::from_secs(1);

/// Duration of a lease. It is also the longest time that dead letters stay hidden after a crash.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// Interval at which leases are extended.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(20);
/// Wait after an empty answer.
const PAUSE: Duration = Duration::from_millis(250);
/// Maximum number of dead letters in one page.
const PAGE: usize = 1000;

/// Conditions at which reading ends.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Limits {
    /// Most letters to read; about 500 bytes of memory for each.
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = dead_letters(), global = true)]
    pub(super) max: usize,
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds(), global = true)]
    #[arg(help = "How long to wait for another letter before that is all")]
    pub(super) wait: Duration,
}

fn dead_letters() -> impl TypedValueParser<Value = usize> {
    value_parser!(u32).range(1..=100_000_000).map(|max| max as usize)
}

fn seconds() -> impl TypedValueParser<Value = Duration> {
    value_parser!(u64).range(1..=60).map(Duration::from_secs)
}

/// Reason why dead letters may have been missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shortfall {
    /// There are more dead letters than the maximum.
    Max(usize),
    /// An answer with dead letters was lost.
    Lost(String),
    /// Pub/Sub kept failing.
    Failed(String),
    /// A signal ended the reading.
    Interrupted,
}

/// Leased dead letters, read page by page.
pub(super) struct Reader {
    puller: Puller,
    limits: Limits,
    /// Newest lease of each dead letter that is returned at the close, by message id.
    held: HashMap<String, String>,
    /// Newest lease of each dead letter that will be removed.
    finished: HashMap<String, String>,
    /// Removed dead letters. One that is delivered nevertheless is removed again.
    removed: HashSet<String>,
    /// Time of the start, by Pub/Sub's clock. Dead letters published later are left for the next
    /// run. One that is replayed and refused again is among them.
    started_at: Option<OffsetDateTime>,
    read: usize,
    extended_at: Instant,
    shortfall: Option<Shortfall>,
    interrupt: Signal,
    terminate: Signal,
}

impl Shortfall {
    /// Returns the event, and advice.
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
    /// Prepares to read. Sends nothing yet.
    ///
    /// # Errors
    /// The process cannot listen for signals.
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

    /// Number of dead letters that were read.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Returns true if a dead letter may have been published after this run began. Pub/Sub reports
    /// its time only in whole seconds.
    pub(super) fn may_be_new(&self, dead_letter: &Message) -> bool {
        let certainly_old = |at: OffsetDateTime| dead_letter.publish_time < at - 2 * SECOND;
        !self.started_at.is_some_and(certainly_old)
    }

    /// Returns the reason why dead letters may have been missed, if there is one.
    pub(super) fn shortfall(&self) -> Option<&Shortfall> {
        self.shortfall.as_ref()
    }

    /// Returns dead letters that were not read before. Returns `None` if no new ones arrive, or if
    /// a limit is reached.
    ///
    /// # Errors
    /// Pub/Sub cannot be read at all.
    pub(super) async fn page(&mut self) -> anyhow::Result<Option<Vec<Message>>> {
        let quiet_since = Instant::now();
        while !self.is_interrupted().await {
            self.extend_leases().await;
            // One more than the maximum shows whether there are more.
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

    /// Returns true if a signal asked the tool to end. The tool then returns its leased messages
    /// before it ends.
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

    /// Stores the leases, and returns the new dead letters.
    async fn take(&mut self, pulled: Pulled) -> Vec<Message> {
        if let Some(why) = pulled.lost {
            self.shortfall = Some(Shortfall::Lost(why));
        }
        let now = || pulled.served_at.unwrap_or_else(OffsetDateTime::now_utc);
        let started_at = *self.started_at.get_or_insert_with(|| now() + SECOND);
        let ack_ids: Vec<_> = pulled.leased.iter().map(|leased| &*leased.ack_id).collect();
        // The lease of the subscription itself may be as short as 10 s.
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

    /// Runs a step that may take long, and extends the leases meanwhile.
    pub(super) async fn while_leased<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            let extension = async {
                sleep(EXTENSION_INTERVAL.saturating_sub(self.extended_at.elapsed())).await;
                self.extend_leases().await;
            };
            tokio::select! {
                outcome = &mut step => return outcome,
                // If an extension is cut short, the next one is due at once.
                () = extension => {}
            }
        }
    }

    /// Extends the leases when it is time. Must be called between all steps that take long.
    pub(super) async fn extend_leases(&mut self) {
        if self.extended_at.elapsed() < EXTENSION_INTERVAL {
            return;
        }
        let began = Instant::now();
        // Without an extension, messages that are not yet removed would also be redelivered.
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

    /// Marks a dead letter as finished. The next [`Reader::remove`] removes it.
    pub(super) fn finish(&mut self, id: &str) {
        if let Some(ack_id) = self.held.remove(id) {
            self.finished.insert(id.to_owned(), ack_id);
        }
    }

    /// Removes the finished dead letters. Returns once that is confirmed.
    ///
    /// # Errors
    /// Some may be redelivered.
    pub(super) async fn remove(&mut self) -> Result<(), Error> {
        self.puller.acknowledge(&ack_ids(&self.finished)).await?;
        self.removed.extend(self.finished.drain().map(|(id, _)| id));
        Ok(())
    }

    /// Removes the finished dead letters and returns the others to the subscription. Returns once
    /// both are confirmed.
    ///
    /// # Errors
    /// Some stay hidden, or are redelivered.
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

#[cfg(test)]
mod tests;
