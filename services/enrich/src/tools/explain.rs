//! Subcommand `explain`: shows how one message would be processed. It asks the same layers as the
//! service.

use std::time::Duration;

use anyhow::bail;
use message::{Envelope, Message};
use pipeline::Transform as _;
use pubsub::Outgoing;
use service::tools::explain::{self, Explains, Story};
use tokio::time::timeout;
use tracing::warn;

use crate::apply::Fields;
use crate::cache::Lookup;
use crate::config::Settings;
use crate::enrichment::Enrichment;
use crate::key::{FirstOf, Key as _};
use crate::metrics::{Layer, Metrics};

/// Maximum wait for the layers.
const PATIENCE: Duration = Duration::from_secs(15);

impl Explains for Settings {
    const ABOUT: &'static str =
        "Shows what enrichment makes of a message, and which layer knew its document";

    async fn story(&self, message: &Message) -> anyhow::Result<Story> {
        let metrics = Metrics::default();
        let key = FirstOf::new(self.enrichment.key.clone());
        let source = self.documents();
        let (lookup, reader) = Lookup::new(&self.cache, source, metrics.clone())?;
        let mut reader = std::pin::pin!(reader);
        let mut story = Story::new();
        if let Ok(envelope) = Envelope::of(message, self.enrichment.input) {
            story.insert("is_envelope".into(), Envelope::read(&message.data).is_some().into());
            story.insert("key".into(), key.key(message, &envelope).as_deref().into());
        }
        let transform = Enrichment {
            key,
            apply: Fields::new(self.enrichment.fields.clone()),
            lookup,
            input: self.enrichment.input,
            on_missing: self.enrichment.on_missing,
            topic: self.topic()?,
            metrics: metrics.clone(),
        };
        let outcome = tokio::select! {
            outcome = timeout(PATIENCE, transform.apply(message)) => outcome,
            // The reader runs until the lookup is dropped.
            () = &mut reader => bail!("the reader has ended"),
        };
        let Ok(outcome) = outcome else {
            let why = transform.lookup.source_outage().unwrap_or_default();
            bail!("the documents cannot be asked, so the message would wait: {why}");
        };
        // As in the service, documents that were read are written to Redis.
        drop(transform);
        let is_kept = timeout(PATIENCE, reader).await.is_ok();
        if !is_kept {
            warn!("what was read could not be kept in Redis");
        }
        let knew = ["redis", "redis_stale", "source", "absent", "impossible"]
            .into_iter()
            .find(|layer| metrics.answered.get_or_create(&Layer { layer }).get() > 0);
        story.insert("answered_by".into(), knew.into());
        explain::end(&mut story, outcome.and_then(Outgoing::check), |story, outgoing| {
            let (data, key) = (&outgoing.data, &outgoing.ordering_key);
            story.insert("pubsub_topic".into(), outgoing.topic.as_str().into());
            story.insert("envelope".into(), explain::readable(data));
            story.insert("message".into(), explain::to_json(data, &outgoing.attributes, key));
        });
        Ok(story)
    }
}
