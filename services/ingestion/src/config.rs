//! The settings of ingestion.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pipeline::backoff::Backoff;
use pipeline::{Limits, batch};
use pubsub::{Endpoint, Graves};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::memory::Share;
pub use service::settings::Tls;
use service::settings::{self, PORT, PROJECT, Variable};
use service::{Faults, Http};

use crate::mqtt::{Grants, MAX_PROPERTIES_MEMORY, security};
use crate::{guarantee, host, routes};

/// All settings. `example.yaml` beside the crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// The Google Cloud project. Required; `GOOGLE_CLOUD_PROJECT` is its default.
    pub project: String,
    /// The broker.
    pub mqtt: Mqtt,
    /// Which topics go where; the keys are free names. At least one.
    pub routes: BTreeMap<String, Route>,
    /// The destinations that routes name. Each is used by a route.
    pub producers: BTreeMap<String, Producer>,
    /// Number of ordering keys; 1 to 10000. Each costs memory, and passes at most 1 MB a second.
    pub ordering_buckets: u32,
    /// Where ids and event times come from.
    pub identity: Identity,
    /// Where messages go that can never succeed. Required; `subscription` is refused here.
    pub dead_letters: Option<Graves>,
    /// How Cloud Storage is reached, for dead letters that are too big for Pub/Sub.
    pub storage: storage::Endpoint,
    /// How Pub/Sub is reached.
    pub pubsub: Endpoint,
    /// Bounds, batches and waits.
    pub pipeline: Limits,
    /// Where the health server listens.
    pub http: Http,
    /// How long a drain may take; 1ms to 1d.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub grace_period: Duration,
}

/// The broker, and how we appear to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Mqtt {
    /// `mqtt://host:port`, or `mqtts://host:port` for TLS. Required.
    pub url: String,
    /// Certificates, for `mqtts`.
    pub tls: Tls,
    /// Who we are to the broker; nobody in particular when left out.
    pub username: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// Connections side by side; 1 to 16. Those after the first carry shared subscriptions only.
    pub connections: u16,
    /// The version of the protocol.
    pub protocol: Protocol,
    /// First part of the client id `<name>-<ordinal>-<connection>`, which must stay the same so that
    /// the broker knows our session.
    pub name: String,
    /// Second part; by default the number at the end of the host's name, as a StatefulSet gives it
    /// (`ingestion-2`), else 0. A name that ends with an address, such as `ip-10-0-3-45`, gives none.
    pub ordinal: Option<u32>,
    /// Between two pings; 5s to 18h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keep_alive: Duration,
    /// Longest wait for a connection, and for the answer to a SUBSCRIBE; 1s to 1h. A name with several
    /// addresses is tried at each of them in this time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Waits between connection attempts; 1ms to 1h, and up to 1d. They go on forever.
    pub reconnect: Backoff,
    /// How long the broker keeps our session while we are away (MQTT 5); at least 1s. Without a session
    /// the broker would forget what comes meanwhile.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub session_expiry: Duration,
    /// Most messages that the broker sends before we acknowledge the first (MQTT 5); 1 to 65535.
    pub receive_maximum: u16,
    /// Largest packet; 1 KiB to 256 MiB, at least the broker's own limit.
    pub max_packet_bytes: u32,
    /// Most bytes of messages that are not acknowledged yet, for each connection; 1 to 1 TiB. It counts
    /// payloads, topics, user properties, and 512 bytes for each message. It is passed by one packet at most. Beyond it nothing
    /// more is read until a message is settled; acknowledgements and pings go on.
    ///
    /// Each connection takes three times `max_packet_bytes` beside it: one packet beyond the bound, and one
    /// that is being read into a buffer that may have grown to twice its size.
    pub max_bytes_in_flight: usize,
    /// Most QoS 0 messages that wait for the pipeline; 1 to 10 million. Those beyond it are dropped and counted.
    pub max_qos0_waiting: usize,
    /// What becomes of messages that the broker had retained.
    pub retained: Retained,
    /// Filters to unsubscribe from: those of routes that were removed or changed. The broker's session
    /// has them until then. With a shared group they begin with `$share/<group>/`.
    pub unsubscribe: Vec<String>,
}

/// Most connections.
pub const MAX_CONNECTIONS: u16 = 16;

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
pub enum Protocol {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V4,
}

/// What becomes of retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retained {
    /// They are carried, with the attribute `mqtt_retain`.
    Keep,
    /// They are acknowledged and counted.
    Drop,
}

/// Which messages go where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Route {
    /// Where messages come from.
    pub source: RouteSource,
    /// Where they go.
    pub destination: RouteDestination,
    /// More attributes; `{name}` stands for a capture.
    pub attributes: BTreeMap<String, String>,
    /// Smaller payloads are acknowledged and counted, not sent.
    pub min_payload_bytes: Option<usize>,
    /// Larger payloads are acknowledged and counted, not sent.
    pub max_payload_bytes: Option<usize>,
    /// Keeps the order of messages with the same value of this template, such as `{device_id}`, up to
    /// the topic: it is hashed onto `ordering_buckets`. Refused with a shared group.
    pub ordering_key: Option<String>,
    /// Lets this filter overlap with another one, where the broker may deliver twice.
    pub allow_overlap: bool,
}

