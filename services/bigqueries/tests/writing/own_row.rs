//! Test of the whole service with a custom row type.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bigqueries::Bigqueries;
use bigqueries::config::Settings;
use message::{Envelope, Message};
use pipeline::{Error, Reason, Recovery};
use pubsub::{DeadLetterConfig, Keyword};
use rows::Row;
use service::Hosted;
use tokio::time::sleep;

use super::*;

/// Maximum wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);

pipeline::reasons! {
    /// Reasons of this row type.
    REFUSED {
        /// The payload is no number.
        NOT_A_NUMBER = "not_a_number";
    }
}

/// A row with the double of the number in the payload.
struct Double {
    device: String,
    double: i64,
}

impl Row for Double {
    const REASONS: &[Reason] = REFUSED;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("device", Kind::String).with_mode(Mode::Required),
            Column::new("double", Kind::Int64),
        ]
    }

    fn read(message: &Message, envelope: &Envelope) -> Result<Self, Error> {
        let payload = envelope.payload.as_ref().map(message::Payload::bytes).unwrap_or_default();
        let number: i64 = serde_json::from_slice(&payload)
            .map_err(|error| Recovery::Reject(NOT_A_NUMBER).because("read", error))?;
        let device = message.attributes.get("device_id").cloned().unwrap_or_default();
        Ok(Self { device, double: 2 * number })
    }

    fn cells(self) -> Vec<Cell> {
        vec![self.device.into(), self.double.into()]
    }
}

impl Cloud {
    /// Calls the embedded Pub/Sub.
    async fn pubsub(&self, method: reqwest::Method, path: &str, body: Value) {
        let url = format!("{}/v1/projects/p/{path}", self.emulator.url());
        let answer = self.http.request(method, url).json(&body).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Publishes a payload of the device `d`.
    async fn publish(&self, payload: &str) {
        let data = STANDARD.encode(payload);
        let message = json!({ "data": data, "attributes": { "device_id": "d" } });
        let body = json!({ "messages": [message] });
        self.pubsub(reqwest::Method::POST, "topics/t:publish", body).await;
    }
}

/// Waits until a metric of the service has this value.
async fn until(hosted: &Hosted, metric: &str, value: u64) {
    let line = format!("dataflow_pipeline_{metric} {value}");
    let counted = async {
        while !hosted.metrics().unwrap().lines().any(|counted| counted == line) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = timeout(PATIENCE, counted).await;
    counted.unwrap_or_else(|_| panic!("no {line} in\n{}", hosted.metrics().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_rows_of_a_custom_type_or_end_for_its_reasons() {
    let cloud = Cloud::start().await;
    cloud.pubsub(reqwest::Method::PUT, "topics/t", json!({})).await;
    let subscription = json!({ "topic": "projects/p/topics/t" });
    cloud.pubsub(reqwest::Method::PUT, "subscriptions/s", subscription).await;
    let url = || Some(cloud.emulator.url().into());
    let mut settings = Settings { table: settings(), ..Settings::default() };
    settings.process.project = "p".into();
    settings.process.http.host = "127.0.0.1".into();
    settings.process.http.port = 0;
    settings.bigquery.endpoint = url();
    settings.intake.subscription.id = "s".into();
    settings.intake.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop));
    settings.intake.pubsub.endpoint = url();
    let hosted = Hosted::start(Bigqueries::with_row::<Double>(settings)).await.unwrap();
    let refused = "dropped_messages_total{pipeline=\"bigqueries\",reason=\"not_a_number\"}";
    until(&hosted, refused, 0).await;

    cloud.publish("21").await;
    cloud.publish("many").await;
    until(&hosted, refused, 1).await;
    until(&hosted, "sent_messages_total{pipeline=\"bigqueries\"}", 1).await;
    hosted.shutdown(PATIENCE).await.unwrap();

    let table = cloud.get("projects/p/datasets/d/tables/t").await;
    let fields = table["schema"]["fields"].as_array().unwrap().iter();
    let fields: Vec<_> = fields.map(|field| (&field["name"], &field["type"])).collect();
    let expected = [(&json!("device"), &json!("STRING")), (&json!("double"), &json!("INTEGER"))];
    assert_eq!(fields, expected);
    assert_eq!(cloud.rows("SELECT device, double FROM d.t").await, [json!(["d", "42"])]);
}
