//! Measures the memory that one message needs. It is a separate test binary, because it measures
//! the whole process.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use ingestion::config::Identity;
use ingestion::identity::identify;
use ingestion::metrics::Metrics;
use message::{Message, Origin};

const MIB: usize = 1024 * 1024;
/// Maximum payload size that is parsed.
const SIZE: usize = 7 * MIB;

/// Returns the peak memory of this process, in KiB.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the most expensive payloads: many values, deep nesting, long texts with escapes, many
/// members.
fn payloads() -> Vec<(&'static str, String)> {
    // A second copy would raise the peak beforehand, so none is made.
    let fill = |start: &str, piece: &str, end: &str| {
        let mut payload = String::with_capacity(SIZE + start.len() + end.len());
        payload.push_str(start);
        for _ in 0..SIZE / piece.len() {
            payload.push_str(piece);
        }
        payload.push_str(end);
        payload
    };
    vec![
        ("a list", fill("[", "0,", "0]")),
        ("deep", fill("", "[", "")),
        ("deep objects", fill("", r#"{"id":"#, "")),
        ("an id in escapes", fill(r#"{"id":""#, "\\u0041", r#""}"#)),
        ("a key in escapes", fill(r#"{""#, "\\u0041", r#"":1}"#)),
        ("members", fill("{", r#""id":[1],"#, r#""id":{"at":7}}"#)),
        ("a time", fill(r#"{"at":["#, "1,", "1]}")),
        ("a number", fill(r#"{"id":"#, "1", "}")),
    ]
}

#[test]
fn ids_and_times_are_read_without_a_tree_of_the_payload() {
    let payloads = payloads();
    let settings = Identity {
        id_pointer: Some("/id".into()),
        event_time_pointer: Some("/at".into()),
        ..Identity::default()
    };
    let messages = payloads.into_iter().map(|(name, payload)| (name, Message::new(payload)));
    let messages: Vec<_> = messages.collect();
    let warm = Message::new(r#"{"id":"\u0041","at":1}"#);
    let _identified = identify(&warm, Origin::mqtt("devices/a/up"), &settings, &Metrics::default());

    for (name, message) in &messages {
        let before = peak_kib();
        let _identified =
            identify(message, Origin::mqtt("devices/a/up"), &settings, &Metrics::default());

        let grown = peak_kib() - before;
        assert!(grown < 512, "{name}: {grown} KiB");
    }
}
