//! Prevents publishing to topics where nobody would see the messages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipeline::{Error, Recovery};
use service::{Condition, Pauses};
use tracing::warn;

use crate::audience::{Audience, FindAudience, ask};
use crate::names::TopicName;

/// Allows publishing only to topics with a subscription or retention.
///
/// Without this check messages would be lost, because Pub/Sub also confirms a publish that nobody
/// will ever see. Clones share the guard's state.
#[derive(Debug, Clone)]
pub struct TopicGuard {
    audiences: Arc<Mutex<HashMap<TopicName, Audience>>>,
}

impl TopicGuard {
    /// Creates a guard over these topics. It allows nothing before its first check.
    #[must_use]
    pub fn new(topics: impl IntoIterator<Item = TopicName>) -> Self {
        let unknown = || Audience::Unknown("not looked at yet".into());
        let audiences = topics.into_iter().map(|topic| (topic, unknown())).collect();
        Self { audiences: Arc::new(Mutex::new(audiences)) }
    }

    /// Checks every topic once, by this rule. Each topic takes at most 10 s.
    ///
    /// # Errors
    /// The reason why publishing is not allowed to one of them.
    pub async fn look(&self, rule: &impl FindAudience) -> Result<(), String> {
        let topics: Vec<_> = self.lock().keys().cloned().collect();
        for topic in topics {
            let found = ask(rule, &topic).await;
            let mut audiences = self.lock();
            let known = audiences.get_mut(&topic);
            let Some(known) = known else { continue };
            match (&*known, &found) {
                (before, Audience::Unchecked(why)) if *before != found => {
                    warn!(%topic, why, "who sees its messages is unchecked");
                    *known = found;
                }
                // An outage says nothing about the audience, so the last result stays valid.
                (Audience::Someone | Audience::Unchecked(_), Audience::Unknown(why)) => {
                    warn!(%topic, why, "who sees its messages is unknown at the moment");
                }
                _ => *known = found,
            }
        }
        let closed = self.lock().values().find_map(|audience| match audience {
            Audience::Someone | Audience::Unchecked(_) => None,
            Audience::Nobody(reason) | Audience::Missing(reason) | Audience::Unknown(reason) => {
                Some(reason.clone())
            }
        });
        closed.map_or(Ok(()), Err)
    }

    /// Waits until publishing is allowed to every topic.
    pub async fn wait(&self, rule: &impl FindAudience, condition: &Condition) {
        condition.wait(|| self.look(rule), PAUSES.not_ready).await;
    }

    /// Checks every minute, and every second while something is missing. Never returns.
    pub async fn watch(self, rule: impl FindAudience, condition: Condition) {
        condition.watch(|| self.look(&rule), PAUSES).await;
    }

    /// Topics whose audience is not known for certain.
    #[must_use]
    pub fn unchecked(&self) -> Vec<TopicName> {
        let audiences = self.lock();
        let unchecked =
            audiences.iter().filter(|(_, audience)| matches!(audience, Audience::Unchecked(_)));
        unchecked.map(|(topic, _)| topic.clone()).collect()
    }

    /// Checks that publishing to this topic is allowed now.
    pub(crate) fn pass(&self, topic: &TopicName) -> Result<(), Error> {
        let reason = match self.lock().get(topic) {
            Some(Audience::Someone | Audience::Unchecked(_)) => return Ok(()),
            Some(
                Audience::Nobody(reason) | Audience::Missing(reason) | Audience::Unknown(reason),
            ) => reason.clone(),
            None => format!("{topic} is not among the guarded topics"),
        };
        Err(Recovery::Retry.because("publish", reason))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TopicName, Audience>> {
        self.audiences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pauses between two checks: while every topic has an audience, and while something is missing.
const PAUSES: Pauses = Pauses { ready: Duration::from_secs(60), not_ready: Duration::from_secs(1) };
