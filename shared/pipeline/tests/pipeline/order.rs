//! Tests of the order per key when messages must be redelivered. All later messages of the key are
//! nacked too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use message::Message;
use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    FaultRates, Faults, Hook, Hooked, Item, Kind, MemoryDeadLetters, MemorySink, Recorder,
};
use pipeline::{
    Delivery, Disposition, Error, Limits, Metrics, Pipeline, Recovery, Settlement, Source, Step,
    Transform, batch,
};
use tokio::time::{Instant, sleep, sleep_until};

const LEASE: Duration = Duration::from_secs(60);
/// Time for which a source keeps a message whose nack was lost.
const RETURN_DELAY: Duration = Duration::from_secs(30);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn message(id: &str) -> Message {
    let mut message = Message::new(vec![b'x'; 10]);
    message.id = id.into();
    message.ordering_key = "device".into();
    message
}

/// A subscription with message ordering.
///
/// A nacked message is redelivered. So are all later messages of its key that were already
/// delivered, in order. No other message of the key comes before it, unless its nack was lost.
struct Ordered {
    start: Instant,
    due: VecDeque<(Duration, Message)>,
    unsettled: Arc<Mutex<Unsettled>>,
}

#[derive(Default)]
struct Unsettled {
    /// Messages that were delivered but not acked, by their position.
    held: BTreeMap<usize, Message>,
    /// Positions to deliver again.
    again: VecDeque<usize>,
    delivered: usize,
    /// True until a nack was lost.
    loses_nack: bool,
    /// Ids of all deliveries.
    deliveries: Vec<String>,
    /// Position whose nack was lost, and the time of its redelivery.
    kept: Option<(Instant, usize)>,
}

impl Unsettled {
    /// Redelivers this position and all later ones.
    fn return_from(&mut self, place: usize) {
        let first = self.again.front().map_or(place, |next| place.min(*next));
        self.again = self.held.range(first..).map(|(place, _)| *place).collect();
    }
}

impl Ordered {
    fn new(due: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        Self {
            start: Instant::now(),
            due: due.into_iter().map(|(at, id)| (seconds(at), message(id))).collect(),
            unsettled: Arc::default(),
        }
    }

    /// Makes the first nack get lost on its way to the source.
    fn with_a_lost_nack(self) -> Self {
        self.unsettled.lock().unwrap().loses_nack = true;
        self
    }

    fn next(&mut self) -> Option<(usize, Message)> {
        let mut unsettled = self.unsettled.lock().unwrap();
        if let Some((_, place)) = unsettled.kept.take_if(|(until, _)| *until <= Instant::now()) {
            unsettled.return_from(place);
        }
        if let Some(place) = unsettled.again.pop_front() {
            return unsettled.held.get(&place).map(|message| (place, message.clone()));
        }
        let (after, _) = self.due.front()?;
        if self.start + *after > Instant::now() {
            return None;
        }
        let (_, message) = self.due.pop_front()?;
        let place = unsettled.delivered;
        unsettled.delivered += 1;
        unsettled.held.insert(place, message.clone());
        Some((place, message))
    }
}

impl Source for Ordered {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        let (place, message) = loop {
            match self.next() {
                Some(next) => break next,
                None => sleep(Duration::from_millis(100)).await,
            }
        };
        self.unsettled.lock().unwrap().deliveries.push(message.id.clone());
        let unsettled = Arc::clone(&self.unsettled);
        let settle = move |disposition| {
            let mut unsettled = unsettled.lock().unwrap();
            if disposition != Disposition::Nack {
                unsettled.held.remove(&place);
            } else if std::mem::take(&mut unsettled.loses_nack) {
                unsettled.kept = Some((Instant::now() + RETURN_DELAY, place));
            } else {
                unsettled.return_from(place);
            }
        };
        let settlement = Settlement::new(settle, Some(Instant::now() + LEASE));
        Ok(Some(Delivery::new(message, settlement.with_return_delay(RETURN_DELAY))))
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// A transform that fails until a given time, for all messages or for the one with this id.
struct Away {
    until: Instant,
    only: Option<&'static str>,
}

impl Transform for Away {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        if Instant::now() < self.until && self.only.is_none_or(|id| message.id == id) {
            return Err(Recovery::Retry.because("look up", "away"));
        }
        let id = message.id.clone();
        Ok(Step::Pass(Item { key: "batch".into(), id, bytes: 10, kind: Kind::Good }))
    }
}

