//! Checks of the settings, and what they allow.

use std::time::Duration;

use pubsub::{DeadLetterConfig, Endpoint};
use service::cloud::Api;
use service::cost::{Item, Load, Prices};
use service::create;
use service::memory::Share;
use service::settings::{ProcessSettings, SectionFile, Tls, Variable, VariableKind};
use service::{Faults, WrongSettings};

use super::{HttpIngest, MAX_CONNECTIONS, Mqtt, Settings, broker, cost, variables};
use crate::guarantee;
use crate::mqtt::{Grants, MAX_PROPERTIES_MEMORY, security};
use crate::routes::{self, Routes};

impl Mqtt {
    fn check_ranges(&self, faults: &mut Faults) {
        let seconds = Duration::from_secs;
        for (key, value, range) in [
            ("keep_alive", self.keep_alive, seconds(5)..=seconds(65_535)),
            ("connect_timeout", self.connect_timeout, seconds(1)..=seconds(3600)),
            ("reconnect.min", self.reconnect.min, Duration::from_millis(1)..=seconds(3600)),
            ("reconnect.max", self.reconnect.max, self.reconnect.min..=seconds(24 * 3600)),
            // With 0 the broker would keep no session. MQTT cannot express a larger value.
            ("session_expiry", self.session_expiry, seconds(1)..=seconds(u32::MAX.into())),
        ] {
            faults.duration(&format!("mqtt.{key}"), value, range);
        }
        faults.range("mqtt.max_bytes_in_flight", self.max_bytes_in_flight, 1..=1 << 40);
        faults.range("mqtt.max_qos0_waiting", self.max_qos0_waiting, 1..=10_000_000);
    }

    fn check_login(&self, faults: &mut Faults) {
        let (has_file, has_text) = (self.password_file.is_some(), self.password.text().is_some());
        let is_right = self.username.is_some() || !(has_file || has_text);
        faults.require(is_right, "mqtt.username", "required with a password");
        let right = "must not be set together with mqtt.password_file";
        faults.require(!(has_file && has_text), "mqtt.password", right);
        let is_seen = has_text && faults.is_from_file("mqtt.password");
        let right = "must not be in a file of settings, which others may read: set the variable \
                     MQTT_PASSWORD, or mqtt.password_file";
        faults.require(!is_seen, "mqtt.password", right);
        if let Err(wrong) = security::credentials(self) {
            faults.add("mqtt.password_file", wrong);
        }
    }

    fn check(&self, faults: &mut Faults) {
        self.url.check("mqtt.url", faults);
        // A wrong URL may ask for TLS, too.
        let is_tls = broker::asks_for_tls(self.url.text());
        self.check_ranges(faults);
        let checks = [
            ((1..=MAX_CONNECTIONS).contains(&self.connections), "connections", "must be 1 to 16"),
            (self.tls == Tls::default() || is_tls, "tls", "needs an url that begins with mqtts://"),
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
        self.check_login(faults);
        if is_tls && let Err(wrong) = service::tls::client(&self.tls) {
            faults.add("mqtt.tls", wrong);
        }
    }
}

impl service::Settings for Settings {
    const SECTION_FILES: &'static [SectionFile] = &[SectionFile {
        section: "routes",
        variable: "DATAFLOW_ROUTES_FILE",
        help: "Routes in YAML, in place of the section `routes` of the settings. DATAFLOW_ROUTES_FILE \
               stands for it",
    }];

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn check(&self, faults: &mut Faults) {
        if self.has_mqtt() {
            self.mqtt.check(faults);
        }
        if let Some(http) = &self.http_ingest {
            http.check(self.process.grace_period, faults);
        }
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
        DeadLetterConfig::check(self.dead_letters.as_ref(), false, faults);
        self.storage.check(faults);
        self.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
    }

    fn check_guarantee(&self, faults: &mut Faults) {
        guarantee::strict::check(self, faults);
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        Ok(guarantee::of(self, &Routes::new(&self.routes)?, false, &Grants::new()))
    }

    fn warnings(&self) -> Vec<String> {
        self.create.then(|| create::WARNING.to_owned()).into_iter().collect()
    }

    fn estimate(&self, load: &Load, prices: &Prices) -> Vec<Item> {
        cost::of(self, load, prices)
    }

    fn apis(&self) -> Vec<Api> {
        self.pubsub.apis(self.dead_letters.as_ref(), &self.storage)
    }

    fn memory(&self) -> Vec<Share> {
        let mut shares = vec![Share::of_process()];
        if self.has_mqtt() {
            shares.extend(self.memory_of_mqtt());
        }
        shares.extend(self.http_ingest.iter().flat_map(HttpIngest::memory));
        shares
    }

    fn variables() -> Vec<Variable> {
        const HTTP_PORT: Variable = Variable {
            name: "INGESTION_SERVICE_PORT",
            key: "http_ingest.port",
            kind: VariableKind::Value,
        };
        let own = [Endpoint::VARIABLE, storage::Endpoint::VARIABLE, HTTP_PORT];
        [&own[..], &variables::MQTT].concat()
    }
}

impl Settings {
    fn memory_of_mqtt(&self) -> [Share; 3] {
        let mqtt = &self.mqtt;
        let connections = usize::from(mqtt.connections);
        let received = mqtt.max_bytes_in_flight.saturating_mul(connections);
        // A message in the pipeline is in memory as it came, in its envelope, and in up to two
        // requests. Base64 makes the envelope a third larger. A message that waits for the pipeline
        // is in memory only as it came.
        let at_work = received.min(self.pipeline.max_bytes_in_flight);
        let waiting = at_work.saturating_mul(3).saturating_add(received);
        let waiting = Share::of_size("mqtt.max_bytes_in_flight", waiting, 100);
        let packet = usize::try_from(mqtt.max_packet_bytes).unwrap_or(usize::MAX);
        let packets = packet.saturating_mul(connections);
        // One packet above the limit, and one that is read into a buffer of up to twice its size.
        let packets = Share::of_size("mqtt.max_packet_bytes", packets, 300);
        // The properties of that packet need more memory than their bytes.
        let properties = MAX_PROPERTIES_MEMORY as u64;
        [
            Share { value: Some(mqtt.max_bytes_in_flight as u64), ..waiting },
            Share { value: Some(packet as u64), ..packets },
            Share::of_count("mqtt.connections", connections, properties),
        ]
    }
}
