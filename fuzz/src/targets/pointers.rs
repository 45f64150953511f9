//! JSON pointers into payloads, and paths of values in messages.

use std::time::Duration;

use ingestion::config::Identity;
use ingestion::identity::identify;
use ingestion::metrics::Metrics;
use message::{FieldPath, Message, Origin, timestamp};
use serde_json::{Value, json};

use super::{Target, first_line, require};

pub(super) const TARGET: Target = Target {
    name: "pointers",
    corpus: &[
        include_bytes!("../../corpus/pointers/nested.txt"),
        include_bytes!("../../corpus/pointers/escapes.txt"),
        include_bytes!("../../corpus/pointers/times.txt"),
    ],
    dictionary: &[
        "/",
        "~0",
        "~1",
        "/0",
        "/01",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"id\":",
        "\"a\":",
        "\\u0061",
        "\\ud83d\\ude00",
        "\\\"",
        "null",
        "20261129000000000001",
        "\n",
        "enrichment.",
        "attribute.",
    ],
    weight: 1,
    check,
};

fn settings(pointer: &str) -> Identity {
    Identity {
        id_pointer: Some(pointer.to_owned()),
        event_time_pointer: Some(pointer.to_owned()),
        max_past: Duration::MAX,
        max_future: Duration::MAX,
        ..Identity::default()
    }
}

/// Checks a pointer, which is the first line, with a payload, which is the rest.
fn check(input: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(input);
    let (pointer, payload) = first_line(&text);
    if let Ok(path) = pointer.parse::<FieldPath>() {
        let again = path.to_string().parse::<FieldPath>();
        require(again.as_ref() == Ok(&path), || format!("{path:?} is read as {again:?}"))?;
    }
    let metrics = Metrics::default();
    let message = Message::new(payload.to_owned());
    let found = identify(&message, Origin::mqtt("t"), &settings(pointer), &metrics);

    let is_writable = timestamp::in_utc(found.time) == Some(found.time);
    require(is_writable, || format!("{} cannot be written", found.time))?;
    // The result must be the same as with a parsed tree of the payload.
    let Ok(tree) = message::json::parse(payload.as_bytes()) else { return Ok(()) };
    let Some(value) = tree.pointer(pointer).cloned() else {
        let is_absent = !is_given(&found.id) && found.raw_time.is_none();
        return require(is_absent, || format!("{found:?} at {pointer}, where nothing is"));
    };
    let mut alone = Message::new(json!({ "v": value }).to_string());
    alone.publish_time = message.publish_time;
    let expected = identify(&alone, Origin::mqtt("t"), &settings("/v"), &metrics);
    // A value that is long as it is written gives no id and no time. In its plain form it may be
    // short.
    let is_long = payload.len() > 2048;
    let is_same_id =
        found.id == expected.id || !is_given(&found.id) && (is_long || !is_given(&expected.id));
    let is_same_raw = found.raw_time == expected.raw_time
        || value_of(&found.raw_time).is_some_and(|raw| Some(raw) == value_of(&expected.raw_time));
    let is_same = found.time == expected.time && is_same_raw;
    require(is_same_id && (is_same || is_long), || {
        format!("{value} at {pointer}: {found:?}, not {expected:?}")
    })
}

/// Returns the value that was kept in place of a time. It can be written in several ways.
fn value_of(raw_time: &Option<String>) -> Option<Value> {
    message::json::parse(raw_time.as_ref()?.as_bytes()).ok()
}

/// Returns true if an id was made from a value of the message.
fn is_given(id: &str) -> bool {
    id.len() == 32
}