/// A destination that cannot be reached until this time.
struct OutageUntil(Instant);

impl Hook for OutageUntil {
    async fn before_write(&self, _: &[Item]) {
        sleep_until(self.0).await;
    }
}

/// Runs a source of one key through an outage of the transform and one of the sink. Returns the
/// written ids, in order.
async fn written(source: Ordered, transform_back: u64, sink_back: u64) -> Vec<String> {
    let away = Away { until: source.start + seconds(transform_back), only: None };
    written_with(source, away, sink_back).await
}

async fn written_with(source: Ordered, transform: Away, sink_back: u64) -> Vec<String> {
    let (recorder, start) = (Recorder::default(), source.start);
    let faultless = || Faults::new(FaultRates::default(), 0);
    let pipeline = Pipeline {
        service: "test",
        source,
        transform,
        sink: Hooked(
            MemorySink::new(recorder.clone(), faultless(), 100),
            OutageUntil(start + seconds(sink_back)),
        ),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: Limits {
            lanes: 1,
            batch: batch::BatchLimits { max_messages: 2, ..batch::BatchLimits::default() },
            attempt_timeout: seconds(1),
            retry: Backoff { min: Duration::from_millis(10), max: seconds(1) },
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };
    let running = pipeline.start();
    sleep(seconds(300)).await;
    running.shutdown(seconds(5)).await.unwrap();
    recorder.recording().written.clone()
}

/// Returns the order in which messages became durable for the first time.
fn first_times(mut written: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    written.retain(|id| seen.insert(id.clone()));
    written
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_look_up_longer_than_a_lease_keeps_the_order() {
    let source = Ordered::new([(0, "1"), (10, "2"), (20, "3"), (66, "4")]);

    let written = written(source, 65, 0).await;

    assert_eq!(first_times(written), ["1", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_nack_was_lost_is_not_overtaken_by_those_that_come_before_it() {
    let source = Ordered::new([(0, "1"), (10, "2"), (20, "3"), (66, "4")]).with_a_lost_nack();

    let written = written(source, 65, 0).await;

    assert_eq!(first_times(written), ["1", "2", "3", "4"]);
}

/// Each delivery uses up an attempt, and Pub/Sub moves a message without attempts left to its dead
/// letters.
#[tokio::test(start_paused = true)]
async fn a_message_behind_one_that_stays_away_uses_up_few_attempts() {
    let mut source = Ordered::new([(0, "1"), (10, "2"), (20, "3"), (66, "4")]).with_a_lost_nack();
    source.due.iter_mut().for_each(|(_, message)| message.counts_attempts = true);
    let unsettled = Arc::clone(&source.unsettled);

    let written = written(source, 65, 0).await;

    let unsettled = unsettled.lock().unwrap();
    for id in ["1", "2", "3", "4"] {
        assert!(written.iter().any(|one| one == id), "{written:?}");
        let deliveries = unsettled.deliveries.iter().filter(|one| *one == id).count();
        assert!(deliveries <= 4, "{id} was delivered {deliveries} times");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_sink_longer_than_a_lease_keeps_the_order() {
    // Two messages are in the batch being written, two in one that waits, one in an open batch. Two
    // come later.
    let due = [(0, "1"), (10, "2"), (10, "3"), (10, "4"), (20, "5"), (55, "6"), (61, "7")];

    let written = written(Ordered::new(due), 0, 65).await;

    assert_eq!(first_times(written), ["1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test(start_paused = true)]
async fn two_outages_in_a_row_keep_the_order() {
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];

    let written = written(Ordered::new((0..).step_by(9).zip(ids)), 63, 130).await;

    assert_eq!(first_times(written), ids);
}

#[tokio::test(start_paused = true)]
async fn an_open_batch_behind_one_that_is_nacked_keeps_the_order() {
    let written = written(Ordered::new([(0, "1"), (10, "2")]), 0, 65).await;

    assert_eq!(first_times(written), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_transformed_behind_one_that_is_nacked_keeps_the_order() {
    let source = Ordered::new([(0, "1"), (10, "2")]);
    let away = Away { until: source.start + seconds(62), only: Some("2") };

    let written = written_with(source, away, 65).await;

    assert_eq!(first_times(written), ["1", "2"]);
}

/// A source that delivers messages whose leases began earlier, as a source that reads ahead does.
struct ReadAhead {
    /// Time of the delivery, key and id, and end of the lease of each message; times in seconds.
    due: VecDeque<(u64, [&'static str; 2], u64)>,
    start: Instant,
    dispositions: TimedDispositions,
}

/// Time and disposition of each settled message.
type TimedDispositions = Arc<Mutex<Vec<(Duration, &'static str, Disposition)>>>;

impl Source for ReadAhead {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        let Some((after, [key, id], lease_end)) = self.due.front().copied() else {
            return std::future::pending().await;
        };
        sleep_until(self.start + seconds(after)).await;
        self.due.pop_front();
        let (start, dispositions) = (self.start, Arc::clone(&self.dispositions));
        let settle = move |disposition| {
            dispositions.lock().unwrap().push((start.elapsed(), id, disposition));
        };
        let settlement = Settlement::new(settle, Some(start + seconds(lease_end)));
        let mut message = message(id);
        message.ordering_key = key.into();
        Ok(Some(Delivery::new(message, settlement)))
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

async fn written_of(due: impl IntoIterator<Item = (u64, [&'static str; 2], u64)>) -> Vec<String> {
    outcome_of(due).await.0
}

/// Returns the written ids and all dispositions, both in order.
async fn outcome_of(
    due: impl IntoIterator<Item = (u64, [&'static str; 2], u64)>,
) -> (Vec<String>, Vec<(Duration, &'static str, Disposition)>) {
    let (recorder, start, dispositions) =
        (Recorder::default(), Instant::now(), TimedDispositions::default());
    let faultless = || Faults::new(FaultRates::default(), 0);
    let pipeline = Pipeline {
        service: "test",
        source: ReadAhead {
            due: due.into_iter().collect(),
            start,
            dispositions: Arc::clone(&dispositions),
        },
        transform: Away { until: start, only: None },
        sink: MemorySink::new(recorder.clone(), faultless(), 100),
        dead_letters: Policy::<MemoryDeadLetters>::Drop,
        limits: Limits { lanes: 1, attempt_timeout: seconds(1), ..Limits::default() },
        metrics: Metrics::default(),
    };
    let running = pipeline.start();
    sleep(seconds(100)).await;
    running.shutdown(seconds(5)).await.unwrap();
    let dispositions = dispositions.lock().unwrap().clone();
    (recorder.recording().written.clone(), dispositions)
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_lease_ended_before_it_came_here_is_not_overtaken() {
    // Pub/Sub redelivers message 1, and then everything of its key behind it.
    let due = [
        (70, ["device", "1"], 60),
        (70, ["device", "2"], 130),
        (75, ["device", "1"], 135),
        (75, ["device", "2"], 135),
    ];

    assert_eq!(written_of(due).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_lease_ended_before_it_came_here_takes_no_others_with_it() {
    let due = [(70, ["a", "1"], 60), (70, ["b", "2"], 130), (75, ["a", "1"], 135)];

    assert_eq!(written_of(due).await, ["2", "1"]);
}

/// If they were nacked at once, the source would redeliver them at once, again and again.
#[tokio::test(start_paused = true)]
async fn messages_are_held_for_half_a_second_before_they_are_nacked_in_order() {
    let (written, dispositions) = outcome_of([(70, ["a", "1"], 60), (70, ["b", "2"], 60)]).await;

    let settled: Vec<_> =
        dispositions.iter().map(|(_, id, disposition)| (*id, *disposition)).collect();
    assert_eq!(settled, [("1", Disposition::Nack), ("2", Disposition::Nack)]);
    for (at, ..) in dispositions {
        assert!((70_500..=70_510).contains(&at.as_millis()), "{at:?}");
    }
    assert_eq!(written, [""; 0]);
}
