//! Settings for Pub/Sub that several services share.

use std::time::Duration;

use pipeline::{Error, Limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::cloud::Api;
use service::google::{Access, EndpointUrl, Identity, Login};
use service::settings::{Parsed, Variable, VariableKind};
use service::{Faults, WrongSettings};
use storage::BucketName;

use crate::names::{SubscriptionId, TopicId, TopicName};

/// Maximum of `subscription.max_outstanding_bytes`: 64 GiB, more than any process can hold.
const MAX_OUTSTANDING_BYTES: usize = 68_719_476_736;

/// Default silence after which a stream from Google is replaced.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Default silence after which a stream from an emulator is replaced.
///
/// Google's emulator (0.8.20) fails to handle the reset of a stream. It continues to give messages
/// to the old stream, and each is lost until its lease ends.
const EMULATOR_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Settings of a service that reads from a subscription. They are a part: users write these keys
/// at the top level of the service's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct IntakeSettings {
    /// Subscription to read from.
    pub subscription: Subscription,
    /// Destination of messages that can never succeed. Required.
    pub dead_letters: Option<DeadLetterConfig>,
    /// Access to Pub/Sub.
    pub pubsub: Endpoint,
    /// If true, the service creates missing resources at its start: topics, subscriptions, buckets,
    /// the folder of an archive, and the dataset of a table. It is meant for development.
    pub create: bool,
}

/// Connection to Pub/Sub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// URL of an emulator, such as `http://localhost:8085`, or of a regional or private endpoint of
    /// Google. Default: Google's usual endpoint. The variable `PUBSUB_EMULATOR_HOST` takes
    /// precedence.
    pub endpoint: Option<Parsed<EndpointUrl>>,
    /// Credentials for `endpoint`. The default `anonymous` is for an emulator;
    /// `application_default` is for Google.
    pub credentials: Option<Login>,
    /// gRPC connections for publishing; 1 to 16. Each stream of a subscription has a connection of its
    /// own.
    pub channels: usize,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { endpoint: None, credentials: None, channels: 2 }
    }
}

impl Endpoint {
    /// Variable that sets the endpoint.
    pub const VARIABLE: Variable = Variable {
        name: "PUBSUB_EMULATOR_HOST",
        key: "pubsub.endpoint",
        kind: VariableKind::EmulatorHost,
    };

    /// Finds the address and the credentials.
    pub(crate) async fn access(&self, identity: &Identity) -> Result<Access, Error> {
        Access::find(self.endpoint.as_ref(), self.credentials, identity).await
    }

    /// Returns the API of these settings.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new("pubsub", self.endpoint.as_ref(), self.credentials)
    }

    /// Returns the API of these settings, and Cloud Storage if dead letters need it.
    #[must_use]
    pub fn apis(
        &self,
        dead_letters: Option<&DeadLetterConfig>,
        storage: &storage::Endpoint,
    ) -> Vec<Api> {
        let has_bucket =
            matches!(dead_letters, Some(DeadLetterConfig::Topic { bucket: Some(_), .. }));
        std::iter::once(self.api()).chain(has_bucket.then(|| storage.api())).collect()
    }

    /// Reports faults in these settings, under the key `pubsub`.
    pub fn check(&self, faults: &mut Faults) {
        Login::check("pubsub", self.endpoint.as_ref(), self.credentials, faults);
        let is_few = (1..=16).contains(&self.channels);
        faults.require(is_few, "pubsub.channels", format!("must be 1 to 16, is {}", self.channels));
    }
}

/// Subscription to read from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Subscription {
    /// Id of the subscription in the project, or its full name. Required.
    pub id: Parsed<SubscriptionId>,
    /// Topic of the subscription, as an id in the project or a full name. Only `create` uses it.
    pub topic_id: Option<Parsed<TopicId>>,
    /// Number of streams that are read side by side; 1 to 32.
    pub streams: usize,
    /// Maximum unacknowledged messages that Pub/Sub delivers over all streams; one per stream to
    /// 1,000,000. It must be larger than the number of messages in open batches.
    pub max_outstanding_messages: usize,
    /// Maximum unacknowledged bytes that Pub/Sub delivers over all streams; one per stream to 64
    /// GiB.
    pub max_outstanding_bytes: usize,
    /// Longest time that a message is held before Pub/Sub may redeliver it; 1m to 1h, which is
    /// Pub/Sub's own limit. It must be at least three times `pipeline.attempt_timeout`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_lease: Duration,
    /// Length of each lease extension; 10s to 10m. After a crash, messages are redelivered this much
    /// later. If the nack of a message is lost, its ordering key waits this long and some seconds for it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lease_extension: Duration,
    /// Silence after which a stream is replaced on a new connection, because the old connection may
    /// be dead; 1s to 1h. A stream is kept while half of the allowed unacknowledged messages or
    /// bytes are outstanding. Default: 1m, but 1h for an emulator, because Google's continues to
    /// deliver messages to a replaced stream.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub idle_timeout: Option<Duration>,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            id: Parsed::default(),
            topic_id: None,
            streams: 2,
            max_outstanding_messages: 10_000,
            max_outstanding_bytes: 100 * 1024 * 1024,
            max_lease: Duration::from_secs(3600),
            lease_extension: Duration::from_secs(60),
            idle_timeout: None,
        }
    }
}

