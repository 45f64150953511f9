//! Messages as the service before would have published them.

use std::time::Duration;

use anyhow::Context as _;
use e2e::reading::Reading;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::model::Message;
use pipeline::Envelope;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::case::Load;

/// Messages on their way at once, at full speed.
const CHUNK: u64 = 5_000;
/// Between two publishes, at a given rate.
const TICK: Duration = Duration::from_millis(5);

/// Publishes to one topic.
pub(crate) struct Feed {
    publisher: Publisher,
    /// Whether messages bear what enrich adds.
    is_enriched: bool,
}

impl Feed {
    pub(crate) async fn new(cloud: &str, topic: &str, is_enriched: bool) -> anyhow::Result<Self> {
        let publisher = Publisher::builder(format!("projects/local/topics/{topic}"))
            .with_endpoint(cloud)
            .with_credentials(anonymous::Builder::new().build())
            .set_message_count_threshold(1000)
            .set_byte_threshold(8 << 20)
            .build()
            .await
            .context("build a publisher")?;
        Ok(Self { publisher, is_enriched })
    }

    /// Publishes a whole backlog.
    pub(crate) async fn all(&self, load: &Load) -> anyhow::Result<()> {
        let chunk = CHUNK.min((64 << 20) / (load.payload_bytes as u64 + 400)).max(1);
        for start in (0..load.messages).step_by(usize::try_from(chunk)?) {
            self.publish(load, start..(start + chunk).min(load.messages)).await?;
        }
        Ok(())
    }

    /// Publishes at a rate for a while, and says how many messages it were.
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
        let messages = numbers.map(|number| self.message(load, number));
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
            let place = format!("site-{}", number % u64::from(load.places));
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
            ("route_name", "up".into()),
        ];
        Message::new().set_data(envelope.to_bytes()).set_attributes(attributes)
    }
}
