//! Property tests of the delivery guarantee.
//!
//! They use random orders of completion, failures, refusals and shutdowns. No delivery may be acked
//! before its record is durable, and none may be forgotten. The order per key must hold, and no
//! bound may be exceeded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use message::Message;
use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Archive, FaultRates, Faults, FnTransform, Item, Kind, LostNacks, MemoryDeadLetters, MemorySink,
    MemorySource, Recorder,
};
use pipeline::hops::{Filter, Hops, Viewer};
use pipeline::{
    Disposition, Error, Limits, Metrics, Pipeline, Recovery, Running, Sink, Step, Transform, batch,
};
use proptest::prelude::*;

pipeline::reasons! {
    /// Reasons of these tests.
    OF_THE_TESTS {
        /// The transform was called often enough.
        ENOUGH = "enough";
    }
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    messages: Vec<Sketch>,
    limits: Limits,
    sink: FaultRates,
    transform: FaultRates,
    letters: FaultRates,
    lease: Option<Duration>,
    do_leases_end: bool,
    lost_nacks: Option<LostNacks>,
    policy: Policy<()>,
    /// True if the sink keeps no originals and splits no batch.
    is_archive: bool,
    viewers: Viewers,
}

/// People who watch the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Viewers {
    Nobody,
    /// Somebody who takes nothing.
    Idle,
    /// Somebody who reads, beside one who does not.
    Reading,
}

#[derive(Debug, Clone)]
struct Sketch {
    batch_key: u8,
    ordering_key: Option<u8>,
    bytes: usize,
    kind: Kind,
}

/// Longer than any case takes.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
const MAX_RECORD: usize = 120;
const MAX_BATCH_BYTES: usize = 100;
/// Maximum bytes that a batch without originals needs for itself and its first message.
const MAX_HANDLE: usize = 2048;

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let kind = prop_oneof![
        20 => Just(Kind::Good),
        1 => Just(Kind::Refused),
        1 => Just(Kind::Poison)
    ];
    let sketch = (0..4_u8, proptest::option::of(0..3_u8), 1..=MAX_RECORD, kind).prop_map(
        |(batch_key, ordering_key, bytes, kind)| {
            // All messages of an ordering key have the same batch key, as in every service.
            let batch_key = ordering_key.unwrap_or(batch_key);
            Sketch { batch_key, ordering_key, bytes, kind }
        },
    );
    proptest::collection::vec(sketch, 1..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    let batch = (1..20_usize, 20..200_usize, 1..2_000_u64, 0..500_u64).prop_map(
        |(max_messages, max_bytes, age, idle)| batch::BatchLimits {
            max_messages,
            max_bytes,
            max_age: Duration::from_millis(age),
            max_idle: Duration::from_millis(idle),
        },
    );
    (1..4_usize, 1..40_usize, 50..5_000_usize, 50..2_000_usize, 1..4_usize, batch).prop_map(
        |(lanes, messages, bytes, memory, writes, batch)| Limits {
            lanes,
            max_messages_in_flight: messages,
            max_bytes_in_flight: bytes,
            max_batch_memory: memory,
            max_writes: writes,
            batch,
            attempt_timeout: Duration::from_secs(5),
            retry: Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1) },
            ..Limits::default()
        },
    )
}

fn rates() -> impl Strategy<Value = FaultRates> {
    (0..30_u8, 0..20_u8, 0..5_u8, 0..300_u64).prop_map(|(retryable, lost_replies, hung, delay)| {
        let max_delay = Duration::from_millis(delay);
        FaultRates { retryable, lost_replies, hung, max_delay, ..FaultRates::default() }
    })
}

fn lost_nacks() -> impl Strategy<Value = Option<LostNacks>> {
    let lost = (1..5_u64, 5..60_u64)
        .prop_map(|(one_of, delay)| LostNacks { one_of, return_delay: Duration::from_secs(delay) });
    proptest::option::of(lost)
}

fn policies() -> impl Strategy<Value = Policy<()>> {
    prop_oneof![4 => Just(Policy::Write(())), 1 => Just(Policy::Leave), 1 => Just(Policy::Drop)]
}

