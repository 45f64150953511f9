//! Tests with slow destinations. At any constant speed everything arrives, at about that speed, and
//! hardly anything is sent twice.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    FaultRates, Faults, Hook, Hooked, Item, Kind, MemoryDeadLetters, MemorySink, MemorySource,
    Recorder,
};
use pipeline::{
    DeadLetter, DeadLetters, Error, Limits, Metrics, Pipeline, Recovery, Step, Transform, batch,
};
use tokio::time::{Instant, sleep};

pipeline::reasons! {
    /// Reasons of these tests.
    OF_THE_TESTS {
        /// The transform refuses the message.
        NO_ROUTE = "no_route";
    }
}

/// A link that all uploads share. A cancelled upload stops.
#[derive(Clone)]
struct Link {
    bytes_a_second: usize,
    uploaded: Arc<AtomicUsize>,
    queue: Arc<tokio::sync::Mutex<()>>,
}

impl Link {
    fn new(bytes_a_second: usize) -> Self {
        Self { bytes_a_second, uploaded: Arc::default(), queue: Arc::default() }
    }

    async fn upload(&self, bytes: usize) {
        const PACKET: usize = 4096;
        for start in (0..bytes).step_by(PACKET) {
            let size = PACKET.min(bytes - start);
            let _one_at_a_time = self.queue.lock().await;
            sleep(Duration::from_secs_f64(size as f64 / self.bytes_a_second as f64)).await;
            self.uploaded.fetch_add(size, Ordering::Relaxed);
        }
    }
}

impl Hook for Link {
    async fn before_write(&self, batch: &[Item]) {
        self.upload(batch.iter().map(|item| item.bytes).sum()).await;
    }
}

struct Pass;

impl Transform for Pass {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        let (id, bytes) = (message.id.clone(), message.data.len());
        Ok(Step::Pass(Item { key: "k".into(), id, bytes, kind: Kind::Good }))
    }
}

fn source(messages: usize, bytes: usize, recorder: &Recorder) -> MemorySource {
    let messages = (0..messages).map(|index| {
        let mut message = Message::new(vec![0; bytes]);
        message.id = index.to_string();
        message
    });
    MemorySource::new(messages, recorder.clone())
}

fn faultless() -> Faults {
    Faults::new(FaultRates::default(), 0)
}

/// Sends messages over a link with the default limits. Returns two ratios: the time taken to the
/// time that the link needs, and the bytes uploaded to the bytes of the messages.
async fn send(messages: usize, bytes: usize, bytes_a_second: usize) -> (f64, f64) {
    let recorder = Recorder::default();
    let link = Link::new(bytes_a_second);
    let pipeline = Pipeline {
        service: "test",
        source: source(messages, bytes, &recorder),
        transform: Pass,
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 9_000_000), link.clone()),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: Limits {
            lanes: 2,
            batch: batch::BatchLimits {
                max_age: Duration::from_millis(10),
                ..batch::BatchLimits::default()
            },
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };
    let start = Instant::now();
    let mut running = pipeline.start();
    assert!(running.ended().await.is_none());
    let recording = recorder.recording();
    assert_eq!(recording.acked.len(), messages);
    assert!(recording.nacked.is_empty());
    assert_eq!(recording.written.len(), messages, "nothing is written twice");
    let total = (messages * bytes) as f64;
    let ideal = total / bytes_a_second as f64;
    let uploaded = link.uploaded.load(Ordering::Relaxed) as f64;
    (start.elapsed().as_secs_f64() / ideal, uploaded / total)
}

#[tokio::test(start_paused = true)]
async fn large_payloads_over_a_thin_link_arrive_at_its_speed() {
    for bytes_a_second in [20_000, 50_000, 100_000, 140_000, 1_000_000] {
        let (time, uploaded) = send(60, 1_000_000, bytes_a_second).await;
        println!("{bytes_a_second} B/s: {time:.2} times the time, {uploaded:.2} times the bytes");
        assert!(time < 2.0 && uploaded < 2.0, "{bytes_a_second} B/s: {time} {uploaded}");
    }
}

