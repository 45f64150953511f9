//! Tests of the way from the source to the lanes.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::env::{Parts, item, keyed, message, seconds};
use message::Message;
use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Faults, FnTransform, MemoryDeadLetters, MemorySink, MemorySource, Recorder,
};
use pipeline::metrics::ReasonLabel;
use pipeline::{Delivery, Error, Limits, Metrics, Pipeline, Recovery, Running, Source};

pipeline::reasons! {
    /// Reasons of these tests.
    OF_THE_TESTS {
        /// The source is gone.
        GONE = "gone";
    }
}

/// A source that fails a number of times before it delivers.
struct Failing {
    errors: VecDeque<Recovery>,
    inner: MemorySource,
}

impl Source for Failing {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        match self.errors.pop_front() {
            Some(recovery) => Err(recovery.because("receive", "away")),
            None => self.inner.receive().await,
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Starts a pipeline of one message whose source first fails with these errors.
fn start(
    errors: impl IntoIterator<Item = Recovery>,
    recorder: &Recorder,
    metrics: &Metrics,
    limits: Limits,
) -> Running {
    let inner = MemorySource::new([message("1")], recorder.clone());
    let pipeline = Pipeline {
        service: "test",
        source: Failing { errors: errors.into_iter().collect(), inner },
        transform: FnTransform(item, Faults::none()),
        sink: MemorySink::new(recorder.clone(), Faults::none(), 100),
        dead_letters: Policy::<MemoryDeadLetters>::Drop,
        limits,
        metrics: metrics.clone(),
    };
    pipeline.start()
}

/// Runs a pipeline of one message whose source first fails with these errors. Returns how it ended,
/// the number of retries, and whether the message was acked.
async fn run(errors: impl IntoIterator<Item = Recovery>) -> (Option<Recovery>, u64, bool) {
    let (recorder, metrics) = (Recorder::default(), Metrics::default());
    let mut running = start(errors, &recorder, &metrics, Limits::default());
    let ended = running.ended().await;
    let retried = metrics.retried.get_or_create(&ReasonLabel { reason: "receive" }).get();
    (ended.map(|error| error.recovery()), retried, recorder.recording().acked.contains("1"))
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_is_asked_again() {
    assert_eq!(run([Recovery::Retry, Recovery::Retry]).await, (None, 2, true));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_can_never_deliver_ends_the_pipeline() {
    for recovery in [Recovery::Stop, Recovery::Reject(GONE), Recovery::Nack] {
        assert_eq!(run([recovery]).await, (Some(recovery), 0, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_for_long_does_not_look_like_a_hanging_task() {
    let retry = Backoff { min: seconds(60), max: seconds(60) };
    let limits = Limits { retry, stall_after: seconds(1), ..Limits::default() };
    let (recorder, metrics) = (Recorder::default(), Metrics::default());
    let mut running = start([Recovery::Retry; 3], &recorder, &metrics, limits);

    for _ in 0..80 {
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(running.status().stalled(), None);
    }

    assert!(running.ended().await.is_none());
    assert!(recorder.recording().acked.contains("1"));
}

/// Returns the messages of each lane. Each lane writes its own batch at the end.
async fn lanes(messages: impl IntoIterator<Item = Message>) -> Vec<Vec<String>> {
    let mut parts = Parts::default();
    parts.limits.lanes = 4;
    let env = parts.start();
    env.push_all(messages);
    env.pass(seconds(1)).await;
    env.running.shutdown(seconds(10)).await.unwrap();
    env.recorder.recording().batches.clone()
}

#[tokio::test(start_paused = true)]
async fn messages_without_an_ordering_key_go_to_all_lanes_in_turn() {
    let lanes = lanes((0..8).map(|id| message(&id.to_string()))).await;

    assert_eq!(lanes.iter().map(Vec::len).collect::<Vec<_>>(), [2; 4]);
}

#[tokio::test(start_paused = true)]
async fn ordering_keys_go_to_all_lanes_and_each_to_one() {
    let key = |id: usize| (id % 50).to_string();

    let lanes = lanes((0..200).map(|id| keyed(&key(id), message(&id.to_string())))).await;

    let mut lanes_of = HashMap::<_, HashSet<_>>::new();
    for (lane, ids) in lanes.iter().enumerate() {
        for id in ids {
            lanes_of.entry(key(id.parse().unwrap())).or_default().insert(lane);
        }
    }
    assert_eq!((lanes.len(), lanes_of.len()), (4, 50));
    assert!(lanes_of.values().all(|lanes| lanes.len() == 1), "{lanes_of:?}");
}
