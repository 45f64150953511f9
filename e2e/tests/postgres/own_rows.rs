//! Rows of a custom type, and rows of a function.

use message::Payload;
use postgres::Postgres;
use rows::column::{Column, Kind, Mode};
use rows::{Envelope, Error, FromMessage, Message, Row, ingest_id};
use serde_json::{Value, json};
use service::Service;
use time::OffsetDateTime;

use crate::env::{Env, GRACE, start_service, until};

/// Row of a custom type. Its columns are the fields.
#[derive(Row)]
struct Reading {
    ingest_id: String,
    publish_time: OffsetDateTime,
    bytes: i64,
}

impl FromMessage for Reading {
    fn from_message(message: &Message, envelope: &Envelope) -> Result<Self, Error> {
        Ok(Self {
            ingest_id: ingest_id(message, envelope).to_owned(),
            publish_time: envelope.publish_time.unwrap_or(message.publish_time),
            bytes: payload_bytes(envelope),
        })
    }
}

/// Returns the size of the payload.
fn payload_bytes(envelope: &Envelope) -> i64 {
    let payload = envelope.payload.as_ref().map(Payload::bytes).unwrap_or_default();
    i64::try_from(payload.len()).unwrap_or(i64::MAX)
}

/// Sends a message with this id through a service. Returns its row in the table of the service.
async fn row_of(env: &Env, id: usize, table: &str, service: impl Service) -> Vec<Value> {
    let hosted = start_service(service).await;
    let envelope = json!({ "id": "e", "payload": "e30=", "publishTime": "2025-06-15T10:00:00Z" });
    env.publish(id, &[envelope]).await;
    let query = format!("SELECT * FROM public.{table} WHERE ingest_id = '{id}'");
    let mut found = Vec::new();
    until(async || {
        found = env.server.rows(&query).await.unwrap();
        !found.is_empty()
    })
    .await;
    hosted.shutdown(GRACE).await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_becomes_a_row_of_the_columns_of_a_type_and_of_a_function() {
    let env = Env::start().await;
    let settings = |table: &str| {
        let mut settings = env.settings();
        settings.table.name = table.into();
        settings
    };
    let columns = vec![
        Column::new("ingest_id", Kind::String).with_mode(Mode::Required),
        Column::new("publish_time", Kind::Timestamp).with_mode(Mode::Required),
        Column::new("bytes", Kind::Int64),
    ];
    let rows = rows::from_fn(columns, |message: &Message, envelope: &Envelope| {
        let time = envelope.publish_time.unwrap_or(message.publish_time);
        let id = ingest_id(message, envelope);
        Ok(vec![id.into(), time.into(), payload_bytes(envelope).into()])
    });

    let of_type = Postgres::with_row::<Reading>(settings("of_type"));
    let of_type = row_of(&env, 1, "of_type", of_type).await;
    let of_function = Postgres::with_rows(settings("of_function"), rows);
    let of_function = row_of(&env, 2, "of_function", of_function).await;

    let row = |id: &str| {
        let time = "2025-06-15T10:00:00+00:00";
        json!({ "ingest_id": id, "publish_time": time, "bytes": 2 })
    };
    assert_eq!(of_type, [row("1")]);
    assert_eq!(of_function, [row("2")]);
}
