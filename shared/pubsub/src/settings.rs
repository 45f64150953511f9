//! Settings that services with Pub/Sub share.

use std::time::Duration;

use crate::connection::TopicName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::Faults;
use service::settings::{Variable, VariableKind};

/// Largest `subscription.max_outstanding_bytes`: more than any process can hold.
const MAX_OUTSTANDING_BYTES: usize = 64 * 1024 * 1024 * 1024;

/// How Pub/Sub is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`; Google's own service when left out.
    /// The variable `PUBSUB_EMULATOR_HOST` wins.
    pub endpoint: Option<String>,
    /// gRPC connections per client; 1 to 16. One carries about 10 MB/s of a stream.
    pub channels: usize,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { endpoint: None, channels: 2 }
    }
}

impl Endpoint {
    /// The variable that sets the endpoint.
    pub const VARIABLE: Variable = Variable {
        name: "PUBSUB_EMULATOR_HOST",
        key: "pubsub.endpoint",
        kind: VariableKind::EmulatorHost,
    };

    /// Reports what is wrong; the settings stand at `pubsub`.
    pub fn check(&self, faults: &mut Faults) {
        faults.endpoint("pubsub.endpoint", self.endpoint.as_deref());
        let is_few = (1..=16).contains(&self.channels);
        faults.require(is_few, "pubsub.channels", format!("must be 1 to 16, is {}", self.channels));
    }
}

/// A subscription to read from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Subscription {
    /// The subscription's id in the project, or its full name. Required.
    pub id: String,
    /// Streams read side by side; 1 to 32.
    pub streams: usize,
    /// Most messages that Pub/Sub hands out before they are acknowledged, over all streams; one per
    /// stream to 1,000,000, and more than what waits in open batches.
    pub max_outstanding_messages: usize,
    /// Most bytes that Pub/Sub hands out before they are acknowledged, over all streams; one per
    /// stream to 64 GiB.
    pub max_outstanding_bytes: usize,
    /// Longest time that a message is held before Pub/Sub may deliver it again; 1m to 1h, Pub/Sub's
    /// own limit.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_lease: Duration,
    /// The lease that is asked for at a time, and so the delay of redelivery after a crash; 10s to
    /// 10m.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lease_extension: Duration,
    /// A stream that brings nothing for this long is opened again on another connection, because the
    /// one it has could be dead; 1s to 1h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            id: String::new(),
            streams: 2,
            max_outstanding_messages: 10_000,
            max_outstanding_bytes: 100 * 1024 * 1024,
            max_lease: Duration::from_secs(3600),
            lease_extension: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

impl Subscription {
    /// Reports what is wrong; the settings stand at `subscription`.
    pub fn check(&self, faults: &mut Faults) {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let extension = Duration::from_secs(10)..=Duration::from_secs(600);
        let idle = Duration::from_secs(1)..=hour;
        let checks = [
            (!self.id.is_empty(), "id", "required: the subscription to read from"),
            ((1..=32).contains(&self.streams), "streams", "must be 1 to 32"),
            (
                (self.streams.max(1)..=1_000_000).contains(&self.max_outstanding_messages),
                "max_outstanding_messages",
                "must be at least one per stream, and at most 1000000",
            ),
            (
                (self.streams.max(1)..=MAX_OUTSTANDING_BYTES).contains(&self.max_outstanding_bytes),
                "max_outstanding_bytes",
                "must be at least one per stream, and at most 68719476736 (64 GiB)",
            ),
            ((minute..=hour).contains(&self.max_lease), "max_lease", "must be 1m to 1h"),
            (extension.contains(&self.lease_extension), "lease_extension", "must be 10s to 10m"),
            (idle.contains(&self.idle_timeout), "idle_timeout", "must be 1s to 1h"),
        ];
        for (is_right, key, right) in checks {
            faults.require(is_right, &format!("subscription.{key}"), right);
        }
    }
}

/// Where messages go that can never succeed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(
    untagged,
    expecting = "must be `{topic_id: ...}`, or `subscription`, or `drop` (messages may be lost)"
)]
pub enum Graves {
    /// A topic of their own.
    Topic {
        /// Its id in the project, or its full name.
        topic_id: String,
        /// A bucket for what is too big for Pub/Sub. Without one such a letter holds the first
        /// 1 MB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
    },
    /// A word instead of a topic.
    Keyword(Keyword),
}

/// What to do with dead letters instead of publishing them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyword {
    /// Nack them, and leave them to the subscription's own dead-letter policy.
    Subscription,
    /// Count and drop them.
    Drop,
}

impl Graves {
    /// Reports what is wrong; the settings stand at `dead_letters`.
    pub fn check(graves: Option<&Self>, may_leave: bool, faults: &mut Faults) {
        const KEY: &str = "dead_letters";
        const CHOICES: &str =
            "required: `{topic_id: ...}`, or `subscription`, or `drop` (messages may be lost)";
        match graves {
            None => faults.add(KEY, CHOICES),
            Some(Self::Topic { topic_id, .. }) if topic_id.is_empty() => {
                faults.add("dead_letters.topic_id", "must not be empty");
            }
            Some(Self::Topic { bucket: Some(bucket), .. }) if bucket.is_empty() => {
                faults.add("dead_letters.bucket", "must not be empty; leave it out for none");
            }
            Some(Self::Keyword(Keyword::Subscription)) if !may_leave => {
                let why = "`subscription` is refused here: MQTT cannot hand a message back";
                faults.add(KEY, format!("{why}; set a topic_id"));
            }
            Some(_) => {}
        }
    }

    /// The topic of the dead letters, where they have one.
    #[must_use]
    pub fn topic(&self, project: &str) -> Option<TopicName> {
        match self {
            Self::Topic { topic_id, .. } => Some(TopicName::new(project, topic_id)),
            Self::Keyword(_) => None,
        }
    }

    /// What this choice means for a message, for the guarantee.
    #[must_use]
    pub fn guarantee(&self) -> String {
        match self {
            Self::Topic { topic_id, bucket: None } => {
                format!("dead letters go to {topic_id}; of what is too big, the first 1 MB")
            }
            Self::Topic { topic_id, bucket: Some(bucket) } => {
                format!("dead letters go to {topic_id}; what is too big, to gs://{bucket}")
            }
            Self::Keyword(Keyword::Subscription) => {
                "dead letters are left to the subscription's policy: reason in logs only".into()
            }
            Self::Keyword(Keyword::Drop) => "dead letters are dropped: may be lost".into(),
        }
    }
}