/// A topic filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RouteSource {
    /// The filter; `{name}` in place of a level subscribes to `+` and captures the level. Required.
    pub mqtt_topic: String,
    /// 0 or 1; 2 is taken as 1.
    pub qos: u8,
    /// A group of subscribers that share the messages (MQTT 5): replicas of this service with the same
    /// group, and all its connections.
    pub shared_group: Option<String>,
}

/// A producer, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct RouteDestination {
    /// A key of `producers`. Required.
    pub route_name: String,
}

/// A destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Producer {
    /// The Pub/Sub topic's id in the project, or its full name. Required.
    pub topic_id: String,
}

/// Where ids and event times come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Identity {
    /// JSON pointer into the payload to a given id. It must stay unique after a device's reboot.
    pub id_pointer: Option<String>,
    /// MQTT 5 user property with a given id; wins over the pointer.
    pub id_property: Option<String>,
    /// JSON pointer into the payload to the event time: RFC 3339, or epoch seconds or milliseconds.
    pub event_time_pointer: Option<String>,
    /// The oldest event time taken as such; at most 100 years.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_past: Duration,
    /// The furthest event time in the future taken as such; at most 100 years.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_future: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project: String::new(),
            mqtt: Mqtt::default(),
            routes: BTreeMap::new(),
            producers: BTreeMap::new(),
            ordering_buckets: 256,
            identity: Identity::default(),
            dead_letters: None,
            storage: storage::Endpoint::default(),
            pubsub: Endpoint::default(),
            // MQTT's window is small, so a message never waits for others to fill its batch.
            pipeline: Limits {
                batch: batch::Limits { max_idle: Duration::ZERO, ..batch::Limits::default() },
                ..Limits::default()
            },
            http: Http::default(),
            grace_period: Duration::from_secs(30),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: String::new(),
            tls: Tls::default(),
            username: None,
            password_file: None,
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

impl Mqtt {
    /// Host and port of the broker, unless the URL is wrong or has a user.
    #[must_use]
    pub fn address(&self) -> Option<(&str, u16)> {
        self.host_and_port().filter(|(host, _)| settings::host::check(host).is_ok())
    }

