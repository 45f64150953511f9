//! A pipeline of test doubles whose input the test controls.

use std::collections::HashSet;
use std::time::Duration;

use message::Message;
use pipeline::backoff::Backoff;
use pipeline::batch::FlushReason;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Archive, Faults, FnTransform, Item, Kind, MemoryDeadLetters, MemorySink, MemorySource,
    Recorder, SourceInput,
};
use pipeline::metrics::{Counters, FlushLabels, ReasonLabel};
use pipeline::{Limits, Metrics, Pipeline, Running, batch};

/// Longer than the paused time of any test.
pub(crate) const NEVER: Duration = Duration::from_secs(1_000_000);

/// A running pipeline, and everything that can be observed of it.
pub(crate) struct TestEnv {
    pub(crate) running: Running,
    pub(crate) input: SourceInput,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
}

/// Components of a [`TestEnv`].
pub(crate) struct Parts {
    pub(crate) limits: Limits,
    pub(crate) lease: Option<Duration>,
    /// True if a client waits for each message until the end of its lease.
    pub(crate) has_clients: bool,
    pub(crate) max_deliveries: u32,
    pub(crate) transform: Faults,
    pub(crate) sink: Faults,
    pub(crate) dead_letters: Policy<Faults>,
    /// Maximum bytes of one batch of the sink.
    pub(crate) max_batch_bytes: usize,
    /// True if the sink keeps no originals and splits no batch.
    pub(crate) is_archive: bool,
    /// Bytes that the settlement of a message holds elsewhere.
    pub(crate) held_bytes: u32,
}

impl Default for Parts {
    /// One lane without limits: batches are written only at a shutdown.
    fn default() -> Self {
        Self {
            limits: Limits {
                lanes: 1,
                batch: batch::BatchLimits {
                    max_messages: usize::MAX,
                    max_bytes: usize::MAX,
                    max_age: NEVER,
                    max_idle: NEVER,
                },
                attempt_timeout: Duration::from_secs(5),
                retry: Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1) },
                ..Limits::default()
            },
            lease: None,
            has_clients: false,
            max_deliveries: u32::MAX,
            transform: Faults::none(),
            sink: Faults::none(),
            dead_letters: Policy::Write(Faults::none()),
            max_batch_bytes: usize::MAX,
            is_archive: false,
            held_bytes: 0,
        }
    }
}

impl Parts {
    pub(crate) fn start(self) -> TestEnv {
        let (recorder, metrics) = (Recorder::default(), Metrics::default());
        let (source, input) = MemorySource::open(recorder.clone());
        let source = source.with_max_deliveries(self.max_deliveries).with_ending_leases();
        let source = if self.has_clients { source.with_clients() } else { source };
        let source = source.with_held_bytes(self.held_bytes);
        let pipeline = Pipeline {
            service: "test",
            source: match self.lease {
                Some(lease) => source.with_lease(lease),
                None => source,
            },
            transform: FnTransform(item, self.transform),
            sink: (),
            dead_letters: match self.dead_letters {
                Policy::Write(faults) => Policy::Write(MemoryDeadLetters(recorder.clone(), faults)),
                Policy::Leave => Policy::Leave,
                Policy::Drop => Policy::Drop,
            },
            limits: self.limits,
            metrics: metrics.clone(),
        };
        let sink = MemorySink::new(recorder.clone(), self.sink, self.max_batch_bytes);
        let running = if self.is_archive {
            with_sink(pipeline, Archive(sink)).start()
        } else {
            with_sink(pipeline, sink).start()
        };
        TestEnv { running, input, recorder, metrics }
    }
}

fn with_sink<So, T, S, D>(pipeline: Pipeline<So, T, (), D>, sink: S) -> Pipeline<So, T, S, D> {
    let Pipeline { service, source, transform, dead_letters, limits, metrics, .. } = pipeline;
    Pipeline { service, source, transform, sink, dead_letters, limits, metrics }
}

/// Builds parts that write batches as soon as no more messages are ready.
pub(crate) fn eager() -> Parts {
    let mut parts = Parts::default();
    parts.limits.batch.max_idle = Duration::ZERO;
    parts
}

pub(crate) fn ids<const N: usize>(ids: [&str; N]) -> HashSet<String> {
    ids.map(str::to_owned).into()
}

pub(crate) fn counted(family: &Counters<ReasonLabel>, reason: &'static str) -> u64 {
    family.get_or_create(&ReasonLabel { reason }).get()
}

/// Creates a message of ten bytes for batch `k`.
pub(crate) fn message(id: &str) -> Message {
    let mut message = Message::new("0123456789");
    message.id = id.into();
    message
}

/// Sends the message to another batch.
pub(crate) fn to(key: &str, message: Message) -> Message {
    message.with_attribute("key", key)
}

/// Sets the ordering key of the message.
pub(crate) fn keyed(key: &str, mut message: Message) -> Message {
    message.ordering_key = key.into();
    message
}

/// Sets the size of the message's record.
pub(crate) fn sized(bytes: usize, message: Message) -> Message {
    message.with_attribute("bytes", bytes.to_string())
}

/// Marks the message, so that its record is bad in this way.
pub(crate) fn bad(kind: Kind, message: Message) -> Message {
    message.with_attribute("kind", format!("{kind:?}"))
}

/// Returns the record that a message asks for.
pub(crate) fn item(message: &Message) -> Item {
    let attribute = |name: &str| message.attributes.get(name).map(ToString::to_string);
    let kinds = [Kind::Refused, Kind::Malformed, Kind::Poison, Kind::Late, Kind::Skipped];
    let kind = attribute("kind");
    Item {
        key: attribute("key").unwrap_or_else(|| "k".into()),
        id: message.id.clone(),
        bytes: attribute("bytes").map_or(10, |bytes| bytes.parse().unwrap()),
        kind: kinds
            .into_iter()
            .find(|known| kind.as_deref() == Some(&format!("{known:?}")))
            .unwrap_or(Kind::Good),
    }
}

impl TestEnv {
    pub(crate) fn push_all(&self, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.input.push(message));
    }

    /// Lets this much of the paused time pass, with everything that happens in it.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Returns the number of batches flushed for each reason.
    pub(crate) fn flush_reasons(&self) -> Vec<(FlushReason, u64)> {
        use FlushReason::{Age, Bytes, Count, Idle, Lease, Memory, Shutdown};
        let count = |cause| self.metrics.flushed.get_or_create(&FlushLabels { cause }).get();
        let all = [Count, Bytes, Age, Idle, Memory, Lease, Shutdown];
        all.map(|cause| (cause, count(cause))).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn written(&self) -> Vec<String> {
        self.recorder.recording().written.clone()
    }

    pub(crate) fn nacked_for(&self, reason: &'static str) -> u64 {
        self.metrics.nacked.get_or_create(&ReasonLabel { reason }).get()
    }

    pub(crate) fn retried(&self, reason: &'static str) -> u64 {
        self.metrics.retried.get_or_create(&ReasonLabel { reason }).get()
    }
}

/// Returns a duration of this many seconds.
pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
