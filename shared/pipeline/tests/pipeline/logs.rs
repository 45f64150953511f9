//! Tests of log lines about messages that are nacked.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::env::{Parts, bad, item, message, seconds};
use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Fault, Faults, FnTransform, Kind, MemoryDeadLetters, MemorySink, MemorySource, Recorder,
};
use pipeline::{
    Delivery, Error, Limits, Metrics, Pipeline, PushError, Recovery, Refusal, Sink, Source, Step,
    Transform,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Texts of the warnings that were logged. Clones share them.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

/// Fields of the lines that were logged, at a level and those above it. Clones share them.
#[derive(Clone)]
struct Lines {
    level: Level,
    fields: Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>,
}

impl Lines {
    fn above(level: Level) -> Self {
        Self { level, fields: Arc::default() }
    }

    fn taken(&self) -> Vec<BTreeMap<&'static str, String>> {
        std::mem::take(&mut self.fields.lock().unwrap())
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("pipeline::") && *metadata.level() <= self.level
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        panic!("a message has no span")
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.fields.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Fields of one line. Texts are without quotes.
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

/// Makes an empty record of each message.
struct Unchanged;

impl Transform for Unchanged {
    type Record = ();

    async fn apply(&self, _: &Message) -> Result<Step<()>, Error> {
        Ok(Step::Pass(()))
    }
}

/// A sink that cannot take a record now.
struct FullDisk;

impl Sink for FullDisk {
    type Record = ();
    type Key = ();
    type Batch = ();
    type EncodedBatch = ();
    type LaneState = ();

    fn lane_state(&self) {}

    fn key(&self, (): &()) {}

    fn open(&self, (): &()) {}

    fn push(&self, (): &mut (), (): (), (): &mut ()) -> Result<usize, PushError<()>> {
        Err(PushError::Refused(Recovery::Retry.because("add record", "the disk is full")))
    }

    fn encode(&self, (): (), (): &mut ()) {}

    async fn write(&self, (): &(), _: Duration) -> Result<Vec<Refusal>, Error> {
        Ok(Vec::new())
    }

    fn split(&self, (): &(), _: usize) -> Option<((), ())> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_sink_cannot_take_is_not_blamed_on_the_lease() {
    let warnings = Warnings::default();
    let _default = tracing::subscriber::set_default(warnings.clone());
    let recorder = Recorder::default();
    let pipeline = Pipeline {
        service: "test",
        source: MemorySource::new([message("1")], recorder.clone()).with_max_deliveries(1),
        transform: Unchanged,
        sink: FullDisk,
        dead_letters: Policy::<MemoryDeadLetters>::Leave,
        limits: Limits::default(),
        metrics: Metrics::default(),
    };
    let running = pipeline.start();

    tokio::time::sleep(seconds(1)).await;

    assert_eq!(*warnings.0.lock().unwrap(), ["not possible now, handing the message back"]);
    assert!(recorder.recording().nacked.contains("1"));
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_transform_that_its_lease_ends_says_so() {
    let warnings = Warnings::default();
    let _default = tracing::subscriber::set_default(warnings.clone());
    let transform = Faults::always(Fault::Retryable);
    let env = Parts { transform, lease: Some(seconds(5)), ..Parts::default() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(6)).await;

    let first = warnings.0.lock().unwrap().first().cloned();
    assert_eq!(first.as_deref(), Some("the lease ends, handing the message back"));
}

/// A source with a name, as a subscription has.
struct Named(MemorySource);

impl Source for Named {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        self.0.receive().await
    }

    async fn close(self) -> Result<(), Error> {
        self.0.close().await
    }

    fn name(&self) -> Option<String> {
        Some("raw-test".into())
    }
}

/// Runs a pipeline that refuses a message, and returns the lines about it.
async fn lines_about(refused: Message, level: Level) -> Vec<BTreeMap<&'static str, String>> {
    let lines = Lines::above(level);
    let _default = tracing::subscriber::set_default(lines.clone());
    let recorder = Recorder::default();
    let pipeline = Pipeline {
        service: "test",
        source: Named(MemorySource::new([refused], recorder.clone())),
        transform: FnTransform(item, Faults::none()),
        sink: MemorySink::new(recorder.clone(), Faults::none(), usize::MAX),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder, Faults::none())),
        limits: Limits::default(),
        metrics: Metrics::default(),
    };
    let running = pipeline.start();
    tokio::time::sleep(seconds(1)).await;
    drop(running);
    lines.taken().into_iter().filter(|line| line.contains_key("reason")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_line_about_a_message_has_the_fields_to_find_it_by() {
    let refused = bad(Kind::Refused, message("7"))
        .with_attribute("mqtt_topic", "devices/d1/up")
        .with_attribute("ingest_id", "i-1")
        .with_attribute(
            "googclient_traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );

    let [line] = &lines_about(refused, Level::DEBUG).await[..] else { panic!("one line") };

    for (name, value) in [
        ("message", "a message is in the dead letters"),
        ("reason", "refused"),
        ("service", "test"),
        ("subscription", "raw-test"),
        ("topic", "devices/d1/up"),
        ("message_id", "7"),
        ("ingest_id", "i-1"),
        ("trace", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("span_id", "00f067aa0ba902b7"),
        ("trace_sampled", "true"),
    ] {
        assert_eq!(line.get(name).map(String::as_str), Some(value), "{name} in {line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_of_a_message_is_not_a_field() {
    let [line] = &lines_about(bad(Kind::Refused, message("")), Level::DEBUG).await[..] else {
        panic!("one line")
    };

    for name in ["topic", "message_id", "ingest_id", "trace", "span_id", "trace_sampled"] {
        assert!(!line.contains_key(name), "{name} in {line:?}");
    }
    assert_eq!(line["subscription"], "raw-test");
}

#[tokio::test(start_paused = true)]
async fn a_long_topic_is_cut() {
    let topic = "a".repeat(60_000);
    let refused = bad(Kind::Refused, message("7")).with_attribute("mqtt_topic", topic);

    let [line] = &lines_about(refused, Level::DEBUG).await[..] else { panic!("one line") };

    assert_eq!(line["topic"], "a".repeat(256));
}

#[tokio::test(start_paused = true)]
async fn a_line_below_the_level_is_not_written() {
    let lines = lines_about(bad(Kind::Refused, message("7")), Level::INFO).await;

    assert!(lines.is_empty(), "{lines:?}");
}
