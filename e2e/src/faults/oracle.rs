//! Finds the outcome of every confirmed message.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use tokio::time::Instant;

use super::fault_env::FaultEnv;
use super::hostile_clients::{Expected, HostileClients, HostileMessage, number_of};
use crate::archive;
use crate::cloud::Received;
use crate::fleet::Fleet;
use crate::names::{ARCHIVE, DATASET, DEAD_LETTER_REPORT, TABLE};
use crate::reading::Reading;
use crate::reconcile::{self, Arrived, Destinations, Payload};
use message::Envelope;

/// Everything that was found in the table, the archive and the dead letters.
pub(super) struct Arrivals {
    lines: Vec<Arrived>,
    rows: Vec<Arrived>,
    dead_letters: Vec<Received>,
    /// Time of archiving in Unix seconds, and the seconds between publish and archiving.
    pub(super) latencies: Vec<(f64, f64)>,
    objects: Vec<String>,
}

/// Outcome of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// All confirmed messages, with the time of their confirmation.
    pub(super) obligations: Vec<(SenderId, Instant)>,
    pub(super) missing: HashSet<SenderId>,
    pub(super) corrupted: Vec<Option<SenderId>>,
    pub(super) duplicates: HashMap<SenderId, u64>,
    /// Failures in words.
    pub(super) failures: Vec<String>,
}

/// Sender of a message: a fleet or a hostile client, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SenderId {
    Fleet(usize, Reading),
    HostileClient(usize),
}

impl Arrivals {
    /// Reads the table, the archive and the new dead letters. Adds these to `letters`.
    pub(super) async fn collect(
        env: &FaultEnv,
        dead_letters: &mut Vec<Received>,
    ) -> anyhow::Result<Self> {
        let cloud = &env.cloud;
        dead_letters.extend(read_dead_letters(env).await?);
        let objects = cloud.list(ARCHIVE, "").await?;
        let archived = archive::read(cloud, ARCHIVE, "").await?;
        let latencies = archived.iter().filter_map(archive::Line::latency).collect();
        let lines = archived.iter().map(Arrived::of_line).collect::<anyhow::Result<_>>()?;
        drop(archived);
        let rows = cloud.rows(DATASET, TABLE).await?.iter().map(Arrived::of_row).collect();
        Ok(Self { lines, rows, dead_letters: dead_letters.clone(), latencies, objects })
    }

    /// Checks all messages. Set `refuses_rows` if BigQuery was made to refuse valid rows.
    pub(super) fn check(
        &self,
        fleets: &[&Fleet],
        hostile_clients: &HostileClients,
        refuses_rows: bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for (index, fleet) in fleets.iter().enumerate() {
            self.check_fleet(&mut outcome, index, fleet);
        }
        self.check_dead_letters(&mut outcome, fleets, refuses_rows);
        self.check_hostile_messages(&mut outcome, &hostile_clients.confirmed(), refuses_rows);
        let outside = self.objects.iter().filter(|name| !is_proper(name));
        outcome.failures.extend(outside.map(|name| format!("an object is called {name}")));
        outcome
    }

    fn check_fleet(&self, outcome: &mut Outcome, index: usize, fleet: &Fleet) {
        let sender = |reading| SenderId::Fleet(index, reading);
        let destinations = Destinations {
            archive: Some(&self.lines),
            table: Some(&self.rows),
            dead_letters: &self.dead_letters,
            is_enriched: true,
        };
        let findings = reconcile::find(fleet, destinations);
        let acknowledged = fleet.log().acknowledged();
        outcome.obligations.extend(acknowledged.into_iter().map(|(r, at)| (sender(r), at)));
        outcome.missing.extend(findings.missing.into_iter().map(sender));
        outcome.corrupted.extend(findings.corrupted.into_iter().map(|r| r.map(sender)));
        outcome.duplicates.extend(findings.duplicates.into_iter().map(|(r, n)| (sender(r), n)));
        let unexpected = findings.unexpected.into_iter();
        outcome.failures.extend(unexpected.map(|reading| format!("nobody sent {reading:?}")));
    }

    /// Checks the dead letters: no service may reject a valid reading of a fleet, and no message
    /// may make a service panic.
    fn check_dead_letters(&self, outcome: &mut Outcome, fleets: &[&Fleet], refuses_rows: bool) {
        for dead_letter in &self.dead_letters {
            if reason(dead_letter).1 == "panicked" {
                let data = dead_letter.data.get(..200).unwrap_or(&dead_letter.data);
                let data = String::from_utf8_lossy(data);
                let attributes = &dead_letter.attributes;
                outcome.failures.push(format!("a service panicked: {attributes:?}: {data}"));
            }
            let Some(reading) = fleets.iter().find_map(|fleet| fleet.dead_lettered(dead_letter))
            else {
                continue;
            };
            let is_right = refuses_rows && reason(dead_letter) == ("bigqueries", "row_refused");
            if !is_right {
                let attributes = &dead_letter.attributes;
                outcome.failures.push(format!("{reading:?} is a dead letter: {attributes:?}"));
            }
        }
    }

