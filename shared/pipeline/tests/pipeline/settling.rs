//! Tests of messages that end early, because they are refused, given up, stopped or too late.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::env::{Parts, bad, item, keyed, message, seconds, sized, to};
use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::reasons::{REFUSED_RECORD, TOO_LARGE};
use pipeline::doubles::{
    Fault, FaultRates, Faults, FnTransform, Kind, MemoryDeadLetters, MemorySink, MemorySource,
    Recorder,
};
use pipeline::metrics::{Counters, ReasonLabel};
use pipeline::{
    Delivery, Disposition, Error, Metrics, Pipeline, Reason, Recovery, Running, Source,
};

/// Builds parts that write batches as soon as no more messages are ready.
fn eager() -> Parts {
    let mut parts = Parts::default();
    parts.limits.batch.max_idle = Duration::ZERO;
    parts
}

fn ids<const N: usize>(ids: [&str; N]) -> HashSet<String> {
    ids.map(str::to_owned).into()
}

fn counted(family: &Counters<ReasonLabel>, reason: &'static str) -> u64 {
    family.get_or_create(&ReasonLabel { reason }).get()
}

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
async fn a_write_that_would_come_too_late_is_handed_back_at_once() {
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
async fn refused_records_are_buried_and_their_neighbours_written() {
    let env = eager().start();

    let message_of = |index: u32| match index % 3 {
        0 => bad(Kind::Refused, message(&index.to_string())),
        _ => message(&index.to_string()),
    };
    env.push_all((0..30).map(message_of));
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(
        (recording.dead_lettered.len(), recording.written.len(), recording.acked.len()),
        (10, 20, 30)
    );
    assert!(recording.dead_lettered.values().all(|reason| *reason == "refused"));
    assert_eq!(recording.broken, Vec::<String>::new());
    assert_eq!(env.metrics.sent.get(), 20);
    assert_eq!(counted(&env.metrics.dead_lettered, "refused"), 10);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_parted_until_the_culprit_stands_alone() {
    let env = eager().start();

    let messages = ["1", "2", "3", "4", "5"].map(message);
    let messages = messages.map(|it| if it.id == "3" { bad(Kind::Poison, it) } else { it });
    env.push_all(messages);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.written, ["1", "2", "4", "5"], "in their order");
    assert_eq!(recording.dead_lettered, [("3".to_owned(), "poison")].into());
    assert_eq!(recording.acked.len(), 5);
}

/// Returns the batches written for records of these sizes, with these faults.
async fn batches<const N: usize>(
    sizes: [usize; N],
    faults: impl IntoIterator<Item = Fault>,
    is_archive: bool,
) -> Vec<Vec<String>> {
    let env = Parts { sink: Faults::script(faults), is_archive, ..eager() }.start();
    let messages = sizes.into_iter().enumerate();
    env.push_all(messages.map(|(index, bytes)| sized(bytes, message(&index.to_string()))));
    env.pass(seconds(1000)).await;
    assert_eq!(env.recorder.recording().acked.len(), N);
    env.recorder.recording().batches.clone()
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_took_too_long_is_parted_where_its_size_may_be_the_cause() {
    const WORTH_IT: usize = 64 * 1024;
    let hung = [Fault::Hung];

    assert_eq!(batches([WORTH_IT, 1], hung, false).await, [["0"], ["1"]]);
    assert_eq!(batches([WORTH_IT / 2, WORTH_IT / 2], hung, false).await, [["0", "1"]]);
    assert_eq!(batches([10, 10], hung, false).await, [["0", "1"]]);
    assert_eq!(batches([WORTH_IT * 9], hung, false).await, [["0"]]);
    assert_eq!(batches([WORTH_IT, WORTH_IT], hung, true).await, [["0", "1"]], "an archive");
    // Each half counts its own bytes.
    let faults = [Fault::Hung, Fault::Hung, Fault::None, Fault::Hung];
    assert_eq!(batches([30 * 1024; 4], faults, false).await, [["0", "1"], ["2", "3"]]);
    let faults = [Fault::Hung, Fault::None, Fault::Hung];
    let parts = [vec!["0", "1"], vec!["2"], vec!["3"]];
    assert_eq!(batches([40 * 1024; 4], faults, false).await, parts);
}

/// A half that is refused again is split again. A batch that cannot be split is not retried
/// forever.
#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_parted_whatever_its_size() {
    let rejected = |count| std::iter::repeat_n(Fault::Permanent, count);

    assert_eq!(batches([10, 10, 10], rejected(1), false).await, [vec!["0"], vec!["1", "2"]]);
    assert_eq!(batches([10, 10, 10], rejected(2), false).await, [["1", "2"]], "0 is a dead letter");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fits_no_batch_is_buried() {
    let env = Parts { max_batch_bytes: 100, ..eager() }.start();

    env.push_all([message("1"), sized(101, message("2")), to("other", sized(101, message("3")))]);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.batches, [["1"]], "and no empty one");
    assert_eq!(recording.dead_lettered, ["2", "3"].map(|id| (id.to_owned(), "too_large")).into());
    assert_eq!(env.metrics.open_batches.get(), 0);
    assert_eq!(env.running.status().batch_memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_no_record_is_acked_and_counted() {
    let env = eager().start();

    env.push_all([bad(Kind::Skipped, message("1"))]);
    env.pass(seconds(1)).await;

    // The recorder reports it as broken, because it knows of no record.
    assert_eq!(env.recorder.recording().acked, ids(["1"]));
    assert_eq!(counted(&env.metrics.skipped, "skipped"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_transform_rejects_is_buried_with_its_reason() {
    let env = Parts { transform: Faults::script([Fault::Permanent]), ..eager() }.start();

    env.push_all(["1", "2"].map(message));
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.dead_lettered, [("1".to_owned(), "rejected")].into());
    assert_eq!(recording.acked, ids(["1", "2"]));
}

/// Only the source may give up the message.
#[tokio::test(start_paused = true)]
async fn the_policy_of_the_subscription_gets_what_is_refused() {
    let letters = Policy::Leave;
    let env = Parts { letters, max_deliveries: 5, max_batch_bytes: 100, ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1")), message("2"), sized(101, message("3"))]);
    env.pass(seconds(60)).await;

    let recording = env.recorder.recording();
    assert_eq!(recording.acked, ids(["2"]));
    assert_eq!(recording.forwarded, ids(["1", "3"]));
    assert_eq!(env.nacked_for("refused"), 5);
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_batch_are_handed_back_each_for_its_reason() {
    let env = Parts { letters: Policy::Leave, max_deliveries: 5, ..eager() }.start();

    let kinds = [(Kind::Refused, "1"), (Kind::Malformed, "2"), (Kind::Malformed, "3")];
    env.push_all(kinds.map(|(kind, id)| bad(kind, message(id))));
    env.pass(seconds(60)).await;

    assert_eq!((env.nacked_for("refused"), env.nacked_for("malformed")), (5, 10));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_by_order_is_acked_and_counted() {
    let env = Parts { letters: Policy::Drop, ..eager() }.start();
    env.recorder.recording().droppable.insert("1".into());

    env.push_all([bad(Kind::Refused, message("1")), message("2")]);
    env.pass(seconds(1)).await;

    let recording = env.recorder.recording();
    assert_eq!((&recording.acked, &recording.broken), (&ids(["1", "2"]), &Vec::new()));
    assert_eq!(counted(&env.metrics.dropped, "refused"), 1);
    assert_eq!(recording.written, ["2"]);
}

/// A source whose client waits must know whether a message that failed is kept somewhere.
#[tokio::test(start_paused = true)]
async fn a_source_learns_how_each_of_its_messages_ended() {
    type Ends = fn(Reason) -> Disposition;
    let policies: [(Policy<Faults>, Ends); 2] = [
        (Policy::Write(Faults::none()), Disposition::DeadLettered),
        (Policy::Drop, Disposition::Dropped),
    ];
    for (letters, refused) in policies {
        let env = Parts { letters, max_batch_bytes: 100, ..eager() }.start();

        env.push_all([message("good"), bad(Kind::Skipped, message("skipped"))]);
        env.push_all([bad(Kind::Refused, message("refused")), sized(101, message("large"))]);
        env.pass(seconds(1)).await;

        let expected = [
            ("good", Disposition::Ack),
            ("skipped", Disposition::Ack),
            ("refused", refused(REFUSED_RECORD)),
            ("large", refused(TOO_LARGE)),
        ];
        let expected = expected.map(|(id, outcome)| (id.to_owned(), outcome));
        assert_eq!(env.recorder.recording().outcomes, expected.into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_written_until_it_is_durable() {
    let letters = Faults::script([Fault::Retryable, Fault::Hung, Fault::LostReply]);
    let env = Parts { letters: Policy::Write(letters), ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(4)).await;
    assert_eq!(env.recorder.recording().acked, ids([]));
    assert!(env.running.status().dead_letter_outage().is_some());
    env.pass(seconds(10)).await;

    assert_eq!(env.recorder.recording().acked, ids(["1"]));
    assert_eq!(counted(&env.metrics.dead_lettered, "refused"), 1);
    assert_eq!(env.running.status().dead_letter_outage(), None);
    assert!(env.running.status().last_dead_letter_failure().is_some(), "it stays after the outage");
    assert_eq!(env.running.status().last_failure(), None);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_cannot_be_written_is_no_ack() {
    let letters = Policy::Write(Faults::always(Fault::Retryable));
    let env = Parts { letters, lease: Some(seconds(60)), ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(53)).await;
    assert_eq!(env.recorder.recording().nacked, ids([]));
    env.pass(seconds(6)).await;

    assert_eq!(env.recorder.recording().nacked, ids(["1"]));
    assert_eq!(env.recorder.recording().acked, ids([]));
    assert_eq!(env.nacked_for("dead_letter_failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_ask_to_stop_ack_nothing() {
    let letters = Policy::Write(Faults::always(Fault::Stopped));
    let env = Parts { letters, ..eager() }.start();

    env.push_all([bad(Kind::Refused, message("1"))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.recorder.recording().acked, ids([]));
    assert!(env.recorder.recording().nacked.contains("1"));
}

/// The original message is gone, so no dead letter can be written.
#[tokio::test(start_paused = true)]
async fn a_batch_without_originals_is_handed_back_when_it_is_refused() {
    let mut parts = Parts { is_archive: true, ..eager() };
    parts.sink = Faults::script([Fault::Permanent]);
    let env = parts.start();

    env.push_all(["1", "2"].map(message));
    env.pass(seconds(60)).await;

    let recording = env.recorder.recording();
    assert_eq!((&recording.nacked, &recording.dead_lettered.len()), (&ids(["1", "2"]), &0));
    assert_eq!(recording.acked, ids(["1", "2"]), "at the next delivery");
    assert_eq!(env.nacked_for("rejected"), 2);
    assert_eq!(env.metrics.repeated.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_messages_that_are_refused_are_handed_back_together() {
    let env = Parts { letters: Policy::Leave, ..eager() }.start();
    let count = 1000;
    env.push_all((0..count).map(|id| bad(Kind::Refused, message(&id.to_string()))));

    env.pass(seconds(2)).await;

    assert_eq!(env.recorder.recording().nacked.len(), count);
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
async fn a_drain_that_is_cut_says_how_much_it_hands_back() {
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
async fn a_message_without_an_ordering_key_is_not_handed_back_with_an_ordered_one() {
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
