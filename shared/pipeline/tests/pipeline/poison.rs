//! Tests that no single message can end the process. Neither a panic in a stage nor dead letters
//! that nobody accepts may do so.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Broker, Call, FaultRates, Faults, Hook, Hooked, Item, Kind, MemoryDeadLetters, MemorySink,
    MemorySource, Recorder,
};
use pipeline::metrics::ReasonLabel;
use pipeline::{
    DeadLetter, DeadLetters, Error, Limits, Metrics, Pipeline, PushError, Recovery, Refusal, Sink,
    Step, Transform, batch,
};
use tokio::time::{Instant, timeout};

pipeline::reasons! {
    /// Reasons of these tests.
    OF_THE_TESTS {
        /// The transform refuses the message.
        NO_ROUTE = "no_route";
        /// The dead letters refuse the message.
        PUBLISH_INVALID = "publish_invalid";
    }
}

/// Stage in which messages whose ids begin with `bad` panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Transform,
    TransformAfterAWait,
    Sink(Call),
}

const STAGES: [Stage; 7] = [
    Stage::Transform,
    Stage::TransformAfterAWait,
    Stage::Sink(Call::Key),
    Stage::Sink(Call::Open),
    Stage::Sink(Call::Push),
    Stage::Sink(Call::Encode),
    Stage::Sink(Call::Write),
];

fn panic_over(id: &str, here: Stage, bad: Stage) {
    assert!(!id.starts_with("bad") || here != bad, "a bug in {here:?}");
}

struct PanickingTransform(Stage);

impl Transform for PanickingTransform {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        panic_over(&message.id, Stage::Transform, self.0);
        tokio::task::yield_now().await;
        panic_over(&message.id, Stage::TransformAfterAWait, self.0);
        let is_for_open = self.0 == Stage::Sink(Call::Open) && message.id.starts_with("bad");
        let key = if is_for_open { "bad" } else { "key" };
        Ok(Step::Pass(Item { key: key.into(), id: message.id.clone(), bytes: 1, kind: Kind::Good }))
    }
}

impl Hook for Stage {
    fn called(&self, call: Call, name: &str) {
        panic_over(name, Self::Sink(call), *self);
    }
}

fn message(id: &str) -> Message {
    let mut message = Message::new("data");
    message.id = id.into();
    message
}

/// One lane that waits for all messages before it writes.
fn one_batch() -> Limits {
    let max_idle = Duration::from_millis(100);
    let batch = batch::BatchLimits { max_idle, ..batch::BatchLimits::default() };
    Limits { lanes: 1, batch, ..Limits::default() }
}

fn faultless() -> Faults {
    Faults::new(FaultRates::default(), 0)
}

#[tokio::test(start_paused = true)]
async fn a_message_over_which_a_stage_panics_is_a_dead_letter() {
    for stage in STAGES {
        let recorder = Recorder::default();
        let metrics = Metrics::default();
        let ids = ["1", "2", "bad", "3", "4"];
        let pipeline = Pipeline {
            service: "test",
            source: MemorySource::new(ids.map(message), recorder.clone()),
            transform: PanickingTransform(stage),
            sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 100), stage),
            dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
            limits: Limits { lanes: 1, ..Limits::default() },
            metrics: metrics.clone(),
        };

        let ended = pipeline.start().ended().await;

        assert!(ended.is_none(), "{stage:?}: {ended:?}");
        let recording = recorder.recording();
        assert_eq!(recording.acked.len(), 5, "{stage:?}");
        assert_eq!(recording.dead_lettered.get("bad"), Some(&"panicked"), "{stage:?}");
        assert!(!recording.written.contains(&"bad".to_owned()), "{stage:?}");
        assert_eq!(recording.dead_lettered.len(), 1, "{stage:?}: its neighbours are written");
        assert_eq!(recording.broken, Vec::<String>::new(), "{stage:?}");
        let counted =
            metrics.dead_lettered.get_or_create(&ReasonLabel { reason: "panicked" }).get();
        assert_eq!(counted, recording.dead_lettered.len() as u64, "{stage:?}");
    }
}

