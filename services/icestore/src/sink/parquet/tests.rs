use message::Message;
use message::envelope::Input;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::schema::printer::print_schema;
use pipeline::{Step, Transform as _};
use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::archive::{Archive, micros};
use crate::format::Format;
use crate::key::Template;
use crate::tools::replay::line::ArchivedLine;
use crate::tools::replay::lines;

/// Returns a file of these messages, before it is closed.
fn grown(messages: &[Message]) -> zstd::ZstdFile {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let archive = Archive::new(Template::default(), Input::Raw);
    let mut compressor = zstd::ZstdCompressor::new(1).unwrap();
    let mut file = zstd::ZstdFile::default();
    for message in messages {
        let step = runtime.block_on(archive.apply(message)).unwrap();
        let Step::Pass(line) = step else { panic!("skipped") };
        file.write(&line.bytes, &mut compressor).unwrap();
    }
    file
}

fn parquet_of(messages: &[Message]) -> Bytes {
    of_lines(&grown(messages), 1).unwrap()
}

fn read(file: Bytes) -> Vec<ArchivedLine> {
    lines::all(Format::Parquet, file).unwrap().collect::<Result<_, _>>().unwrap()
}

fn assert_same(messages: &[Message], lines: &[ArchivedLine]) {
    assert_eq!(lines.len(), messages.len());
    for (message, line) in messages.iter().zip(lines) {
        assert_eq!(line.data(), message.data);
        assert_eq!(line.attributes, *message.attributes);
        assert_eq!(line.time(), Some(micros(message.publish_time)));
    }
}

#[test]
fn columns_have_the_names_of_a_line_and_the_types_of_other_programs() {
    let reader = SerializedFileReader::new(parquet_of(&[Message::new("x")])).unwrap();
    let mut schema = Vec::new();
    print_schema(&mut schema, reader.metadata().file_metadata().schema());

    let expected = "\
        message arrow_schema {\n  \
          REQUIRED BYTE_ARRAY id (STRING);\n  \
          REQUIRED BYTE_ARRAY batchKey (STRING);\n  \
          REQUIRED BYTE_ARRAY originalPubSubPayload;\n  \
          REQUIRED INT64 archivedAt (TIMESTAMP(MICROS,true));\n  \
          OPTIONAL BYTE_ARRAY ingestId (STRING);\n  \
          REQUIRED INT64 publishTime (TIMESTAMP(MICROS,true));\n  \
          OPTIONAL group attributes (MAP) {\n    \
            REPEATED group key_value {\n      \
              REQUIRED BYTE_ARRAY key (STRING);\n      \
              REQUIRED BYTE_ARRAY value (STRING);\n    \
            }\n  \
          }\n\
        }\n";
    assert_eq!(String::from_utf8(schema).unwrap(), expected);
}

#[test]
fn every_column_holds_what_the_line_held() {
    let mut message = Message::new(vec![0, 255, 10, 128]).with_attribute("ingest_id", "i-\"1\"");
    message.id = "7".into();
    message.publish_time = datetime!(2025-06-15 10:00:00.123456789 UTC);
    let mut plain = Message::new("");
    plain.publish_time = datetime!(0000-01-01 00:00 UTC);

    let reader = SerializedFileReader::new(parquet_of(&[message, plain])).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect();

    let text = |row: usize, column: usize| {
        let (_, field) = rows[row].get_column_iter().nth(column).unwrap();
        field.to_string()
    };
    assert_eq!(text(0, 0), "\"7\"");
    assert_eq!(text(0, 1), "\"2025/06/15\"");
    assert_eq!(text(0, 2), "[0, 255, 10, 128]");
    assert_eq!(text(0, 4), "\"i-\"1\"\"");
    assert_eq!(text(0, 5), "2025-06-15 10:00:00.123456 +00:00");
    assert_eq!(text(0, 6), "{\"ingest_id\" -> \"i-\"1\"\"}");
    assert_eq!((text(1, 4), text(1, 6)), ("null".into(), "null".into()));
    assert_eq!(text(1, 2), "[]");
}

#[test]
fn large_files_have_row_groups_of_the_right_size_in_the_order_of_the_lines() {
    let messages: Vec<_> = (0..50_u8)
        .map(|index| {
            Message::new(vec![index; 1024 * 1024]).with_attribute("index", index.to_string())
        })
        .collect();

    let file = parquet_of(&messages);

    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let groups = reader.metadata().row_groups();
    let rows: Vec<_> = groups.iter().map(RowGroupMetaData::num_rows).collect();
    assert_eq!(rows, [16, 16, 16, 2]);
    assert_same(&messages, &read(file));
}

#[test]
fn a_small_file_takes_no_more_memory_than_its_group_has_counted() {
    for count in [1, 2, 10, 100, 5_000] {
        let messages: Vec<_> = (0..count)
            .map(|index| {
                let mut message = Message::new(format!("{{\"temperature\":{index}.5}}"))
                    .with_attribute("device_id", format!("device-{index}"))
                    .with_attribute("ingest_id", format!("{:032x}", index * 7_919))
                    .with_attribute("mqtt_topic", format!("devices/device-{index}/up"));
                message.id = format!("{}", 1_234_567_890 + index * 31);
                message
            })
            .collect();

        let counted = grown(&messages).memory() + FOOTER_BYTES;
        let file = parquet_of(&messages);

        assert!(file.len() <= counted, "{count} messages: {} of {counted}", file.len());
    }
}

#[test]
fn a_line_of_another_program_is_an_error() {
    let payload = r#""originalPubSubPayload":"eA==""#;
    let times = r#""archivedAt":"2025-06-15T10:00:00Z","publishTime":"2025-06-15T10:00:00Z""#;
    let right = format!(r#"{{"id":"1","batchKey":"k",{payload},{times}}}"#);
    let convert = |line: &str| {
        let mut compressor = zstd::ZstdCompressor::new(1).unwrap();
        let mut file = zstd::ZstdFile::default();
        file.write(line.as_bytes(), &mut compressor).unwrap();
        of_lines(&file, 1)
    };

    assert!(convert(&right).is_ok());
    for wrong in [
        "{}".to_owned(),
        "no JSON".to_owned(),
        right.replace("eA==", "?"),
        right.replace("10:00:00Z", "soon"),
    ] {
        assert!(convert(&wrong).is_err(), "{wrong}");
    }
}

/// Generates messages of all kinds. Their times reach from the first to the last that a line can
/// have.
fn messages() -> impl Strategy<Value = Vec<Message>> {
    let first = datetime!(0000-01-01 00:00 UTC).unix_timestamp_nanos();
    let last = datetime!(9999-12-31 23:59:59.999_999_999 UTC).unix_timestamp_nanos();
    let time = prop_oneof![Just(first), Just(last), first..=last];
    let attributes = proptest::collection::hash_map(".{0,20}", ".{0,20}", 0..4);
    let data = proptest::collection::vec(any::<u8>(), 0..2_000);
    let message = (".{0,10}", data, attributes, time);
    let message = message.prop_map(|(id, data, attributes, time)| {
        let mut message = Message::new(data);
        message.id = id;
        message.attributes = attributes.into();
        message.publish_time = OffsetDateTime::from_unix_timestamp_nanos(time).unwrap();
        message
    });
    proptest::collection::vec(message, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(messages in messages(), level in 1..=9_u32) {
        let file = of_lines(&grown(&messages), level).unwrap();

        assert_same(&messages, &read(file));
    }
}
