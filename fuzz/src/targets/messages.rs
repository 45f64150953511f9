//! Messages as the services read them: as envelopes, rows and lines.

use std::sync::{Arc, LazyLock};

use bigqueries::table::TableName;
use bigqueries::transform::ToRow;
use enrich::key::{FirstOf, Key as _};
use futures::FutureExt as _;
use icestore::archive::Archive;
use icestore::key::Template;
use message::envelope::Input;
use message::{Envelope, FieldPath, Message, Payload};
use pipeline::{Recovery, Step, Transform};
use rows::column::{Column, Kind, Mode};
use rows::{Mapped, Rows as _};

use super::{Target, require};

const CORPUS: &[&[u8]] = &[
    include_bytes!("../../corpus/messages/envelope.json"),
    include_bytes!("../../corpus/messages/go.json"),
    include_bytes!("../../corpus/messages/all_types.json"),
    include_bytes!("../../corpus/messages/raw.json"),
    b"",
];
const DICTIONARY: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "null",
    "true",
    "\\u0000",
    "\\ud83d",
    "\\ud83d\\ude00",
    "{\"id\":\"1\",\"payload\":",
    "\"ID\":",
    "\"payload\":",
    "\"publishTime\":",
    "\"enrichmentData\":",
    "\"location\":\"../../x\"",
    "AAAA",
    "====",
    "NaN",
    "-Infinity",
    "1e-2147483648",
    "1e2147483647",
    " UTC",
    "2025-06-15",
    "10:30:00.123456",
];

pub(super) const ENVELOPE: Target =
    Target { name: "envelope", corpus: CORPUS, dictionary: DICTIONARY, weight: 1, check: envelope };
pub(super) const ROW: Target =
    Target { name: "row", corpus: CORPUS, dictionary: DICTIONARY, weight: 1, check: row };
pub(super) const LINE: Target =
    Target { name: "line", corpus: CORPUS, dictionary: DICTIONARY, weight: 1, check: line };

/// Checks that a written envelope is read as the same, and that a raw message keeps its data.
fn envelope(input: &[u8]) -> Result<(), String> {
    let message = Message::new(input.to_vec());
    let read = Envelope::of(&message, Input::Auto).map_err(|error| error.to_string())?;
    let again = Envelope::read(&read.to_bytes());
    require(again.as_ref() == Some(&read), || format!("written {read:?}, read {again:?}"))?;
    if Envelope::read(&message.data).is_none() {
        let payload = read.payload.as_ref().map(Payload::bytes);
        require(payload.as_deref() == Some(input), || "a raw message lost its data".into())?;
    }
    let paths = ["/a", "/device/id", "enrichment.DeviceID", "attribute.uid"];
    let paths = paths.iter().filter_map(|path| path.parse::<FieldPath>().ok()).collect();
    let _key = FirstOf::new(paths).key(&message, &read);
    Ok(())
}

/// Checks that a message becomes a row, or is refused with a reason. It must never stop the
/// service.
fn row(input: &[u8]) -> Result<(), String> {
    static ROWS: LazyLock<ToRow<Mapped>> = LazyLock::new(rows);
    apply(&*ROWS, input)
}

/// Creates a table with twelve types, each as a nullable column, a repeated column, and in a
/// record. GEOGRAPHY, INTERVAL and RANGE are not among them.
fn rows() -> ToRow<Mapped> {
    let kinds = [
        ("s", Kind::String),
        ("y", Kind::Bytes),
        ("i", Kind::Int64),
        ("f", Kind::Float64),
        ("b", Kind::Bool),
        ("t", Kind::Timestamp),
        ("d", Kind::Date),
        ("o", Kind::Time),
        ("l", Kind::Datetime),
        ("n", Kind::Numeric),
        ("g", Kind::Bignumeric),
        ("j", Kind::Json),
    ];
    let one = kinds.map(|(name, kind)| Column::new(name, kind));
    let many =
        kinds.map(|(name, kind)| Column::new(format!("{name}s"), kind).with_mode(Mode::Repeated));
    let record = Column::record("r", one.to_vec());
    let columns: Vec<_> = one.into_iter().chain(many).chain([record]).collect();
    let mapped = Mapped::new(&columns, true, Some("rest"));
    let all: Arc<[Column]> = mapped.columns().into();
    let name = || "x".to_owned();
    let table = TableName { project: name(), dataset: name(), table: name() };
    ToRow::new(mapped, all, table, Input::Auto)
}

/// Checks that a message becomes a line with a safe key, or is refused with a reason.
fn line(input: &[u8]) -> Result<(), String> {
    let archive = Archive::new(Template::default(), Input::Auto);
    apply(&archive, input)?;
    let message = Message::new(input.to_vec());
    if let Some(Ok(Step::Pass(line))) = archive.apply(&message).now_or_never() {
        let is_outside = line.key.split('/').any(|part| part == ".." || part.is_empty());
        require(!is_outside, || format!("the key {}", line.key))?;
        let is_json = serde_json::from_slice::<serde_json::Value>(&line.bytes).is_ok();
        require(is_json, || "the line is no JSON".into())?;
    }
    Ok(())
}

fn apply<T: Transform>(transform: &T, input: &[u8]) -> Result<(), String> {
    let message = Message::new(input.to_vec()).with_attribute("location", "..");
    match transform.apply(&message).now_or_never() {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => {
            let is_refusal = matches!(error.recovery(), Recovery::Reject(_));
            require(is_refusal, || format!("{error}"))
        }
        None => Err("it waits".into()),
    }
}
