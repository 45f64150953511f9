//! Starts a pipeline and shuts it down in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::bound::{InFlight, MemoryBudget};
use crate::dead_letter::{DeadLetters, Policy};
use crate::hops::Shown;
use crate::intake::{Ended, Intake, Tracked};
use crate::lane::Lane;
use crate::pace::Pace;
use crate::shared::{Outage, Shared};
use crate::spacing::Spacing;
use crate::suspects::{MAX_BATCH, Suspects};
use crate::watchdog::Watchdog;
use crate::{Error, Event, Limits, Metrics, Recovery, Sink, Source, Transform};

/// Maximum number of dead letters that are written at the same time.
///
/// Each dead letter is its own request. A destination with high latency needs many at a time. On a
/// link with little bandwidth, [`Pace`] reduces the number.
const MAX_DEAD_LETTERS: usize = 256;

/// Upper limit of the time-out for writing one dead letter. The time-out is `attempt_timeout` or
/// this value, whichever is shorter, plus one second for each MiB.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a drain reserves for closing the source. The source needs this time to send
/// its last acknowledgements, perhaps over a slow link.
const MAX_CLOSE: Duration = Duration::from_secs(5);

/// A pipeline that has not started yet.
pub struct Pipeline<So, T, S, D> {
    /// Name of the service, which is written into dead letters.
    pub service: &'static str,
    /// Stream of deliveries.
    pub source: So,
    /// Step that turns messages into records.
    pub transform: T,
    /// Destination of the records.
    pub sink: S,
    /// Treatment of messages that can never succeed.
    pub dead_letters: Policy<D>,
    /// Bounds, waits and time-outs.
    pub limits: Limits,
    /// Metrics of the pipeline, with its name.
    pub metrics: Metrics,
}

/// State of a running pipeline. Clones refer to the same pipeline.
#[derive(Debug, Clone)]
pub struct Status {
    pipeline: &'static str,
    watchdog: Watchdog,
    outage: Outage,
    dead_letter_outage: Outage,
    in_flight: Arc<InFlight>,
    memory: Arc<MemoryBudget>,
    suspects: Option<Arc<Suspects>>,
}

impl Status {
    /// Returns the name of the pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &'static str {
        self.pipeline
    }

    /// Returns a task that hangs, and how long it has shown no sign of life.
    #[must_use]
    pub fn stalled(&self) -> Option<(String, Duration)> {
        self.watchdog.stalled()
    }

    /// Returns why the destination takes no writes, and since when.
    #[must_use]
    pub fn outage(&self) -> Option<(String, OffsetDateTime)> {
        self.outage.current()
    }

    /// Returns why the dead letters cannot be written, and since when.
    #[must_use]
    pub fn dead_letter_outage(&self) -> Option<(String, OffsetDateTime)> {
        self.dead_letter_outage.current()
    }

    /// Returns why the last write to the destination failed, and when. Later writes may have
    /// succeeded.
    #[must_use]
    pub fn last_failure(&self) -> Option<(String, OffsetDateTime)> {
        self.outage.last_failure()
    }

    /// Returns why the last write of a dead letter failed, and when. Later writes may have
    /// succeeded.
    #[must_use]
    pub fn last_dead_letter_failure(&self) -> Option<(String, OffsetDateTime)> {
        self.dead_letter_outage.last_failure()
    }

    /// Returns the messages and bytes that were received but are not yet settled.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.messages(), self.in_flight.bytes())
    }

    /// Records in the crash file that the process ends now, but not because of a message.
    ///
    /// A message stays recorded if a lane has computed over it for `stall_after` or longer: the
    /// message is probably the reason why the lane hangs.
    pub fn excuse(&self) {
        self.suspects.iter().for_each(|suspects| suspects.excuse(self.watchdog.stall_after()));
    }

    /// Bytes of all batches, both open and being written.
    #[must_use]
    pub fn batch_memory(&self) -> usize {
        self.memory.used()
    }
}

/// The drain did not finish in time. The remaining messages were nacked.
#[derive(Debug, thiserror::Error)]
#[error("{messages} messages were not settled within {grace:?} and will be delivered again")]
pub struct Incomplete {
    /// Number of messages that were nacked.
    pub messages: usize,
    /// Time that the drain had.
    pub grace: Duration,
}

