//! Settings of icestore.

pub(crate) mod archive;
mod cost;
mod store;

use std::time::Duration;

use pipeline::{Limits, Reasons, batch};
use pubsub::{DeadLetterConfig, Intake, IntakeSettings, Reads, Subscription};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::cloud::Api;
use service::cost::{Item, Load, Prices};
use service::memory::Share;
use service::settings::{ProcessSettings, Variable};
use service::{Faults, WrongSettings};
use storage::{Endpoint, Folder};

use crate::format::Format;
use crate::{objects, sink};
pub use archive::ArchiveSettings;
pub use store::Storage;

/// All settings. The file `example.yaml` of this crate shows them with comments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Project, health server, and duration of a drain.
    #[schemars(flatten)]
    pub process: ProcessSettings,
    /// Place of the archive: a bucket, a folder, or a store with the API of S3.
    pub storage: Storage,
    /// Names and content of objects.
    pub archive: ArchiveSettings,
    /// Source of messages, and destination of dead letters.
    #[schemars(flatten)]
    pub intake: IntakeSettings,
    /// Bounds, batches and waits.
    pub pipeline: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            process: ProcessSettings { grace_period: Duration::from_secs(60), ..<_>::default() },
            // Each stream may hold more messages than the pipeline, so open objects are written
            // before Pub/Sub stops sending. The bound in bytes must not be reached first, because
            // messages that compress well take little memory here.
            intake: IntakeSettings {
                subscription: Subscription {
                    max_outstanding_messages: 1_000_000,
                    max_outstanding_bytes: 4 * 1024 * 1024 * 1024,
                    ..Subscription::default()
                },
                ..IntakeSettings::default()
            },
            storage: Storage::default(),
            archive: ArchiveSettings::default(),
            pipeline: Limits {
                // Each lane has its own object for each key, so more lanes make smaller objects.
                // One lane handles more than two streams deliver.
                lanes: 1,
                // This bound is not reached. The bound on memory comes first, because it also
                // counts what acknowledges each message.
                max_messages_in_flight: 400_000,
                // Messages count here until they are in an open object. Refused messages count
                // until their dead letters are sent. There is room for a message of the largest size
                // that Pub/Sub accepts. A lane transforms one at a time.
                max_bytes_in_flight: 16 * 1024 * 1024,
                // With 5,000 open keys and messages of 500 bytes, an object has 60 messages.
                max_batch_memory: 150 * 1024 * 1024,
                // Small objects take no longer to upload than large ones of a few MiB.
                max_writes: 64,
                batch: batch::BatchLimits {
                    max_messages: 100_000,
                    // An upload in a single request saves a round trip below about 8 MiB.
                    max_bytes: 7 * 1024 * 1024,
                    max_age: Duration::from_secs(60),
                    max_idle: Duration::from_secs(60),
                },
                attempt_timeout: Duration::from_secs(60),
                ..Limits::default()
            },
        }
    }
}

impl Reads for Settings {
    const REASONS: Reasons = crate::REASONS;

    fn intake(&self) -> Intake<'_> {
        Intake {
            service: "icestore",
            project: &self.process.project,
            settings: &self.intake,
            storage: self.storage.endpoint(),
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
        self.storage.check(faults);
        self.archive.batch_key.check("archive.batch_key", faults);
        let prefix = &self.archive.prefix;
        let is_safe = prefix.is_empty() || crate::key::is_safe_path(prefix);
        let right = "must be levels between `/`, none of them empty, `.` or `..`";
        faults.require(is_safe, "archive.prefix", right);
        let is_taken = prefix.split('/').next() == Some(Folder::DRAFTS);
        let right = format!("must not begin with {}, which storage.folder uses", Folder::DRAFTS);
        let is_free = self.storage.folder.is_none() || !is_taken;
        faults.require(is_free, "archive.prefix", right);
        let attribute = self.archive.time_attribute.as_deref();
        let is_name = attribute.is_none_or(|name| !name.is_empty());
        faults.require(is_name, "archive.time_attribute", "must be the name of an attribute");
        let level = self.archive.compression_level;
        let right = format!("must be 1 to 9, is {level}");
        faults.require((1..=9).contains(&level), "archive.compression_level", right);
        DeadLetterConfig::check(self.intake.dead_letters.as_ref(), true, faults);
        self.intake.pubsub.check(faults);
        faults.limits("pipeline", &self.pipeline);
        let outstanding = self.intake.subscription.max_outstanding_messages;
        let share = outstanding / self.intake.subscription.streams.max(1);
        faults.require(
            self.pipeline.max_messages_in_flight < share,
            "pipeline.max_messages_in_flight",
            format!(
                "must be less than a stream's share of subscription.max_outstanding_messages \
                 ({share}), so that open groups are written before Pub/Sub stops"
            ),
        );
    }

    fn check_guarantee(&self, faults: &mut Faults) {
        DeadLetterConfig::check_guarantee(self.intake.dead_letters.as_ref(), faults);
    }

    fn explain(&self) -> Result<Vec<String>, WrongSettings> {
        Ok(self.intake.dead_letters.iter().map(DeadLetterConfig::guarantee).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let warning = |name: &String| {
            format!(
                "archive.time_attribute: whoever sends the attribute {name} chooses the folder of a message, \
                 so set it for tests only"
            )
        };
        let time = self.archive.time_attribute.iter().map(warning);
        time.chain(self.intake.create_warning()).collect()
    }

    fn apis(&self) -> Vec<Api> {
        let endpoint = self.storage.endpoint();
        if self.storage.is_bucket() {
            return vec![self.intake.pubsub.api(), endpoint.api()];
        }
        self.intake.pubsub.apis(self.intake.dead_letters.as_ref(), &endpoint)
    }

    fn memory(&self) -> Vec<Share> {
        /// Bytes of the buffers of an upload. Its content is not copied.
        const UPLOAD: u64 = 64 * 1024;
        let Limits { max_bytes_in_flight, max_batch_memory, max_writes, .. } = self.pipeline;
        let writes = self.pipeline.lane_count().saturating_mul(max_writes);
        let mut shares = vec![
            Share::of_process(),
            Share::of_size("pipeline.max_bytes_in_flight", max_bytes_in_flight, 100),
            // Open objects count the memory that they have allocated, so the surplus of the
            // allocator is already included.
            Share::of_size("pipeline.max_batch_memory", max_batch_memory, 80),
            Share::of_count("pipeline.max_writes", writes, UPLOAD),
            Share::of_streams(self.intake.subscription.streams),
        ];
        if self.archive.format == Format::Parquet {
            // One file is converted at a time.
            let conversion = sink::conversion_memory(self.pipeline.batch.max_bytes);
            shares.push(Share::of_count("archive.format", 1, conversion));
        }
        shares
    }

    fn costs(&self) -> Vec<String> {
        objects::outlook(&self.pipeline, self.storage.price())
    }

    fn estimate(&self, load: &Load, prices: &Prices) -> Vec<Item> {
        cost::of(self, load, prices)
    }

    fn variables() -> Vec<Variable> {
        vec![pubsub::Endpoint::VARIABLE, Endpoint::VARIABLE]
    }
}
