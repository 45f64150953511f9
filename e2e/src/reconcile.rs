//! Compares what a fleet sent with what arrived, message by message and by content.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cloud::Received;
use crate::fleet::Fleet;
use crate::reading::Reading;
use message::envelope::Input;
use message::{Envelope, Message};

/// Totals of a comparison between what a fleet sent and what arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reconciliation {
    /// Readings that devices handed to their connections.
    pub sent: u64,
    /// Readings whose PUBACK came. Each of them must be found again.
    pub acknowledged: u64,
    /// Rows in BigQuery.
    pub rows: u64,
    /// Lines in the archive.
    pub archived: u64,
    /// Messages in the dead letters.
    pub dead_letters: u64,
    /// Acknowledged readings that a destination lacks and that no dead letter explains.
    pub missing: u64,
    /// Lines and rows with a wrong payload, device or enrichment.
    pub corrupted: u64,
    /// Lines and rows beyond the first of each reading at a destination.
    pub duplicates: u64,
    /// Readings that arrived although the fleet never sent them.
    #[serde(rename = "invented")]
    pub unexpected: u64,
}

impl Reconciliation {
    /// Returns true if nothing was lost or changed, and nothing came that was not sent.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.corrupted == 0 && self.unexpected == 0
    }
}

/// Messages found at each destination of a flow; `None` for a destination that the flow does not
/// have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Destinations<'a> {
    /// Messages in the archive, or messages read from a subscription.
    pub archive: Option<&'a [Arrived]>,
    /// The rows of the table.
    pub table: Option<&'a [Arrived]>,
    /// The rows of PostgreSQL.
    pub postgresql: Option<&'a [Arrived]>,
    /// The dead letters.
    pub dead_letters: &'a [Received],
    /// True if each message must carry the location of its device.
    pub is_enriched: bool,
}

impl<'a> Destinations<'a> {
    /// Checks the archive alone.
    #[must_use]
    pub fn archive(arrived: &'a [Arrived]) -> Self {
        Self { archive: Some(arrived), ..Self::default() }
    }

    /// Checks the table alone.
    #[must_use]
    pub fn table(arrived: &'a [Arrived]) -> Self {
        Self { table: Some(arrived), ..Self::default() }
    }

    /// Also checks the enrichment of each message.
    #[must_use]
    pub fn enriched(self) -> Self {
        Self { is_enriched: true, ..self }
    }
}

/// Outcome of the messages of a fleet, by reading.
#[derive(Debug, Default)]
pub struct Findings {
    /// Acknowledged readings that a destination lacks and that no dead letter explains there.
    pub missing: HashSet<Reading>,
    /// Number of lines and rows beyond the first of a reading at one destination.
    pub duplicates: HashMap<Reading, u64>,
    /// Lines and rows that differ from what was sent; `None` if the reading cannot be recognized.
    pub corrupted: Vec<Option<Reading>>,
    /// Readings that arrived although the fleet never sent them.
    pub unexpected: HashSet<Reading>,
}

/// Counts the outcome of the messages of a fleet; see [`find`].
#[must_use]
pub fn reconcile(fleet: &Fleet, destinations: Destinations<'_>) -> Reconciliation {
    let log = fleet.log();
    let findings = find(fleet, destinations);
    let count = |arrived: Option<&[Arrived]>| arrived.map_or(0, <[Arrived]>::len) as u64;
    Reconciliation {
        sent: log.sent_count(),
        acknowledged: log.acknowledged_count(),
        rows: count(destinations.table.or(destinations.postgresql)),
        archived: count(destinations.archive),
        dead_letters: destinations.dead_letters.len() as u64,
        missing: findings.missing.len() as u64,
        corrupted: findings.corrupted.len() as u64,
        duplicates: findings.duplicates.values().sum(),
        unexpected: findings.unexpected.len() as u64,
    }
}