impl Subscription {
    const ID_KEY: &str = "subscription.id";
    pub(crate) const TOPIC_KEY: &str = "subscription.topic_id";

    /// Returns the full name.
    ///
    /// # Errors
    /// The id is wrong, and nobody has checked these settings.
    pub fn name(&self, project: &str) -> Result<String, WrongSettings> {
        Ok(self.id.value(Self::ID_KEY)?.name(project))
    }

    /// Returns the full name of the topic, if the settings have one.
    pub(crate) fn topic(&self, project: &str) -> Result<Option<TopicName>, WrongSettings> {
        let topic = self.topic_id.as_ref().map(|topic| topic.value(Self::TOPIC_KEY));
        Ok(topic.transpose()?.map(|topic| topic.name(project)))
    }

    /// Returns the silence after which a stream from `endpoint` is replaced.
    pub(crate) fn idle_timeout(&self, endpoint: &Endpoint) -> Duration {
        let default =
            if endpoint.endpoint.is_some() { EMULATOR_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
        self.idle_timeout.unwrap_or(default)
    }

    /// Reports faults in these settings, under the key `subscription`. A lease must be long enough
    /// for the attempts in it.
    pub fn check(&self, limits: &Limits, faults: &mut Faults) {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let extension = Duration::from_secs(10)..=Duration::from_secs(600);
        let idle = Duration::from_secs(1)..=hour;
        let required = "required: the subscription to read from";
        self.id.check_required(Self::ID_KEY, required, faults);
        let checks = [
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
            (
                self.idle_timeout.is_none_or(|timeout| idle.contains(&timeout)),
                "idle_timeout",
                "must be 1s to 1h",
            ),
        ];
        for (is_right, key, right) in checks {
            faults.require(is_right, &format!("subscription.{key}"), right);
        }
        // The time for the last two attempts is reserved at the end of the lease.
        let least = limits.lease_margin().saturating_add(limits.attempt_timeout);
        let right = "must be at least three times pipeline.attempt_timeout: make it longer, or the \
                     other shorter";
        faults.require(self.max_lease >= least, "subscription.max_lease", right);
    }
}

/// Destination of messages that can never succeed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(
    untagged,
    expecting = "must be `{topic_id: ...}`, or `subscription`, or `drop` (messages may be lost)"
)]
pub enum DeadLetterConfig {
    /// A separate topic.
    Topic {
        /// Id of the topic in the project, or its full name.
        topic_id: Parsed<TopicId>,
        /// Bucket for messages that are too big for Pub/Sub. Without one, the dead letter holds
        /// only the first 1 MB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<Parsed<BucketName>>,
    },
    /// A keyword instead of a topic.
    Keyword(Keyword),
}

/// Treatment of dead letters that are not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyword {
    /// Nack them, and leave them to the dead-letter policy of the subscription.
    Subscription,
    /// Count and drop them.
    Drop,
}

impl DeadLetterConfig {
    pub(crate) const TOPIC_KEY: &str = "dead_letters.topic_id";
    const BUCKET_KEY: &str = "dead_letters.bucket";

    /// Reports faults in these settings, under the key `dead_letters`.
    pub fn check(dead_letters: Option<&Self>, may_leave: bool, faults: &mut Faults) {
        const KEY: &str = "dead_letters";
        const CHOICES: &str =
            "required: `{topic_id: ...}`, or `subscription`, or `drop` (messages may be lost)";
        match dead_letters {
            None => faults.add(KEY, CHOICES),
            Some(Self::Topic { topic_id, bucket }) => {
                topic_id.check_required(Self::TOPIC_KEY, "must not be empty", faults);
                if let Some(bucket) = bucket {
                    let required = "must not be empty; leave it out for none";
                    bucket.check_required(Self::BUCKET_KEY, required, faults);
                }
            }
            Some(Self::Keyword(Keyword::Subscription)) if !may_leave => {
                let why = "`subscription` is refused here: MQTT cannot hand a message back";
                faults.add(KEY, format!("{why}; set a topic_id"));
            }
            Some(Self::Keyword(Keyword::Subscription | Keyword::Drop)) => {}
        }
    }