#[tokio::test(start_paused = true)]
async fn small_payloads_over_a_thin_link_arrive_at_its_speed() {
    for bytes_a_second in [5_000, 20_000, 100_000] {
        let (time, uploaded) = send(5_000, 1_000, bytes_a_second).await;
        println!("{bytes_a_second} B/s: {time:.2} times the time, {uploaded:.2} times the bytes");
        assert!(time < 2.0 && uploaded < 2.0, "{bytes_a_second} B/s: {time} {uploaded}");
    }
}

/// Dead letters behind a link.
struct SlowDeadLetters(MemoryDeadLetters, Link);

impl DeadLetters for SlowDeadLetters {
    async fn write(&self, dead_letter: &DeadLetter<'_>, limit: Duration) -> Result<(), Error> {
        self.1.upload(dead_letter.message.data.len()).await;
        self.0.write(dead_letter, limit).await
    }
}

struct RefuseAll;

impl Transform for RefuseAll {
    type Record = Item;

    async fn apply(&self, _: &Message) -> Result<Step<Item>, Error> {
        Err(Recovery::Reject(NO_ROUTE).because("route", "no route"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_dead_letters_over_a_thin_link_arrives_at_its_speed() {
    const DEAD_LETTERS: usize = 600;
    for (bytes, bytes_a_second) in [(100_000, 20_000), (1_000, 5_000)] {
        let recorder = Recorder::default();
        let link = Link::new(bytes_a_second);
        let pipeline = Pipeline {
            service: "test",
            source: source(DEAD_LETTERS, bytes, &recorder),
            transform: RefuseAll,
            sink: MemorySink::new(recorder.clone(), faultless(), 1),
            dead_letters: Policy::Write(SlowDeadLetters(
                MemoryDeadLetters(recorder.clone(), faultless()),
                link.clone(),
            )),
            limits: Limits { lanes: 2, ..Limits::default() },
            metrics: Metrics::default(),
        };
        let total = (DEAD_LETTERS * bytes) as f64;
        let ideal = Duration::from_secs_f64(total / bytes_a_second as f64);

        let ended = tokio::time::timeout(ideal * 2, pipeline.start().ended()).await;

        let uploaded = link.uploaded.load(Ordering::Relaxed) as f64 / total;
        let dead_lettered = recorder.recording().dead_lettered.len();
        assert!(
            matches!(ended, Ok(None)),
            "{bytes} bytes: {dead_lettered} letters, {uploaded:.2} times"
        );
        assert_eq!(dead_lettered, DEAD_LETTERS);
        assert!(uploaded < 2.0, "{bytes} bytes: {uploaded:.2} times the bytes");
        assert!(recorder.recording().nacked.is_empty());
    }
}

/// Lets the first attempt hang forever.
#[derive(Clone, Default)]
struct Swallow(Arc<AtomicUsize>);

impl Swallow {
    async fn pass(&self) {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            std::future::pending::<()>().await;
        }
    }
}

impl Hook for Swallow {
    fn attempt_timeout(&self, longest: Duration) -> Duration {
        longest.min(Duration::from_secs(60))
    }

    async fn before_write(&self, _batch: &[Item]) {
        self.pass().await;
    }
}

/// Dead letters whose first attempt hangs forever.
struct Swallowed(MemoryDeadLetters, Swallow);

impl DeadLetters for Swallowed {
    async fn write(&self, dead_letter: &DeadLetter<'_>, limit: Duration) -> Result<(), Error> {
        self.1.pass().await;
        self.0.write(dead_letter, limit).await
    }
}

/// Returns the seconds until a message is settled whose first attempt hangs. The time-out of an
/// attempt is 150 s.
async fn pass_one<T: Transform<Record = Item>>(
    transform: T,
    write: Swallow,
    dead_letter: Swallow,
) -> u64 {
    let recorder = Recorder::default();
    let pipeline = Pipeline {
        service: "test",
        source: source(1, 1, &recorder),
        transform,
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 9_000_000), write),
        dead_letters: Policy::Write(Swallowed(
            MemoryDeadLetters(recorder.clone(), faultless()),
            dead_letter,
        )),
        limits: Limits { attempt_timeout: Duration::from_secs(150), ..Limits::default() },
        metrics: Metrics::default(),
    };
    let start = Instant::now();
    assert!(pipeline.start().ended().await.is_none());
    let recording = recorder.recording();
    assert_eq!((recording.acked.len(), recording.nacked.len()), (1, 0));
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_takes_what_the_sink_says_and_a_dead_letter_half_a_minute() {
    let through = || Swallow(Arc::new(AtomicUsize::new(1)));

    let write = pass_one(Pass, Swallow::default(), through()).await;
    let dead_letter = pass_one(RefuseAll, through(), Swallow::default()).await;

    assert!((60..70).contains(&write), "{write} s");
    assert!((30..40).contains(&dead_letter), "{dead_letter} s");
}

/// Makes a batch of its own of each message.
struct Spread;

impl Transform for Spread {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        let id = message.id.clone();
        Ok(Step::Pass(Item { key: id.clone(), id, bytes: 10, kind: Kind::Good }))
    }
}

/// A destination that takes a second for each write.
struct Steady;

impl Hook for Steady {
    async fn before_write(&self, _batch: &[Item]) {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Takes a millisecond of the processor for each message.
struct Labor;

impl Transform for Labor {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        let _yields = tokio::time::advance(Duration::from_millis(1)).now_or_never();
        Pass.apply(message).await
    }
}

/// A destination whose writes must be polled 20 times. Keeps the longest time between two polls.
#[derive(Clone, Default)]
struct Polled(Arc<Mutex<Duration>>);

impl Hook for Polled {
    async fn before_write(&self, _batch: &[Item]) {
        let (mut polls, mut last) = (0, Instant::now());
        poll_fn(|context| {
            let mut longest = self.0.lock().unwrap();
            *longest = longest.max(last.elapsed());
            last = Instant::now();
            polls += 1;
            context.waker().wake_by_ref();
            if polls < 20 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_while_transforms_take_all_of_the_processor() {
    let (recorder, polled) = (Recorder::default(), Polled::default());
    let pipeline = Pipeline {
        service: "test",
        source: source(5000, 10, &recorder),
        transform: Labor,
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 9_000_000), polled.clone()),
        dead_letters: Policy::<MemoryDeadLetters>::Drop,
        limits: Limits { lanes: 1, max_writes: 1, ..Limits::default() },
        metrics: Metrics::default(),
    };

    assert!(pipeline.start().ended().await.is_none());

    let longest = *polled.0.lock().unwrap();
    assert!((5..20).contains(&longest.as_millis()), "{longest:?}");
}

/// Within a lease, 60 of the 400 batches can be written.
#[tokio::test(start_paused = true)]
async fn more_batches_than_can_be_written_within_a_lease_arrive_at_the_speed_of_the_sink() {
    let recorder = Recorder::default();
    let lease = Duration::from_secs(60);
    let pipeline = Pipeline {
        service: "test",
        source: source(400, 10, &recorder).with_lease(lease).with_ending_leases(),
        transform: Spread,
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 100), Steady),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: Limits {
            lanes: 1,
            max_writes: 1,
            attempt_timeout: Duration::from_secs(5),
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };
    let running = pipeline.start();

    sleep(Duration::from_secs(600)).await;

    let acked = recorder.recording().acked.len();
    assert_eq!(acked, 400, "{} were written", recorder.recording().written.len());
    running.shutdown(Duration::from_secs(5)).await.unwrap();
}
