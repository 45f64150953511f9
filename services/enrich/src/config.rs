//! Settings of enrich.

mod cost;

use std::collections::BTreeMap;
use std::time::Duration;

use message::FieldPath;
use message::envelope::Input;
use message::field_path::Pointer;
use pipeline::{Limits, Reasons, batch};
use pubsub::{DeadLetterConfig, Endpoint, Intake, IntakeSettings, Reads, TopicId, TopicName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::cloud::Api;
use service::cost::{Item, Load, Prices};
use service::google::Login;
use service::memory::{self, Share};
use service::settings::{Parsed, ProcessSettings, Variable, VariableKind};
use service::{Faults, WrongSettings};
use web::{Listener, Reach};

use crate::cache::firestore;
use crate::cache::redis::RedisSettings;
use crate::cache::settings::LookupSettings;
use crate::enrichment::OnMissing;

/// Maximum size of the cache in memory.
const MAX_CACHE_BYTES: usize = 64 * 1024 * 1024 * 1024;

/// All settings. `example.yaml` in the crate's folder shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// Topic to publish to: its id in the project, or its full name. Required.
    pub topic_id: Parsed<TopicId>,
    /// Key of the document for a message, and the fields to copy into the message.
    pub enrichment: EnrichmentSettings,
    /// Source of the documents.
    pub firestore: firestore::FirestoreSettings,
    /// Caches of the documents.
    pub cache: LookupSettings,
    /// Port on which keys can be invalidated.
    pub admin: Admin,
    /// Access to Cloud Storage, for dead letters that are too large for Pub/Sub.
    pub storage: storage::Endpoint,
    /// Source of messages, and destination of dead letters.
    #[schemars(flatten)]
    pub intake: IntakeSettings,
    /// Limits, batches and waits of the pipeline.
    pub pipeline: Limits,
}

/// Key of the document for a message, and the fields to copy into the message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct EnrichmentSettings {
    /// Places to find the key; the first one with a text or a number is used. Each is
    /// `enrichment.NAME`, `attribute.NAME`, or a JSON pointer into the payload.
    pub key: Vec<FieldPath>,
    /// Fields of the document, by their names in `enrichmentData`. Dots lead into nested fields.
    pub fields: BTreeMap<String, String>,
    /// Handling of a message whose document does not exist: `pass`, `dead_letter` or `drop`.
    pub on_missing: OnMissing,
    /// Form of a message's data.
    pub input: Input,
}

/// Port on which keys can be invalidated: `DELETE /cache/<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Admin {
    /// Host to listen on. The default is loopback, because the port does not authenticate its
    /// callers.
    pub host: String,
    /// Port to listen on; 0 takes a free one, which `/status` shows.
    pub port: u16,
}

impl Default for Admin {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 8081 }
    }
}

impl Admin {
    /// Section of these settings.
    pub const SECTION: &str = "admin";

    /// Maximum size of a request's body, which no request of this port needs.
    const MAX_BODY_BYTES: usize = 1024;

    /// Returns the listener of the port. It takes no calls from other origins.
    #[must_use]
    pub fn listener(&self) -> Listener {
        Listener {
            host: self.host.clone(),
            port: self.port,
            max_body_bytes: Self::MAX_BODY_BYTES,
            cors: Vec::new(),
        }
    }
}

