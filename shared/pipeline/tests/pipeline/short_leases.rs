//! Tests of leases that are shorter than three attempts, such as those of HTTP requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::env::{Parts, TestEnv, bad, item, message, seconds};
use message::Message;
use pipeline::backoff::Backoff;
use pipeline::batch::FlushReason;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Fault, FaultRates, Faults, FnTransform, Hook, Hooked, Item, Kind, MemoryDeadLetters,
    MemorySink, Recorder,
};
use pipeline::{
    Delivery, Disposition, Error, Limits, Metrics, Pipeline, Settlement, Source, batch,
};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, sleep_until};

/// Builds parts with this lease and the default time-out of an attempt, which is 30 s.
fn with_lease(lease: Duration) -> Parts {
    let mut parts = Parts { lease: Some(lease), has_clients: true, ..Parts::default() };
    parts.limits.attempt_timeout = seconds(30);
    parts.limits.batch.max_age = seconds(2);
    parts
}

/// Asserts that no message was taken back by its source, because its lease had ended.
fn assert_in_time(env: &TestEnv) {
    let recording = env.recorder.recording();
    assert_eq!((recording.expired.len(), recording.late), (0, 0), "{recording:?}");
    assert_eq!(recording.broken, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_message_with_a_short_lease_waits_for_the_age_of_its_batch() {
    let env = with_lease(seconds(10)).start();

    env.push_all([message("1")]);
    env.pass(Duration::from_millis(1_900)).await;
    assert_eq!(env.written(), [""; 0]);
    env.pass(Duration::from_millis(200)).await;

    assert_eq!(env.written(), ["1"]);
    assert_eq!(env.flush_reasons(), [(FlushReason::Age, 1)]);
    assert_in_time(&env);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_after_half_of_a_short_lease() {
    let mut parts = with_lease(seconds(10));
    parts.limits.batch.max_age = seconds(60);
    let env = parts.start();

    env.push_all([message("1")]);
    env.pass(Duration::from_millis(4_900)).await;
    assert_eq!(env.written(), [""; 0]);
    env.pass(Duration::from_millis(200)).await;

    assert_eq!(env.written(), ["1"]);
    assert_eq!(env.flush_reasons(), [(FlushReason::Lease, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_tried_again_within_a_short_lease() {
    let env =
        Parts { sink: Faults::script([Fault::Retryable; 5]), ..with_lease(seconds(10)) }.start();

    env.push_all([message("1")]);
    env.pass(seconds(9)).await;

    assert_eq!((env.written(), env.retried("write")), (vec!["1".to_owned()], 5));
    assert!(env.recorder.recording().nacked.is_empty());
    assert_in_time(&env);
}

/// Its source can still tell a client that the message is not safe.
#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_written_is_nacked_before_its_short_lease_ends() {
    for fault in [Fault::Retryable, Fault::Hung] {
        let env = Parts { sink: Faults::always(fault), ..with_lease(seconds(10)) }.start();

        env.push_all([message("1")]);
        env.pass(Duration::from_millis(7_900)).await;
        assert!(env.recorder.recording().nacked.is_empty(), "{fault:?}");
        env.pass(Duration::from_millis(2_000)).await;

        assert!(env.recorder.recording().nacked.contains("1"), "{fault:?}");
        assert_eq!(env.nacked_for("lease"), 1, "{fault:?}");
        assert_in_time(&env);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_transform_or_dead_letter_hangs_is_nacked_before_its_short_lease_ends() {
    let hung = || Faults::always(Fault::Hung);
    let transform = Parts { transform: hung(), ..with_lease(seconds(10)) };
    let dead_letter = Parts { dead_letters: Policy::Write(hung()), ..with_lease(seconds(10)) };

    for (parts, reason) in [(transform, "transform"), (dead_letter, "dead_letter_failed")] {
        let env = parts.start();
        env.push_all([bad(Kind::Refused, message("1"))]);
        env.pass(Duration::from_millis(9_900)).await;

        assert_eq!(env.nacked_for(reason), 1);
        assert_in_time(&env);
    }
}

/// A source of messages with different leases. It redelivers nothing.
struct Leased {
    waiting: VecDeque<(&'static str, Option<Duration>)>,
    /// Time between two messages.
    pause: Duration,
    due: Instant,
    start: Instant,
    ends: TimedOutcomes,
}

/// Time and outcome of each settled message.
type TimedOutcomes = Arc<Mutex<Vec<(&'static str, u64, Disposition)>>>;

impl Source for Leased {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        sleep_until(self.due).await;
        let Some((id, lease)) = self.waiting.pop_front() else {
            return std::future::pending().await;
        };
        self.due += self.pause;
        let (start, ends) = (self.start, Arc::clone(&self.ends));
        let settle = move |disposition| {
            ends.lock().unwrap().push((id, start.elapsed().as_secs(), disposition));
        };
        let lease_end = lease.map(|lease| Instant::now() + lease);
        let settlement = Settlement::new(settle, lease_end).with_client();
        Ok(Some(Delivery::new(message(id), settlement)))
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// A destination that cannot be reached until this time.
struct CountedOutage(Instant, Arc<AtomicUsize>);

impl Hook for CountedOutage {
    async fn before_write(&self, _: &[Item]) {
        self.1.fetch_add(1, Ordering::Relaxed);
        sleep_until(self.0).await;
    }
}

/// Writes messages to a destination that is away for this many seconds. There is one write at a time.
/// Returns the ends of the messages, the attempts, and the ids that were written.
async fn ends_of(
    waiting: impl IntoIterator<Item = (&'static str, Option<Duration>)>,
    away: u64,
    pause: Duration,
    max_messages: usize,
) -> (Vec<(&'static str, u64, Disposition)>, usize, Vec<String>) {
    let (recorder, start, ends) = (Recorder::default(), Instant::now(), TimedOutcomes::default());
    let attempts = Arc::<AtomicUsize>::default();
    let source = Leased {
        waiting: waiting.into_iter().collect(),
        pause,
        due: start,
        start,
        ends: Arc::clone(&ends),
    };
    let sink = MemorySink::new(recorder.clone(), Faults::none(), 1000);
    let pipeline = Pipeline {
        service: "test",
        source,
        transform: FnTransform(item, Faults::none()),
        sink: Hooked(sink, CountedOutage(start + seconds(away), Arc::clone(&attempts))),
        dead_letters: Policy::<MemoryDeadLetters>::Drop,
        limits: Limits {
            lanes: 1,
            max_writes: 1,
            batch: batch::BatchLimits {
                max_messages,
                max_idle: seconds(1),
                ..batch::BatchLimits::default()
            },
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };
    let running = pipeline.start();
    sleep(seconds(200)).await;
    running.shutdown(seconds(5)).await.unwrap();
    let ends = ends.lock().unwrap().clone();
    let written = recorder.recording().written.clone();
    (ends, attempts.load(Ordering::Relaxed), written)
}

/// The connection of MQTT would end at a nack, so an HTTP request must not cause one.
#[tokio::test(start_paused = true)]
async fn a_short_lease_neither_disturbs_a_write_nor_nacks_the_others_of_its_batch() {
    let messages = [
        ("mqtt", None),
        ("http", Some(seconds(10))),
        ("slow http", Some(seconds(15))),
        // Longer than three attempts.
        ("patient http", Some(seconds(150))),
    ];

    let (ends, attempts, written) = ends_of(messages, 20, Duration::ZERO, 1000).await;

    let nacks = [("http", 9, Disposition::Nack), ("slow http", 14, Disposition::Nack)];
    assert_eq!(ends[..2], nacks);
    assert_eq!(ends[2..], [("mqtt", 20, Disposition::Ack), ("patient http", 20, Disposition::Ack)]);
    let all = ["mqtt", "http", "slow http", "patient http"];
    assert_eq!((attempts, written), (1, all.map(str::to_owned).into()));
}

/// Clients may have waited for different times when their messages come into one batch.
#[tokio::test(start_paused = true)]
async fn a_client_that_waits_no_longer_does_not_nack_the_messages_of_others() {
    let messages = [("1", Some(seconds(10))), ("2", Some(seconds(15)))];

    let (ends, attempts, written) = ends_of(messages, 12, Duration::ZERO, 1000).await;

    assert_eq!(ends, [("1", 9, Disposition::Nack), ("2", 12, Disposition::Ack)]);
    assert_eq!((attempts, written), (1, ["1", "2"].map(str::to_owned).into()));
}

/// A lease below two seconds, as that of the last items of a batch, is that of a client, too.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_almost_over_does_not_disturb_the_others() {
    let messages = [("mqtt", None), ("http", Some(Duration::from_millis(1900)))];

    let (ends, attempts, written) = ends_of(messages, 20, Duration::ZERO, 1000).await;

    assert_eq!(ends, [("http", 1, Disposition::Nack), ("mqtt", 20, Disposition::Ack)]);
    assert_eq!((attempts, written[0].as_str()), (1, "mqtt"));
}

#[tokio::test(start_paused = true)]
async fn a_write_ends_when_nobody_waits_for_it() {
    let messages = [("1", Some(seconds(10))), ("2", Some(seconds(10)))];

    let (ends, attempts, written) = ends_of(messages, 20, Duration::ZERO, 1000).await;

    assert_eq!(ends, [("1", 9, Disposition::Nack), ("2", 9, Disposition::Nack)]);
    assert_eq!((attempts, written), (1, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_in_a_batch_that_waits_for_a_write_ends_in_time() {
    let messages = [("mqtt", None), ("http", Some(seconds(10)))];

    // The second message is in an open batch, or in a closed one.
    let open = ends_of(messages, 20, seconds(2), 1000).await;
    let closed = ends_of(messages, 20, Duration::ZERO, 1).await;

    for ((ends, attempts, written), nacked_at) in [(open, 11), (closed, 9)] {
        assert_eq!(ends, [("http", nacked_at, Disposition::Nack), ("mqtt", 20, Disposition::Ack)]);
        assert_eq!((attempts, written), (1, vec!["mqtt".to_owned()]), "nobody waits for the other");
    }
}

/// The first half of a batch is written while the second one waits.
#[tokio::test(start_paused = true)]
async fn a_short_lease_in_a_part_that_waits_ends_in_time() {
    let env = Parts {
        sink: Faults::script([Fault::Permanent, Fault::Hung]),
        lease: Some(seconds(10)),
        has_clients: true,
        ..with_lease(seconds(10))
    }
    .start();

    env.push_all(["1", "2"].map(message));
    env.pass(Duration::from_millis(9_900)).await;

    assert_eq!(env.nacked_for("lease"), 2);
    assert_in_time(&env);
}

fn rates() -> impl Strategy<Value = FaultRates> {
    (0..60_u8, 0..20_u8, 0..20_u8, 0..9_000_u64).prop_map(
        |(retryable, lost_replies, hung, delay)| {
            let max_delay = Duration::from_millis(delay);
            FaultRates { retryable, lost_replies, hung, max_delay, ..FaultRates::default() }
        },
    )
}

proptest! {
    #[test]
    fn each_message_is_settled_before_its_short_lease_ends(
        lease in 2_000..90_000_u64,
        max_age in 0..100_000_u64,
        rates in (rates(), rates(), rates()),
        seed in any::<u64>(),
        kinds in proptest::collection::vec(prop_oneof![3 => Just(Kind::Good), 1 => Just(Kind::Refused)], 1..8),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
            let faults = |rates| Faults::new(rates, seed);
            let mut parts = Parts {
                transform: faults(rates.0),
                sink: faults(rates.1),
                dead_letters: Policy::Write(faults(rates.2)),
                ..with_lease(Duration::from_millis(lease))
            };
            parts.limits.batch.max_age = Duration::from_millis(max_age);
            parts.limits.retry = Backoff { min: Duration::from_millis(100), max: seconds(30) };
            let env = parts.start();
            let message = |(id, kind): (usize, &Kind)| -> Message {
                let message = message(&id.to_string());
                if *kind == Kind::Good { message } else { bad(*kind, message) }
            };

            env.push_all(kinds.iter().enumerate().map(message));
            env.pass(Duration::from_millis(lease * 3)).await;

            assert_in_time(&env);
        });
    }
}
