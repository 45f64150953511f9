//! Compares by content what a fleet sent with what arrived.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::cloud::Received;
use crate::fleet::Fleet;
use crate::reading::Reading;
use pipeline::envelope::Input;
use pipeline::{Envelope, Message};

/// What became of every message.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Account {
    /// Readings that devices handed to the broker.
    pub sent: u64,
    /// Readings whose PUBACK came: each must be found again.
    pub acknowledged: u64,
    /// Rows in BigQuery.
    pub rows: u64,
    /// Lines in the archive.
    pub archived: u64,
    /// Messages in the dead letters.
    pub dead_letters: u64,
    /// Acknowledged readings that are neither archived nor in the dead letters.
    pub missing: u64,
    /// Lines whose payload or device is not what was sent.
    pub corrupted: u64,
    /// Lines beyond the first of their reading.
    pub duplicates: u64,
}

impl Account {
    /// Whether nothing was lost and nothing changed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.corrupted == 0
    }
}

/// Finds out what became of a fleet's messages.
///
/// What others sent is counted as archived, and is otherwise not ours to judge.
#[must_use]
pub fn settle(fleet: &Fleet, arrived: &[Arrived], dead_letters: &[Received]) -> Account {
    let log = fleet.log();
    let acknowledged = log.acknowledged();
    let mut account = Account {
        sent: log.sent(),
        acknowledged: acknowledged.len() as u64,
        archived: arrived.len() as u64,
        dead_letters: dead_letters.len() as u64,
        ..Account::default()
    };
    let mut found: HashMap<Reading, u64> = HashMap::new();
    for arrived in arrived {
        match fleet.judge(arrived) {
            Judgement::Whole(reading) => *found.entry(reading).or_default() += 1,
            Judgement::Corrupted => account.corrupted += 1,
            Judgement::NotOurs => {}
        }
    }
    account.duplicates = found.values().map(|count| count - 1).sum();
    let buried: HashSet<_> =
        dead_letters.iter().filter_map(|letter| fleet.buried(letter)).collect();
    let is_missing = |reading: &&Reading| !found.contains_key(reading) && !buried.contains(reading);
    account.missing = acknowledged.iter().filter(is_missing).count() as u64;
    account
}

/// A message at the end of its way.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The device's payload.
    pub payload: Vec<u8>,
    /// The device, as the attributes have it.
    pub device: Option<String>,
}

impl Arrived {
    /// A message that was read from a subscription.
    ///
    /// # Errors
    /// Never for what ingestion writes.
    pub fn of_message(received: &Received) -> anyhow::Result<Self> {
        let envelope = Envelope::of(&Message::new(received.data.clone()), Input::Auto)?;
        let payload = envelope.payload.map(Into::into).unwrap_or_default();
        Ok(Self { payload, device: received.attributes.get("device_id").cloned() })
    }

    /// A line of the archive.
    ///
    /// # Errors
    /// When the line's data is no base64.
    pub fn of_line(line: &crate::archive::Line) -> anyhow::Result<Self> {
        Ok(Self { payload: line.payload()?, device: line.attributes.get("device_id").cloned() })
    }
}

enum Judgement {
    Whole(Reading),
    Corrupted,
    NotOurs,
}

impl Fleet {
    fn judge(&self, arrived: &Arrived) -> Judgement {
        let Some(reading) = Reading::of(self.name(), &arrived.payload) else {
            // A payload that still shows our mark, but cannot be read, was ours.
            let mark = self.name().as_bytes();
            let is_ours = arrived.payload.windows(mark.len()).any(|window| window == mark);
            return if is_ours { Judgement::Corrupted } else { Judgement::NotOurs };
        };
        let expected = reading.payload(self.name(), self.plan().payload_bytes);
        let is_whole = arrived.payload == expected
            && arrived.device.as_deref() == Some(reading.device_name().as_str());
        if is_whole { Judgement::Whole(reading) } else { Judgement::Corrupted }
    }

    /// The reading in a dead letter that holds the original byte for byte.
    fn buried(&self, letter: &Received) -> Option<Reading> {
        let payload = match Envelope::read(&letter.data) {
            Some(envelope) => envelope.payload?,
            None => letter.data.clone(),
        };
        let reading = Reading::of(self.name(), &payload)?;
        (payload == reading.payload(self.name(), self.plan().payload_bytes)).then_some(reading)
    }
}
