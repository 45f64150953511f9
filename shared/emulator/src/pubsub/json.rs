//! Topics and subscriptions in proto3 JSON, the format of the REST API.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::proto;

/// A topic in JSON.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TopicJson {
    pub name: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    labels: HashMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    kms_key_name: String,
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    message_retention_duration: Option<prost_types::Duration>,
    #[serde(skip_serializing)]
    schema_settings: Option<Value>,
    #[serde(skip_serializing)]
    ingestion_data_source_settings: Option<Value>,
    #[serde(skip_serializing)]
    message_transforms: Vec<Value>,
}

impl TopicJson {
    pub(super) fn into_proto(self) -> proto::Topic {
        proto::Topic {
            name: self.name,
            labels: self.labels,
            kms_key_name: self.kms_key_name,
            message_retention_duration: self.message_retention_duration,
            schema_settings: mark(self.schema_settings.as_ref()),
            ingestion_data_source_settings: mark(self.ingestion_data_source_settings.as_ref()),
            message_transforms: self.message_transforms.iter().map(|_| <_>::default()).collect(),
            ..proto::Topic::default()
        }
    }
}

impl From<proto::Topic> for TopicJson {
    fn from(topic: proto::Topic) -> Self {
        Self {
            name: topic.name,
            labels: topic.labels,
            kms_key_name: topic.kms_key_name,
            message_retention_duration: topic.message_retention_duration,
            ..Self::default()
        }
    }
}

/// Returns a placeholder for an unsupported setting, so that the setting is refused by name.
fn mark<T: Default>(setting: Option<&Value>) -> Option<T> {
    setting.map(|_| T::default())
}

/// A subscription in JSON.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SubscriptionJson {
    pub name: String,
    topic: String,
    ack_deadline_seconds: i32,
    retain_acked_messages: bool,
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    message_retention_duration: Option<prost_types::Duration>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    labels: HashMap<String, String>,
    enable_message_ordering: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_policy: Option<ExpirationPolicy>,
    #[serde(skip_serializing_if = "String::is_empty")]
    filter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_policy: Option<DeadLetterPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_policy: Option<RetryPolicy>,
    enable_exactly_once_delivery: bool,
    push_config: PushConfig,
    #[serde(skip_deserializing, skip_serializing_if = "is_false")]
    detached: bool,
    #[serde(with = "seconds", skip_deserializing, skip_serializing_if = "Option::is_none")]
    topic_message_retention_duration: Option<prost_types::Duration>,
    #[serde(skip_serializing)]
    bigquery_config: Option<Value>,
    #[serde(skip_serializing)]
    cloud_storage_config: Option<Value>,
    #[serde(skip_serializing)]
    bigtable_config: Option<Value>,
    #[serde(skip_serializing)]
    message_transforms: Vec<Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PushConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    push_endpoint: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    attributes: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_wrapper: Option<NoWrapper>,
    #[serde(skip_serializing)]
    oidc_token: Option<Value>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct NoWrapper {
    write_metadata: bool,
}

impl PushConfig {
    pub(super) fn into_proto(self) -> proto::PushConfig {
        use proto::push_config::{AuthenticationMethod, NoWrapper, OidcToken, Wrapper};
        let token = self.oidc_token.map(|_| AuthenticationMethod::OidcToken(OidcToken::default()));
        let raw = self.no_wrapper.map(|raw| NoWrapper { write_metadata: raw.write_metadata });
        proto::PushConfig {
            push_endpoint: self.push_endpoint,
            attributes: self.attributes,
            authentication_method: token,
            wrapper: raw.map(Wrapper::NoWrapper),
        }
    }
}

impl From<proto::PushConfig> for PushConfig {
    fn from(config: proto::PushConfig) -> Self {
        use proto::push_config::Wrapper;
        let no_wrapper = match config.wrapper {
            Some(Wrapper::NoWrapper(raw)) => Some(NoWrapper { write_metadata: raw.write_metadata }),
            Some(Wrapper::PubsubWrapper(_)) | None => None,
        };
        Self {
            push_endpoint: config.push_endpoint,
            attributes: config.attributes,
            no_wrapper,
            oidc_token: None,
        }
    }
}

/// A snapshot in JSON.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SnapshotJson {
    pub name: String,
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub labels: HashMap<String, String>,
}