/// Finds the outcome of the messages of a fleet.
///
/// Each acknowledged message must be at every destination. A dead letter of a service on the way to
/// a destination counts instead. Messages from other senders are ignored.
#[must_use]
pub fn find(fleet: &Fleet, destinations: Destinations<'_>) -> Findings {
    let log = fleet.log();
    let (sent, acknowledged) = (log.sent(), log.acknowledged());
    let mut findings = Findings::default();
    let ends_by_service = [
        (destinations.archive, "icestore"),
        (destinations.table, "bigqueries"),
        (destinations.postgresql, "postgres"),
    ];
    let last_services = ends_by_service.map(|(_, service)| service);
    for (arrived, service) in ends_by_service {
        let Some(arrived) = arrived else { continue };
        // A dead letter of bigqueries does not explain a line that the archive lacks. One of
        // icestore does not explain a missing row.
        let is_before_here = |dead_letter: &&Received| {
            let refused_by = dead_letter.attributes.get("dl_service").map_or("", String::as_str);
            refused_by == service || !last_services.contains(&refused_by)
        };
        let dead_letters = destinations.dead_letters.iter().filter(is_before_here);
        let dead_lettered: HashSet<_> =
            dead_letters.filter_map(|dead_letter| fleet.dead_lettered(dead_letter)).collect();
        let mut found = HashSet::new();
        for arrived in arrived {
            match fleet.compare(arrived, destinations.is_enriched) {
                Comparison::Intact(reading) if !sent.contains(&reading) => {
                    findings.unexpected.insert(reading);
                }
                Comparison::Intact(reading) => {
                    if !found.insert(reading) {
                        *findings.duplicates.entry(reading).or_default() += 1;
                    }
                }
                Comparison::Corrupted(reading) => findings.corrupted.push(reading),
                Comparison::Foreign => {}
            }
        }
        let due = acknowledged.iter().map(|(reading, _)| *reading);
        let is_missing =
            |reading: &Reading| !found.contains(reading) && !dead_lettered.contains(reading);
        findings.missing.extend(due.filter(is_missing));
    }
    findings
}

/// A message found at a destination.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Payload that the device sent.
    pub payload: Payload,
    /// Name of the device, from the attributes.
    pub device: Option<String>,
    /// Location of the device, from the enrichment.
    pub location: Option<String>,
}

/// A payload in the form that a destination keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// The original bytes.
    Bytes(Vec<u8>),
    /// A JSON value: a table keeps values, not bytes.
    Json(Value),
}

impl Payload {
    /// Returns the content, in the same form for every destination.
    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => canonical(bytes),
            Self::Json(value) => value.to_string().into_bytes(),
        }
    }
}

/// Normalizes a payload for comparison: JSON is compared by value, because a table keeps values
/// only.
pub(crate) fn canonical(payload: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(payload) {
        Ok(value) => value.to_string().into_bytes(),
        Err(_) => payload.to_vec(),
    }
}

impl Arrived {
    /// Reads a message from a subscription.
    ///
    /// # Errors
    /// Never fails for what ingestion writes.
    pub fn of_message(received: &Received) -> anyhow::Result<Self> {
        let envelope = Envelope::of(&Message::new(received.data.clone()), Input::Auto)?;
        Ok(Self::of_envelope(envelope, received.attributes.get("device_id").cloned()))
    }

    /// Reads a line of the archive.
    ///
    /// # Errors
    /// Fails when the data of the line is not base64.
    pub fn of_line(line: &crate::archive::Line) -> anyhow::Result<Self> {
        let envelope = Envelope::of(&Message::new(line.data()?), Input::Auto)?;
        Ok(Self::of_envelope(envelope, line.attributes.get("device_id").cloned()))
    }

