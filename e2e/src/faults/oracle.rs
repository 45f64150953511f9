//! Finds the outcome of every confirmed message.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use tokio::time::Instant;
use tracing::info;

use super::exactly_once;
use super::fault_env::FaultEnv;
use super::hostile_clients::{Expected, HostileClients, HostileMessage, number_of};
use super::keyed::Keyed;
use crate::archive;
use crate::cloud::Received;
use crate::fleet::Fleet;
use crate::names::{ARCHIVE, DATASET, DEAD_LETTER_REPORT, POSTGRES, TABLE};
use crate::reading::Reading;
use crate::reconcile::{self, Arrived, Destinations, Payload, canonical};
use message::Envelope;

/// Services at the ends of the flow. A dead letter of one of them explains nothing at another end.
const SINKS: [&str; 3] = ["bigqueries", "icestore", POSTGRES];

/// Everything that was found in the tables, the archive and the dead letters.
pub(super) struct Arrivals {
    lines: Keyed,
    rows: Vec<Arrived>,
    /// Rows of PostgreSQL.
    stored: Keyed,
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
    /// Messages that only one of PostgreSQL and the archive has.
    pub(super) unsettled: usize,
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
    /// Reads the tables, the archive and the new dead letters. Adds these to `dead_letters`.
    pub(super) async fn collect(
        env: &FaultEnv,
        dead_letters: &mut Vec<Received>,
    ) -> anyhow::Result<Self> {
        let cloud = &env.cloud;
        let started = Instant::now();
        let read = |what: &str, count: usize| {
            let seconds = started.elapsed().as_secs();
            info!(what, count, seconds, "read what has arrived");
        };
        dead_letters.extend(read_dead_letters(env).await?);
        read("dead letters", dead_letters.len());
        let objects = cloud.list(ARCHIVE, "").await?;
        read("names of objects", objects.len());
        let archived = archive::read(cloud, ARCHIVE, "").await?;
        read("lines", archived.len());
        let latencies = archived.iter().filter_map(archive::Line::latency).collect();
        let mut lines = Keyed::default();
        for line in &archived {
            lines.push(line.key()?, Arrived::of_line(line)?);
        }
        drop(archived);
        let rows: Vec<_> = cloud.rows(DATASET, TABLE).await?.iter().map(Arrived::of_row).collect();
        read("rows of BigQuery", rows.len());
        let stored = env.database.rows().await?;
        read("rows of PostgreSQL", stored.ids.len());
        Ok(Self { lines, rows, stored, dead_letters: dead_letters.clone(), latencies, objects })
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
        self.check_exactly_once(&mut outcome);
        let outside = self.objects.iter().filter(|name| !is_proper(name));
        outcome.failures.extend(outside.map(|name| format!("an object is called {name}")));
        outcome
    }

    fn check_fleet(&self, outcome: &mut Outcome, index: usize, fleet: &Fleet) {
        let sender = |reading| SenderId::Fleet(index, reading);
        let destinations = Destinations {
            archive: Some(&self.lines.messages),
            table: Some(&self.rows),
            dead_letters: &self.dead_letters,
            is_enriched: true,
            ..Destinations::default()
        };
        let findings = reconcile::find(fleet, destinations);
        let acknowledged = fleet.log().acknowledged();
        outcome.obligations.extend(acknowledged.into_iter().map(|(r, at)| (sender(r), at)));
        outcome.missing.extend(findings.missing.into_iter().map(sender));
        outcome.corrupted.extend(findings.corrupted.into_iter().map(|r| r.map(sender)));
        outcome.duplicates.extend(findings.duplicates.into_iter().map(|(r, n)| (sender(r), n)));
        let unexpected = findings.unexpected.into_iter();
        outcome.failures.extend(unexpected.map(|reading| format!("nobody sent {reading:?}")));
        self.check_fleet_in_postgresql(outcome, index, fleet);
    }

    /// Checks PostgreSQL, where no reading may be two rows.
    fn check_fleet_in_postgresql(&self, outcome: &mut Outcome, index: usize, fleet: &Fleet) {
        let sender = |reading| SenderId::Fleet(index, reading);
        let destinations = Destinations {
            postgresql: Some(&self.stored.messages),
            dead_letters: &self.dead_letters,
            is_enriched: true,
            ..Destinations::default()
        };
        let findings = reconcile::find(fleet, destinations);
        outcome.missing.extend(findings.missing.into_iter().map(sender));
        outcome.corrupted.extend(findings.corrupted.into_iter().map(|r| r.map(sender)));
        let twice = findings.duplicates.len();
        if twice > 0 {
            outcome.failures.push(format!("postgres: {twice} readings are more than one row"));
        }
        let unexpected = findings.unexpected.into_iter();
        let text = |reading| format!("postgres: nobody sent {reading:?}");
        outcome.failures.extend(unexpected.map(text));
    }

