//! A pool of publishers, each used by one write at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{BasePublisher, Publisher};
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use pipeline::{Error, Recovery, Renewable};
use std::time::Duration;

use crate::connection::{Connection, TopicName};
use crate::limits::MAX_REQUEST_BYTES;
use crate::sink::Outgoing;

/// Publishers of all topics, on shared connections; clones share them too.
///
/// The client sends a batch when a timer fires or when it is flushed, and a flush blocks whoever
/// shares the publisher. So each write borrows a publisher of its own, fills it and flushes: one
/// request, no timer, no waiting for others. There are never more of them than writes at a time.
#[derive(Debug, Clone)]
pub struct Publishers(Renewable<Pool>);

#[derive(Debug)]
struct Pool {
    base: BasePublisher,
    idle: Mutex<HashMap<TopicName, Vec<Publisher>>>,
}

impl Publishers {
    /// Connects lazily: nothing is sent before the first message.
    ///
    /// # Errors
    /// `Stop` when no client can be built, for want of credentials for example.
    pub async fn new(connection: &Connection) -> Result<Self, Error> {
        let connection = connection.clone();
        let pool = Renewable::open(move || {
            let connection = connection.clone();
            Box::pin(async move {
                Ok(Pool { base: connection.publisher().await?, idle: Mutex::default() })
            })
        });
        Ok(Self(pool.await?))
    }

    /// Publishes messages of one topic and returns once all are confirmed.
    ///
    /// # Errors
    /// As [`Publishers::publish`].
    pub async fn send(&self, topic: &TopicName, messages: &[Outgoing]) -> Result<(), Error> {
        self.publish(topic, messages.iter().map(Outgoing::to_message)).await
    }

    /// Publishes messages in one request and returns once all are confirmed.
    ///
    /// # Errors
    /// `Reject` for what Pub/Sub calls invalid, else `Retry`; some of the messages may be published
    /// then.
    pub async fn publish(
        &self,
        topic: &TopicName,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<(), Error> {
        let pool = self.0.lease().await?;
        let publisher = pool.borrow(topic);
        let sent: Vec<_> = messages.into_iter().map(|message| publisher.publish(message)).collect();
        publisher.flush().await;
        let mut outcome = Ok(());
        for confirmed in sent {
            if let Err(error) = confirmed.await {
                outcome = outcome.and(Err(error));
            }
        }
        if outcome.is_ok() {
            pool.give_back(topic, publisher);
        }
        pool.done();
        // After an error the publisher may have paused an ordering key, so it is not used again.
        outcome.map_err(classify)
    }
}

impl Pool {
    fn borrow(&self, topic: &TopicName) -> Publisher {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = idle.get_mut(topic).and_then(Vec::pop);
        drop(idle);
        pooled.unwrap_or_else(|| {
            self.base
                .publisher(topic.as_str())
                .set_message_count_threshold(1000)
                .set_byte_threshold(u32::try_from(MAX_REQUEST_BYTES).unwrap_or(u32::MAX))
                // Never reached: every batch is flushed.
                .set_delay_threshold(Duration::from_secs(60))
                .build()
        })
    }

    fn give_back(&self, topic: &TopicName, publisher: Publisher) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.entry(topic.clone()).or_default().push(publisher);
    }
}

/// What a failed publish means. Missing topics and rights can come back, so they are retried.
fn classify(error: PublishError) -> Error {
    let code = match &error {
        PublishError::Rpc(error) => error.status().map(|status| status.code),
        _ => None,
    };
    let recovery = match code {
        Some(Code::InvalidArgument) => Recovery::Reject("publish_invalid"),
        _ => Recovery::Retry,
    };
    recovery.because("publish", error)
}
