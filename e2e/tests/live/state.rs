//! States of the page, as the real server would send them.

use serde_json::{Value, json};

/// Returns a chain that runs well, with two replicas of enrich and two dead letters.
pub(crate) fn good() -> Value {
    json!({
        "at": "2026-11-30T04:00:00.000Z",
        "ready": true,
        "viewers": 3,
        "rights": { "payload": true, "replay": true, "send": true },
        "stages": [
            stage("ingestion", "source", &Value::Null, &["127.0.0.1:8090"]),
            stage("enrich", "transform", &json!("ingestion"), &["127.0.0.1:8091", "127.0.0.1:8094"]),
            stage("bigqueries", "sink", &json!("enrich"), &["127.0.0.1:8092"]),
            stage("icestore", "sink", &json!("enrich"), &["127.0.0.1:8093"]),
        ],
        "end_to_end": [
            { "sink": "bigqueries", "p50_seconds": 0.84, "p99_seconds": 2.45, "count": 5890 },
            { "sink": "icestore", "p50_seconds": 4.3, "p99_seconds": 10.1, "count": 5700 },
        ],
        "dead_letters": {
            "total": 26,
            "by_reason": [
                { "stage": "bigqueries", "reason": "row_type_mismatch", "count": 21 },
                { "stage": "ingestion", "reason": "no_route", "count": 5 },
            ],
            "recent": [letter("letter-1"), letter("letter-2")],
        },
        "tap": { "viewers": 0, "dropped": 0 },
    })
}

/// Returns the same chain before its first message.
pub(crate) fn fresh() -> Value {
    let mut state = good();
    for stage in state["stages"].as_array_mut().unwrap() {
        stage["latency"] = Value::Null;
        for rate in ["received_per_second", "sent_per_second", "oldest_seconds"] {
            stage[rate] = json!(0.0);
        }
        stage["in_flight"] = json!(0);
    }
    state["end_to_end"] = json!([]);
    state["dead_letters"] = json!({ "total": 0, "by_reason": [], "recent": [] });
    state
}

fn stage(name: &str, kind: &str, from: &Value, addresses: &[&str]) -> Value {
    let replicas: Vec<_> = addresses
        .iter()
        .map(|address| {
            json!({ "address": address, "reachable": true, "ready": true, "version": "0.1.0",
                    "waiting_for": [] })
        })
        .collect();
    json!({
        "name": name, "kind": kind, "from": from, "replicas": replicas,
        "received_per_second": 100.4, "sent_per_second": 99.6, "in_flight": 12,
        "backlog": if from.is_null() { Value::Null } else { json!(1234) },
        "oldest_seconds": 0.4, "received": 123_456, "sent": 123_400, "skipped": 0,
        "dead_lettered": 2, "dropped": 0, "nacked": 1,
        "latency": { "p50_seconds": 0.012, "p99_seconds": 0.2, "count": 5990 },
        "slowest": name == "bigqueries",
        "guarantees": [format!("{name}: at least once")],
    })
}

/// Returns a dead letter whose detail is what a hostile device would like to be shown.
pub(crate) fn letter(id: &str) -> Value {
    json!({
        "id": id, "stage": "bigqueries", "reason": "row_type_mismatch",
        "detail": "column temperature: <img src=x onerror=alert(1)>",
        "why": "A value does not fit its column.", "at": "2026-11-30T03:59:59.120Z",
        "ingest_id": format!("message of {id}"), "device_id": "abc", "replayable": true,
        "payload": "{\"temperature\":\"<script>alert(1)</script>\"}",
    })
}

/// Returns a step of the message `id-1`, some milliseconds after the first one.
pub(crate) fn hop(stage: &str, step: &str, milliseconds: u32) -> Value {
    json!({
        "stage": stage, "replica": "127.0.0.1:8090", "step": step,
        "at": format!("2026-11-30T04:00:00.{milliseconds:03}Z"), "ingest_id": "id-1",
        "device_id": "abc", "message_id": "17", "source": "the source", "destination": null,
        "reason": null, "detail": null, "record": null,
    })
}