fn viewers() -> impl Strategy<Value = Viewers> {
    prop_oneof![Just(Viewers::Nobody), Just(Viewers::Idle), Just(Viewers::Reading)]
}

fn cases() -> impl Strategy<Value = Case> {
    let lease = proptest::option::of((20..600_u64).prop_map(Duration::from_secs));
    let ends = (lease, any::<bool>(), lost_nacks(), policies(), proptest::bool::weighted(0.2), viewers());
    let rates = (rates(), rates(), rates());
    // A batch of an archive counts its allocated memory, so there must be room for some batches.
    let room = (limits(), 0..20_usize).prop_map(|(limits, batches)| (limits, batches * MAX_HANDLE));
    (any::<u64>(), sketches(), room, rates, ends).prop_map(
        |(
            seed,
            messages,
            (limits, room),
            rates,
            (lease, do_leases_end, lost_nacks, policy, is_archive, viewers),
        )| Case {
            seed,
            messages,
            limits: Limits {
                max_batch_memory: limits.max_batch_memory + if is_archive { room } else { 0 },
                ..limits
            },
            sink: rates.0,
            transform: rates.1,
            letters: rates.2,
            lease,
            do_leases_end,
            lost_nacks,
            policy,
            is_archive,
            viewers,
        },
    )
}

/// Cases in which a stage sometimes reports that no message can succeed.
fn cases_that_stop() -> impl Strategy<Value = Case> {
    (cases(), 0..3_u8, 0..3_u8, 0..10_u8).prop_map(|(mut case, sink, transform, letters)| {
        case.sink.stopped = sink;
        case.transform.stopped = transform;
        case.letters.stopped = letters;
        case
    })
}

impl Case {
    fn start(&self, recorder: &Recorder) -> Running {
        let sink =
            MemorySink::new(recorder.clone(), Faults::new(self.sink, self.seed), MAX_BATCH_BYTES);
        if self.is_archive {
            self.start_with(Archive(sink), recorder)
        } else {
            self.start_with(sink, recorder)
        }
    }

    fn start_with<S: Sink<Record = Item>>(&self, sink: S, recorder: &Recorder) -> Running {
        if matches!(self.policy, Policy::Drop) {
            let bad = (0..self.messages.len()).filter(|index| self.reason(*index).is_some());
            recorder.recording().droppable.extend(bad.map(|index| index.to_string()));
        }
        let sketches = self.messages.clone();
        let is_archive = self.is_archive;
        let metrics = Metrics::default();
        let viewers = self.watch(&metrics.hops);
        let describe = move |message: &Message| {
            // The viewers stay as long as the pipeline.
            let _viewers = &viewers;
            let sketch = &sketches[message.id.parse::<usize>().unwrap()];
            Item {
                key: sketch.batch_key.to_string(),
                id: message.id.clone(),
                bytes: sketch.bytes,
                // A record that has joined an archive is never refused.
                kind: if is_archive { Kind::Good } else { sketch.kind },
            }
        };
        let letters = MemoryDeadLetters(recorder.clone(), Faults::new(self.letters, self.seed));
        Pipeline {
            service: "test",
            source: self.source(recorder),
            transform: FnTransform(describe, Faults::new(self.transform, self.seed)),
            sink,
            dead_letters: match self.policy {
                Policy::Write(()) => Policy::Write(letters),
                Policy::Leave => Policy::Leave,
                Policy::Drop => Policy::Drop,
            },
            limits: self.limits.clone(),
            metrics,
        }
        .start()
    }

    /// Returns the viewers that read nothing. One who reads is a task.
    fn watch(&self, hops: &Hops) -> Vec<Viewer> {
        let watch = || hops.watch(Filter::default()).unwrap();
        if self.viewers == Viewers::Nobody {
            return Vec::new();
        }
        if self.viewers == Viewers::Reading {
            let mut viewer = watch();
            tokio::spawn(async move { while viewer.next().await.is_some() {} });
        }
        assert!(self.viewers == Viewers::Idle || hops.is_watched());
        vec![watch()]
    }

