//! Tests of types with parameters, and of rare types.

use bigqueries::config::Api;
use message::envelope::Input;
use message::{Envelope, Message};
use rows::cell::Cell;
use rows::column::{Column, Mode, Type};
use rows::convert::convert;
use rows::{Mapped, Rows as _};
use serde_json::{Value, json};

use crate::{BOTH, Cloud, settings, write};

fn column(name: &str, of: &str) -> Column {
    Column::new(name, of.parse::<Type>().unwrap())
}

/// Returns columns, each with a value and with the value that the table then shows.
fn values() -> Vec<(Column, Value, Value)> {
    let point = json!({ "type": "Point", "coordinates": [13.4, 52.5] });
    vec![
        (column("text", "STRING(3)"), json!("äöü"), json!("äöü")),
        (column("bytes", "BYTES(2)"), json!("aGk="), json!("aGk=")),
        (column("price", "NUMERIC(5,2)"), json!("-999.99"), json!("-999.99")),
        (column("exact", "BIGNUMERIC(40,10)"), json!("0.0000000001"), json!("0.0000000001")),
        (column("place", "GEOGRAPHY"), json!("POINT(13.4 52.5)"), json!("POINT(13.4 52.5)")),
        (column("area", "GEOGRAPHY"), point, json!("POINT(13.4 52.5)")),
        (column("span", "INTERVAL"), json!("P1Y2M3DT4H5M6.5S"), json!("1-2 3 4:5:6.5")),
        (
            column("days", "RANGE<DATE>"),
            json!({ "start": "2025-01-01", "end": "2025-02-01" }),
            json!("[2025-01-01, 2025-02-01)"),
        ),
        (
            column("locals", "RANGE<DATETIME>"),
            json!("[2025-01-01 00:00:00, UNBOUNDED)"),
            json!("[2025-01-01T00:00:00.000000, UNBOUNDED)"),
        ),
        (
            column("moments", "RANGE<TIMESTAMP>"),
            json!({ "end": "2025-01-01T00:00:00Z" }),
            json!("[UNBOUNDED, 2025-01-01 00:00:00.000000 UTC)"),
        ),
    ]
}

#[tokio::test]
async fn both_apis_write_rare_types_alike() {
    let cloud = Cloud::start().await;
    let columns: Vec<_> = values().into_iter().map(|(column, ..)| column).collect();
    cloud.table(&columns, settings()).await.unwrap();
    let full = values()
        .iter()
        .map(|(column, value, _)| {
            convert(column, Some(value)).unwrap_or_else(|error| panic!("{error:?}"))
        })
        .collect::<Vec<_>>();
    let empty = vec![Cell::Null; columns.len()];

    for api in BOTH {
        let sink = cloud.sink(api, &columns).await;
        assert_eq!(write(&sink, vec![full.clone(), empty.clone()]).await, [], "{api:?}");
    }

    let expected: Value = values().into_iter().map(|(.., expected)| expected).collect();
    let nothing: Value = vec![Value::Null; columns.len()].into();
    let rows = cloud.rows("SELECT * FROM d.t").await;
    assert_eq!(rows, [expected.clone(), nothing.clone(), expected, nothing]);
    // The table matches the settings.
    cloud.table(&columns, settings()).await.unwrap();
}

#[test]
fn values_that_do_not_fit_are_refused_by_name() {
    for (of, value, expected) in [
        ("STRING(3)", json!("abcd"), "STRING(3)"),
        ("BYTES(2)", json!("aGkh"), "BYTES(2)"),
        ("NUMERIC(5,2)", json!("1000"), "NUMERIC(5,2)"),
        ("NUMERIC(5,2)", json!("0.001"), "NUMERIC(5,2)"),
        ("NUMERIC(5,2)", json!(-1000), "NUMERIC(5,2)"),
        ("BIGNUMERIC(1)", json!(10), "BIGNUMERIC(1)"),
        ("GEOGRAPHY", json!("Berlin"), "GEOGRAPHY in WKT or GeoJSON"),
        ("INTERVAL", json!("a day"), "INTERVAL such as 1-2 3 4:5:6.789 or P1Y2M3DT4H5M6.789S"),
        ("INTERVAL", json!(1), "INTERVAL such as"),
        ("RANGE<DATE>", json!({ "start": "2025-01-01", "end": "2025-01-01" }), "RANGE<DATE> with"),
        ("RANGE<DATE>", json!({ "start": "2025-01-01", "stop": "2025-01-02" }), "RANGE<DATE> with"),
        ("RANGE<DATE>", json!("2025-01-01"), "RANGE<DATE> with its start before its end"),
    ] {
        let error = convert(&column("c", of), Some(&value)).unwrap_err();

        assert_eq!(
            (error.reason, error.column.as_str()),
            (rows::reasons::ROW_TYPE_MISMATCH, "c"),
            "{value}"
        );
        assert!(error.expected.starts_with(expected), "{of} {value}: {}", error.expected);
    }
}

#[tokio::test]
async fn a_row_that_a_narrower_table_refuses_is_refused_alone() {
    for api in BOTH {
        let cloud = Cloud::start().await;
        cloud.table(&[column("text", "STRING(3)")], settings()).await.unwrap();
        // A column of the settings without a length accepts any length in the table.
        let columns = [column("text", "STRING")];
        cloud.table(&columns, settings()).await.unwrap();
        let sink = cloud.sink(api, &columns).await;

        let refusals = write(&sink, vec![vec!["abc".into()], vec!["abcd".into()]]).await;

        let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
        assert_eq!((refusal.index, refusal.reason), (1, rows::reasons::ROW_REFUSED));
        assert!(refusal.detail.contains("maximum length 3"), "{}", refusal.detail);
        assert_eq!(cloud.rows("SELECT text FROM d.t").await, [json!(["abc"])]);
    }
}

#[tokio::test]
async fn both_apis_fill_literal_defaults_and_insert_all_the_others() {
    let with_default = |name: &str, of: &str, default: &str| Column {
        default: Some(default.into()),
        ..column(name, of)
    };
    let columns = [
        column("n", "INT64"),
        with_default("unit", "STRING", "'°C'").with_mode(Mode::Required),
        with_default("day", "DATE", "CURRENT_DATE()"),
    ];
    for api in BOTH {
        let cloud = Cloud::start().await;
        cloud.table(&columns, settings()).await.unwrap();
        let rows = Mapped::new(&columns, false, None);
        let message = Message::new(r#"{"n": 1}"#);
        let envelope = Envelope::of(&message, Input::Raw).unwrap();
        let cells = rows.cells(&message, &envelope).unwrap();

        let sink = cloud.sink(api, &columns).await;
        assert_eq!(write(&sink, vec![cells]).await, []);

        let rows = cloud.rows("SELECT n, unit, day IS NULL FROM d.t").await;
        let is_null = if api == Api::StorageWrite { "true" } else { "false" };
        assert_eq!(rows, [json!(["1", "°C", is_null])], "{api:?}");
    }
}

#[tokio::test]
async fn a_column_that_is_added_gets_its_default() {
    let cloud = Cloud::start().await;
    let n = column("n", "INT64");
    cloud.table(std::slice::from_ref(&n), settings()).await.unwrap();
    let added = Column { default: Some("'°C'".into()), ..column("unit", "STRING") };

    cloud.table(&[n, added], settings()).await.unwrap();

    let table = cloud.get("projects/p/datasets/d/tables/t").await;
    let fields = &table["schema"]["fields"];
    assert_eq!(fields[0]["defaultValueExpression"], Value::Null);
    assert_eq!(fields[1]["defaultValueExpression"], "'°C'");
}