/// A running pipeline. Dropping it nacks every message that it holds; [`Running::shutdown`] drains
/// it.
pub struct Running {
    tasks: JoinSet<Result<(), Error>>,
    stop: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    failure: mpsc::Receiver<Error>,
    status: Status,
}

impl<So, T, S, D> Pipeline<So, T, S, D> {
    /// Starts all tasks. Must be called within a Tokio runtime.
    ///
    /// The events `E` are those of the source: [`Message`](message::Message)s in most pipelines.
    #[must_use = "dropping a running pipeline ends it without a drain"]
    pub fn start<E: Event>(self) -> Running
    where
        So: Source<E>,
        T: Transform<E>,
        S: Sink<Record = T::Record>,
        D: DeadLetters<E>,
    {
        let (failure, failures) = mpsc::channel(1);
        let mut limits = self.limits;
        if limits.crash_file.is_some() {
            limits.batch.max_messages = limits.batch.max_messages.min(MAX_BATCH);
        }
        let max_bytes = limits.max_bytes_in_flight;
        let shown = Shown {
            hops: self.metrics.hops.clone(),
            stage: self.metrics.pipeline(),
            source: self.source.name(),
        };
        let write_timeout = self.sink.attempt_timeout(limits.attempt_timeout);
        let gauge = self.metrics.in_flight.clone();
        let in_flight = InFlight::new(limits.max_messages_in_flight, max_bytes, gauge);
        let shared = Arc::new(Shared {
            service: self.service,
            transform: self.transform,
            sink: self.sink,
            dead_letters: self.dead_letters,
            metrics: self.metrics,
            shown,
            in_flight: Arc::new(in_flight),
            memory: Arc::new(MemoryBudget::new(limits.max_batch_memory)),
            outage: Outage::default(),
            dead_letter_outage: Outage::default(),
            pace: Pace::new(write_timeout, limits.lane_count().saturating_mul(limits.max_writes)),
            dead_letter_spacing: Spacing::default(),
            dead_letter_pace: Pace::new(
                limits.attempt_timeout.min(DEAD_LETTER_TIMEOUT),
                MAX_DEAD_LETTERS,
            ),
            suspects: open_suspects(&limits, &failure),
            failure,
            limits,
        });
        let status = Status {
            pipeline: shared.metrics.pipeline(),
            watchdog: Watchdog::new(shared.limits.stall_after),
            outage: shared.outage.clone(),
            dead_letter_outage: shared.dead_letter_outage.clone(),
            in_flight: Arc::clone(&shared.in_flight),
            memory: Arc::clone(&shared.memory),
            suspects: shared.suspects.clone(),
        };
        let (inputs, lanes) = start_lanes(&shared, &status.watchdog);
        let intake = Intake {
            source: self.source,
            lanes: inputs,
            in_flight: Arc::clone(&shared.in_flight),
            metrics: shared.metrics.clone(),
            shown: shared.shown.clone(),
            retry: shared.limits.retry,
            heartbeat: status.watchdog.heartbeat("intake".into()),
        };
        let (stop, stopped) = watch::channel(false);
        let (cut, cut_off) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(intake, lanes, stopped, cut_off, shared.failure.clone()));
        Running { tasks, stop, cut, failure: failures, status }
    }
}

fn open_suspects(limits: &Limits, failure: &mpsc::Sender<Error>) -> Option<Arc<Suspects>> {
    let path = limits.crash_file.as_ref()?;
    match Suspects::open(path, limits) {
        Ok(suspects) => return Some(Arc::new(suspects)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            // This happens while one process takes over from another. Running without the file is
            // better than not running.
            let path = path.display();
            warn!(%path, "another process uses pipeline.crash_file: this one keeps none");
        }
        Err(error) => {
            let why = format!("{}: {error}", path.display());
            report(failure, Recovery::Stop.because("open pipeline.crash_file", why));
        }
    }
    None
}

fn start_lanes<T, S, D, E>(
    shared: &Arc<Shared<T, S, D>>,
    watchdog: &Watchdog,
) -> (Vec<mpsc::Sender<Tracked<E>>>, JoinSet<()>)
where
    T: Transform<E>,
    S: Sink<Record = T::Record>,
    D: DeadLetters<E>,
    E: Event,
{
    let mut lanes = JoinSet::new();
    let mut inputs = Vec::new();
    for index in 0..shared.limits.lane_count() {
        let (input, output) = mpsc::channel(shared.limits.max_queue);
        inputs.push(input);
        let heartbeat = watchdog.heartbeat(format!("lane {index}"));
        lanes.spawn(Lane::new(index, Arc::clone(shared), output, heartbeat).run());
    }
    (inputs, lanes)
}

