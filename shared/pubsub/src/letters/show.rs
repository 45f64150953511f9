//! Prints letters.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::ArgMatches;
use pipeline::Message;
use pipeline::message::attribute::{DEVICE_ID, INGEST_ID};
use serde_json::{Value, json};
use service::survey::Form;
use service::{args, explain};

use super::Letters;
use super::filter::Filter;

/// A line for each letter, and a sum by reason.
pub(super) fn list(letters: &Letters, filter: &Filter, form: Form) -> anyhow::Result<()> {
    let taken: Vec<_> = letters.messages().filter(|letter| filter.takes(letter)).collect();
    if form == Form::Json {
        let rows: Vec<_> = taken.iter().map(|letter| head(letter)).collect();
        println!("{:#}", Value::from(rows));
        return Ok(());
    }
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in &taken {
        *sums.entry(attribute(letter, "dl_reason")).or_default() += 1;
        println!("{}", line(letter));
    }
    for (reason, count) in sums {
        println!("{count} {reason}");
    }
    println!("{} of {} letters read", taken.len(), letters.held.len());
    Ok(())
}

/// The letter of one id, whole.
pub(super) fn one(letters: &Letters, given: &ArgMatches) -> anyhow::Result<()> {
    let wanted = given.get_one::<String>("id").map_or("", String::as_str);
    let is_it = |letter: &&Message| {
        [id(letter), &letter.id, attribute(letter, "dl_message_id")].contains(&wanted)
    };
    let Some(letter) = letters.messages().find(is_it) else {
        bail!("no letter of the id {wanted} among the {} read", letters.held.len());
    };
    if args::form(given) == Form::Json {
        // As `explain --pubsub-json` reads it.
        let mut shown = head(letter);
        shown["message"] = explain::to_json(&letter.data, &letter.attributes, "");
        shown["message"]["messageId"] = attribute(letter, "dl_message_id").into();
        println!("{shown:#}");
        return Ok(());
    }
    let attributes: BTreeMap<_, _> = letter.attributes.iter().collect();
    attributes.iter().for_each(|(name, value)| println!("{name}: {value}"));
    println!("data ({} bytes): {:#}", letter.data.len(), explain::readable(&letter.data));
    Ok(())
}

/// One line about a letter.
pub(super) fn line(letter: &Message) -> String {
    let [seen, reason, device, detail] =
        ["dl_first_seen", "dl_reason", DEVICE_ID, "dl_detail"].map(|name| attribute(letter, name));
    format!("{seen}  {reason}  {}  {device}  {detail}", id(letter))
}

pub(super) fn head(letter: &Message) -> Value {
    json!({
        "id": id(letter),
        "first_seen": attribute(letter, "dl_first_seen"),
        "service": attribute(letter, "dl_service"),
        "reason": attribute(letter, "dl_reason"),
        "detail": attribute(letter, "dl_detail"),
        "device_id": attribute(letter, DEVICE_ID),
        "bytes": letter.data.len(),
    })
}

/// What names it: the id that its message has everywhere, else its own.
fn id(letter: &Message) -> &str {
    letter.attributes.get(INGEST_ID).unwrap_or(&letter.id)
}

fn attribute<'a>(letter: &'a Message, name: &str) -> &'a str {
    letter.attributes.get(name).map_or("", String::as_str)
}
