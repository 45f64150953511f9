//! Messages in the form in which the previous service would publish them.

use std::time::Duration;

use anyhow::Context as _;
use e2e::names::{ENRICHED, ROUTE};
use e2e::reading::Reading;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::model::Message;
use message::Envelope;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::case::Load;

/// Messages in flight at full speed.
const CHUNK: u64 = 5_000;
/// Pause between two publishes at a given rate.
const TICK: Duration = Duration::from_millis(5);

/// Publisher for one topic.
pub(crate) struct Feed {
    publisher: Publisher,
    /// True if the messages have the data that enrich adds.
    is_enriched: bool,
}

impl Feed {
    /// Publishes to a topic of the cloud at this URL.
    pub(crate) async fn new(cloud: &str, topic: &str) -> anyhow::Result<Self> {
        let publisher = Publisher::builder(format!("projects/local/topics/{topic}"))
            .with_endpoint(cloud)
            .with_credentials(anonymous::Builder::new().build())
            .set_message_count_threshold(1000)
            .set_byte_threshold(8 << 20)
            .build()
            .await
            .context("build a publisher")?;
        Ok(Self { publisher, is_enriched: topic == ENRICHED })
    }

    /// Publishes the whole backlog.
    pub(crate) async fn all(&self, load: &Load) -> anyhow::Result<()> {
        let chunk = CHUNK.min((64 << 20) / (load.payload_bytes as u64 + 400)).max(1);
        for start in (0..load.messages).step_by(usize::try_from(chunk)?) {
            self.publish(load, start..(start + chunk).min(load.messages)).await?;
        }
        Ok(())
    }

    /// Publishes raw messages as devices send them, spread over this many locations.
    pub(crate) async fn spread(
        &self,
        messages: u64,
        bytes: usize,
        locations: u64,
    ) -> anyhow::Result<()> {
        // A prime, so that neighbours have different locations.
        const STRIDE: u64 = 7_919;
        for start in (0..messages).step_by(usize::try_from(CHUNK)?) {
            let numbers = start..(start + CHUNK).min(messages);
            self.send(numbers.map(|number| {
                let site = number.wrapping_mul(STRIDE) % locations;
                Message::new().set_data(sensors(number, bytes)).set_attributes([
                    ("location", format!("site-{site}")),
                    ("device_id", format!("device-{:05}", site * 10 + number % 10)),
                ])
            }))
            .await?;
        }
        Ok(())
    }

    /// Publishes at a rate for some time, and returns the number of messages.
    pub(crate) async fn at(&self, load: &Load, rate: f64, lasts: Duration) -> anyhow::Result<u64> {
        let start = Instant::now();
        let mut published = 0;
        while start.elapsed() < lasts {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            self.publish(load, published..due).await?;
            published = due.max(published);
            sleep_until(Instant::now() + TICK).await;
        }
        Ok(published)
    }

    async fn publish(&self, load: &Load, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        self.send(numbers.map(|number| self.message(load, number))).await
    }

    async fn send(&self, messages: impl Iterator<Item = Message>) -> anyhow::Result<()> {
        let sent: Vec<_> = messages.map(|message| self.publisher.publish(message)).collect();
        self.publisher.flush().await;
        for sent in sent {
            sent.await.context("publish")?;
        }
        Ok(())
    }

    fn message(&self, load: &Load, number: u64) -> Message {
        let device = u32::try_from(number % u64::from(load.devices)).unwrap_or(0);
        let reading = Reading { device, number };
        let name = match number % 100 < load.unknown_percent {
            true => format!("unknown-{number}"),
            false => reading.device_name(),
        };
        let (id, topic) = (Uuid::now_v7().to_string(), format!("devices/{name}/up"));
        let mut enrichment: Map<String, Value> = [
            ("DeviceID", name.as_str()),
            ("Timestamp", "2026-11-21T12:00:00Z"),
            ("Topic", topic.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect();
        if self.is_enriched {
            let place = format!("site-{}", number % u64::from(load.locations));
            enrichment.insert("location".into(), place.into());
            enrichment.insert("name".into(), format!("client-{}", device % 10).into());
            enrichment.insert("serviceTag".into(), "simulated".into());
        }
        let envelope = Envelope {
            id: id.clone(),
            payload: Some(reading.payload("bench", load.payload_bytes).into()),
            publish_time: Some(OffsetDateTime::now_utc()),
            enrichment,
        };
        let attributes = [
            ("device_id", name),
            ("ingest_id", id),
            ("mqtt_topic", topic),
            ("route_name", ROUTE.into()),
        ];
        Message::new().set_data(envelope.to_bytes()).set_attributes(attributes)
    }
}

/// Returns a reading of a device with many sensors, of about this many bytes.
fn sensors(number: u64, bytes: usize) -> Vec<u8> {
    const NAMES: [&str; 8] =
        ["temperature", "humidity", "pressure", "voltage", "current", "power", "noise", "flow"];
    let mut state = number.wrapping_mul(6_364_136_223_846_793_005) | 1;
    let mut data = format!(r#"{{"number":{number},"firmware":"2.14.3""#);
    for (place, name) in NAMES.iter().cycle().enumerate() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let field = format!(r#","{name}_{place}":{}.{}"#, state % 1000, (state >> 20) % 10);
        if data.len() + field.len() >= bytes {
            break;
        }
        data.push_str(&field);
    }
    data.push('}');
    data.into_bytes()
}