/// Runs intake, then waits for the lanes, then closes the source. This is the order of a drain.
async fn supervise<So: Source<E>, E: Event>(
    intake: Intake<So, E>,
    mut lanes: JoinSet<()>,
    stopped: watch::Receiver<bool>,
    mut cut_off: watch::Receiver<bool>,
    failure: mpsc::Sender<Error>,
) -> Result<(), Error> {
    let (source, ended) = {
        let intake = intake.run(stopped);
        tokio::pin!(intake);
        tokio::select! {
            ended = &mut intake => ended,
            // Only a panic can end a lane before its input ends.
            Some(Err(error)) = lanes.join_next() => {
                report(&failure, Recovery::Stop.because("run lane", error));
                intake.await
            }
        }
    };
    match ended {
        Ended::Stopped => {}
        Ended::Exhausted => info!("the source has ended, draining"),
        Ended::Failed(error) => report(&failure, error),
    }
    let drained = tokio::select! {
        () = join_all(&mut lanes, &failure) => true,
        _ = cut_off.wait_for(|cut| *cut) => false,
    };
    if !drained {
        lanes.shutdown().await;
    }
    source.close().await?;
    Ok(())
}

async fn join_all(lanes: &mut JoinSet<()>, failure: &mpsc::Sender<Error>) {
    while let Some(joined) = lanes.join_next().await {
        if let Err(error) = joined {
            report(failure, Recovery::Stop.because("run lane", error));
        }
    }
}

fn report(failure: &mpsc::Sender<Error>, error: Error) {
    if let Err(unsent) = failure.try_send(error) {
        error!(error = format!("{:#}", unsent.into_inner()), "pipeline failed again");
    }
}

impl Running {
    /// Returns the state of the pipeline.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Waits until the pipeline ends by itself.
    ///
    /// Returns `None` if the source was exhausted and every message is settled. Otherwise returns
    /// the error that prevents the pipeline from continuing. Cancel safe.
    pub async fn ended(&mut self) -> Option<Error> {
        // 1. A reported failure is the reason why the tasks end, so it must be seen before their end.
        // 2. The end of the tasks.
        tokio::select! {
            biased;
            Some(error) = self.failure.recv() => Some(error),
            ended = self.tasks.join_next() => match ended {
                Some(Ok(Ok(()))) | None => self.failure.try_recv().ok(),
                Some(Ok(Err(error))) => Some(error),
                Some(Err(panic)) => Some(Recovery::Stop.because("run pipeline", panic)),
            },
        }
    }

    /// Drains the pipeline in this order: intake stops, messages already received are transformed,
    /// every batch is written and settled, the source is closed.
    ///
    /// Part of `grace` is reserved for the source, which must send its acknowledgements. That part
    /// is 5 s, or a quarter of `grace` if that is shorter. Messages that are not settled before it
    /// are nacked.
    ///
    /// # Errors
    /// Messages were left over, or the source lost acks or nacks.
    pub async fn shutdown(mut self, grace: Duration) -> Result<(), ShutdownError> {
        let for_close = (grace / 4).min(MAX_CLOSE);
        // A send to no receiver is not an error here: the pipeline has already ended.
        self.stop.send_replace(true);
        let drained = timeout(grace.saturating_sub(for_close), self.tasks.join_next()).await;
        let left = self.status.in_flight().0;
        let joined = if let Ok(joined) = drained {
            joined
        } else {
            self.cut.send_replace(true);
            let closed = timeout(for_close, self.tasks.join_next()).await;
            if left > 0 {
                return Err(Incomplete { messages: left, grace }.into());
            }
            closed.map_err(|late| Recovery::Stop.because("send the last acknowledgements", late))?
        };
        match joined {
            Some(Ok(Ok(()))) | None => Ok(()),
            Some(Ok(Err(error))) => Err(error.into()),
            Some(Err(panic)) => Err(Recovery::Stop.because("drain", panic).into()),
        }
    }
}

/// Reason why a shutdown was not clean.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// The time ran out before every message was settled.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// The source lost acks or nacks, or a task died.
    #[error(transparent)]
    Failed(#[from] Error),
}
