use bytes::Bytes;
use pipeline::Sink as _;
use storage::{Bucket, Endpoint};
use time::macros::datetime;

use super::*;

/// Creates a sink whose uploads cannot reach a server.
async fn sink(format: Format) -> Sink<Bucket> {
    service::install_crypto();
    let endpoint = Endpoint { endpoint: Some("http://127.0.0.1:1".into()), ..Endpoint::default() };
    let bucket = Bucket::new(&"bucket".parse().unwrap(), &endpoint).await.unwrap();
    Sink::new(bucket, &ArchiveSettings { format, ..ArchiveSettings::default() })
}

fn line(bytes: &str, time: OffsetDateTime) -> Line {
    Line { key: "2025/06/15".into(), bytes: Bytes::from(format!("{bytes}\n")), time }
}

/// Returns a line in the form of the archive.
fn right() -> String {
    let payload = r#""originalPubSubPayload":"eA==""#;
    let times = r#""archivedAt":"2025-06-15T10:00:00Z","publishTime":"2025-06-15T10:00:00Z""#;
    format!(r#"{{"id":"1","batchKey":"2025/06/15",{payload},{times}}}"#)
}

#[tokio::test]
async fn names_and_metadata_are_the_same_in_every_format() {
    let (first, last) = (datetime!(0000-01-01 00:00 UTC), datetime!(9999-12-31 23:59:59 UTC));
    for format in Format::ALL {
        let sink = sink(format).await;
        let mut compressor = sink.lane_state();
        let mut group = sink.open(&"2025/06/15".to_owned());

        for time in [last, first, datetime!(2025-06-15 10:00 UTC)] {
            assert!(sink.push(&mut group, line(&right(), time), &mut compressor).is_ok());
        }
        let upload = sink.encode(group, &mut compressor);
        let object = sink.make(&upload).await.unwrap();

        assert!(object.name.starts_with("archive/2025/06/15/"), "{}", object.name);
        assert!(object.name.ends_with(format.suffix()), "{}", object.name);
        assert_eq!(object.content_type, format.content_type());
        let expected = [
            ("records", "3".to_owned()),
            ("first_event_time", "0000-01-01T00:00:00Z".to_owned()),
            ("last_event_time", "9999-12-31T23:59:59Z".to_owned()),
            ("format_version", "1".to_owned()),
        ];
        assert_eq!(object.metadata, expected);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_made_stops_the_service() {
    let sink = sink(Format::Parquet).await;
    let mut compressor = sink.lane_state();
    let mut group = sink.open(&"2025/06/15".to_owned());
    let time = OffsetDateTime::UNIX_EPOCH;
    assert!(sink.push(&mut group, line("no JSON", time), &mut compressor).is_ok());

    let upload = sink.encode(group, &mut compressor);
    let error = sink.write(&upload, Duration::from_secs(1)).await.unwrap_err();

    assert_eq!(error.recovery(), Recovery::Stop);
}

#[tokio::test]
async fn only_a_parquet_file_ends_because_of_its_plain_bytes() {
    let time = OffsetDateTime::UNIX_EPOCH;
    // This text compresses so well that the file stays far below the bytes that end a batch.
    let long = "x".repeat(40 * 1024 * 1024);
    for format in Format::ALL {
        let sink = sink(format).await;
        let mut compressor = sink.lane_state();
        let mut group = sink.open(&"2025/06/15".to_owned());

        let joined: Vec<_> = (0..4)
            .map(|_| match sink.push(&mut group, line(&long, time), &mut compressor) {
                Ok(bytes) => bytes < 1024 * 1024 * 64,
                Err(PushError::Full(line)) => {
                    assert_eq!(line.bytes.len(), long.len() + 1, "the line comes back");
                    false
                }
                Err(PushError::Refused(error)) => panic!("{error:#}"),
            })
            .collect();

        assert_eq!(joined, [true, true, true, format != Format::Parquet], "{format:?}");
    }
}
