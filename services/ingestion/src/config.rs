//! Settings of ingestion.

mod broker;
mod check;
mod cost;
mod http_ingest;
mod variables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use message::OriginKind;
use pipeline::backoff::Backoff;
use pipeline::{Limits, batch};
use pubsub::{DeadLetterConfig, Endpoint, TopicId, TopicName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::WrongSettings;
pub use service::settings::Tls;
use service::settings::{Parsed, Password, ProcessSettings};

use crate::filter::Filter;
use crate::host;
pub use broker::Broker;
pub use http_ingest::HttpIngest;

/// All settings. `example.yaml` in the crate's folder shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// MQTT broker. Its `url` is not required if there is `http_ingest`, and no route from MQTT.
    pub mqtt: Mqtt,
    /// Ingest over HTTP. Off if unset.
    pub http_ingest: Option<HttpIngest>,
    /// Routes from MQTT topics or HTTP sources to producers; the keys are free names. At least one.
    pub routes: BTreeMap<String, RouteSettings>,
    /// Destinations that routes name. Each must be used by a route.
    pub producers: BTreeMap<String, Producer>,
    /// Number of ordering keys; 1 to 10000. Each key needs memory and carries at most 1 MB per
    /// second.
    pub ordering_buckets: u32,
    /// Sources of ids and event times.
    pub identity: Identity,
    /// Facts that ingestion adds to `enrichmentData`.
    pub enrichment: Enrichment,
    /// Destination of messages that can never succeed. Required; `subscription` is refused here.
    pub dead_letters: Option<DeadLetterConfig>,
    /// Access to Cloud Storage, for dead letters that are too large for Pub/Sub.
    pub storage: storage::Endpoint,
    /// Access to Pub/Sub.
    pub pubsub: Endpoint,
    /// If true, the service creates missing topics at its start, and the bucket of the dead letters.
    /// It is meant for development.
    pub create: bool,
    /// Limits, batches and waits of the pipeline.
    pub pipeline: Limits,
}

/// MQTT broker, and the connection to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Mqtt {
    /// URL of the broker: `mqtt://host:port`, or `mqtts://host:port` for TLS. `tcp` means `mqtt`,
    /// `ssl` and `tls` mean `mqtts`. Required.
    pub url: Parsed<Broker>,
    /// TLS certificates, for `mqtts`.
    pub tls: Tls,
    /// MQTT user name; anonymous if unset.
    pub username: Option<String>,
    /// File that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// Password, if there is no file. Set it by the variable `MQTT_PASSWORD`. In a file of settings it
    /// is refused, because others may read that file.
    pub password: Password,
    /// Number of connections; 1 to 16. All but the first carry only shared subscriptions.
    pub connections: u16,
    /// MQTT version.
    pub protocol: Protocol,
    /// First part of the client id `<name>-<ordinal>-<connection>`. It must stay the same, because
    /// the broker finds our session by it.
    pub name: String,
    /// Second part of the client id. The default is the number at the end of the host's name, as a
    /// StatefulSet sets it (`ingestion-2`), else 0. A name that ends with an address, such as
    /// `ip-10-0-3-45`, gives no number.
    pub ordinal: Option<u32>,
    /// Time between two pings; 5s to 18h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keep_alive: Duration,
    /// Maximum wait for a connection, and for the answer to a SUBSCRIBE; 1s to 1h. If a name has
    /// several addresses, all of them are tried within this time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Waits between connection attempts: `min` 1ms to 1h, `max` up to 1d. Attempts continue
    /// forever.
    pub reconnect: Backoff,
    /// Time for which the broker keeps our session while we are disconnected (MQTT 5); at least 1s.
    /// Without a session the broker would drop messages that arrive meanwhile.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub session_expiry: Duration,
    /// Maximum number of messages that the broker sends before we acknowledge the first one (MQTT
    /// 5); 1 to 65535.
    pub receive_maximum: u16,
    /// Maximum packet size in bytes; 1 KiB to 256 MiB. It must be at least the broker's own limit.
    pub max_packet_bytes: u32,
    /// Maximum bytes of unacknowledged messages for each connection; 1 to 1 TiB. It counts
    /// payloads, topics, user properties, and 512 bytes for each message. It can be exceeded by at
    /// most one packet. Above it, nothing more is read until a message is settled. Acknowledgements
    /// and pings continue.
    ///
    /// Each connection needs three times `max_packet_bytes` in addition: one packet above the
    /// limit, and one that is being read into a buffer. That buffer may have grown to twice the
    /// packet's size.
    pub max_bytes_in_flight: usize,
    /// Maximum number of QoS 0 messages that wait for the pipeline; 1 to 10 million. Further ones
    /// are dropped and counted.
    pub max_qos0_waiting: usize,
    /// Handling of retained messages.
    pub retained: Retained,
    /// Filters to unsubscribe from: those of routes that were removed or changed. The broker's
    /// session keeps them until then. Filters with a shared group start with `$share/<group>/`.
    pub unsubscribe: Vec<String>,
}

