//! Dead letters as messages on a separate topic.

mod form;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use pipeline::dead_letter::Policy;
use pipeline::{DeadLetter, Error};
use storage::{Bucket, Object, ObjectStore as _};

pub(crate) use form::restore;

use crate::clients::Clients;
use crate::guard::TopicGuard;
use crate::names::TopicName;
use crate::outgoing::Outgoing;
use crate::publishers::Publishers;
use crate::settings::{DeadLetterConfig, Keyword};
use form::Draft;

/// Publishes dead letters. Each holds the original data and attributes, and the reason why the
/// message was given up.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    publishers: Publishers,
    guard: TopicGuard,
    topic: TopicName,
    /// Bucket for content that is too big for Pub/Sub.
    bucket: Option<Bucket>,
}

impl DeadLetters {
    /// Creates the policy that the settings ask for. The topic must be among those that `guard`
    /// watches.
    ///
    /// # Errors
    /// `Stop` without credentials for the bucket, and for settings that nobody has checked.
    pub async fn policy(
        dead_letters: &DeadLetterConfig,
        project: &str,
        publishers: &Publishers,
        guard: &TopicGuard,
        storage: &storage::Endpoint,
        clients: &Clients,
    ) -> Result<Policy<Self>, Error> {
        let bucket = match dead_letters.bucket()? {
            Some(name) => {
                Some(Bucket::open(name, storage, &clients.identity, &clients.storage).await?)
            }
            None => None,
        };
        Ok(match dead_letters {
            DeadLetterConfig::Topic { topic_id, .. } => Policy::Write(Self {
                publishers: publishers.clone(),
                guard: guard.clone(),
                topic: topic_id.value(DeadLetterConfig::TOPIC_KEY)?.name(project),
                bucket,
            }),
            DeadLetterConfig::Keyword(Keyword::Subscription) => Policy::Leave,
            DeadLetterConfig::Keyword(Keyword::Drop) => Policy::Drop,
        })
    }

    /// Stores content that is too big for Pub/Sub. Returns the URL of its object. The name of the
    /// object is the hash of the content, so a second attempt finds the object of the first.
    async fn store(
        &self,
        bucket: &Bucket,
        dead_letter: &DeadLetter<'_>,
        content: &Bytes,
    ) -> Result<String, Error> {
        let name = format!("dead-letters/{}/{}", dead_letter.service, form::hash(content));
        let object = Object {
            name: name.clone(),
            content: content.clone(),
            content_type: "application/octet-stream",
            metadata: vec![("dl_reason", dead_letter.reason.to_string())],
            may_exist: AtomicBool::new(true),
        };
        bucket.create(&object).await?;
        Ok(bucket.address(&name))
    }
}

impl pipeline::DeadLetters for DeadLetters {
    /// Dropping the call cancels it, so it needs no time limit of its own.
    async fn write(&self, dead_letter: &DeadLetter<'_>, _: Duration) -> Result<(), Error> {
        self.guard.pass(&self.topic)?;
        let form::Content { data, attributes } =
            match (Draft::new(dead_letter).finish(), &self.bucket) {
                (Ok(content), _) => content,
                (Err(too_big), None) => too_big.cut(),
                (Err(too_big), Some(bucket)) => {
                    let object = self.store(bucket, dead_letter, too_big.content()).await?;
                    too_big.in_object(&object)
                }
            };
        let topic = self.topic.clone();
        let outgoing = Outgoing { topic, data, attributes, ordering_key: String::new() };
        self.publishers.publish(&self.topic, &[outgoing]).await.map(drop)
    }
}
