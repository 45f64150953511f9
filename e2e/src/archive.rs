//! Reads archived objects, from icestore and from the Go services that first used this format.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use message::envelope::Input;
use message::{Envelope, Message};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud::Cloud;

mod parquet;

/// Number of objects that are read at once.
const READS: usize = 16;

/// A line of an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The Pub/Sub message id.
    pub id: String,
    /// Key that names the object of the line.
    pub batch_key: String,
    /// Base64 of the Pub/Sub data.
    original_pub_sub_payload: String,
    /// Time of archiving, in RFC 3339.
    pub archived_at: String,
    /// Time at which ingestion received the message, or the time from the device. Objects of the Go
    /// services lack it.
    pub publish_time: Option<String>,
    /// Id that tells duplicates apart. Objects of the Go services lack it.
    pub ingest_id: Option<String>,
    /// Attributes of the message.
    #[serde(default)]
    pub attributes: HashMap<String, String>,
}

impl Line {
    /// Returns the time of archiving in Unix seconds, and the seconds between publish and
    /// archiving.
    #[must_use]
    pub fn latency(&self) -> Option<(f64, f64)> {
        let seconds = |text: &str| {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            Some(time.unix_timestamp_nanos() as f64 / 1e9)
        };
        let archived = seconds(&self.archived_at)?;
        Some((archived, archived - seconds(self.publish_time.as_ref()?)?))
    }

    /// Decodes the data of the Pub/Sub message.
    ///
    /// # Errors
    /// Fails when it is not base64.
    pub fn data(&self) -> anyhow::Result<Vec<u8>> {
        STANDARD.decode(&self.original_pub_sub_payload).context("read originalPubSubPayload")
    }

    /// Returns the payload of the device, byte for byte: the payload in the envelope, or all data
    /// of a raw message.
    ///
    /// # Errors
    /// Fails when the data of the line is not base64.
    pub fn payload(&self) -> anyhow::Result<Vec<u8>> {
        let envelope = Envelope::of(&Message::new(self.data()?), Input::Auto)?;
        Ok(envelope.payload.map(|payload| payload.bytes().into()).unwrap_or_default())
    }

    /// Returns the id that the message has at every destination: that of the message, or of its
    /// envelope.
    ///
    /// # Errors
    /// Fails when the data of the line is not base64.
    pub fn key(&self) -> anyhow::Result<String> {
        let message = Message {
            id: self.id.clone(),
            attributes: self.attributes.clone().into(),
            ..Message::new(self.data()?)
        };
        let envelope = Envelope::of(&message, Input::Auto)?;
        Ok(rows::ingest_id(&message, &envelope).to_owned())
    }

    /// Returns the MQTT topic of the message if it is known.
    ///
    /// # Errors
    /// Fails when the data of the line is not base64.
    pub fn topic(&self) -> anyhow::Result<Option<String>> {
        if let Some(topic) = self.attributes.get(message::attribute::MQTT_TOPIC) {
            return Ok(Some(topic.clone()));
        }
        let envelope = Envelope::of(&Message::new(self.data()?), Input::Auto)?;
        let topic = envelope.enrichment.get("Topic").and_then(serde_json::Value::as_str);
        Ok(topic.map(str::to_owned))
    }
}

/// Reads the lines of an object. The end of its name tells the format.
///
/// # Errors
/// Fails when the object is not one complete file of that format.
pub fn lines(name: &str, object: &[u8]) -> anyhow::Result<Vec<Line>> {
    if name.ends_with(".jsonl.gz") {
        json_lines(GzDecoder::new(object))
    } else if name.ends_with(".jsonl.zst") {
        json_lines(zstd::Decoder::with_buffer(object).context("decompress")?)
    } else if name.ends_with(".parquet") {
        parquet::lines(object)
    } else {
        bail!("{name} is no object of the archive")
    }
}

fn json_lines(plain: impl Read) -> anyhow::Result<Vec<Line>> {
    let lines = BufReader::new(plain).lines();
    lines
        .map(|line| serde_json::from_str(&line.context("decompress")?).context("read a line"))
        .collect()
}

/// Reads all lines of all objects with a prefix.
///
/// # Errors
/// Fails when an object cannot be read completely.
pub async fn read(cloud: &Cloud, bucket: &str, prefix: &str) -> anyhow::Result<Vec<Line>> {
    let names = cloud.list(bucket, prefix).await?;
    let objects = stream::iter(names).map(async |name| {
        let object = cloud.read(bucket, &name).await?;
        lines(&name, &object).with_context(|| format!("read {name}"))
    });
    let all: Vec<_> = objects.buffered(READS).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}