    /// Reports the choices that lose messages, or parts of them. Messages that are left to the
    /// subscription are not lost: the service is not ready unless its subscription has a policy.
    pub fn check_guarantee(dead_letters: Option<&Self>, faults: &mut Faults) {
        match dead_letters {
            Some(Self::Keyword(Keyword::Drop)) => {
                let loses = "messages that can never succeed are dropped";
                faults.add_weak("dead_letters", loses, "must be `{topic_id: ...}`");
            }
            Some(Self::Topic { bucket: None, .. }) => {
                let loses = "of a dead letter that is too big for Pub/Sub, only 1 MB is kept";
                faults.add_weak(Self::BUCKET_KEY, loses, "must name a bucket");
            }
            Some(Self::Topic { bucket: Some(_), .. } | Self::Keyword(Keyword::Subscription))
            | None => {}
        }
    }

    /// Returns the topic of the dead letters, if they have one.
    ///
    /// # Errors
    /// Its id is wrong, and nobody has checked these settings.
    pub fn topic(&self, project: &str) -> Result<Option<TopicName>, WrongSettings> {
        match self {
            Self::Topic { topic_id, .. } => {
                Ok(Some(topic_id.value(Self::TOPIC_KEY)?.name(project)))
            }
            Self::Keyword(_) => Ok(None),
        }
    }

    /// Returns the bucket for dead letters that are too big for Pub/Sub, if they have one.
    ///
    /// # Errors
    /// Its name is wrong, and nobody has checked these settings.
    pub fn bucket(&self) -> Result<Option<&BucketName>, WrongSettings> {
        match self {
            Self::Topic { bucket, .. } => {
                bucket.as_ref().map(|bucket| bucket.value(Self::BUCKET_KEY)).transpose()
            }
            Self::Keyword(_) => Ok(None),
        }
    }

    /// Describes the consequences of this choice for a message, as part of the delivery guarantee.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Accessor of a field.
    type Field<T> = fn(&mut Subscription) -> &mut T;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the keys with faults.
    fn faulty(check: impl FnOnce(&mut Faults)) -> Vec<String> {
        let mut faults = Faults::default();
        check(&mut faults);
        let key = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
        faults.lines().iter().map(key).collect()
    }

    fn of_subscription(change: impl FnOnce(&mut Subscription)) -> Vec<String> {
        let mut settings = Subscription { id: "s".into(), ..Subscription::default() };
        change(&mut settings);
        let limits = Limits { attempt_timeout: SECOND, ..Limits::default() };
        faulty(|faults| settings.check(&limits, faults))
    }

    #[test]
    fn each_bound_of_a_subscription_is_named_when_it_is_passed() {
        assert!(of_subscription(|_| {}).is_empty());
        assert_eq!(of_subscription(|s| s.id = Parsed::default()), ["subscription.id"]);
        let durations: [(&str, u64, u64, Field<Duration>); 3] = [
            ("max_lease", 60, 3600, |s| &mut s.max_lease),
            ("lease_extension", 10, 600, |s| &mut s.lease_extension),
            ("idle_timeout", 1, 3600, |s| s.idle_timeout.get_or_insert_default()),
        ];
        for (key, least, most, field) in durations {
            let faults = |value| of_subscription(|s| *field(s) = value);
            assert!(faults(Duration::from_secs(least)).is_empty(), "{key}");
            assert!(faults(Duration::from_secs(most)).is_empty(), "{key}");
            let key = format!("subscription.{key}");
            let nano = Duration::from_nanos(1);
            assert_eq!(faults(Duration::from_secs(least) - nano), std::slice::from_ref(&key));
            assert_eq!(faults(Duration::from_secs(most) + nano), [key]);
        }
        for (streams, is_right) in [(0, false), (1, true), (32, true), (33, false)] {
            assert_eq!(of_subscription(|s| s.streams = streams).is_empty(), is_right, "{streams}");
        }
        let shares: [(&str, Field<usize>); 2] = [
            ("subscription.max_outstanding_messages", |s| &mut s.max_outstanding_messages),
            ("subscription.max_outstanding_bytes", |s| &mut s.max_outstanding_bytes),
        ];
        for (key, field) in shares {
            assert!(of_subscription(|s| *field(s) = s.streams).is_empty());
            assert_eq!(of_subscription(|s| *field(s) = s.streams - 1), [key]);
        }
    }