    fn check_hostile_messages(
        &self,
        outcome: &mut Outcome,
        messages: &[HostileMessage],
        refuses_rows: bool,
    ) {
        let lines = count(self.lines.iter().filter_map(|line| hostile_key(&line.payload)));
        let rows = count(self.rows.iter().filter_map(|row| hostile_key(&row.payload)));
        let dead_letters = self.dead_letters_by_content();
        let found = Found { lines: &lines, rows: &rows, dead_letters, refuses_rows };
        let numbers = Numbers::of(&found);
        for (index, message) in messages.iter().enumerate() {
            let sender = SenderId::HostileClient(index);
            if message.expected == Expected::Unconfirmed {
                continue;
            }
            outcome.obligations.push((sender, message.at));
            let found = match message.expected {
                Expected::ArrivesOrDeadLettered => numbers.account_for(message),
                _ => found.account_for(message),
            };
            let MessageOutcome { is_kept, lines, rows, dead_letters } = found;
            if !is_kept {
                outcome.missing.insert(sender);
                let text = format!("lines {lines}, rows {rows}, letters {dead_letters:?}");
                outcome.failures.push(format!("{}: {text}", message.describe()));
            }
            let copies = lines.saturating_sub(1) + rows.saturating_sub(1);
            if copies > 0 {
                outcome.duplicates.insert(sender, copies);
            }
        }
        let sent: HashSet<_> = messages.iter().map(|message| canonical(&message.payload)).collect();
        // A row cannot keep every number exactly as it was written.
        let is_loose = |message: &&HostileMessage| {
            matches!(message.expected, Expected::ArrivesOrDeadLettered | Expected::Unconfirmed)
        };
        let loose =
            messages.iter().filter(is_loose).filter_map(|message| number_of(&message.payload));
        let loose: HashSet<_> = loose.collect();
        let strange = lines.keys().chain(rows.keys()).filter(|key| {
            !sent.contains(*key) && !number_of(key).is_some_and(|number| loose.contains(&number))
        });
        for key in strange {
            // A message that was sent again after a lost PUBACK has another number.
            let text = String::from_utf8_lossy(key.get(..80).unwrap_or(key));
            outcome.failures.push(format!("changed on its way: {text}"));
        }
    }

    fn dead_letters_by_content(&self) -> HashMap<Vec<u8>, Vec<(&str, &str)>> {
        let mut dead_letters: HashMap<_, Vec<_>> = HashMap::new();
        for dead_letter in &self.dead_letters {
            dead_letters
                .entry(canonical(&content(dead_letter)))
                .or_default()
                .push(reason(dead_letter));
        }
        dead_letters
    }
}

/// Result for one message of a hostile client.
struct MessageOutcome<'a> {
    /// True if the message is where it must be.
    is_kept: bool,
    lines: u64,
    rows: u64,
    /// Service and reason of each dead letter.
    dead_letters: Vec<(&'a str, &'a str)>,
}

/// Messages of hostile clients at the destinations, by content.
struct Found<'a> {
    lines: &'a HashMap<Vec<u8>, u64>,
    rows: &'a HashMap<Vec<u8>, u64>,
    dead_letters: HashMap<Vec<u8>, Vec<(&'a str, &'a str)>>,
    /// True if BigQuery was made to refuse valid rows.
    refuses_rows: bool,
}

impl<'a> Found<'a> {
    fn account_for(&self, message: &HostileMessage) -> MessageOutcome<'a> {
        let key = canonical(&message.payload);
        let [lines, rows] = [self.lines, self.rows].map(|end| end.get(&key).copied().unwrap_or(0));
        let dead_letters = self.dead_letters.get(&key).cloned().unwrap_or_default();
        let is_refused = self.refuses_rows && dead_letters.contains(&("bigqueries", "row_refused"));
        let is_kept = match message.expected {
            Expected::Arrives => lines > 0 && (rows > 0 || is_refused),
            Expected::NoRow(why) => {
                lines > 0 && rows == 0 && dead_letters.contains(&("bigqueries", why))
            }
            Expected::DeadLettered(service, why) => {
                lines == 0 && rows == 0 && dead_letters.contains(&(service, why))
            }
            Expected::ArrivesOrDeadLettered | Expected::Unconfirmed => true,
        };
        MessageOutcome { is_kept, lines, rows, dead_letters }
    }
}

/// Messages of hostile clients at the destinations, by number.
struct Numbers<'a> {
    ends: [HashMap<u64, u64>; 2],
    dead_letters: HashMap<u64, Vec<(&'a str, &'a str)>>,
}

