//! Tests of a pipeline whose events are no messages.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pipeline::backoff::Backoff;
use pipeline::dead_letter::Policy;
use pipeline::doubles::reasons::REFUSED_RECORD;
use pipeline::doubles::{Faults, FnTransform, Item, Kind, MemoryDeadLetters, MemorySink, Recorder};
use pipeline::reasons::{CRASHED, PANICKED};
use pipeline::{
    DeadLetter, DeadLetters, Delivery, Disposition, Error, Event, Limits, MAX_CRASHES, Merged,
    Metrics, Pipeline, Reason, Running, Settlement, Source,
};
use time::OffsetDateTime;

/// A parsed measurement. It is no `Clone`, and has no bytes.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) sensor: String,
    celsius: f64,
    attempts: u32,
}

impl Reading {
    /// Returns a reading of this sensor.
    pub(crate) fn of(sensor: &str) -> Self {
        Self { sensor: sensor.to_owned(), celsius: 0.0, attempts: 1 }
    }
}

impl Event for Reading {
    fn size(&self) -> usize {
        self.sensor.len()
    }

    fn id(&self) -> &str {
        ""
    }

    fn publish_time(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }

    fn hash_content(&self, hasher: &mut impl Hasher) {
        hasher.write(self.sensor.as_bytes());
    }

    fn ordering_key(&self) -> &str {
        &self.sensor
    }

    fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Outcomes of the readings, by sensor.
type Outcomes = Arc<Mutex<HashMap<String, Disposition>>>;

/// A source of readings, each of its own sensor.
struct Sensors {
    waiting: Vec<Reading>,
    outcomes: Outcomes,
}

impl Sensors {
    fn new(celsius: impl IntoIterator<Item = (&'static str, f64)>, outcomes: &Outcomes) -> Self {
        let reading = |(sensor, celsius): (&str, f64)| Reading {
            sensor: sensor.to_owned(),
            celsius,
            attempts: 2,
        };
        let mut waiting: Vec<_> = celsius.into_iter().map(reading).collect();
        waiting.reverse();
        Self { waiting, outcomes: Arc::clone(outcomes) }
    }
}

impl Source<Reading> for Sensors {
    async fn receive(&mut self) -> Result<Option<Delivery<Reading>>, Error> {
        let Some(reading) = self.waiting.pop() else { return Ok(None) };
        let (outcomes, sensor) = (Arc::clone(&self.outcomes), reading.sensor.clone());
        let settle = move |disposition| {
            outcomes.lock().unwrap().insert(sensor, disposition);
        };
        Ok(Some(Delivery::new(reading, Settlement::new(settle, None))))
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Dead letters that keep the reading itself.
#[derive(Clone, Default)]
struct KeptReadings(Arc<Mutex<Vec<(f64, Reason, u32)>>>);

impl DeadLetters<Reading> for KeptReadings {
    async fn write(&self, dead_letter: &DeadLetter<'_, Reading>, _: Duration) -> Result<(), Error> {
        let DeadLetter { message, reason, attempts, .. } = dead_letter;
        self.0.lock().unwrap().push((message.celsius, *reason, *attempts));
        Ok(())
    }
}

/// Refuses readings below absolute zero. Panics over those that are no number.
fn item(reading: &Reading) -> Item {
    assert!(!reading.celsius.is_nan(), "no number");
    let kind = if reading.celsius < -273.15 { Kind::Refused } else { Kind::Good };
    Item { key: "k".into(), id: reading.sensor.clone(), bytes: 8, kind }
}

fn start<So: Source<Reading>, D: DeadLetters<Reading>>(
    source: So,
    dead_letters: D,
    metrics: &Metrics,
) -> (Running, Recorder) {
    let recorder = Recorder::default();
    let pipeline = Pipeline {
        service: "test",
        source,
        transform: FnTransform(item, Faults::none()),
        sink: MemorySink::new(recorder.clone(), Faults::none(), 1000),
        dead_letters: Policy::Write(dead_letters),
        limits: Limits { lanes: 2, ..Limits::default() },
        metrics: metrics.clone(),
    };
    (pipeline.start(), recorder)
}

#[tokio::test(start_paused = true)]
async fn events_of_any_type_are_written_or_become_dead_letters() {
    let (outcomes, dead_letters, metrics) =
        (Outcomes::default(), KeptReadings::default(), Metrics::default());
    let celsius = [("warm", 20.0), ("cold", -300.0), ("broken", f64::NAN), ("hot", 40.0)];
    let source = Sensors::new(celsius, &outcomes);

    let (mut running, recorder) = start(source, dead_letters.clone(), &metrics);
    assert!(running.ended().await.is_none());

    let mut written = recorder.recording().written.clone();
    written.sort_unstable();
    assert_eq!(written, ["hot", "warm"]);
    let mut dead_letters = dead_letters.0.lock().unwrap().clone();
    dead_letters.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert_eq!(dead_letters[0], (-300.0, REFUSED_RECORD, 2));
    assert!(dead_letters[1].0.is_nan() && dead_letters[1].1 == PANICKED, "{dead_letters:?}");
    let expected = [
        ("warm", Disposition::Ack),
        ("cold", Disposition::DeadLettered(REFUSED_RECORD)),
        ("broken", Disposition::DeadLettered(PANICKED)),
        ("hot", Disposition::Ack),
    ];
    let expected: HashMap<_, _> = expected.map(|(id, end)| (id.to_owned(), end)).into();
    assert_eq!(*outcomes.lock().unwrap(), expected);
    assert_eq!(metrics.repeated.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn several_sources_of_events_are_read_as_one() {
    let (outcomes, metrics) = (Outcomes::default(), Metrics::default());
    let sources = [[("a", 1.0), ("b", 2.0)], [("c", 3.0), ("d", 4.0)]];
    let sources = sources.map(|celsius| Sensors::new(celsius, &outcomes));
    let source = Merged::new(sources, Backoff::default(), metrics.clone());
    let dead_letters = MemoryDeadLetters(Recorder::default(), Faults::none());

    let (mut running, recorder) = start(source, dead_letters, &metrics);
    assert!(running.ended().await.is_none());

    assert_eq!(recorder.recording().written.len(), 4);
    assert_eq!(outcomes.lock().unwrap().len(), 4);
}

/// The file of a process that ends while it works on an event names the event by its content.
#[tokio::test(start_paused = true)]
async fn an_event_without_an_id_is_known_again_after_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("crash_file"), folder.path().join("left"));
    let (outcomes, dead_letters) = (Outcomes::default(), KeptReadings::default());
    let written = async || {
        let (path_now, left_behind) = (path.clone(), left.clone());
        let work = move |reading: &Reading| {
            if reading.sensor == "bad" {
                std::fs::copy(&path_now, &left_behind).unwrap();
            }
            item(reading)
        };
        let recorder = Recorder::default();
        let pipeline = Pipeline {
            service: "test",
            source: Sensors::new([("bad", 1.0), ("good", 2.0)], &outcomes),
            transform: FnTransform(work, Faults::none()),
            sink: MemorySink::new(recorder.clone(), Faults::none(), 1000),
            dead_letters: Policy::Write(dead_letters.clone()),
            limits: Limits { lanes: 1, crash_file: Some(path.clone()), ..Limits::default() },
            metrics: Metrics::default(),
        };
        assert!(pipeline.start().ended().await.is_none());
        recorder.recording().written.clone()
    };

    for _ in 0..MAX_CRASHES {
        assert_eq!(written().await, ["bad", "good"]);
        std::fs::copy(&left, &path).unwrap();
    }

    assert_eq!(written().await, ["good"]);
    assert_eq!(*dead_letters.0.lock().unwrap(), [(1.0, CRASHED, 2)]);
}
