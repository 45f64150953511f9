//! Tests of log lines about messages that are nacked.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::env::{Parts, message, seconds};
use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{Fault, Faults, MemoryDeadLetters, MemorySource, Recorder};
use pipeline::{
    Error, Limits, Metrics, Pipeline, PushError, Recovery, Refusal, Sink, Step, Transform,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Texts of the warnings that were logged. Clones share them.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

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
