//! Tests of transforms that are functions, and of the bound on payloads.

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Faults, Item, Kind, MemoryDeadLetters, MemorySink, MemorySource, Recorder,
};
use pipeline::hops::{Ids, RecordKind, RecordText};
use pipeline::metrics::ReasonLabel;
use pipeline::reasons::{EVERY_SERVICE, PAYLOAD_SIZE, PAYLOAD_TOO_LARGE, PAYLOAD_TOO_SMALL};
use pipeline::transform::{BoundedPayload, from_async_fn};
use pipeline::{Error, Limits, Metrics, Pipeline, Reason, Reasons, Recovery, Step, Transform};

use crate::events::Reading;

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// The data of the message is not UTF-8.
        NOT_TEXT = "not_text";
    }
}

/// Reasons why the pipelines of these tests settle messages without a record.
const REASONS: Reasons = Reasons { refused: &[REFUSED, EVERY_SERVICE], skipped: &[PAYLOAD_SIZE] };

/// Makes a record whose id is the text of a message.
fn item(message: &Message) -> Result<Step<Item>, Error> {
    let text = std::str::from_utf8(&message.data);
    let text = text.map_err(|error| Recovery::Reject(NOT_TEXT).because("read text", error))?;
    let (id, bytes) = (text.to_owned(), text.len());
    Ok(Step::Pass(Item { key: "k".into(), id, bytes, kind: Kind::Good }))
}

/// Runs a pipeline with this transform over messages with these texts. Returns what was written,
/// sorted.
async fn run(
    transform: impl Transform<Record = Item>,
    texts: &[&'static str],
    metrics: &Metrics,
) -> Vec<String> {
    let recorder = Recorder::default();
    let messages = texts.iter().map(|text| Message { id: (*text).into(), ..Message::new(*text) });
    let pipeline = Pipeline {
        service: "test",
        source: MemorySource::new(messages, recorder.clone()),
        transform,
        sink: MemorySink::new(recorder.clone(), Faults::none(), 1000),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), Faults::none())),
        limits: Limits::default(),
        metrics: metrics.clone(),
    };
    let failure = pipeline.start().ended().await;
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(recorder.recording().acked.len(), texts.len());
    let mut written = recorder.recording().written.clone();
    written.sort();
    written
}

fn skipped(metrics: &Metrics, reason: Reason) -> u64 {
    metrics.skipped.get_or_create(&ReasonLabel { reason: reason.as_str() }).get()
}

#[tokio::test(start_paused = true)]
async fn a_function_is_a_transform() {
    let prefix = String::from("to ");
    let transform = move |message: &Message| -> Result<Step<Item>, Error> {
        item(&Message::new([prefix.as_bytes(), &message.data[..]].concat()))
    };

    let written = run(transform, &["one", "two"], &Metrics::new("test", &REASONS)).await;

    assert_eq!(written, ["to one", "to two"]);
}

#[tokio::test(start_paused = true)]
async fn an_async_function_is_a_transform() {
    let transform = from_async_fn(|message: &Message| {
        Box::pin(async move {
            tokio::task::yield_now().await;
            item(message)
        })
    });

    let written = run(transform, &["one", "two"], &Metrics::new("test", &REASONS)).await;

    assert_eq!(written, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn payloads_outside_of_their_bounds_are_skipped_for_a_declared_reason() {
    let metrics = Metrics::new("test", &REASONS);
    let transform = BoundedPayload::new(item, 2..=4).unwrap();

    let written = run(transform, &["", "1", "22", "333", "4444", "55555"], &metrics).await;

    assert_eq!(written, ["22", "333", "4444"]);
    assert_eq!(skipped(&metrics, PAYLOAD_TOO_SMALL), 2);
    assert_eq!(skipped(&metrics, PAYLOAD_TOO_LARGE), 1);
}

#[tokio::test]
async fn only_the_data_of_a_message_is_its_payload() {
    let transform = BoundedPayload::new(item, 0..=2).unwrap();
    let message = Message::new("22").with_attribute("name", "a long value");

    let step = transform.apply(&message).await.unwrap();

    assert!(matches!(step, Step::Pass(_)), "{step:?}");
}

#[tokio::test]
async fn another_event_is_bounded_by_its_size() {
    let sensor = |reading: &Reading| -> Result<Step<String>, Error> {
        Ok(Step::Pass(reading.sensor.clone()))
    };
    let transform = BoundedPayload::new(sensor, 3..=3).unwrap();
    let apply = async |sensor| transform.apply(&Reading::of(sensor)).await.unwrap();

    assert_eq!(apply("ab").await, Step::Skip(PAYLOAD_TOO_SMALL));
    assert_eq!(apply("abc").await, Step::Pass("abc".to_owned()));
    assert_eq!(apply("abcd").await, Step::Skip(PAYLOAD_TOO_LARGE));
}

#[test]
fn bounds_that_no_payload_keeps_are_refused() {
    let refused = BoundedPayload::new(item, std::ops::RangeInclusive::new(5, 2)).err().unwrap();

    let expected = "no payload has 5 to 2 bytes: the minimum must not be greater than the maximum";
    assert_eq!(refused.to_string(), expected);
    assert!(BoundedPayload::new(item, 2..=2).is_ok());
}

#[test]
fn people_see_of_a_bounded_transform_what_they_see_of_the_transform() {
    struct Shown;

    impl Transform for Shown {
        type Record = ();

        async fn apply(&self, _: &Message) -> Result<Step<()>, Error> {
            Ok(Step::Pass(()))
        }

        fn ids<'a>(&'a self, _: &'a Message, _: Option<&'a ()>) -> Ids<'a> {
            Ids { ingest_id: "i".into(), device_id: "d".into() }
        }

        fn show(&self, _: &Message, (): &()) -> Option<RecordText> {
            Some(RecordText::new(RecordKind::Line, b"line"))
        }
    }
    let (transform, message) = (BoundedPayload::new(Shown, 0..=9).unwrap(), Message::new(""));

    let ids = transform.ids(&message, Some(&()));

    assert_eq!((&*ids.ingest_id, &*ids.device_id), ("i", "d"));
    assert_eq!(transform.show(&message, &()).unwrap().text, "line");
}
