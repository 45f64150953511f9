//! Readers of topics: who would see a message that is published.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::names::TopicName;

/// Readers of the messages published to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// There is a subscription, or the topic retains its messages.
    Someone,
    /// Nobody would see a message. Pub/Sub would confirm the publish and forget the message.
    Nobody(String),
    /// The topic does not exist.
    Missing(String),
    /// Unknown audience, with the reason. We may lack the right to ask, or every subscription has a
    /// filter.
    Unchecked(String),
    /// Pub/Sub could not be asked.
    Unknown(String),
}

/// Rule that finds the readers of topics. [`Admin`](crate::Admin) asks Pub/Sub.
///
/// A function of a topic is such a rule, too.
pub trait FindAudience: Send + Sync + 'static {
    /// Returns the readers of messages published to this topic. The guard asks once a minute, and
    /// once a second while something is missing.
    fn audience(&self, topic: &TopicName) -> impl Future<Output = Audience> + Send;
}

impl<F> FindAudience for F
where
    F: Fn(&TopicName) -> Audience + Send + Sync + 'static,
{
    async fn audience(&self, topic: &TopicName) -> Audience {
        self(topic)
    }
}

/// Boxed function of a topic.
type Find = dyn Fn(TopicName) -> BoxFuture<'static, Audience> + Send + Sync;

/// Rule of any type that finds the readers of topics. Clones share it.
#[derive(Clone)]
pub struct SharedAudience(Arc<Find>);

impl SharedAudience {
    /// Wraps a rule.
    #[must_use]
    pub fn new(rule: impl FindAudience) -> Self {
        let rule = Arc::new(rule);
        Self(Arc::new(move |topic| {
            let rule = Arc::clone(&rule);
            Box::pin(async move { rule.audience(&topic).await })
        }))
    }
}

impl fmt::Debug for SharedAudience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAudience").finish_non_exhaustive()
    }
}

impl FindAudience for SharedAudience {
    async fn audience(&self, topic: &TopicName) -> Audience {
        (self.0)(topic.clone()).await
    }
}
