//! Tests of each cause for which a batch is written.

use std::time::Duration;

use crate::env::{Parts, keyed, message, seconds, sized, to};
use pipeline::batch::FlushReason;
use pipeline::doubles::{Fault, Faults};

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_at_its_last_message() {
    let mut parts = Parts::default();
    parts.limits.batch.max_messages = 3;
    let env = parts.start();

    env.push_all(["1", "2", "3", "4", "5", "6", "7"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Count, 2)]);
    assert_eq!(env.written(), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!((env.metrics.open_batches.get(), env.metrics.in_flight.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_when_it_holds_its_bytes() {
    let mut parts = Parts::default();
    parts.limits.batch.max_bytes = 20;
    let env = parts.start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Bytes, 1)]);
    assert_eq!(env.written(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_when_the_next_record_does_not_fit() {
    let env = Parts { max_batch_bytes: 25, ..Parts::default() }.start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Bytes, 1)]);
    assert_eq!(env.written(), ["1", "2"]);
    assert_eq!(env.metrics.open_batches.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_when_its_first_record_has_waited_long_enough() {
    let mut parts = Parts::default();
    parts.limits.batch.max_age = seconds(10);
    let env = parts.start();

    env.push_all([message("1")]);
    env.pass(seconds(6)).await;
    env.push_all([message("2")]);
    env.pass(Duration::from_millis(3900)).await;
    assert_eq!(env.written(), Vec::<String>::new());
    env.pass(Duration::from_millis(200)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Age, 1)]);
    assert_eq!(env.written(), ["1", "2"]);
}

/// Each batch has its own clock, and only its age ends a batch here.
#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_hold_up_a_cold_one() {
    let mut parts = Parts::default();
    parts.limits.batch.max_age = seconds(10);
    let env = parts.start();

    env.push_all([to("hot", message("h"))]);
    env.pass(seconds(5)).await;
    env.push_all([to("cold", message("c"))]);
    for turn in 0..99 {
        env.pass(Duration::from_millis(100)).await;
        env.push_all([to("hot", message(&format!("h{turn}")))]);
    }
    let before = env.written();
    env.pass(Duration::from_millis(200)).await;

    assert!(before.contains(&"h".into()) && !before.contains(&"c".into()), "{before:?}");
    assert!(env.written().contains(&"c".into()));
    assert_eq!(env.flush_reasons(), [(FlushReason::Age, 2)]);
}

#[tokio::test(start_paused = true)]
async fn batches_are_written_when_nothing_more_comes() {
    let mut parts = Parts::default();
    parts.limits.batch.max_idle = seconds(2);
    let env = parts.start();

    env.push_all([message("1"), to("other", message("2"))]);
    env.pass(Duration::from_millis(1500)).await;
    env.push_all([message("3")]);
    env.pass(Duration::from_millis(1900)).await;
    assert_eq!(env.written(), Vec::<String>::new());
    env.pass(Duration::from_millis(200)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Idle, 2)]);
    assert_eq!(env.written(), ["1", "3", "2"], "the larger one first");
}