    /// Compares PostgreSQL with the archive, message by message.
    fn check_exactly_once(&self, outcome: &mut Outcome) {
        let of = |service| {
            let dead_letters = self
                .dead_letters
                .iter()
                .filter(move |dead_letter| reason(dead_letter).0 == service);
            dead_letters.map(|dead_letter| canonical(&content(dead_letter))).collect::<HashSet<_>>()
        };
        let (refused, unarchived) = (of(POSTGRES), of("icestore"));
        let differences = exactly_once::compare(&self.lines, &self.stored, &refused, &unarchived);
        outcome.unsettled = differences.unsettled;
        outcome.failures.extend(differences.failures);
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
        let hostile = |messages: &[Arrived]| {
            count(messages.iter().filter_map(|message| hostile_key(&message.payload)))
        };
        let lines = hostile(&self.lines.messages);
        let (rows, stored) = (hostile(&self.rows), hostile(&self.stored.messages));
        let dead_letters = self.dead_letters_by_content();
        let found =
            Found { lines: &lines, rows: &rows, stored: &stored, dead_letters, refuses_rows };
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
            let MessageOutcome { is_kept, lines, rows, stored, dead_letters } = found;
            if !is_kept {
                outcome.missing.insert(sender);
                let text = format!(
                    "lines {lines}, rows {rows}, in PostgreSQL {stored}, letters {dead_letters:?}"
                );
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
        let strange = lines.keys().chain(rows.keys()).chain(stored.keys()).filter(|key| {
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
    /// Rows of PostgreSQL.
    stored: u64,
    /// Service and reason of each dead letter.
    dead_letters: Vec<(&'a str, &'a str)>,
}

/// Messages of hostile clients at the destinations, by content.
struct Found<'a> {
    lines: &'a HashMap<Vec<u8>, u64>,
    rows: &'a HashMap<Vec<u8>, u64>,
    /// Rows of PostgreSQL.
    stored: &'a HashMap<Vec<u8>, u64>,
    dead_letters: HashMap<Vec<u8>, Vec<(&'a str, &'a str)>>,
    /// True if BigQuery was made to refuse valid rows.
    refuses_rows: bool,
}

impl<'a> Found<'a> {
    fn account_for(&self, message: &HostileMessage) -> MessageOutcome<'a> {
        let key = canonical(&message.payload);
        let [lines, rows, stored] =
            [self.lines, self.rows, self.stored].map(|end| end.get(&key).copied().unwrap_or(0));
        let dead_letters = self.dead_letters.get(&key).cloned().unwrap_or_default();
        let is_refused = self.refuses_rows && dead_letters.contains(&("bigqueries", "row_refused"));
        let is_kept = match message.expected {
            Expected::Arrives => lines > 0 && (rows > 0 || is_refused) && stored > 0,
            Expected::NoRow(why) => {
                let is_dead_letter_of = |service| dead_letters.contains(&(service, why));
                let has_dead_letters =
                    is_dead_letter_of("bigqueries") && is_dead_letter_of(POSTGRES);
                lines > 0 && rows + stored == 0 && has_dead_letters
            }
            Expected::DeadLettered(service, why) => {
                lines + rows + stored == 0 && dead_letters.contains(&(service, why))
            }
            Expected::ArrivesOrDeadLettered | Expected::Unconfirmed => true,
        };
        MessageOutcome { is_kept, lines, rows, stored, dead_letters }
    }
}

/// Messages of hostile clients at the destinations, by number.
struct Numbers<'a> {
    ends: [HashMap<u64, u64>; 3],
    dead_letters: HashMap<u64, Vec<(&'a str, &'a str)>>,
}

impl<'a> Numbers<'a> {
    fn of(found: &Found<'a>) -> Self {
        let ends = [found.lines, found.rows, found.stored].map(|end| {
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
    /// replaces the line, one of bigqueries the row, and one of another service both. Rows of
    /// PostgreSQL are compared by id instead, because it keeps one message of each id.
    fn account_for(&self, message: &HostileMessage) -> MessageOutcome<'a> {
        let number = number_of(&message.payload).unwrap_or(u64::MAX);
        let [lines, rows, stored] =
            self.ends.each_ref().map(|end| end.get(&number).copied().unwrap_or(0));
        let dead_letters = self.dead_letters.get(&number).cloned().unwrap_or_default();
        let has_reason = dead_letters.iter().all(|(_, reason)| !reason.is_empty());
        let stands_for = |end: &str| {
            dead_letters.iter().any(|(service, _)| *service == end || !SINKS.contains(service))
        };
        let is_archived = lines > 0 || stands_for("icestore");
        let is_row = rows > 0 || stands_for("bigqueries");
        let is_kept = has_reason && is_archived && is_row;
        MessageOutcome { is_kept, lines, rows, stored, dead_letters }
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
    let key = payload.key();
    HostileMessage::is_one(&key).then_some(key)
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
            let found = Found { lines, rows: &nowhere, stored: &here, dead_letters, refuses_rows };
            found.account_for(&message).is_kept
        };
        let refused = ("bigqueries", "row_refused");

        assert!(account(refused, &here, true));
        assert!(!account(refused, &here, false), "nobody made it refuse the row");
        assert!(!account(refused, &nowhere, true), "it is not in the archive");
        assert!(!account(("bigqueries", "row_too_large"), &here, true));
        assert!(!account(("icestore", "row_refused"), &here, true));
    }
}
