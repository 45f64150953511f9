//! Compares by content what a fleet sent with what arrived.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

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
    /// Acknowledged readings that are neither at every end nor in the dead letters.
    pub missing: u64,
    /// Lines and rows whose payload, device or enrichment is not what it should be.
    pub corrupted: u64,
    /// Lines and rows beyond the first of their reading.
    pub duplicates: u64,
    /// Lines and rows that nobody sent.
    pub invented: u64,
}

impl Account {
    /// Whether nothing was lost and nothing changed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.corrupted == 0 && self.invented == 0
    }
}

/// Where a fleet's messages have come to their ends; `None` for an end that a flow does not have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends<'a> {
    /// What is in the archive, or was read from a subscription.
    pub archive: Option<&'a [Arrived]>,
    /// The rows of the table.
    pub table: Option<&'a [Arrived]>,
    /// The dead letters.
    pub dead_letters: &'a [Received],
    /// Whether each message must bear what is known about its device.
    pub is_enriched: bool,
}

impl<'a> Ends<'a> {
    /// An archive alone.
    #[must_use]
    pub fn archive(arrived: &'a [Arrived]) -> Self {
        Self { archive: Some(arrived), ..Self::default() }
    }

    /// A table alone.
    #[must_use]
    pub fn table(arrived: &'a [Arrived]) -> Self {
        Self { table: Some(arrived), ..Self::default() }
    }

    /// The same ends, of messages that were enriched.
    #[must_use]
    pub fn enriched(self) -> Self {
        Self { is_enriched: true, ..self }
    }
}

/// What became of a fleet's messages, one by one.
#[derive(Debug, Default)]
pub struct Findings {
    /// Acknowledged readings that an end lacks, and that no dead letter accounts for there.
    pub missing: HashSet<Reading>,
    /// Lines and rows beyond the first of their reading at an end.
    pub duplicates: HashMap<Reading, u64>,
    /// Lines and rows that are not as they were sent; no reading where it cannot be told.
    pub corrupted: Vec<Option<Reading>>,
    /// Readings that arrived and were never sent.
    pub invented: HashSet<Reading>,
}

/// Counts what became of a fleet's messages; see [`find`].
#[must_use]
pub fn settle(fleet: &Fleet, ends: Ends<'_>) -> Account {
    let log = fleet.log();
    let findings = find(fleet, ends);
    let count = |arrived: Option<&[Arrived]>| arrived.map_or(0, <[Arrived]>::len) as u64;
    Account {
        sent: log.sent_count(),
        acknowledged: log.acknowledged_count(),
        rows: count(ends.table),
        archived: count(ends.archive),
        dead_letters: ends.dead_letters.len() as u64,
        missing: findings.missing.len() as u64,
        corrupted: findings.corrupted.len() as u64,
        duplicates: findings.duplicates.values().sum(),
        invented: findings.invented.len() as u64,
    }
}

/// Finds out what became of a fleet's messages: each that was acknowledged must be at every end, or
/// in the dead letters of a service on its way there.
///
/// What others sent is not ours to judge.
#[must_use]
pub fn find(fleet: &Fleet, ends: Ends<'_>) -> Findings {
    let log = fleet.log();
    let (sent, acknowledged) = (log.sent(), log.acknowledged());
    let mut findings = Findings::default();
    let ends_by_service = [(ends.archive, "icestore"), (ends.table, "bigqueries")];
    let last_services = ends_by_service.map(|(_, service)| service);
    for (arrived, service) in ends_by_service {
        let Some(arrived) = arrived else { continue };
        // The last service before another end cannot have kept a message from this one.
        let is_before_here = |letter: &&Received| {
            let buried_by = letter.attributes.get("dl_service").map_or("", String::as_str);
            buried_by == service || !last_services.contains(&buried_by)
        };
        let letters = ends.dead_letters.iter().filter(is_before_here);
        let buried: HashSet<_> = letters.filter_map(|letter| fleet.buried(letter)).collect();
        let mut found = HashSet::new();
        for arrived in arrived {
            match fleet.judge(arrived, ends.is_enriched) {
                Judgement::Whole(reading) if !sent.contains(&reading) => {
                    findings.invented.insert(reading);
                }
                Judgement::Whole(reading) => {
                    if !found.insert(reading) {
                        *findings.duplicates.entry(reading).or_default() += 1;
                    }
                }
                Judgement::Corrupted(reading) => findings.corrupted.push(reading),
                Judgement::NotOurs => {}
            }
        }
        let due = acknowledged.iter().map(|(reading, _)| *reading);
        let is_missing = |reading: &Reading| !found.contains(reading) && !buried.contains(reading);
        findings.missing.extend(due.filter(is_missing));
    }
    findings
}

