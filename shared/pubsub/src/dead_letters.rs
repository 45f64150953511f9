//! Dead letters as messages on a topic of their own.

use std::time::Duration;

use google_cloud_pubsub::model::Message;
use pipeline::dead_letter::{Policy, cut};
use pipeline::{Error, Letter};
use sha2::{Digest as _, Sha256};
use storage::{Bucket, Object};
use time::format_description::well_known::Rfc3339;

use crate::connection::TopicName;
use crate::guard::TopicGuard;
use crate::limits::{
    MAX_ATTRIBUTE_KEY_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_MESSAGE_BYTES,
};
use crate::publishers::Publishers;
use crate::settings::{Graves, Keyword};

/// What is kept of a message that is too big for Pub/Sub.
const KEPT_BYTES: usize = 1_000_000;
/// Attributes that a letter adds at most.
const ADDED: usize = 10;

/// Publishes dead letters: the original data and attributes, and why it was given up.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    publishers: Publishers,
    guard: TopicGuard,
    topic: TopicName,
    /// For what is too big for Pub/Sub.
    bucket: Option<Bucket>,
}

impl DeadLetters {
    /// What the settings ask for. The topic must be among those that `guard` watches.
    ///
    /// # Errors
    /// `Stop` when there are no credentials for the bucket.
    pub async fn policy(
        graves: &Graves,
        project: &str,
        publishers: &Publishers,
        guard: &TopicGuard,
        storage: &storage::Endpoint,
    ) -> Result<Policy<Self>, Error> {
        Ok(match graves {
            Graves::Topic { topic_id, bucket } => Policy::Bury(Self {
                publishers: publishers.clone(),
                guard: guard.clone(),
                topic: TopicName::new(project, topic_id),
                bucket: match bucket {
                    Some(name) => Some(Bucket::new(name, storage).await?),
                    None => None,
                },
            }),
            Graves::Keyword(Keyword::Subscription) => Policy::Leave,
            Graves::Keyword(Keyword::Drop) => Policy::Drop,
        })
    }

    /// Stores data that is too big, and says where. Its name is its hash, so that a second attempt
    /// finds the first one's object.
    async fn store(&self, bucket: &Bucket, letter: &Letter<'_>) -> Result<String, Error> {
        let data = &letter.message.data;
        let name = format!("dead-letters/{}/{}", letter.service, hash(data));
        let object = Object {
            name: name.clone(),
            content: data.clone(),
            content_type: "application/octet-stream",
            metadata: vec![("dl_reason", letter.reason.to_owned())],
        };
        bucket.create(&object).await?;
        Ok(format!("gs://{}/{name}", bucket.name()))
    }
}

impl pipeline::DeadLetters for DeadLetters {
    async fn bury(&self, letter: &Letter<'_>, _time_limit: Duration) -> Result<(), Error> {
        self.guard.pass(&self.topic)?;
        let object = match &self.bucket {
            Some(bucket) if is_too_big(letter) => Some(self.store(bucket, letter).await?),
            _ => None,
        };
        self.publishers.publish(&self.topic, [message(letter, object)]).await
    }
}

/// Whether the data does not fit beside as many attributes as there can be.
fn is_too_big(letter: &Letter<'_>) -> bool {
    let attribute_bytes = MAX_ATTRIBUTES * (MAX_ATTRIBUTE_KEY_BYTES + MAX_ATTRIBUTE_VALUE_BYTES);
    letter.message.data.len() > MAX_MESSAGE_BYTES - attribute_bytes
}

fn hash(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The letter as a message that Pub/Sub takes, whatever the original was; `object` is where its data
/// was stored.
fn message(letter: &Letter<'_>, object: Option<String>) -> Message {
    let original = letter.message;
    let first_seen = letter.first_seen.format(&Rfc3339).unwrap_or_default();
    let mut added = vec![
        ("dl_service", letter.service.to_owned()),
        ("dl_reason", letter.reason.to_owned()),
        ("dl_detail", cut(letter.detail.clone(), MAX_ATTRIBUTE_VALUE_BYTES)),
        ("dl_attempts", letter.attempts.to_string()),
        ("dl_first_seen", first_seen),
    ];
    if !original.id.is_empty() {
        added.push(("dl_message_id", original.id.clone()));
    }
    let fits = |(key, value): &(&String, &String)| {
        !key.is_empty()
            && key.len() <= MAX_ATTRIBUTE_KEY_BYTES
            && value.len() <= MAX_ATTRIBUTE_VALUE_BYTES
    };
    let kept = original.attributes.iter().filter(fits).take(MAX_ATTRIBUTES - ADDED);
    let mut attributes: std::collections::HashMap<String, String> =
        kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    if attributes.len() < original.attributes.len() {
        added.push(("dl_attributes_cut", "true".into()));
    }
    let mut data = original.data.clone();
    if is_too_big(letter) {
        added.push(("dl_size", data.len().to_string()));
        added.push(("dl_sha256", hash(&data)));
        match object {
            Some(object) => {
                added.push(("dl_object", object));
                data.clear();
            }
            None => {
                added.push(("dl_truncated", "true".into()));
                data.truncate(KEPT_BYTES);
            }
        }
    }
    attributes.extend(added.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Message::new().set_data(data).set_attributes(attributes)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn bury(original: &pipeline::Message, object: Option<String>) -> Message {
        let letter = Letter {
            service: "ingestion",
            reason: "no_route",
            detail: "x".repeat(5000),
            attempts: 1,
            first_seen: OffsetDateTime::UNIX_EPOCH,
            message: original,
        };
        message(&letter, object)
    }

    #[test]
    fn a_letter_bears_the_original_and_its_reason() {
        let mut original = pipeline::Message::new("data").with_attribute("device_id", "d");
        original.id = "42".into();

        let letter = bury(&original, None);

        assert_eq!(letter.data, "data");
        assert_eq!(letter.attributes["device_id"], "d");
        assert_eq!(letter.attributes["dl_reason"], "no_route");
        assert_eq!(letter.attributes["dl_message_id"], "42");
        assert_eq!(letter.attributes["dl_first_seen"], "1970-01-01T00:00:00Z");
        assert_eq!(letter.attributes["dl_detail"].len(), MAX_ATTRIBUTE_VALUE_BYTES);
    }

    #[test]
    fn whatever_the_original_was_the_letter_fits_into_pubsub() {
        let mut original = pipeline::Message::new(vec![b'x'; 12_000_000]);
        for index in 0..200 {
            original = original.with_attribute(format!("key{index}"), "v".repeat(index * 10));
        }

        let letter = bury(&original, None);

        assert!(letter.attributes.len() <= MAX_ATTRIBUTES);
        assert!(letter.attributes.values().all(|value| value.len() <= MAX_ATTRIBUTE_VALUE_BYTES));
        assert_eq!(letter.data.len(), KEPT_BYTES);
        assert_eq!(letter.attributes["dl_size"], "12000000");
        assert_eq!(letter.attributes["dl_truncated"], "true");
        assert_eq!(letter.attributes["dl_attributes_cut"], "true");
        assert_eq!(letter.attributes["dl_sha256"].len(), 64);
    }

    #[test]
    fn what_lies_in_an_object_is_not_in_the_letter() {
        let original = pipeline::Message::new(vec![b'x'; 12_000_000]);

        let letter = bury(&original, Some("gs://b/o".into()));

        assert_eq!(letter.data.len(), 0);
        assert_eq!(letter.attributes["dl_object"], "gs://b/o");
        assert!(!letter.attributes.contains_key("dl_truncated"));
    }
}
