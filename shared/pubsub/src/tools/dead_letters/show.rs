//! Prints dead letters.

use std::collections::BTreeMap;

use message::Message;
use message::attribute::INGEST_ID;
use serde::Serialize;
use serde_json::{Value, json};
use service::tools::explain;
use service::tools::preflight::Form;
use time::OffsetDateTime;

use super::Seen;
use super::filter::{Filter, device, original};
use super::print::Print;

/// Fields of a dead letter in a list.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: String,
    first_seen: String,
    service: String,
    reason: String,
    detail: String,
    device_id: String,
    bytes: usize,
    #[serde(skip)]
    published: OffsetDateTime,
}

impl Row {
    pub(super) fn of(letter: &Message) -> Self {
        let text = |name| attribute(letter, name).to_owned();
        Self {
            id: id(letter).to_owned(),
            first_seen: text("dl_first_seen"),
            service: text("dl_service"),
            reason: text("dl_reason"),
            detail: text("dl_detail"),
            device_id: device(letter).unwrap_or_default(),
            bytes: letter.data.len(),
            published: letter.publish_time,
        }
    }

    /// Returns one line for people.
    pub(super) fn line(&self) -> String {
        let Self { id, first_seen, reason, detail, device_id, .. } = self;
        let [device, seen] =
            [device_id, first_seen].map(|text| if text.is_empty() { "-" } else { text });
        format!("{seen}  {reason}  {id}  {device}  {detail}")
    }
}

/// Rows of the dead letters that a filter selects.
pub(super) struct List<'a> {
    filter: &'a Filter,
    rows: Vec<Row>,
}

impl<'a> List<'a> {
    pub(super) fn new(filter: &'a Filter) -> Self {
        Self { filter, rows: Vec::new() }
    }

    pub(super) fn visit(&mut self, letter: &Message) {
        if self.filter.takes(letter) {
            self.rows.push(Row::of(letter));
        }
    }

    /// Prints a line for each dead letter, and a sum by reason.
    pub(super) fn print(mut self, seen: &Seen, form: Form, out: &mut dyn Print) {
        self.rows.sort_by(|a, b| (a.published, &a.id).cmp(&(b.published, &b.id)));
        if form == Form::Json {
            let mut told = seen.to_json();
            told["matching"] = self.rows.len().into();
            told["letters"] = json!(self.rows);
            out.line(&format_args!("{told:#}"));
            return;
        }
        let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &self.rows {
            *sums.entry(&row.reason).or_default() += 1;
            out.line(&row.line());
        }
        for (reason, letters) in sums {
            out.line(&format_args!("{reason}: {letters}"));
        }
        out.line(&seen.sum(self.rows.len()));
    }
}

/// Numbers of dead letters by service and reason.
pub(super) struct Count<'a> {
    filter: &'a Filter,
    counts: BTreeMap<(String, String), usize>,
}

impl<'a> Count<'a> {
    pub(super) fn new(filter: &'a Filter) -> Self {
        Self { filter, counts: BTreeMap::new() }
    }

    pub(super) fn visit(&mut self, letter: &Message) {
        if self.filter.takes(letter) {
            let key = ["dl_service", "dl_reason"].map(|name| attribute(letter, name).to_owned());
            *self.counts.entry(key.into()).or_default() += 1;
        }
    }

    /// Prints a line for each service and reason.
    pub(super) fn print(&self, seen: &Seen, form: Form, out: &mut dyn Print) {
        let matching: usize = self.counts.values().sum();
        if form == Form::Json {
            let count = |((service, reason), letters): (&(String, String), &usize)| json!({ "service": service, "reason": reason, "letters": letters });
            let mut told = seen.to_json();
            told["matching"] = matching.into();
            told["counts"] = self.counts.iter().map(count).collect();
            out.line(&format_args!("{told:#}"));
            return;
        }
        for ((service, reason), letters) in &self.counts {
            out.line(&format_args!("{letters:>8}  {service:<10}  {reason}"));
        }
        out.line(&seen.sum(matching));
    }
}

/// Dead letters with one id.
pub(super) struct Wanted<'a> {
    id: &'a str,
    service: &'a str,
    found: Vec<Message>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(id: &'a str, service: &'a str) -> Self {
        Self { id, service, found: Vec::new() }
    }

    pub(super) fn visit(&mut self, letter: Message) {
        if [id(&letter), &letter.id, attribute(&letter, "dl_message_id")].contains(&self.id) {
            self.found.push(letter);
            self.found.sort_by_cached_key(|letter| {
                let is_other = attribute(letter, "dl_service") != self.service;
                (is_other, letter.publish_time, letter.id.clone())
            });
            // There may be many repeats of one message. Ten are enough.
            self.found.truncate(10);
        }
    }

    /// Prints the whole dead letter: the oldest of this service, otherwise the oldest of all.
    /// Returns false if there is none.
    pub(super) fn print(&self, form: Form, out: &mut dyn Print) -> bool {
        let Some((letter, others)) = self.found.split_first() else { return false };
        for other in others {
            let [service, reason] = ["dl_service", "dl_reason"].map(|name| attribute(other, name));
            out.note(&format_args!(
                "another letter has this id: of {service}, {reason}, message id {}",
                other.id
            ));
        }
        if form == Form::Json {
            // The format that `explain --pubsub-json` reads.
            let mut shown = json!(Row::of(letter));
            let (data, attributes) = original(letter);
            shown["message"] = explain::to_json(&data, &attributes, "");
            shown["message"]["messageId"] = attribute(letter, "dl_message_id").into();
            out.line(&format_args!("{shown:#}"));
            return true;
        }
        let attributes: BTreeMap<_, _> = letter.attributes.iter().collect();
        for (name, value) in attributes {
            out.line(&format_args!("{name}: {value}"));
        }
        let (data, _) = original(letter);
        out.line(&format_args!("data ({} bytes): {:#}", data.len(), explain::readable(&data)));
        true
    }
}

impl Seen {
    /// Tells programs whether all dead letters were seen.
    pub(super) fn to_json(&self) -> Value {
        let mut told = json!({ "complete": self.shortfall.is_none(), "read": self.read });
        if let Some((why, what_to_do)) = &self.shortfall {
            told["why"] = why.as_str().into();
            told["what_to_do"] = what_to_do.as_str().into();
        }
        told
    }

    /// Returns the last line of a list.
    pub(super) fn sum(&self, matching: usize) -> String {
        let sum = format!("{}, of {} read", matching_letters(matching), self.read);
        match &self.shortfall {
            Some((why, what_to_do)) => format!("{sum}\nNOT COMPLETE: {why}; {what_to_do}"),
            None if self.read == 0 => {
                format!("{sum}: there are none, or somebody else is reading them at this moment")
            }
            None => format!("{sum}; no more letters came"),
        }
    }
}

/// Returns `1 letter matches`, `2 letters match`.
pub(super) fn matching_letters(count: usize) -> String {
    if count == 1 { "1 letter matches".into() } else { format!("{count} letters match") }
}

/// Returns the id that the message has everywhere, otherwise the id of the dead letter.
pub(super) fn id(letter: &Message) -> &str {
    letter.attributes.get(INGEST_ID).unwrap_or(&letter.id)
}

fn attribute<'a>(letter: &'a Message, name: &str) -> &'a str {
    letter.attributes.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests;