    fn source(&self, recorder: &Recorder) -> MemorySource {
        let messages = self.messages.iter().enumerate().map(|(index, sketch)| {
            let mut message = Message::new(vec![b'x'; sketch.bytes]);
            message.id = index.to_string();
            message.ordering_key =
                sketch.ordering_key.map(|key| key.to_string()).unwrap_or_default();
            message
        });
        let mut source = MemorySource::new(messages, recorder.clone());
        if let Some(lease) = self.lease {
            source = source.with_lease(lease);
        }
        if self.do_leases_end {
            source = source.with_ending_leases();
        }
        if let Some(lost_nacks) = self.lost_nacks {
            source = source.with_lost_nacks(lost_nacks);
        }
        if matches!(self.policy, Policy::Leave) {
            source = source.with_max_deliveries(5);
        }
        source
    }

    /// Returns the reason why this message can never succeed.
    fn reason(&self, index: usize) -> Option<&'static str> {
        let sketch = &self.messages[index];
        match sketch.kind {
            _ if sketch.bytes > MAX_BATCH_BYTES => Some("too_large"),
            Kind::Refused if !self.is_archive => Some("refused"),
            Kind::Poison if !self.is_archive => Some("poison"),
            _ => None,
        }
    }

    /// Returns what the source of this message must learn at its end.
    fn expected(&self, index: usize) -> (&'static str, Option<&'static str>) {
        match (self.reason(index), &self.policy) {
            (None, _) => ("ack", None),
            (reason, Policy::Write(())) => ("dead letter", reason),
            (reason, Policy::Drop) => ("dropped", reason),
            (_, Policy::Leave) => ("nack", None),
        }
    }

    fn check(&self, recorder: &Recorder) {
        let recording = recorder.recording();
        assert_eq!(recording.broken, Vec::<String>::new());
        assert_eq!(recording.unsettled, 0, "every delivery has its disposition");
        // Intake may hold one delivery that waits for room.
        assert!(recording.most_unsettled <= self.limits.max_messages_in_flight + 1);
        for (id, reason) in &recording.dead_lettered {
            assert_eq!(self.reason(id.parse().unwrap()), Some(*reason), "{id} is a dead letter");
        }
        for (id, outcome) in &recording.outcomes {
            assert_eq!(told(*outcome), self.expected(id.parse().unwrap()), "the source of {id}");
        }
        self.check_order(&recording.written);
    }

    /// Checks that records became durable for the first time in the order of their key.
    fn check_order(&self, written: &[String]) {
        let mut last: HashMap<u8, usize> = HashMap::new();
        let mut seen = HashSet::new();
        for id in written {
            let index = id.parse::<usize>().unwrap();
            let Some(key) = self.messages[index].ordering_key else { continue };
            if seen.insert(index) {
                let earlier = last.insert(key, index);
                assert!(earlier.is_none_or(|earlier| earlier < index), "key {key} out of order");
            }
        }
    }
}

/// Returns the kind of an outcome and its reason.
fn told(outcome: Disposition) -> (&'static str, Option<&'static str>) {
    match outcome {
        Disposition::Ack => ("ack", None),
        Disposition::DeadLettered(reason) => ("dead letter", Some(reason.as_str())),
        Disposition::Dropped(reason) => ("dropped", Some(reason.as_str())),
        Disposition::Nack => ("nack", None),
    }
}

/// A transform that nacks and counts. It stops after 100 calls, so that the test fails if nothing
/// slows it down.
struct Away(Arc<AtomicUsize>);

impl Transform for Away {
    type Record = Item;

    async fn apply(&self, _message: &Message) -> Result<Step<Item>, Error> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0..100 => Err(Recovery::HandBack.because("look up", "away")),
            _ => Ok(Step::Skip(ENOUGH)),
        }
    }
}

/// Nacks a message for 10 s. Returns the number of times that it was transformed.
fn asked_for(message: Message) -> usize {
    let (asked, recorder) = (Arc::<AtomicUsize>::default(), Recorder::default());
    let faultless = || Faults::new(FaultRates::default(), 0);
    let counts_attempts = message.counts_attempts;

    block_on(async {
        let pipeline = Pipeline {
            service: "test",
            source: MemorySource::new([message], recorder.clone()),
            transform: Away(Arc::clone(&asked)),
            sink: MemorySink::new(recorder.clone(), faultless(), MAX_BATCH_BYTES),
            dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
            limits: Limits::default(),
            metrics: Metrics::default(),
        };
        let running = pipeline.start();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(recorder.recording().nacked.is_empty(), counts_attempts);
        drop(running.shutdown(Duration::from_secs(1)).await);
    });

    assert!(recorder.recording().acked.is_empty());
    asked.load(Ordering::Relaxed)
}

