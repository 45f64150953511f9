//! Tests of the transform, with functions as its parts.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::{Arc, Mutex};

use enrich::apply::Apply;
use enrich::cache::settings::LookupSettings;
use enrich::cache::{Document, Lookup, from_fn};
use enrich::enrichment::{Enrichment, OnMissing};
use enrich::key::Key;
use enrich::metrics::Metrics;
use message::envelope::Input;
use message::{Envelope, Message};
use pipeline::metrics::ReasonLabel;
use pipeline::{Step, Transform as _};
use pubsub::{Outgoing, TopicName};
use tokio::task::JoinSet;

/// Keys of each read of the source.
type Reads = Arc<Mutex<Vec<Vec<String>>>>;

/// Result of a message.
struct Outcome {
    outgoing: Outgoing,
    reads: Vec<Vec<String>>,
    metrics: Metrics,
}

fn site(message: &Message, _: &Envelope) -> Option<String> {
    message.attributes.get("site").cloned()
}

fn city(document: &Document, envelope: &mut Envelope) {
    envelope.enrichment.insert("city".into(), document["city"].clone());
}

/// Applies a transform to a message. Its source knows only the site `berlin`.
async fn apply(key: impl Key, apply: impl Apply, message: &Message) -> Outcome {
    let (reads, metrics) = (Reads::default(), Metrics::default());
    let seen = Arc::clone(&reads);
    let source = from_fn("test", move |keys: Vec<Arc<str>>| {
        seen.lock().unwrap().push(keys.iter().map(ToString::to_string).collect());
        let found = |key: &Arc<str>| {
            let document = [("city".to_owned(), "Berlin".into())];
            (**key == *"berlin").then(|| Document::from_iter(document))
        };
        let found: Vec<_> = keys.iter().map(found).collect();
        async { Ok(found) }
    });
    let (lookup, reader) =
        Lookup::new(&LookupSettings::default(), source, metrics.clone()).unwrap();
    let mut readers = JoinSet::new();
    readers.spawn(reader);
    let topic = TopicName::new("p", "enriched");
    let enrichment = Enrichment {
        key,
        apply,
        lookup,
        input: Input::Auto,
        on_missing: OnMissing::DeadLetter,
        topic,
        metrics: metrics.clone(),
    };
    let Ok(Step::Pass(outgoing)) = enrichment.apply(message).await else { panic!("it passes") };
    let reads = reads.lock().unwrap().clone();
    Outcome { outgoing, reads, metrics }
}

fn unenriched(metrics: &Metrics, reason: &'static str) -> u64 {
    metrics.unenriched.get_or_create(&ReasonLabel { reason }).get()
}

#[tokio::test]
async fn functions_are_the_key_the_source_and_the_applier() {
    let message = Message::new(r#"{"id":"1"}"#).with_attribute("site", "berlin");
    let exclaimed = |document: &Document, envelope: &mut Envelope| {
        city(document, envelope);
        envelope.enrichment.insert("fields".into(), document.len().into());
    };

    let Outcome { outgoing, reads, metrics } = apply(site, exclaimed, &message).await;

    let envelope = Envelope::read(&outgoing.data).unwrap();
    assert_eq!(envelope.enrichment["city"], "Berlin");
    assert_eq!(envelope.enrichment["fields"], 1);
    assert_eq!(reads, [["berlin"]]);
    assert_eq!((metrics.lookups.get(), unenriched(&metrics, "no_key")), (1, 0));
}

#[tokio::test]
async fn a_message_without_a_key_passes_without_a_lookup_and_is_counted() {
    let message = Message::new("data").with_attribute("color", "red");

    let Outcome { outgoing, reads, metrics } = apply(site, city, &message).await;

    let envelope = Envelope::read(&outgoing.data).unwrap();
    assert_eq!(envelope.payload, Some(b"data".as_slice().into()));
    assert!(envelope.enrichment.is_empty(), "{:?}", envelope.enrichment);
    assert_eq!(outgoing.attributes["color"], "red");
    assert!(reads.is_empty(), "{reads:?}");
    assert_eq!((metrics.lookups.get(), unenriched(&metrics, "no_key")), (0, 1));
    assert_eq!(unenriched(&metrics, "document_missing"), 0);
}