impl<'a> Numbers<'a> {
    fn of(found: &Found<'a>) -> Self {
        let ends = [found.lines, found.rows].map(|end| {
            let mut counts = HashMap::new();
            for (key, count) in end {
                if let Some(number) = number_of(key) {
                    *counts.entry(number).or_default() += count;
                }
            }
            counts
        });
        let mut dead_letters: HashMap<_, Vec<_>> = HashMap::new();
        for (key, reasons) in &found.dead_letters {
            if let Some(number) = number_of(key) {
                dead_letters.entry(number).or_default().extend(reasons);
            }
        }
        Self { ends, dead_letters }
    }

    /// Checks a message whose dead letters may replace lines and rows. A dead letter of icestore
    /// replaces the line, one of bigqueries the row, and one of another service both.
    fn account_for(&self, message: &HostileMessage) -> MessageOutcome<'a> {
        let number = number_of(&message.payload).unwrap_or(u64::MAX);
        let [lines, rows] =
            [&self.ends[0], &self.ends[1]].map(|end| end.get(&number).copied().unwrap_or(0));
        let dead_letters = self.dead_letters.get(&number).cloned().unwrap_or_default();
        let has_reason = dead_letters.iter().all(|(_, reason)| !reason.is_empty());
        let stands_for = |end: &str, other: &str| {
            dead_letters.iter().any(|(service, _)| *service == end || *service != other)
        };
        let is_archived = lines > 0 || stands_for("icestore", "bigqueries");
        let is_row = rows > 0 || stands_for("bigqueries", "icestore");
        MessageOutcome { is_kept: has_reason && is_archived && is_row, lines, rows, dead_letters }
    }
}

/// Pulls all dead letters since the last call. Payloads that were stored in the bucket are loaded.
async fn read_dead_letters(env: &FaultEnv) -> anyhow::Result<Vec<Received>> {
    let mut dead_letters = Vec::new();
    loop {
        let mut pulled = env.cloud.pull(DEAD_LETTER_REPORT).await?;
        if pulled.is_empty() {
            return Ok(dead_letters);
        }
        for dead_letter in &mut pulled {
            if let Some(object) = dead_letter.attributes.get("dl_object") {
                let path = object.strip_prefix("gs://").and_then(|path| path.split_once('/'));
                let (bucket, name) = path.context("read dl_object")?;
                dead_letter.data = env.cloud.read(bucket, name).await?;
            }
        }
        dead_letters.extend(pulled);
    }
}

fn reason(dead_letter: &Received) -> (&str, &str) {
    let attribute = |name: &str| dead_letter.attributes.get(name).map_or("", String::as_str);
    (attribute("dl_service"), attribute("dl_reason"))
}

/// Returns the payload that a device sent or another client published.
fn content(dead_letter: &Received) -> Vec<u8> {
    match Envelope::read(&dead_letter.data) {
        Some(envelope) => {
            envelope.payload.map(|payload| payload.bytes().into()).unwrap_or_default()
        }
        None => dead_letter.data.clone().into(),
    }
}

fn hostile_key(payload: &Payload) -> Option<Vec<u8>> {
    let key = match payload {
        Payload::Bytes(bytes) => canonical(bytes),
        Payload::Json(value) => value.to_string().into_bytes(),
    };
    HostileMessage::is_one(&key).then_some(key)
}

/// Normalizes a payload for comparison: JSON is compared by value, because a table keeps values
/// only.
fn canonical(payload: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<serde_json::Value>(payload) {
        Ok(value) => value.to_string().into_bytes(),
        Err(_) => payload.to_vec(),
    }
}

fn count(keys: impl Iterator<Item = Vec<u8>>) -> HashMap<Vec<u8>, u64> {
    let mut counts = HashMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// Returns true if the object name is inside the folder of the archive.
fn is_proper(name: &str) -> bool {
    name.starts_with("archive/") && !name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_row_that_bigquery_was_made_to_refuse_lies_in_the_dead_letters() {
        let payload = br#"{"hostile":1}"#.to_vec();
        let message = HostileMessage {
            payload: payload.clone(),
            expected: Expected::Arrives,
            at: Instant::now(),
        };
        let (here, nowhere) = (HashMap::from([(payload.clone(), 1)]), HashMap::new());
        let account = |dead_letter, lines, refuses_rows| {
            let dead_letters = HashMap::from([(payload.clone(), vec![dead_letter])]);
            Found { lines, rows: &nowhere, dead_letters, refuses_rows }
                .account_for(&message)
                .is_kept
        };
        let refused = ("bigqueries", "row_refused");

        assert!(account(refused, &here, true));
        assert!(!account(refused, &here, false), "nobody made it refuse the row");
        assert!(!account(refused, &nowhere, true), "it is not in the archive");
        assert!(!account(("bigqueries", "row_too_large"), &here, true));
        assert!(!account(("icestore", "row_refused"), &here, true));
    }
}
