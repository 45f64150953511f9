//! Tests of a table whose columns come from a Rust type.

use message::envelope::Input;
use rows::field::{NoNumeric, Numeric};
use rows::{Envelope, Error, FromMessage, Message, Record, Row, Rows as _, Typed, fitting};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::{BOTH, Cloud, settings, write};

#[derive(Row)]
struct Reading {
    device: String,
    at: OffsetDateTime,
    celsius: Option<f64>,
    frame: Vec<u8>,
    price: Numeric,
    tags: Vec<String>,
    #[row(name = "where")]
    place: Option<Place>,
}

#[derive(Record)]
struct Place {
    floor: i64,
}

impl FromMessage for Reading {
    fn from_message(message: &Message, _: &Envelope) -> Result<Self, Error> {
        let no_price = |error: NoNumeric| pipeline::Recovery::Retry.because("parse", error);
        Ok(Self {
            device: String::from_utf8_lossy(&message.data).into_owned(),
            at: datetime!(2025-06-15 10:00 UTC),
            celsius: None,
            frame: vec![104, 105],
            price: "12.5".parse().map_err(no_price)?,
            tags: vec!["a".into(), "b".into()],
            place: Some(Place { floor: 3 }),
        })
    }
}

#[tokio::test]
async fn a_table_has_the_columns_of_a_rust_type() {
    let cloud = Cloud::start().await;
    let columns = Reading::columns();

    cloud.table(&columns, settings()).await.unwrap();

    let table = cloud.get("projects/p/datasets/d/tables/t").await;
    let fields = table["schema"]["fields"].as_array().unwrap();
    let told = |field: &Value| {
        let [name, of, mode] =
            ["name", "type", "mode"].map(|key| field[key].as_str().unwrap_or(""));
        format!("{name} {of} {mode}")
    };
    let expected = [
        "device STRING REQUIRED",
        "at TIMESTAMP REQUIRED",
        "celsius FLOAT NULLABLE",
        "frame BYTES REQUIRED",
        "price NUMERIC REQUIRED",
        "tags STRING REPEATED",
        "where RECORD NULLABLE",
    ];
    assert_eq!(fields.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(told(&fields[6]["fields"][0]), "floor INTEGER REQUIRED");
}

#[tokio::test]
async fn both_apis_write_the_values_of_a_rust_type() {
    let rows = Typed::<Reading>::default();
    let columns = rows.columns();
    let message = Message::new("dev-1");
    let envelope = Envelope::of(&message, Input::Raw).unwrap();
    for api in BOTH {
        let cloud = Cloud::start().await;
        cloud.table(&columns, settings()).await.unwrap();
        let sink = cloud.sink(api, &columns).await;

        let cells = fitting(&rows, &columns, &message, &envelope).unwrap();
        assert_eq!(write(&sink, vec![cells]).await, [], "{api:?}");

        let query =
            "SELECT device, CAST(at AS STRING), celsius, frame, price, tags, `where` FROM d.t";
        let found = cloud.rows(query).await;
        let at = "2025-06-15 10:00:00+00";
        let (tags, place) = (json!([{ "v": "a" }, { "v": "b" }]), json!({ "f": [{ "v": "3" }] }));
        let expected = json!(["dev-1", at, null, "aGk=", "12.5", tags, place]);
        assert_eq!(found, [expected], "{api:?}");
    }
}