#[test]
fn what_is_handed_back_does_not_come_again_at_once() {
    let asked = asked_for(Message::new("data"));

    // The source redelivers at once, so only the pipeline delays the message: two attempts a second.
    assert!((10..=22).contains(&asked), "{asked} times in 10 s");
}

#[test]
fn a_message_of_a_transport_that_counts_attempts_waits_in_place() {
    let mut message = Message::new("data");
    message.counts_attempts = true;

    let asked = asked_for(message);

    // The wait is 100 ms at first, and doubles each time.
    assert!((6..=9).contains(&asked), "{asked} times in 10 s");
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// Configuration with 300 cases, or with the number in `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(300), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn everything_fed_is_acked_once_durable(case in cases()) {
        block_on(async {
            let recorder = Recorder::default();
            let mut running = case.start(&recorder);
            let memory = watch_memory(&running, &case);

            let ended = tokio::select! {
                ended = running.ended() => ended,
                never = memory => never,
                () = tokio::time::sleep(FOREVER) => panic!("stalled: {:?}", running.status()),
            };

            assert!(ended.is_none(), "{ended:?}");
            case.check(&recorder);
            let recording = recorder.recording();
            let is_settled = |id: &String| recording.acked.contains(id) || recording.forwarded.contains(id);
            let mut ids = (0..case.messages.len()).map(|index| index.to_string());
            assert_eq!(ids.find(|id| !is_settled(id)), None, "never settled");
            assert!(case.lease.is_some() || recording.late == 0);
            let has_key = |id: &&String| {
                case.messages[id.parse::<usize>().unwrap()].ordering_key.is_some()
            };
            // Later messages of its key would overtake it, so only the end of a lease may nack it.
            let handed_back = recording.nacked.iter().find(has_key);
            let may_be = case.lease.is_some() || matches!(case.policy, Policy::Leave);
            assert!(may_be || handed_back.is_none(), "{handed_back:?}");
        });
    }

    #[test]
    fn a_shutdown_at_any_moment_settles_everything(case in cases(), after in 0..5_000_u64, grace in 1..30_u64) {
        block_on(async {
            let recorder = Recorder::default();
            let running = case.start(&recorder);
            tokio::time::sleep(Duration::from_millis(after)).await;

            let outcome = running.shutdown(Duration::from_secs(grace)).await;

            case.check(&recorder);
            let recording = recorder.recording();
            let is_back = !recording.nacked.is_empty() || recording.late > 0;
            assert!(outcome.is_ok() || is_back, "an unclean drain hands something back");
        });
    }

    #[test]
    fn a_stop_settles_everything(case in cases_that_stop()) {
        block_on(async {
            let recorder = Recorder::default();
            let mut running = case.start(&recorder);

            let ended = running.ended().await;
            drop(running.shutdown(Duration::from_secs(30)).await);

            assert!(ended.is_none_or(|error| error.recovery() == Recovery::Stop));
            case.check(&recorder);
        });
    }
}

/// Panics if open batches hold more than the limit and one record for each lane. Never returns.
fn watch_memory(
    running: &Running,
    case: &Case,
) -> impl Future<Output = Option<pipeline::Error>> + use<> {
    let (status, limits) = (running.status(), case.limits.clone());
    let record = if case.is_archive { MAX_RECORD + MAX_HANDLE } else { MAX_RECORD };
    async move {
        loop {
            tokio::time::sleep(Duration::from_millis(7)).await;
            let most = limits.max_batch_memory + limits.lanes * record;
            assert!(status.batch_memory() <= most, "{} > {most}", status.batch_memory());
            assert!(status.in_flight().1 <= limits.max_bytes_in_flight);
            assert!(status.stalled().is_none());
        }
    }
}