    fn host_and_port(&self) -> Option<(&str, u16)> {
        let (address, usual) = match self.url.strip_prefix("mqtts://") {
            Some(address) => (address, "8883"),
            None => (self.url.strip_prefix("mqtt://")?, "1883"),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = match address.strip_prefix('[') {
            // An IPv6 address.
            Some(address) => {
                let (host, port) = address.split_once(']')?;
                (host, if port.is_empty() { usual } else { port.strip_prefix(':')? })
            }
            None => address.rsplit_once(':').unwrap_or((address, usual)),
        };
        (!host.contains('/')).then_some((host, port.parse().ok()?))
    }

    /// Whether the URL has a user or a password, which would be shown wherever the URL is.
    fn has_user(&self) -> bool {
        self.url.contains('@')
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.starts_with("mqtts://")
    }

    /// The stable client id of a connection.
    #[must_use]
    pub fn client_id(&self, connection: u16) -> String {
        let ordinal = self.ordinal.or_else(host::ordinal).unwrap_or(0);
        format!("{}-{ordinal}-{connection}", self.name)
    }

    fn check_url(&self, faults: &mut Faults) {
        const FORM: &str = "mqtt://host:port, or mqtts://host:port for TLS";
        let has_scheme = self.url.starts_with("mqtt://") || self.is_tls();
        let wrong = if self.has_user() {
            "must not have a user or password: set mqtt.username and mqtt.password_file".to_owned()
        } else if self.url.is_empty() {
            format!("required, as {FORM}")
        } else if !has_scheme {
            format!("must begin with mqtt:// or mqtts://, as {FORM}")
        } else {
            match self.host_and_port().map(|(host, _)| settings::host::check(host)) {
                None => format!("must be {FORM}, without a path, and with a port from 1 to 65535"),
                Some(Err(why)) => format!("its host {why}, as {FORM}"),
                Some(Ok(())) => return,
            }
        };
        faults.add("mqtt.url", wrong);
    }

    fn check_ranges(&self, faults: &mut Faults) {
        let seconds = Duration::from_secs;
        for (key, value, range) in [
            ("keep_alive", self.keep_alive, seconds(5)..=seconds(65_535)),
            ("connect_timeout", self.connect_timeout, seconds(1)..=seconds(3600)),
            ("reconnect.min", self.reconnect.min, Duration::from_millis(1)..=seconds(3600)),
            ("reconnect.max", self.reconnect.max, self.reconnect.min..=seconds(24 * 3600)),
            // Without a session the broker forgets what we miss; above it MQTT has no number.
            ("session_expiry", self.session_expiry, seconds(1)..=seconds(u32::MAX.into())),
        ] {
            faults.duration(&format!("mqtt.{key}"), value, range);
        }
        faults.range("mqtt.max_bytes_in_flight", self.max_bytes_in_flight, 1..=1 << 40);
        faults.range("mqtt.max_qos0_waiting", self.max_qos0_waiting, 1..=10_000_000);
    }

    fn check(&self, faults: &mut Faults) {
        self.check_url(faults);
        self.check_ranges(faults);
        let checks = [
            ((1..=MAX_CONNECTIONS).contains(&self.connections), "connections", "must be 1 to 16"),
            (
                self.password_file.is_none() || self.username.is_some(),
                "username",
                "required with password_file",
            ),
            (
                self.tls == Tls::default() || self.is_tls(),
                "tls",
                "needs an url that begins with mqtts://",
            ),
            (!self.name.is_empty(), "name", "must not be empty"),
            (self.receive_maximum > 0, "receive_maximum", "must be 1 to 65535"),
            (
                (1024..=256 * 1024 * 1024).contains(&self.max_packet_bytes),
                "max_packet_bytes",
                "must be 1024 to 268435456",
            ),
            (
                self.unsubscribe.iter().all(|filter| !filter.is_empty()),
                "unsubscribe",
                "must not have an empty filter",
            ),
        ];
        for (is_right, key, right) in checks {
            faults.require(is_right, &format!("mqtt.{key}"), right);
        }
        if let Err(wrong) = self.tls.check_pair() {
            faults.add("mqtt.tls", wrong);
        }
        if let Err(wrong) = security::credentials(self) {
            faults.add("mqtt.password_file", wrong);
        }
        if self.is_tls()
            && let Err(wrong) = security::tls(&self.tls)
        {
            faults.add("mqtt.tls", wrong);
        }
    }
}

impl service::Settings for Settings {
    fn check(&self, faults: &mut Faults) {
        faults.project(&self.project);
        self.mqtt.check(faults);
        routes::check(self, faults);
        let buckets = self.ordering_buckets;
        let right = format!("must be 1 to 10000, is {buckets}");
        faults.require((1..=10_000).contains(&buckets), "ordering_buckets", right);
        for (key, pointer) in [
            ("identity.id_pointer", &self.identity.id_pointer),
            ("identity.event_time_pointer", &self.identity.event_time_pointer),
        ] {
            let is_pointer = pointer.as_ref().is_none_or(|pointer| pointer.starts_with('/'));
            faults.require(is_pointer, key, "must be a JSON pointer such as /meta/id");
        }
        let years = Duration::ZERO..=Duration::from_secs(100 * 31_557_600);
        faults.duration("identity.max_past", self.identity.max_past, years.clone());
        faults.duration("identity.max_future", self.identity.max_future, years);
        Graves::check(self.dead_letters.as_ref(), false, faults);
        self.storage.check(faults);
        self.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
        faults.http(&self.http);
        faults.grace_period(self.grace_period);
    }

    fn project(&self) -> &str {
        &self.project
    }

    fn http(&self) -> &Http {
        &self.http
    }

    fn grace_period(&self) -> Duration {
        self.grace_period
    }

    fn explain(&self) -> Vec<String> {
        guarantee::of(self, false, &Grants::new())
    }

    fn memory(&self) -> Vec<Share> {
        let mqtt = &self.mqtt;
        let connections = usize::from(mqtt.connections);
        let received = mqtt.max_bytes_in_flight.saturating_mul(connections);
        // A message is in memory as it came, in its envelope, which base64 makes larger by a third, and in
        // up to two requests; beyond the bounds of the pipeline, as it came alone.
        let at_work = received.min(self.pipeline.max_bytes_in_flight);
        let waiting = at_work.saturating_mul(3).saturating_add(received);
        let waiting = Share::of_size("mqtt.max_bytes_in_flight", waiting, 100);
        let packet = usize::try_from(mqtt.max_packet_bytes).unwrap_or(usize::MAX);
        let packets = packet.saturating_mul(connections);
        // One packet beyond the bound, and one that is read into a buffer of up to twice its size.
        let packets = Share::of_size("mqtt.max_packet_bytes", packets, 300);
        // Properties of that packet take more than their bytes.
        let properties = MAX_PROPERTIES_MEMORY as u64;
        vec![
            Share::of_process(),
            Share { value: Some(mqtt.max_bytes_in_flight as u64), ..waiting },
            Share { value: Some(packet as u64), ..packets },
            Share::of_count("mqtt.connections", connections, properties),
        ]
    }

    fn variables() -> &'static [Variable] {
        &[PORT, PROJECT, Endpoint::VARIABLE, storage::Endpoint::VARIABLE]
    }
}