impl From<proto::Snapshot> for SnapshotJson {
    fn from(snapshot: proto::Snapshot) -> Self {
        Self {
            name: snapshot.name,
            topic: snapshot.topic,
            expire_time: snapshot.expire_time.map(|time| time.to_string()),
            labels: snapshot.labels,
        }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct DeadLetterPolicy {
    dead_letter_topic: String,
    max_delivery_attempts: i32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct RetryPolicy {
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    minimum_backoff: Option<prost_types::Duration>,
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    maximum_backoff: Option<prost_types::Duration>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ExpirationPolicy {
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    ttl: Option<prost_types::Duration>,
}

impl SubscriptionJson {
    pub(super) fn into_proto(self) -> proto::Subscription {
        proto::Subscription {
            name: self.name,
            topic: self.topic,
            ack_deadline_seconds: self.ack_deadline_seconds,
            retain_acked_messages: self.retain_acked_messages,
            message_retention_duration: self.message_retention_duration,
            labels: self.labels,
            enable_message_ordering: self.enable_message_ordering,
            expiration_policy: self
                .expiration_policy
                .map(|policy| proto::ExpirationPolicy { ttl: policy.ttl }),
            filter: self.filter,
            dead_letter_policy: self.dead_letter_policy.map(|policy| proto::DeadLetterPolicy {
                dead_letter_topic: policy.dead_letter_topic,
                max_delivery_attempts: policy.max_delivery_attempts,
            }),
            retry_policy: self.retry_policy.map(|policy| proto::RetryPolicy {
                minimum_backoff: policy.minimum_backoff,
                maximum_backoff: policy.maximum_backoff,
            }),
            enable_exactly_once_delivery: self.enable_exactly_once_delivery,
            push_config: Some(self.push_config.into_proto()),
            bigquery_config: mark(self.bigquery_config.as_ref()),
            cloud_storage_config: mark(self.cloud_storage_config.as_ref()),
            bigtable_config: mark(self.bigtable_config.as_ref()),
            message_transforms: self.message_transforms.iter().map(|_| <_>::default()).collect(),
            ..proto::Subscription::default()
        }
    }
}

impl From<proto::Subscription> for SubscriptionJson {
    fn from(subscription: proto::Subscription) -> Self {
        Self {
            name: subscription.name,
            topic: subscription.topic,
            ack_deadline_seconds: subscription.ack_deadline_seconds,
            retain_acked_messages: subscription.retain_acked_messages,
            message_retention_duration: subscription.message_retention_duration,
            labels: subscription.labels,
            enable_message_ordering: subscription.enable_message_ordering,
            expiration_policy: subscription
                .expiration_policy
                .map(|policy| ExpirationPolicy { ttl: policy.ttl }),
            filter: subscription.filter,
            dead_letter_policy: subscription.dead_letter_policy.map(|policy| DeadLetterPolicy {
                dead_letter_topic: policy.dead_letter_topic,
                max_delivery_attempts: policy.max_delivery_attempts,
            }),
            retry_policy: subscription.retry_policy.map(|policy| RetryPolicy {
                minimum_backoff: policy.minimum_backoff,
                maximum_backoff: policy.maximum_backoff,
            }),
            enable_exactly_once_delivery: subscription.enable_exactly_once_delivery,
            push_config: subscription.push_config.unwrap_or_default().into(),
            detached: subscription.detached,
            topic_message_retention_duration: subscription.topic_message_retention_duration,
            ..Self::default()
        }
    }
}

/// Converts a message to proto3 JSON.
pub(super) fn message(message: &proto::PubsubMessage) -> Value {
    json!({
        "data": STANDARD.encode(&message.data),
        "attributes": message.attributes,
        "messageId": message.message_id,
        "publishTime": message.publish_time.as_ref().map(ToString::to_string),
        "orderingKey": message.ordering_key,
    })
}

/// Converts the `camelCase` names of a field mask to names of protobuf.
pub(super) fn mask(text: &str) -> prost_types::FieldMask {
    let snake = |path: &str| {
        let mut name = String::new();
        for c in path.chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    };
    let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(snake);
    prost_types::FieldMask { paths: paths.collect() }
}

/// Converts durations of proto3 JSON: seconds with a fraction and an `s`.
mod seconds {
    use super::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<prost_types::Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let Some(duration) = duration else { return serializer.serialize_none() };
        let (seconds, nanos) = (duration.seconds, duration.nanos);
        let text =
            if nanos == 0 { format!("{seconds}s") } else { format!("{seconds}.{nanos:09}s") };
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<prost_types::Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let seconds = text.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
        let duration =
            seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
        let duration = duration.and_then(|duration| prost_types::Duration::try_from(duration).ok());
        let wrong =
            || serde::de::Error::custom(format!("not a duration such as \"60s\": {text:?}"));
        duration.map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Lasts {
        #[serde(with = "seconds", default)]
        lasts: Option<prost_types::Duration>,
    }

    #[test]
    fn durations_are_seconds_with_a_fraction() {
        for (text, seconds, nanos) in [("60s", 60, 0), ("0.5s", 0, 500_000_000), ("0s", 0, 0)] {
            let parsed: Lasts =
                serde_json::from_value(json!({ "lasts": text })).expect("a duration");
            assert_eq!(parsed.lasts, Some(prost_types::Duration { seconds, nanos }), "{text}");
        }
        for text in ["60", "s", "-1s", "1m", "NaNs"] {
            let parsed: Result<Lasts, _> = serde_json::from_value(json!({ "lasts": text }));
            assert!(parsed.is_err(), "{text}");
        }
        let shown = |seconds, nanos| {
            json!(Lasts { lasts: Some(prost_types::Duration { seconds, nanos }) })["lasts"].clone()
        };
        assert_eq!((shown(60, 0), shown(1, 5)), (json!("60s"), json!("1.000000005s")));
        assert_eq!(json!(Lasts { lasts: None })["lasts"], Value::Null);
    }

    #[test]
    fn a_mask_names_fields_as_protobuf_does() {
        let paths = |text: &str| mask(text).paths;

        assert_eq!(paths("ackDeadlineSeconds, labels"), ["ack_deadline_seconds", "labels"]);
        assert_eq!(paths("pushConfig.pushEndpoint"), ["push_config.push_endpoint"]);
        assert!(paths("").is_empty() && paths(" , ").is_empty());
    }

    #[test]
    fn a_message_has_its_data_in_base64_and_its_time_as_text() {
        let time = prost_types::Timestamp { seconds: 1_759_099_997, nanos: 5_000_000 };
        let shown = message(&proto::PubsubMessage {
            data: vec![0, 255].into(),
            attributes: [("k".to_owned(), "v".to_owned())].into(),
            message_id: "7".into(),
            publish_time: Some(time),
            ordering_key: "key".into(),
        });

        let expected = json!({ "data": "AP8=", "attributes": { "k": "v" }, "messageId": "7",
            "publishTime": "2025-09-28T22:53:17.005Z", "orderingKey": "key" });
        assert_eq!(shown, expected);
    }
}