/// A message at one of its ends.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The device's payload.
    pub payload: Payload,
    /// The device, as the attributes have it.
    pub device: Option<String>,
    /// Where the device is, as enrichment has it.
    pub location: Option<String>,
}

/// A payload as an end keeps it.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Byte for byte.
    Bytes(Vec<u8>),
    /// As values: a table keeps those.
    Json(Value),
}

impl Arrived {
    /// A message that was read from a subscription.
    ///
    /// # Errors
    /// Never for what ingestion writes.
    pub fn of_message(received: &Received) -> anyhow::Result<Self> {
        let envelope = Envelope::of(&Message::new(received.data.clone()), Input::Auto)?;
        Ok(Self::of_envelope(envelope, received.attributes.get("device_id").cloned()))
    }

    /// A line of the archive.
    ///
    /// # Errors
    /// When the line's data is no base64.
    pub fn of_line(line: &crate::archive::Line) -> anyhow::Result<Self> {
        let envelope = Envelope::of(&Message::new(line.data()?), Input::Auto)?;
        Ok(Self::of_envelope(envelope, line.attributes.get("device_id").cloned()))
    }

    /// A row of a table with the columns `device_id`, `location`, `temperature` and `rest`.
    #[must_use]
    pub fn of_row(row: &Map<String, Value>) -> Self {
        let text = |name: &str| Some(row.get(name)?.as_str()?.to_owned());
        let rest = text("rest").and_then(|rest| serde_json::from_str::<Value>(&rest).ok());
        let mut rest = rest.unwrap_or_default();
        let (device, location) = (text("device_id"), text("location"));
        // A payload that is no JSON is kept byte for byte.
        let bytes = rest["payload_base64"].as_str().and_then(|text| STANDARD.decode(text).ok());
        if let Some(bytes) = bytes {
            return Self { payload: Payload::Bytes(bytes), device, location };
        }
        let mut payload = rest["payload"].take();
        let temperature = text("temperature").and_then(|text| text.parse::<f64>().ok());
        if let (Some(map), Some(temperature)) = (payload.as_object_mut(), temperature) {
            map.insert("temperature".into(), temperature.into());
        }
        Self { payload: Payload::Json(payload), device, location }
    }

    /// The reading that it was made of; `None` when a fleet of another name sent it.
    #[must_use]
    pub fn reading(&self, fleet: &str) -> Option<Reading> {
        Reading::of(fleet, &self.bytes())
    }

    fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.payload {
            Payload::Bytes(bytes) => bytes.into(),
            Payload::Json(value) => value.to_string().into_bytes().into(),
        }
    }

    fn of_envelope(envelope: Envelope, device: Option<String>) -> Self {
        let location = envelope.enrichment.get("location").and_then(Value::as_str);
        let location = location.map(str::to_owned);
        let payload = envelope.payload.map(|payload| payload.bytes().into()).unwrap_or_default();
        Self { payload: Payload::Bytes(payload), device, location }
    }
}

enum Judgement {
    Whole(Reading),
    Corrupted(Option<Reading>),
    NotOurs,
}

impl Fleet {
    fn judge(&self, arrived: &Arrived, is_enriched: bool) -> Judgement {
        let Some(reading) = arrived.reading(self.name()) else {
            // A payload that still shows our mark, but cannot be read, was ours.
            let mark = self.name().as_bytes();
            let is_ours = arrived.bytes().windows(mark.len()).any(|window| window == mark);
            return if is_ours { Judgement::Corrupted(None) } else { Judgement::NotOurs };
        };
        let expected = reading.payload(self.name(), self.plan().payload_bytes);
        let is_same = match &arrived.payload {
            Payload::Bytes(bytes) => *bytes == expected,
            Payload::Json(value) => {
                serde_json::from_slice::<Value>(&expected).is_ok_and(|expected| expected == *value)
            }
        };
        let is_at_home =
            !is_enriched || arrived.location.as_deref() == Some(reading.location().as_str());
        let is_whole = is_same
            && is_at_home
            && arrived.device.as_deref() == Some(reading.device_name().as_str());
        if is_whole { Judgement::Whole(reading) } else { Judgement::Corrupted(Some(reading)) }
    }

    /// The reading in a dead letter that holds the original byte for byte.
    pub(crate) fn buried(&self, letter: &Received) -> Option<Reading> {
        let payload = match Envelope::read(&letter.data) {
            Some(envelope) => envelope.payload?.bytes(),
            None => letter.data.clone(),
        };
        let reading = Reading::of(self.name(), &payload)?;
        (payload == reading.payload(self.name(), self.plan().payload_bytes)).then_some(reading)
    }
}