/// Maximum number of connections.
pub const MAX_CONNECTIONS: u16 = 16;

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
pub enum Protocol {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V4,
}

/// Handling of retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retained {
    /// Carry them, with the attribute `mqtt_retain`.
    Keep,
    /// Acknowledge and count them, but do not send them.
    Drop,
}

/// Route of messages from a topic filter to a producer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RouteSettings {
    /// Source of the messages.
    pub source: RouteSource,
    /// Destination of the messages.
    pub destination: RouteDestination,
    /// Additional attributes. `{name}` stands for a capture of `mqtt_topic`.
    pub attributes: BTreeMap<String, String>,
    /// Minimum payload size in bytes. Smaller payloads are acknowledged and counted, not sent.
    pub min_payload_bytes: Option<usize>,
    /// Maximum payload size in bytes. Larger payloads are acknowledged and counted, not sent.
    pub max_payload_bytes: Option<usize>,
    /// Template, such as `{device_id}`. Messages with the same value of it keep their order up to
    /// the topic. The value is hashed onto `ordering_buckets`. Refused with a shared group.
    pub ordering_key: Option<String>,
    /// Allows this filter to overlap with another one. The broker may then deliver a message twice.
    pub allow_overlap: bool,
}

/// Source of a route: a filter of MQTT topics, or of the source ids of HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RouteSource {
    /// Topic filter. A level `{name}` subscribes to `+` and captures the level. Required, unless
    /// there is `http_source`.
    pub mqtt_topic: Parsed<Filter>,
    /// Filter of source ids over HTTP, in the form of a topic filter. `{device_id}` takes all ids
    /// without `/`. Only with `http_ingest`, and instead of `mqtt_topic`.
    pub http_source: Option<Parsed<Filter>>,
    /// Requested QoS: 0 or 1; 2 is treated as 1. Only for MQTT.
    pub qos: u8,
    /// Group of subscribers that share the messages (MQTT 5). Members are all replicas with the
    /// same group, and all their connections.
    pub shared_group: Option<String>,
}

impl RouteSource {
    /// Returns the filter of topics or source ids.
    ///
    /// # Errors
    /// The filter is wrong.
    pub fn filter(&self) -> Result<&Filter, WrongSettings> {
        self.text().value(format_args!("source.{}", self.key()))
    }

    /// Returns the filter as the settings have it.
    #[must_use]
    pub fn text(&self) -> &Parsed<Filter> {
        self.http_source.as_ref().unwrap_or(&self.mqtt_topic)
    }

    /// Returns the kind of source that the filter is for.
    #[must_use]
    pub fn kind(&self) -> OriginKind {
        if self.http_source.is_some() { OriginKind::Http } else { OriginKind::Mqtt }
    }

    /// Returns the key of the filter in the settings.
    pub(crate) fn key(&self) -> &'static str {
        match self.kind() {
            OriginKind::Mqtt => "mqtt_topic",
            OriginKind::Http => "http_source",
        }
    }
}

