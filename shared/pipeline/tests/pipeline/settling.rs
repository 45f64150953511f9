//! Tests of messages that end early, because they are given up, stopped or too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::env::{Parts, bad, counted, eager, ids, item, keyed, message, seconds, to};
use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Fault, FaultRates, Faults, FnTransform, Kind, MemoryDeadLetters, MemorySink, MemorySource,
    Recorder,
};
use pipeline::{Delivery, Error, Metrics, Pipeline, Recovery, Running, Source};

/// Returns how the pipeline ended by itself. All its messages are settled after that.
async fn ended(mut running: Running) -> Recovery {
    let error = running.ended().await.unwrap();
    drop(running.shutdown(seconds(30)).await);
    error.recovery()
}

#[tokio::test(start_paused = true)]
async fn a_transform_that_asks_to_stop_acks_nothing() {
    let env = Parts { transform: Faults::always(Fault::Stopped), ..eager() }.start();

    env.push_all([message("1")]);
    assert_eq!(ended(env.running).await, Recovery::Stop);

    assert_eq!(env.recorder.recording().nacked, ids(["1"]));
    assert_eq!(env.recorder.recording().acked, ids([]));
    assert!(counted(&env.metrics.nacked, "stop") >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_ends_in_a_stop_is_nacked() {
    let env = Parts { sink: Faults::always(Fault::Stopped), ..eager() }.start();

    env.push_all(["1", "2"].map(message));
    assert_eq!(ended(env.running).await, Recovery::Stop);

    assert_eq!(env.recorder.recording().nacked, ids(["1", "2"]));
    assert_eq!(env.recorder.recording().acked, ids([]));
}

/// Attempts continue until the lease is too short for another one. Then the message is redelivered.
#[tokio::test(start_paused = true)]
async fn a_write_is_tried_as_long_as_the_lease_lasts() {
    let lease = Some(seconds(60));
    let env = Parts { sink: Faults::always(Fault::Retryable), lease, ..eager() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(53)).await;
    assert_eq!(env.recorder.recording().nacked, ids([]));
    assert!(env.retried("write") > 50);
    env.pass(seconds(6)).await;

    assert_eq!(env.recorder.recording().nacked, ids(["1"]));
    assert_eq!(env.nacked_for("lease"), 1);
    assert!(env.running.status().outage().is_some());
}

/// The destination has taken some records of a batch, and one is never taken.
#[tokio::test(start_paused = true)]
async fn at_the_end_of_a_lease_only_unwritten_messages_are_nacked() {
    let mut parts = Parts { lease: Some(seconds(60)), ..Parts::default() };
    parts.limits.batch.max_messages = 3;
    let env = parts.start();

    env.push_all([message("1"), bad(Kind::Late, message("2")), message("3")]);
    env.pass(seconds(59)).await;

    assert_eq!(env.recorder.recording().nacked, ids(["2"]));
    assert_eq!(env.recorder.recording().acked, ids(["1", "3"]));
    assert_eq!((env.nacked_for("lease"), env.metrics.sent.get()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_would_come_too_late_is_nacked_at_once() {
    // The next attempt would begin after the lease, or begin within it and end after it.
    for (lease, wait, attempt_timeout) in [(5, 10, 1), (12, 17, 4)] {
        let mut parts = Parts { sink: Faults::always(Fault::Retryable), ..eager() };
        parts.lease = Some(seconds(lease));
        parts.limits.attempt_timeout = seconds(attempt_timeout);
        parts.limits.retry = Backoff { min: seconds(wait), max: seconds(wait) };
        let env = parts.start();

        env.push_all([message("1")]);
        env.pass(seconds(1) / 4).await;

        assert_eq!(env.nacked_for("lease"), 1, "{wait} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_shorter_than_an_attempt_is_enough_for_a_write() {
    let mut parts = Parts { lease: Some(seconds(4)), ..eager() };
    parts.limits.attempt_timeout = seconds(5);
    let env = parts.start();

    env.push_all([message("1")]);
    env.pass(seconds(1)).await;

    assert_eq!(env.written(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_transform_is_tried_as_long_as_the_lease_lasts() {
    let lease = Some(seconds(60));
    let env = Parts { transform: Faults::always(Fault::Retryable), lease, ..eager() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(58)).await;
    assert_eq!(env.nacked_for("transform"), 0);
    env.pass(seconds(3)).await;

    assert_eq!(env.nacked_for("transform"), 1);
    let recording = env.recorder.recording();
    // The source may have taken it back earlier.
    assert_eq!((recording.expired.len() + recording.nacked.len(), recording.acked.len()), (1, 0));
    assert_eq!(recording.broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up_and_made_again() {
    let faults = || Faults::script([Fault::Hung, Fault::Hung]);
    let env = Parts { transform: faults(), sink: faults(), ..eager() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(15)).await;
    assert_eq!(env.written(), Vec::<String>::new());
    env.pass(seconds(10)).await;

    assert_eq!(env.written(), ["1"]);
    assert_eq!((env.retried("transform"), env.retried("write")), (2, 2));
    assert_eq!(env.recorder.recording().acked, ids(["1"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_after_its_lease_is_delivered_again() {
    let slow = FaultRates { max_delay: seconds(5), ..FaultRates::default() };
    let lease = Some(Duration::from_millis(100));
    let env = Parts { sink: Faults::new(slow, 7), lease, ..eager() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(100)).await;

    let recording = env.recorder.recording();
    assert!(recording.late > 0 && recording.expired == ids(["1"]), "{recording:?}");
    assert!(recording.times_written("1") > 1, "{recording:?}");
    assert_eq!(recording.broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_written_again_before_it_is_acked() {
    let env = Parts { sink: Faults::script([Fault::LostReply]), ..eager() }.start();

    env.push_all([message("1")]);
    env.pass(seconds(5)).await;

    assert_eq!(env.written(), ["1", "1"]);
    assert_eq!(env.recorder.recording().acked, ids(["1"]));
    assert_eq!(env.metrics.sent.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_kept_give_their_bytes_back() {
    let in_flight = async |is_archive: bool| {
        let env = Parts { is_archive, ..Parts::default() }.start();
        env.push_all([message("1")]);
        env.pass(seconds(1)).await;
        env.running.status().in_flight()
    };
    let size = message("1").size();

    assert_eq!(in_flight(false).await, (1, size));
    assert_eq!(in_flight(true).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_counted_with_its_bytes() {
    let env = eager().start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!((env.metrics.received.get(), env.metrics.sent.get()), (3, 3));
    assert_eq!((env.metrics.sent_bytes.get(), env.metrics.in_flight.get()), (30, 0));
    assert_eq!((env.metrics.repeated.get(), env.metrics.batch_memory.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_cut_says_how_much_it_nacks() {
    let env = Parts { sink: Faults::always(Fault::Hung), ..Parts::default() }.start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(seconds(1)).await;
    let (start, recorder) = (tokio::time::Instant::now(), env.recorder.clone());
    let error = env.running.shutdown(seconds(20)).await.unwrap_err();

    assert!(error.to_string().starts_with("3 messages were not settled within 20s"), "{error}");
    assert_eq!(start.elapsed().as_secs(), 15, "five seconds are for the close");
    assert_eq!(recorder.recording().nacked, ids(["1", "2", "3"]));
}

/// A source that sends its acknowledgements over a slow link when it closes.
struct SlowToClose {
    inner: MemorySource,
    takes: Duration,
    recorder: Recorder,
    /// True once the source is closed and every delivery was settled before.
    is_closed: Arc<AtomicBool>,
}

impl Source for SlowToClose {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        self.inner.receive().await
    }

    async fn close(self) -> Result<(), Error> {
        let is_settled = self.recorder.recording().unsettled == 0;
        tokio::time::sleep(self.takes).await;
        self.is_closed.store(is_settled, Ordering::Relaxed);
        Ok(())
    }
}

/// Starts a pipeline with one message. Its source takes this long to close. The flag shows that the
/// source has closed.
async fn slow_to_close(sink: Faults, takes: Duration) -> (Running, Arc<AtomicBool>) {
    let (recorder, is_closed) = (Recorder::default(), Arc::<AtomicBool>::default());
    let inner = MemorySource::new([message("1")], recorder.clone());
    let pipeline = Pipeline {
        service: "test",
        source: SlowToClose {
            inner,
            takes,
            recorder: recorder.clone(),
            is_closed: Arc::clone(&is_closed),
        },
        transform: FnTransform(item, Faults::none()),
        sink: MemorySink::new(recorder, sink, 100),
        dead_letters: Policy::<MemoryDeadLetters>::Drop,
        limits: eager().limits,
        metrics: Metrics::default(),
    };
    let running = pipeline.start();
    tokio::time::sleep(seconds(1)).await;
    (running, is_closed)
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_cut_leaves_time_for_the_acknowledgements() {
    for (grace, takes, ends) in [(30, seconds(4), 29), (4, Duration::from_millis(900), 3)] {
        let (running, is_closed) = slow_to_close(Faults::always(Fault::Hung), takes).await;

        let start = tokio::time::Instant::now();
        running.shutdown(seconds(grace)).await.unwrap_err();

        assert!(is_closed.load(Ordering::Relaxed), "{grace}");
        assert_eq!(start.elapsed().as_secs(), ends, "of {grace}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_close_in_time_is_named_where_no_message_is_left() {
    let (running, is_closed) = slow_to_close(Faults::none(), seconds(60)).await;

    let error = running.shutdown(seconds(4)).await.unwrap_err();

    assert!(format!("{error:#}").starts_with("send the last acknowledgements"), "{error:#}");
    assert!(!is_closed.load(Ordering::Relaxed));
}

/// The second batch of a key waits for the first. Other batches do not wait.
#[tokio::test(start_paused = true)]
async fn a_batch_of_an_ordering_key_waits_for_the_one_before() {
    let mut parts = eager();
    parts.sink = Faults::script([Fault::Retryable]);
    parts.limits.batch.max_messages = 1;
    parts.limits.retry.min = seconds(1);
    let env = parts.start();

    env.push_all([keyed("a", message("1")), to("other", message("2")), keyed("a", message("3"))]);
    env.pass(Duration::from_millis(100)).await;
    assert_eq!(env.written(), ["2"]);
    env.pass(seconds(5)).await;

    assert_eq!(env.written(), ["2", "1", "3"]);
}

/// No message depends on the order of one without an ordering key.
#[tokio::test(start_paused = true)]
async fn a_message_without_an_ordering_key_is_not_nacked_with_an_ordered_one() {
    let mut parts = Parts { sink: Faults::always(Fault::Retryable), ..eager() };
    parts.lease = Some(seconds(60));
    parts.limits.batch.max_messages = 1;
    parts.limits.max_writes = 1;
    let env = parts.start();

    env.push_all([keyed("a", message("1"))]);
    env.pass(seconds(30)).await;
    env.push_all([message("waits for the write")]);
    env.pass(seconds(28)).await;

    assert_eq!(env.recorder.recording().nacked, ids(["1"]));
    assert_eq!((env.nacked_for("lease"), env.nacked_for("order")), (1, 0));
}