    #[test]
    fn silent_streams_of_an_emulator_are_kept_unless_a_time_is_set() {
        let (google, emulator) = (
            Endpoint::default(),
            Endpoint { endpoint: Some("http://localhost:8085".into()), ..Endpoint::default() },
        );
        let default = Subscription::default();
        let set = Subscription { idle_timeout: Some(SECOND), ..Subscription::default() };

        assert_eq!(default.idle_timeout(&google), 60 * SECOND);
        assert_eq!(default.idle_timeout(&emulator), 3600 * SECOND);
        assert_eq!(set.idle_timeout(&google), SECOND);
        assert_eq!(set.idle_timeout(&emulator), SECOND);
    }

    #[test]
    fn a_lease_has_room_for_an_attempt_and_the_two_of_its_end() {
        let settings = Subscription { id: "s".into(), ..Subscription::default() };
        let lines = |seconds| {
            let attempt_timeout = Duration::from_secs(seconds);
            let mut faults = Faults::default();
            settings.check(&Limits { attempt_timeout, ..Limits::default() }, &mut faults);
            faults.lines().to_vec()
        };

        assert!(lines(1200).is_empty());
        let faults = lines(1201);
        assert!(faults[0].starts_with("subscription.max_lease: "), "{faults:?}");
        assert!(faults[0].contains("pipeline.attempt_timeout"), "{faults:?}");
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_few_channels() {
        let faults = |endpoint: Option<&str>, channels| {
            let endpoint =
                Endpoint { endpoint: endpoint.map(Into::into), credentials: None, channels };
            faulty(|faults| endpoint.check(faults))
        };

        assert!(faults(None, 1).is_empty());
        assert!(faults(Some("http://localhost:8085"), 16).is_empty());
        assert!(faults(Some("https://pubsub.example"), 2).is_empty());
        assert_eq!(faults(Some("localhost:8085"), 2), ["pubsub.endpoint"]);
        assert_eq!(faults(None, 0), ["pubsub.channels"]);
        assert_eq!(faults(None, 17), ["pubsub.channels"]);
    }

    #[test]
    fn an_empty_id_of_dead_letters_is_refused_with_its_own_words() {
        let lines = |topic_id: &str, bucket: Option<&str>| {
            let bucket = bucket.map(Into::into);
            let dead_letters = DeadLetterConfig::Topic { topic_id: topic_id.into(), bucket };
            let mut faults = Faults::default();
            DeadLetterConfig::check(Some(&dead_letters), true, &mut faults);
            faults.lines().to_vec()
        };

        assert_eq!(lines("", Some("b")), ["dead_letters.topic_id: must not be empty"]);
        let bucket = "dead_letters.bucket: must not be empty; leave it out for none";
        assert_eq!(lines("t", Some("")), [bucket]);
        assert_eq!(lines("", Some("")), ["dead_letters.topic_id: must not be empty", bucket]);
        let wrong = lines("1", None);
        assert!(wrong[0].starts_with("dead_letters.topic_id: must begin with"), "{wrong:?}");
    }

    #[test]
    fn every_service_says_where_its_dead_letters_go() {
        let topic = |id: &str, bucket: Option<&str>| DeadLetterConfig::Topic {
            topic_id: id.into(),
            bucket: bucket.map(Into::into),
        };
        let faults = |dead_letters: Option<DeadLetterConfig>, may_leave| {
            faulty(|faults| DeadLetterConfig::check(dead_letters.as_ref(), may_leave, faults))
        };
        let (leave, drop) = (
            DeadLetterConfig::Keyword(Keyword::Subscription),
            DeadLetterConfig::Keyword(Keyword::Drop),
        );

        assert_eq!(faults(None, true), ["dead_letters"]);
        assert_eq!(faults(Some(topic("", None)), true), ["dead_letters.topic_id"]);
        assert_eq!(faults(Some(topic("t", Some(""))), true), ["dead_letters.bucket"]);
        assert_eq!(faults(Some(leave.clone()), false), ["dead_letters"]);
        for right in [topic("t", None), topic("t", Some("b")), leave.clone(), drop.clone()] {
            assert!(faults(Some(right), true).is_empty());
        }
        assert!(faults(Some(drop.clone()), false).is_empty());
        assert_eq!(topic("t", None).topic("p").unwrap(), Some(TopicName::new("p", "t")));
        assert_eq!(leave.topic("p").unwrap(), None);
        let guarantees = [
            (topic("t", None), "dead letters go to t; of what is too big, the first 1 MB"),
            (topic("t", Some("b")), "dead letters go to t; what is too big, to gs://b"),
            (leave, "dead letters are left to the subscription's policy: reason in logs only"),
            (drop, "dead letters are dropped: may be lost"),
        ];
        for (dead_letters, guarantee) in guarantees {
            assert_eq!(dead_letters.guarantee(), guarantee);
        }
    }
}