/// Runs these messages through a sink that panics at this stage, in batches of at most
/// `max_records`. The source is a [`Broker`], and everything is settled on one connection.
async fn settle_once<const N: usize>(
    stage: Stage,
    messages: [Message; N],
    max_records: usize,
    limits: Limits,
) -> Recorder {
    let recorder = Recorder::default();
    let pipeline = Pipeline {
        service: "test",
        source: Broker::new(messages, recorder.clone()),
        transform: PanickingTransform(stage),
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), max_records), stage),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits,
        metrics: Metrics::default(),
    };

    let mut running = pipeline.start();
    let ended = tokio::time::timeout(Duration::from_secs(60), running.ended()).await;

    assert!(matches!(ended, Ok(None)), "{stage:?}: {ended:?}");
    assert!(recorder.recording().nacked.is_empty(), "{stage:?}: {:?}", recorder.recording().nacked);
    recorder
}

fn ordered(id: &str) -> Message {
    let mut message = message(id);
    message.ordering_key = "device".into();
    message
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_over_after_one_connection_of_a_source_that_delivers_everything_again() {
    for stage in STAGES {
        let messages = ["1", "2", "bad", "3", "4"].map(ordered);

        let recorder = settle_once(stage, messages, 100, one_batch()).await;

        let recording = recorder.recording();
        assert_eq!(recording.dead_lettered.len(), 1, "{stage:?}");
        assert_eq!(recording.written, ["1", "2", "3", "4"], "{stage:?}");
        assert_eq!(recording.broken, Vec::<String>::new(), "{stage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_message_for_which_a_batch_is_closed_is_transformed_once() {
    let (recorder, applied) = (Recorder::default(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&applied);
    let describe = move |message: &Message| {
        counted.fetch_add(1, Ordering::Relaxed);
        Item { key: "key".into(), id: message.id.clone(), bytes: 1, kind: Kind::Good }
    };
    let pipeline = Pipeline {
        service: "test",
        source: MemorySource::new(["1", "2", "3", "4", "5"].map(message), recorder.clone()),
        transform: pipeline::doubles::FnTransform(describe, faultless()),
        sink: MemorySink::new(recorder.clone(), faultless(), 2),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: one_batch(),
        metrics: Metrics::default(),
    };

    assert!(pipeline.start().ended().await.is_none());

    assert_eq!(recorder.recording().batches.len(), 3, "a batch has room for two");
    assert_eq!(applied.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn the_message_for_which_a_batch_is_closed_does_not_overtake_it_after_a_panic() {
    let messages = ["1", "2", "bad", "3", "4", "5"].map(ordered);

    // The fourth message finds the batch full.
    let recorder = settle_once(Stage::Sink(Call::Encode), messages, 3, one_batch()).await;

    let recording = recorder.recording();
    assert_eq!(recording.written, ["1", "2", "3", "4", "5"]);
    assert_eq!(recording.dead_lettered.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_several_messages_over_which_a_batch_panics_is_a_dead_letter() {
    for stage in [Stage::Sink(Call::Push), Stage::Sink(Call::Encode)] {
        let messages = ["1", "bad", "2", "bad 2", "bad 3", "3"].map(message);

        let recorder = settle_once(stage, messages, 100, one_batch()).await;

        let recording = recorder.recording();
        assert_eq!(recording.dead_lettered.len(), 3, "{stage:?}");
        assert_eq!(recording.written.len(), 3, "{stage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_over_which_the_sink_panics_is_not_filled_again() {
    let never = Duration::from_secs(1_000_000);
    let mut limits = one_batch();
    limits.batch =
        batch::BatchLimits { max_messages: 3, max_age: never, max_idle: never, ..limits.batch };
    let messages = ["1", "bad", "2"].map(message);

    let recorder = settle_once(Stage::Sink(Call::Encode), messages, 100, limits).await;

    let recording = recorder.recording();
    assert_eq!(
        (&recording.batches, recording.dead_lettered.len()),
        (&vec![vec!["1".to_owned()], vec!["2".into()]], 1)
    );
}

/// Dead letters that are refused a number of times, as by a topic with a schema. Later ones are
/// accepted.
struct Picky {
    refusals: usize,
    with: Recovery,
    tried: Arc<AtomicUsize>,
    recorder: Recorder,
}

impl DeadLetters for Picky {
    async fn write(&self, dead_letter: &DeadLetter<'_>, _: Duration) -> Result<(), Error> {
        let tried = self.tried.fetch_add(1, Ordering::Relaxed);
        assert!(dead_letter.detail.contains("no route"), "{}", dead_letter.detail);
        if tried < self.refusals {
            return Err(self.with.because("publish", "refused"));
        }
        self.recorder
            .recording()
            .dead_lettered
            .insert(dead_letter.message.id.clone(), dead_letter.reason.as_str());
        Ok(())
    }
}

struct Refuse;

impl Transform for Refuse {
    type Record = Item;

    async fn apply(&self, _message: &Message) -> Result<Step<Item>, Error> {
        Err(Recovery::Reject(NO_ROUTE).because("route", "no route"))
    }
}

fn picky(
    with: Recovery,
    source: MemorySource,
    recorder: &Recorder,
) -> (Pipeline<MemorySource, Refuse, MemorySink, Picky>, Arc<AtomicUsize>) {
    let tried = Arc::<AtomicUsize>::default();
    let dead_letters =
        Picky { refusals: 20, with, tried: Arc::clone(&tried), recorder: recorder.clone() };
    let pipeline = Pipeline {
        service: "test",
        source,
        transform: Refuse,
        sink: MemorySink::new(recorder.clone(), faultless(), 100),
        dead_letters: Policy::Write(dead_letters),
        limits: Limits { batch: batch::BatchLimits::default(), ..Limits::default() },
        metrics: Metrics::default(),
    };
    (pipeline, tried)
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_is_tried_again_with_back_off() {
    for with in [Recovery::Reject(PUBLISH_INVALID), Recovery::Nack, Recovery::Retry] {
        let (recorder, start) = (Recorder::default(), Instant::now());
        let source = MemorySource::new([message("1")], recorder.clone());
        let (pipeline, _) = picky(with, source, &recorder);

        let mut running = pipeline.start();
        let status = running.status();
        let (ended, outage) = tokio::join!(running.ended(), async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            status.dead_letter_outage()
        });

        assert!(ended.is_none(), "{with:?}");
        assert!(outage.is_some_and(|(why, _)| why.contains("refused")), "{with:?}");
        assert!(status.dead_letter_outage().is_none(), "{with:?}");
        // The wait is 100 ms, doubled up to 30 s, and each is at least half of that.
        assert!(start.elapsed() > Duration::from_secs(200), "{with:?}: {:?}", start.elapsed());
        assert!(recorder.recording().nacked.is_empty(), "{with:?}");
        assert_eq!(recorder.recording().dead_lettered.len(), 1, "{with:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_beyond_a_lease_is_held_before_it_is_nacked() {
    let recorder = Recorder::default();
    let source =
        MemorySource::new([message("1")], recorder.clone()).with_lease(Duration::from_secs(1));
    let (pipeline, tried) = picky(Recovery::Reject(PUBLISH_INVALID), source, &recorder);
    let start = Instant::now();

    assert!(pipeline.start().ended().await.is_none());

    // The lease is too short for another attempt. So each delivery has one attempt and takes half a
    // second.
    assert_eq!(tried.load(Ordering::Relaxed), 21);
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(recorder.recording().nacked.contains("1"));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_can_never_be_written_stop_the_service() {
    let recorder = Recorder::default();
    let source = MemorySource::new([message("1")], recorder.clone());
    let (pipeline, _) = picky(Recovery::Stop, source, &recorder);

    let mut running = pipeline.start();
    let ended = running.ended().await;

    assert_eq!(ended.unwrap().recovery(), Recovery::Stop);
    drop(running.shutdown(Duration::from_secs(1)).await);
    assert!(recorder.recording().acked.is_empty());
    assert!(recorder.recording().nacked.contains("1"));
}

/// Sink whose lanes get no new state after a panic over a message.
struct Broken {
    sink: MemorySink,
    is_broken: AtomicBool,
}

impl Sink for Broken {
    type Record = Item;
    type Key = String;
    type Batch = Vec<Item>;
    type EncodedBatch = Vec<Item>;
    type LaneState = ();

    fn lane_state(&self) {
        assert!(!self.is_broken.load(Ordering::Relaxed), "a bug in lane_state");
    }

    fn key(&self, record: &Item) -> String {
        self.sink.key(record)
    }

    fn open(&self, key: &String) -> Vec<Item> {
        self.sink.open(key)
    }

    fn push(
        &self,
        batch: &mut Vec<Item>,
        item: Item,
        (): &mut (),
    ) -> Result<usize, PushError<Item>> {
        self.is_broken.store(item.id == "bad", Ordering::Relaxed);
        assert_ne!(item.id, "bad", "a bug in push");
        self.sink.push(batch, item, &mut ())
    }

    fn encode(&self, batch: Vec<Item>, (): &mut ()) -> Vec<Item> {
        batch
    }

    async fn write(&self, batch: &Vec<Item>, limit: Duration) -> Result<Vec<Refusal>, Error> {
        self.sink.write(batch, limit).await
    }

    fn split(&self, batch: &Vec<Item>, at: usize) -> Option<(Vec<Item>, Vec<Item>)> {
        self.sink.split(batch, at)
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_panics_stops_the_service_and_acks_nothing() {
    let recorder = Recorder::default();
    let (source, input) = MemorySource::open(recorder.clone());
    for id in ["1", "bad"] {
        input.push(message(id));
    }
    let pipeline = Pipeline {
        service: "test",
        // No message comes again, so only the end of the lane can be noticed.
        source: source.with_max_deliveries(1),
        // It does not panic itself.
        transform: PanickingTransform(Stage::Sink(Call::Push)),
        sink: Broken {
            sink: MemorySink::new(recorder.clone(), faultless(), 100),
            is_broken: false.into(),
        },
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: one_batch(),
        metrics: Metrics::default(),
    };

    let mut running = pipeline.start();
    let ended = timeout(Duration::from_secs(60), running.ended()).await.unwrap().unwrap();

    assert_eq!(ended.recovery(), Recovery::Stop);
    assert!(format!("{ended:#}").starts_with("run lane: "), "{ended:#}");
    drop(running.shutdown(Duration::from_secs(1)).await);
    assert!(recorder.recording().acked.is_empty());
    assert_eq!(recorder.recording().nacked.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_at_work_at_three_ends_is_a_dead_letter_and_a_clean_drain_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let crash_file = folder.path().join("crash_file");
    let run = async |ids: &[&str]| {
        let recorder = Recorder::default();
        let pipeline = Pipeline {
            service: "test",
            source: MemorySource::new(ids.iter().map(|id| message(id)), recorder.clone()),
            transform: PanickingTransform(Stage::Sink(Call::Encode)),
            sink: MemorySink::new(recorder.clone(), faultless(), 100),
            dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
            limits: Limits { lanes: 1, crash_file: Some(crash_file.clone()), ..Limits::default() },
            metrics: Metrics::default(),
        };
        assert!(pipeline.start().ended().await.is_none());
        recorder
    };
    run(&["culprit"]).await;
    let at_work = std::fs::read_to_string(&crash_file).unwrap();
    let (lanes, noted) = at_work.split_once('\n').unwrap();
    assert_eq!(lanes, "lanes of 1001 lines");
    assert!(noted.starts_with("0000000000000000\n"), "nothing is at work after a clean drain");

    // This is the file that three processes leave that ended while they processed the message.
    let mut hasher = DefaultHasher::new();
    hasher.write(b"culprit");
    let line = format!("{:016x}", hasher.finish());
    let text = format!("suspect {line} 2 0\nlanes of 1 lines\n{line}\n");
    std::fs::write(&crash_file, text).unwrap();
    let recorder = run(&["1", "culprit", "2"]).await;

    assert_eq!(recorder.recording().dead_lettered.get("culprit"), Some(&"crashed"));
    assert_eq!(recorder.recording().written.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crash_file_that_cannot_be_opened_stops_the_service() {
    let recorder = Recorder::default();
    let source = MemorySource::new([message("1")], recorder.clone());
    let (mut pipeline, _) = picky(Recovery::Retry, source, &recorder);
    pipeline.limits.crash_file = Some("/nowhere/crash_file".into());

    let ended = pipeline.start().ended().await.unwrap();

    assert!(format!("{ended:#}").contains("pipeline.crash_file: /nowhere/crash_file"), "{ended:#}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_file_of_a_process_that_lives_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let crash_file = folder.path().join("crash_file");
    std::fs::write(&crash_file, "of the other").unwrap();
    let other = std::fs::File::open(&crash_file).unwrap();
    other.try_lock().unwrap();
    let recorder = Recorder::default();
    let source = MemorySource::new([message("1")], recorder.clone());
    let (mut pipeline, _) = picky(Recovery::Retry, source, &recorder);
    pipeline.limits.crash_file = Some(crash_file.clone());

    assert!(pipeline.start().ended().await.is_none());

    assert_eq!(recorder.recording().dead_lettered.len(), 1);
    assert_eq!(std::fs::read_to_string(crash_file).unwrap(), "of the other");
}
