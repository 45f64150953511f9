//! Both stores answer with the same bytes.

use rows::column::{Column, Kind, Mode};
use serde_json::{Value, json};

use super::api::{Api, STORES, StoreKind, envelope, write};
use crate::env::Env;

/// Types whose text is the same in both stores.
fn columns() -> Vec<Column> {
    let simple = [
        ("device_id", Kind::String),
        ("whole", Kind::Int64),
        ("float", Kind::Float64),
        ("flag", Kind::Bool),
        ("raw", Kind::Bytes),
        ("day", Kind::Date),
        ("clock", Kind::Time),
        ("moment", Kind::Timestamp),
        ("local", Kind::Datetime),
        ("exact", Kind::Numeric),
        ("larger", Kind::Bignumeric),
        ("tree", Kind::Json),
    ];
    let mut columns: Vec<_> =
        simple.into_iter().map(|(name, kind)| Column::new(name, kind)).collect();
    columns.push(Column::new("list", Kind::Int64).with_mode(Mode::Repeated));
    columns.push(Column::new("moments", Kind::Timestamp).with_mode(Mode::Repeated));
    let parts = || {
        vec![
            Column::new("long_name", Kind::Int64),
            Column::new("at", Kind::Timestamp),
            Column::new("f", Kind::Float64),
        ]
    };
    columns.push(Column::record("record", parts()));
    columns.push(Column::record("records", parts()).with_mode(Mode::Repeated));
    columns
}

fn payloads() -> Vec<Value> {
    let full = json!({
        "device_id": "d-\"\\,;\n\r\tü\u{1}\u{7f}😀",
        "whole": i64::MIN,
        "float": 22.0,
        "flag": true,
        "raw": "AP8=",
        "day": "0001-01-02",
        "clock": "12:34:56.700000",
        "moment": "2025-06-15T10:30:00.120+02:00",
        "local": "2025-06-15T10:30:00.000001",
        "exact": "-1.5",
        "larger": "123456789012345678901234567890.5",
        "tree": { "bb": [1.5, true, null, "x"], "a": {}, "ccc": [] },
        "list": [3, 1, 2],
        "moments": ["2025-06-15T10:30:00Z", "1969-12-31T23:59:59.5Z"],
        "record": { "long_name": 7, "at": "2025-06-15T10:30:00Z", "f": 22.0 },
        "records": [{ "f": 0.5 }, { "long_name": -7 }],
        "unknown": { "z": 1, "y": "rest" },
    });
    let floats = [0.1, -0.5, 1e20, 1e-7, 1.7976931348623157e308, 5e-324];
    let floats = floats.map(|float| json!({ "device_id": "f", "float": float }));
    let odd = ["NaN", "Infinity", "-Infinity"];
    let odd = odd.map(|float| json!({ "device_id": "f", "float": float }));
    let sparse = json!({ "device_id": "", "list": [], "record": {}, "tree": "text" });
    [full, sparse].into_iter().chain(floats).chain(odd).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_have_the_same_bytes_in_every_form() {
    let env = Env::start().await;
    let messages: Vec<_> = payloads()
        .iter()
        .enumerate()
        .map(|(number, payload)| {
            envelope(&format!("i{number}"), &format!("2025-06-15T00:00:{number:02}.5Z"), payload)
        })
        .collect();
    write(&env, &columns(), &messages).await;
    let apis =
        [Api::start(&env, StoreKind::Postgres).await, Api::start(&env, StoreKind::BigQuery).await];

    for query in [
        &[("format", "ndjson")][..],
        &[("format", "json"), ("limit", "3")],
        &[("format", "csv")],
        &[("format", "csv"), ("offset", "2"), ("limit", "1")],
    ] {
        let texts = [apis[0].text(query).await, apis[1].text(query).await];
        for (line, other) in texts[0].lines().zip(texts[1].lines()) {
            assert_eq!(line, other, "{query:?}, {:?} and {:?}", STORES[0], STORES[1]);
        }
        assert_eq!(texts[0], texts[1]);
        assert!(texts[0].len() > 100, "{}", texts[0]);
    }
    for api in apis {
        api.shutdown().await;
    }
}
