//! Readers of topics: who would see a message that is published.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pipeline::catch_async;
use tokio::time::timeout;

use crate::names::TopicName;

/// Longest wait for the answer of a rule.
const RULE_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Pub/Sub could not be asked. Or a rule has panicked, or gave no answer in time.
    Unknown(String),
}

/// Rule that finds the readers of topics. [`Admin`](crate::Admin) asks Pub/Sub.
///
/// A function of a topic is such a rule, too. It must not block its thread: a rule that waits
/// implements the trait.
pub trait FindAudience: Send + Sync + 'static {
    /// Returns the readers of messages published to this topic. The guard asks once a minute, and
    /// once a second while something is missing.
    ///
    /// Cancel safety: an answer that takes longer than 10 s is dropped, and the audience is
    /// [`Audience::Unknown`]. It is also unknown after a panic.
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

/// Asks a rule for the readers of a topic. A panic or a missing answer leaves them unknown.
pub(crate) async fn ask(rule: &impl FindAudience, topic: &TopicName) -> Audience {
    let answer = catch_async("find audience", async { Ok(rule.audience(topic).await) });
    let why = match timeout(RULE_TIMEOUT, answer).await {
        Ok(Ok(audience)) => return audience,
        Ok(Err(panic)) => {
            format!("the rule for the audience of {topic} panicked: {}", panic.detail())
        }
        Err(_late) => {
            let limit = RULE_TIMEOUT.as_secs();
            format!("the rule for the audience of {topic} gave no answer within {limit} s")
        }
    };
    Audience::Unknown(why)
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