/// Reference to a producer, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RouteDestination {
    /// Key in `producers`. Required.
    pub route_name: String,
}

/// Destination of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Producer {
    /// Id of the Pub/Sub topic in the project, or its full name. Required.
    pub topic_id: Parsed<TopicId>,
}

impl Producer {
    /// Returns the full name of the topic. `name` is the key of this producer.
    ///
    /// # Errors
    /// The id is wrong, and nobody has checked these settings.
    pub(crate) fn topic(&self, name: &str, project: &str) -> Result<TopicName, WrongSettings> {
        Ok(self.topic_id.value(format_args!("producers.{name}.topic_id"))?.name(project))
    }
}

/// Sources of ids and event times.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Identity {
    /// JSON pointer to an id in the payload. The id must stay unique after a device's reboot.
    pub id_pointer: Option<String>,
    /// Name of the MQTT 5 user property that holds an id. It overrides the pointer.
    pub id_property: Option<String>,
    /// JSON pointer to the event time in the payload: RFC 3339, epoch seconds or epoch
    /// milliseconds.
    pub event_time_pointer: Option<String>,
    /// Maximum age of an event time that is accepted; at most 100 years.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_past: Duration,
    /// Maximum distance into the future of an event time that is accepted; at most 100 years.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_future: Duration,
}

/// Facts that ingestion adds to `enrichmentData`, besides those of its enricher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Enrichment {
    /// Adds `IngestedAt`, the time of receipt in RFC 3339 with up to nine digits of the second. It is
    /// the time of receipt even if the payload has an event time.
    pub ingested_at: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings::default(),
            mqtt: Mqtt::default(),
            http_ingest: None,
            routes: BTreeMap::new(),
            producers: BTreeMap::new(),
            ordering_buckets: 256,
            identity: Identity::default(),
            enrichment: Enrichment::default(),
            dead_letters: None,
            storage: storage::Endpoint::default(),
            pubsub: Endpoint::default(),
            create: false,
            // The broker sends few messages before it waits for PUBACKs, so no message waits for
            // others to fill its batch.
            pipeline: Limits {
                batch: batch::BatchLimits {
                    max_idle: Duration::ZERO,
                    ..batch::BatchLimits::default()
                },
                ..Limits::default()
            },
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: Parsed::default(),
            tls: Tls::default(),
            username: None,
            password_file: None,
            password: Password::default(),
            connections: 1,
            protocol: Protocol::V5,
            name: "ingestion".into(),
            ordinal: None,
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            reconnect: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(120) },
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            receive_maximum: 1000,
            max_packet_bytes: 16 * 1024 * 1024,
            max_bytes_in_flight: 8 * 1024 * 1024,
            max_qos0_waiting: 1000,
            retained: Retained::Keep,
            unsubscribe: Vec::new(),
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            id_pointer: None,
            id_property: None,
            event_time_pointer: None,
            max_past: 30 * day,
            max_future: day,
        }
    }
}

impl Settings {
    /// Returns whether messages come from a broker.
    #[must_use]
    pub fn has_mqtt(&self) -> bool {
        let is_of_mqtt = |route: &RouteSettings| route.source.kind() == OriginKind::Mqtt;
        let has_url = !self.mqtt.url.text().is_empty();
        self.http_ingest.is_none() || has_url || self.routes.values().any(is_of_mqtt)
    }
}

impl Mqtt {
    /// Returns the address of the broker.
    ///
    /// # Errors
    /// The URL is wrong.
    pub fn broker(&self) -> Result<&Broker, WrongSettings> {
        self.url.value("mqtt.url")
    }

    /// Returns the stable client id of a connection.
    #[must_use]
    pub fn client_id(&self, connection: u16) -> String {
        let ordinal = self.ordinal.or_else(host::ordinal).unwrap_or(0);
        format!("{}-{ordinal}-{connection}", self.name)
    }
}