    /// Reads a row of a table with the columns `device_id`, `location`, `temperature` and `rest`.
    #[must_use]
    pub fn of_row(row: &Map<String, Value>) -> Self {
        let text = |name: &str| Some(row.get(name)?.as_str()?.to_owned());
        let rest = text("rest").and_then(|rest| serde_json::from_str::<Value>(&rest).ok());
        let mut rest = rest.unwrap_or_default();
        let (device, location) = (text("device_id"), text("location"));
        // A payload that is not JSON is kept byte for byte.
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

    /// Returns the reading in the payload; `None` if another fleet sent it.
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

enum Comparison {
    Intact(Reading),
    Corrupted(Option<Reading>),
    Foreign,
}

impl Fleet {
    fn compare(&self, arrived: &Arrived, is_enriched: bool) -> Comparison {
        let Some(reading) = arrived.reading(self.name()) else {
            // A payload that cannot be read but contains the name of this fleet was damaged on its
            // way.
            let mark = self.name().as_bytes();
            let is_ours = arrived.bytes().windows(mark.len()).any(|window| window == mark);
            return if is_ours { Comparison::Corrupted(None) } else { Comparison::Foreign };
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
        let is_intact = is_same
            && is_at_home
            && arrived.device.as_deref() == Some(reading.device_name().as_str());
        if is_intact { Comparison::Intact(reading) } else { Comparison::Corrupted(Some(reading)) }
    }

    /// Returns the reading in a dead letter that holds the original payload byte for byte.
    pub(crate) fn dead_lettered(&self, dead_letter: &Received) -> Option<Reading> {
        let payload = match Envelope::read(&dead_letter.data) {
            Some(envelope) => envelope.payload?.bytes(),
            None => dead_letter.data.clone(),
        };
        let reading = Reading::of(self.name(), &payload)?;
        (payload == reading.payload(self.name(), self.plan().payload_bytes)).then_some(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::FleetPlan;

    /// Returns a fleet that has sent three readings, which were all acknowledged.
    async fn fleet() -> Fleet {
        let plan = FleetPlan { messages: Some(3), connections: 1, ..FleetPlan::default() };
        let mut fleet = Fleet::start_with(plan, |_, readings| async move {
            while let Some(reading) = readings.next().await {
                readings.acknowledge(reading);
            }
        });
        fleet.finish().await;
        fleet
    }

    /// Returns the reading of the device with its number, as each device sends one.
    fn reading(number: u32) -> Reading {
        Reading { device: number, number: number.into() }
    }

    /// Returns a reading as it arrives when nothing has changed it.
    fn as_sent(fleet: &Fleet, reading: Reading) -> Arrived {
        let payload = reading.payload(fleet.name(), fleet.plan().payload_bytes);
        let device = Some(reading.device_name());
        Arrived { payload: Payload::Bytes(payload), device, location: Some(reading.location()) }
    }

    #[tokio::test]
    async fn a_changed_an_invented_and_an_absent_message_are_told_apart() {
        let fleet = fleet().await;
        let [intact, changed, absent, invented] = [0, 1, 2, 3].map(reading);
        let longer = changed.payload(fleet.name(), fleet.plan().payload_bytes + 1);
        let longer = Arrived { payload: Payload::Bytes(longer), ..as_sent(&fleet, changed) };
        let arrived = [as_sent(&fleet, intact), longer, as_sent(&fleet, invented)];

        let found = find(&fleet, Destinations::archive(&arrived).enriched());
        let totals = reconcile(&fleet, Destinations::archive(&arrived).enriched());

        assert_eq!(found.corrupted, [Some(changed)]);
        assert_eq!(found.unexpected, HashSet::from([invented]));
        // What arrived only in another form than it was sent in has not arrived.
        assert_eq!(found.missing, HashSet::from([changed, absent]));
        assert!(found.duplicates.is_empty(), "{found:?}");
        let expected = Reconciliation {
            sent: 3,
            acknowledged: 3,
            archived: 3,
            missing: 2,
            corrupted: 1,
            unexpected: 1,
            ..Reconciliation::default()
        };
        assert_eq!(totals, expected);
        assert!(!totals.is_clean());
    }

    #[tokio::test]
    async fn a_wrong_device_or_location_and_a_damaged_payload_are_corrupted() {
        let fleet = fleet().await;
        let all = [0, 1, 2].map(reading);
        let [device, location, damaged] = all.map(|reading| as_sent(&fleet, reading));
        let half = damaged.bytes()[..100].to_vec();
        let wrong = [
            Arrived { device: Some("device-00099".into()), ..device },
            Arrived { location: None, ..location },
            Arrived { payload: Payload::Bytes(half), ..damaged },
            Arrived { payload: Payload::Bytes(b"{}".into()), device: None, location: None },
        ];
        let copies = all.map(|reading| as_sent(&fleet, reading));

        let found = find(&fleet, Destinations::table(&[&copies[..], &wrong].concat()).enriched());
        let clean = reconcile(&fleet, Destinations::table(&copies).enriched());

        // The last one is of somebody else.
        assert_eq!(found.corrupted, [Some(all[0]), Some(all[1]), None]);
        assert!(found.missing.is_empty() && found.unexpected.is_empty(), "{found:?}");
        assert!(clean.is_clean(), "{clean:?}");
    }
}