impl Default for EnrichmentSettings {
    fn default() -> Self {
        let fields = [("name", "ClientID"), ("location", "LocationID"), ("serviceTag", "Category")];
        Self {
            key: vec![
                FieldPath::Enrichment(Pointer::to("DeviceID")),
                FieldPath::Attribute("device_id".into()),
                FieldPath::Attribute("uid".into()),
            ],
            fields: fields.map(|(name, field)| (name.to_owned(), field.to_owned())).into(),
            on_missing: OnMissing::Pass,
            input: Input::Auto,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings::default(),
            topic_id: Parsed::default(),
            enrichment: EnrichmentSettings::default(),
            firestore: firestore::FirestoreSettings::default(),
            cache: LookupSettings::default(),
            admin: Admin::default(),
            storage: storage::Endpoint::default(),
            intake: IntakeSettings::default(),
            // A batch grows while others are written, so no message waits for a timer.
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

impl Settings {
    /// Returns the topic to publish to.
    ///
    /// # Errors
    /// Its id is wrong, and nobody has checked these settings.
    pub(crate) fn topic(&self) -> Result<TopicName, WrongSettings> {
        Ok(self.topic_id.value("topic_id")?.name(&self.process.project))
    }
}

impl Settings {
    /// Returns the collection of the documents. The connection is opened when it is first needed.
    #[must_use]
    pub fn documents(&self) -> firestore::Firestore {
        let ProcessSettings { project, google, .. } = &self.process;
        firestore::Firestore::with_identity(project, &self.firestore, google.identity())
    }
}

impl Reads for Settings {
    const REASONS: Reasons = crate::REASONS;

    fn intake(&self) -> Intake<'_> {
        Intake {
            service: "enrich",
            project: &self.process.project,
            settings: &self.intake,
            storage: self.storage.clone(),
            audience: None,
            clients: self.process.google.identity().into(),
        }
    }
}

impl service::Settings for Settings {
    const PARTS: &'static [&'static str] = &["process", "intake"];

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn check(&self, faults: &mut Faults) {
        self.intake.subscription.check(&self.pipeline, faults);
        self.intake.check_create(faults);
        let required = "required: the topic to publish to";
        self.topic_id.check_required("topic_id", required, faults);
        self.check_documents(faults);
        self.check_cache(faults);
        DeadLetterConfig::check(self.intake.dead_letters.as_ref(), true, faults);
        self.storage.check(faults);
        self.intake.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
        self.admin.listener().check(Admin::SECTION, Reach::Anywhere, faults);
    }

    fn check_guarantee(&self, faults: &mut Faults) {
        if self.enrichment.on_missing == OnMissing::Drop {
            let loses = "messages of unknown devices are dropped";
            faults.add_weak("enrichment.on_missing", loses, "must be pass or dead_letter");
        }
        DeadLetterConfig::check_guarantee(self.intake.dead_letters.as_ref(), faults);
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        let missing = match self.enrichment.on_missing {
            OnMissing::Pass => "messages of unknown devices go on without a document",
            OnMissing::DeadLetter => "messages of unknown devices go to the dead letters",
            OnMissing::Drop => "messages of unknown devices are dropped: may be lost",
        };
        let dead_letters = self.intake.dead_letters.iter().map(DeadLetterConfig::guarantee);
        Ok(std::iter::once(missing.to_owned()).chain(dead_letters).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let warning = "admin.host: whoever reaches admin.port can make this service forget \
                       documents, because it does not authenticate its callers: use 127.0.0.1, or \
                       let only trusted machines reach it";
        let is_open = !self.admin.listener().is_loopback();
        let unbounded = "cache.memory.max_bytes is unbounded: memory grows with every new key and never \
                         shrinks, and a container is killed at its limit; a number bounds it";
        let is_unbounded = self.cache.memory.max_bytes.limit().is_none();
        let warnings = [(is_open, warning), (is_unbounded, unbounded)].into_iter();
        let warnings = warnings.filter(|(is_due, _)| *is_due).map(|(_, text)| text.to_owned());
        warnings.chain(self.intake.create_warning()).collect()
    }

    fn estimate(&self, load: &Load, prices: &Prices) -> Vec<Item> {
        cost::of(self, load, prices)
    }

    fn apis(&self) -> Vec<Api> {
        let mut apis = self.intake.pubsub.apis(self.intake.dead_letters.as_ref(), &self.storage);
        let firestore = &self.firestore;
        let endpoint = firestore.endpoint.as_ref();
        apis.push(Api::new("firestore", endpoint, firestore.credentials));
        apis
    }

    fn memory(&self) -> Vec<Share> {
        let mut shares = memory::of_pipeline(&self.pipeline, 1);
        shares.insert(0, Share::of_process());
        shares.push(Share::of_streams(self.intake.subscription.streams));
        // Nobody knows how many documents there are.
        let Some(max_bytes) = self.cache.memory.max_bytes.limit() else { return Vec::new() };
        shares.push(Share::of_size("cache.memory.max_bytes", max_bytes, 100));
        shares
    }

    fn variables() -> Vec<Variable> {
        const EMULATOR: Variable = Variable {
            name: "FIRESTORE_EMULATOR_HOST",
            key: "firestore.endpoint",
            kind: VariableKind::EmulatorHost,
        };
        const PORT: Variable = Variable {
            name: "PROCESSOR_SERVICE_PORT",
            key: "http.port",
            kind: VariableKind::Value,
        };
        let own = [Endpoint::VARIABLE, storage::Endpoint::VARIABLE, EMULATOR, PORT];
        [&own[..], &RedisSettings::VARIABLES].concat()
    }
}

impl Settings {
    fn check_documents(&self, faults: &mut Faults) {
        let enrichment = &self.enrichment;
        let right = "must name at least one place, such as enrichment.DeviceID";
        faults.require(!enrichment.key.is_empty(), "enrichment.key", right);
        let right = "must name at least one field, such as location: LocationID";
        faults.require(!enrichment.fields.is_empty(), "enrichment.fields", right);
        let firestore = &self.firestore;
        let is_collection = !firestore.collection.is_empty() && !firestore.collection.contains('/');
        let right = "required: the collection of the documents, without `/`";
        faults.require(is_collection, "firestore.collection", right);
        let endpoint = firestore.endpoint.as_ref();
        Login::check("firestore", endpoint, firestore.credentials, faults);
        let range = Duration::from_millis(100)..=Duration::from_secs(60);
        faults.duration("firestore.timeout", firestore.timeout, range);
    }

    fn check_cache(&self, faults: &mut Faults) {
        let cache = &self.cache;
        cache.redis.check(faults);
        let (memory, freshness) = (&cache.memory, &cache.freshness);
        for (key, bound, range) in [
            ("cache.memory.max_entries", memory.max_entries, 16..=100_000_000),
            ("cache.memory.max_bytes", memory.max_bytes, 64 * 1024..=MAX_CACHE_BYTES),
        ] {
            if let Some(limit) = bound.limit() {
                faults.range(key, limit, range);
            }
        }
        faults.range("cache.freshness.jitter_percent", freshness.jitter_percent, 0..=50);
        faults.range("cache.max_keys_per_read", cache.max_keys_per_read, 1..=300);
        faults.range("cache.max_reads", cache.max_reads, 1..=100);
        let year = Duration::from_secs(31_557_600);
        let times = [
            ("fresh_for", freshness.fresh_for, Duration::from_millis(1)),
            ("stale_for", freshness.stale_for, Duration::ZERO),
            ("absent_for", freshness.absent_for, Duration::ZERO),
        ];
        for (key, time, min) in times {
            faults.duration(&format!("cache.freshness.{key}"), time, min..=year);
        }
        let is_below = (1..self.pipeline.max_messages_in_flight).contains(&cache.max_waiting);
        let right = "must be at least 1 and below pipeline.max_messages_in_flight, so that messages of \
                     known keys go on";
        faults.require(is_below, "cache.max_waiting", right);
    }
}