/// A batch that cannot be written yet keeps growing.
#[tokio::test(start_paused = true)]
async fn an_idle_batch_stays_open_while_all_writes_are_taken() {
    let mut parts = Parts { sink: Faults::always(Fault::Hung), ..Parts::default() };
    parts.limits.batch.max_idle = Duration::from_millis(10);
    parts.limits.max_writes = 1;
    let env = parts.start();

    env.push_all([to("a", message("1"))]);
    env.pass(seconds(1)).await;
    env.push_all([to("b", message("2"))]);
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Idle, 1)]);
    assert_eq!(env.metrics.open_batches.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_time_a_batch_takes_what_is_at_hand() {
    let mut parts = Parts::default();
    parts.limits.batch.max_idle = Duration::ZERO;
    let env = parts.start();

    env.push_all(["1", "2", "3"].map(message));
    env.pass(Duration::from_millis(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Idle, 1)]);
    assert_eq!(env.written(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_not_due_for_the_age_of_the_one_before() {
    let mut parts = Parts::default();
    parts.limits.batch.max_messages = 2;
    parts.limits.batch.max_age = seconds(10);
    let env = parts.start();

    env.push_all(["1", "2"].map(message));
    env.pass(seconds(5)).await;
    env.push_all([message("3")]);
    env.pass(seconds(9)).await;
    assert_eq!(env.written(), ["1", "2"]);
    env.pass(seconds(2)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Count, 1), (FlushReason::Age, 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_largest_batch_is_written_when_all_hold_too_much() {
    let mut parts = Parts::default();
    parts.limits.max_batch_memory = 100;
    parts.limits.max_writes = 1;
    let env = parts.start();

    let messages = [("small", "1", 30), ("large", "2", 60), ("small", "3", 10), ("new", "4", 1)];
    env.push_all(messages.map(|(key, id, bytes)| to(key, sized(bytes, message(id)))));
    env.pass(seconds(1)).await;

    assert_eq!(
        env.flush_reasons(),
        [(FlushReason::Memory, 1)],
        "100 bytes are allowed, 101 are not"
    );
    assert_eq!(env.written(), ["2"]);
    assert_eq!(env.running.status().batch_memory(), 41);
}

#[tokio::test(start_paused = true)]
async fn the_largest_batch_is_written_when_somebody_waits_for_room() {
    let mut parts = Parts::default();
    parts.limits.max_messages_in_flight = 3;
    let env = parts.start();

    env.push_all([message("1"), to("other", message("2")), to("other", message("3"))]);
    env.pass(seconds(1)).await;
    assert_eq!(env.flush_reasons(), []);
    env.push_all([message("4")]);
    env.pass(seconds(1)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Memory, 1)]);
    assert_eq!(env.written(), ["2", "3"]);
}

/// The time for two attempts is left: 10 s of a lease of 60 s.
#[tokio::test(start_paused = true)]
async fn a_batch_is_written_before_a_lease_in_it_ends() {
    let env = Parts { lease: Some(seconds(60)), ..Parts::default() }.start();

    env.push_all([message("1")]);
    env.pass(Duration::from_millis(49_900)).await;
    assert_eq!(env.written(), Vec::<String>::new());
    env.pass(Duration::from_millis(200)).await;

    assert_eq!(env.flush_reasons(), [(FlushReason::Lease, 1)]);
    assert_eq!(env.written(), ["1"]);
    assert!(env.recorder.recording().acked.contains("1"));
}

#[tokio::test(start_paused = true)]
async fn open_batches_are_written_at_a_shutdown() {
    let env = Parts::default().start();

    env.push_all([message("1"), to("other", message("2"))]);
    env.pass(seconds(1)).await;
    let (metrics, recorder) = (env.metrics.clone(), env.recorder.clone());
    env.running.shutdown(seconds(10)).await.unwrap();

    let labels = pipeline::metrics::FlushLabels { cause: FlushReason::Shutdown };
    assert_eq!(metrics.flushed.get_or_create(&labels).get(), 2);
    assert_eq!(recorder.recording().acked.len(), 2);
    assert_eq!(metrics.open_batches.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_the_one_before_delays_no_other() {
    let mut parts = Parts { sink: Faults::script([Fault::Hung]), ..Parts::default() };
    parts.limits.batch.max_age = seconds(1);
    let env = parts.start();
    let ordered = |id| keyed("device", message(id));

    // The write of the first batch hangs for five seconds, so the second one is due and waits.
    env.push_all([ordered("1")]);
    env.pass(seconds(1) + Duration::from_millis(100)).await;
    env.push_all([ordered("2")]);
    env.pass(seconds(1) + Duration::from_millis(100)).await;
    env.push_all([to("other", message("3"))]);
    env.pass(seconds(1) + Duration::from_millis(100)).await;

    assert_eq!(env.written(), ["3"]);
}
