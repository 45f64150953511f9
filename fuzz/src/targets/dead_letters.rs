//! Data that is read back: lines of the archive, and dead letters.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use icestore::format::Format;
use icestore::tools::replay::lines;
use message::Message;
use pubsub::tools::dead_letters;

use super::{Target, first_line, require};

pub(super) const ARCHIVE: Target = Target {
    name: "archive",
    corpus: &[
        include_bytes!("../../corpus/archive/ours.jsonl"),
        include_bytes!("../../corpus/archive/go.jsonl"),
        include_bytes!("../../corpus/archive/object.gz"),
        include_bytes!("../../corpus/archive/object.zst"),
    ],
    dictionary: &[
        "{",
        "}",
        "\"",
        ",",
        "\n",
        "null",
        "\"id\":",
        "\"originalPubSubPayload\":",
        "\"publishTime\":",
        "\"attributes\":{",
        "\"mqtt_topic\":",
        "\"mqtt_repeated\":",
        "\"mqtt_correlation_data\":",
        "\"mqtt_message_expiry\":\"4294967296\"",
        "====",
        "\x1f",
        "\0\0\0\0",
    ],
    weight: 1,
    check: archive,
};

pub(super) const DEAD_LETTER: Target = Target {
    name: "dead_letter",
    corpus: &[
        include_bytes!("../../corpus/dead_letter/letter.txt"),
        include_bytes!("../../corpus/dead_letter/truncated.txt"),
    ],
    dictionary: &[
        "=",
        "\n",
        "dl_reason=",
        "dl_first_seen=",
        "dl_object=",
        "dl_truncated=",
        "dl_size=",
        "dl_message_id=",
        "device_id=",
    ],
    weight: 1,
    check: dead_letter,
};

/// Reads the input as an object of each format, and as the lines of an object.
fn archive(input: &[u8]) -> Result<(), String> {
    for format in Format::ALL {
        read(format, input);
    }
    let mut object = GzEncoder::new(Vec::new(), Compression::fast());
    object.write_all(input).map_err(|error| error.to_string())?;
    read(Format::JsonlGz, &object.finish().map_err(|error| error.to_string())?);
    Ok(())
}

fn read(format: Format, object: &[u8]) {
    let Ok(lines) = lines::all(format, object.to_vec().into()) else { return };
    // An error ends the reading, as in a replay.
    for line in lines.map_while(Result::ok) {
        let _time = line.time();
        let _data = line.data();
        let _publication = line.for_mqtt();
    }
}

/// Reads a dead letter. The first line of the input is its data, the others are its attributes.
/// Checks that the original has all attributes except those that the dead letter added.
fn dead_letter(input: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(input);
    let (data, attributes) = first_line(&text);
    let mut dead_letter = Message::new(data.to_owned());
    for line in attributes.split('\n') {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        dead_letter.attributes.insert(name.to_owned(), value.to_owned());
    }
    let Ok(original) = dead_letters::original(&dead_letter) else { return Ok(()) };
    let is_left = original.attributes.keys().any(|name| name.starts_with("dl_"));
    require(!is_left, || "an attribute of the letter is left".into())?;
    let mut ours = dead_letter.attributes.iter().filter(|(name, _)| !name.starts_with("dl_"));
    let is_kept = ours.all(|(name, value)| original.attributes.get(name) == Some(value));
    require(is_kept, || "an attribute of the original is lost".into())?;
    require(original.data == data.as_bytes(), || "the data is another".into())
}
