//! Starts a pipeline and brings it down in order.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::bound::{InFlight, Memory};
use crate::dead_letter::{DeadLetters, Policy};
use crate::intake::{Ended, Intake};
use crate::lane::Lane;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::suspects::{MAX_BATCH, Suspects};
use crate::{Error, Limits, Metrics, Recovery, Sink, Source, Transform};

/// Most dead letters that are written at a time. Each is a request of its own, so there must be many where the
/// way is long, and fewer where it is thin.
const MAX_LETTERS: usize = 256;

/// Most of `attempt_timeout` that an attempt to write a dead letter is given, with a second more for each MiB.
const LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a drain leaves for the source to close: its acknowledgements have a way to go, over a
/// link that may be thin.
const MAX_CLOSE: Duration = Duration::from_secs(5);

/// A pipeline that has not started yet.
pub struct Pipeline<So, T, S, D> {
    /// The service's name, as dead letters bear it.
    pub service: &'static str,
    /// Where deliveries come from.
    pub source: So,
    /// What happens to each message.
    pub transform: T,
    /// Where records end up.
    pub sink: S,
    /// What happens to a message that can never succeed.
    pub dead_letters: Policy<D>,
    /// Bounds, waits and time-outs.
    pub limits: Limits,
    /// What the pipeline counts.
    pub metrics: Metrics,
}

/// What all lanes of a pipeline share.
pub(crate) struct Shared<T, S, D> {
    pub service: &'static str,
    pub transform: T,
    pub sink: S,
    pub dead_letters: Policy<D>,
    pub limits: Limits,
    pub metrics: Metrics,
    pub in_flight: Arc<InFlight>,
    pub memory: Arc<Memory>,
    pub outage: Outage,
    pub letter_outage: Outage,
    pub pace: Pace,
    /// Of dead letters, which are no part of a batch.
    pub letter_pace: Pace,
    pub suspects: Option<Arc<Suspects>>,
    failure: mpsc::Sender<Error>,
}

impl<T, S, D> Shared<T, S, D> {
    /// Asks for the end of the service; the first reason counts.
    pub(crate) fn fail(&self, error: Error) {
        if let Err(mpsc::error::TrySendError::Full(later)) = self.failure.try_send(error) {
            warn!(error = format!("{later:#}"), "failed again while going down");
        }
    }

    pub(crate) fn gauge(&self) {
        let in_flight = i64::try_from(self.in_flight.messages()).unwrap_or(i64::MAX);
        self.metrics.in_flight.set(in_flight);
    }
}

/// Whether the destination takes writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage(Arc<Mutex<Option<(String, OffsetDateTime)>>>);

impl Outage {
    /// Notes a failed attempt; true for the first of a series.
    pub(crate) fn began(&self, reason: String) -> bool {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = outage.is_none();
        let since = outage.as_ref().map_or_else(OffsetDateTime::now_utc, |(_, since)| *since);
        *outage = Some((reason, since));
        is_new
    }

    pub(crate) fn over(&self) {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.take().is_some() {
            info!("writes succeed again");
        }
    }
}

/// How a running pipeline is doing; clones look at the same pipeline.
#[derive(Debug, Clone)]
pub struct Status {
    progress: Progress,
    outage: Outage,
    letter_outage: Outage,
    in_flight: Arc<InFlight>,
    memory: Arc<Memory>,
    suspects: Option<Arc<Suspects>>,
}

impl Status {
    /// A task that hangs, and for how long it was silent.
    #[must_use]
    pub fn stalled(&self) -> Option<(String, Duration)> {
        self.progress.stalled()
    }

    /// Why the destination takes no writes, and since when.
    #[must_use]
    pub fn outage(&self) -> Option<(String, OffsetDateTime)> {
        self.outage.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the dead letters take no more, and since when.
    #[must_use]
    pub fn letter_outage(&self) -> Option<(String, OffsetDateTime)> {
        self.letter_outage.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Messages and bytes between source and settlement.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.messages(), self.in_flight.bytes())
    }

    /// Notes in the crash file that the process ends now, and not over a message. A message that a lane has
    /// computed over for as long as `stall_after` stays noted.
    pub fn excuse(&self) {
        self.suspects.iter().for_each(|suspects| suspects.excuse(self.progress.stall_after()));
    }

    /// Bytes of all batches, open or being written.
    #[must_use]
    pub fn batch_memory(&self) -> usize {
        self.memory.used()
    }
}

/// The drain did not end in time; what was left is nacked.
#[derive(Debug, thiserror::Error)]
#[error("{messages} messages were not settled within {grace:?} and will be delivered again")]
pub struct Incomplete {
    /// Messages that were handed back.
    pub messages: usize,
    /// The time that the drain had.
    pub grace: Duration,
}

/// A pipeline at work. Dropping it nacks all that it holds; [`Running::shutdown`] drains it.
pub struct Running {
    tasks: JoinSet<Result<(), Error>>,
    stop: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    failure: mpsc::Receiver<Error>,
    status: Status,
}

impl<So, T, S, D> Pipeline<So, T, S, D>
where
    So: Source,
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    /// Starts all tasks. Must be called within a Tokio runtime.
    #[must_use = "dropping a running pipeline ends it without a drain"]
    pub fn start(self) -> Running {
        let (failure, failures) = mpsc::channel(1);
        let mut limits = self.limits;
        if limits.crash_file.is_some() {
            limits.batch.max_messages = limits.batch.max_messages.min(MAX_BATCH);
        }
        let max_bytes = limits.max_bytes_in_flight;
        let write_timeout = self.sink.attempt_timeout(limits.attempt_timeout);
        let shared = Arc::new(Shared {
            service: self.service,
            transform: self.transform,
            sink: self.sink,
            dead_letters: self.dead_letters,
            metrics: self.metrics,
            in_flight: Arc::new(InFlight::new(limits.max_messages_in_flight, max_bytes)),
            memory: Arc::new(Memory::new(limits.max_batch_memory)),
            outage: Outage::default(),
            letter_outage: Outage::default(),
            pace: Pace::new(write_timeout, limits.lane_count().saturating_mul(limits.max_writes)),
            letter_pace: Pace::new(limits.attempt_timeout.min(LETTER_TIMEOUT), MAX_LETTERS),
            suspects: open_suspects(&limits, &failure),
            failure,
            limits,
        });
        let status = Status {
            progress: Progress::new(shared.limits.stall_after),
            outage: shared.outage.clone(),
            letter_outage: shared.letter_outage.clone(),
            in_flight: Arc::clone(&shared.in_flight),
            memory: Arc::clone(&shared.memory),
            suspects: shared.suspects.clone(),
        };
        let (inputs, lanes) = start_lanes(&shared, &status.progress);
        let intake = Intake {
            source: self.source,
            lanes: inputs,
            in_flight: Arc::clone(&shared.in_flight),
            metrics: shared.metrics.clone(),
            retry: shared.limits.retry,
            pulse: status.progress.pulse("intake".into()),
        };
        let (stop, stopped) = watch::channel(false);
        let (cut, cut_off) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(intake, lanes, (stopped, cut_off), shared.failure.clone()));
        Running { tasks, stop, cut, failure: failures, status }
    }
}

fn open_suspects(limits: &Limits, failure: &mpsc::Sender<Error>) -> Option<Arc<Suspects>> {
    let path = limits.crash_file.as_ref()?;
    match Suspects::open(path, limits) {
        Ok(suspects) => return Some(Arc::new(suspects)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            // As while one process takes over from another: better without the file than not at all.
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

fn start_lanes<T, S, D>(
    shared: &Arc<Shared<T, S, D>>,
    progress: &Progress,
) -> (Vec<mpsc::Sender<crate::intake::Parcel>>, JoinSet<()>)
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    /// Parcels between intake and a lane; part of the bound on messages in flight.
    const QUEUE: usize = 256;
    let mut lanes = JoinSet::new();
    let mut inputs = Vec::new();
    for index in 0..shared.limits.lane_count() {
        let (input, output) = mpsc::channel(QUEUE);
        inputs.push(input);
        lanes.spawn(
            Lane::new(index, Arc::clone(shared), output, progress.pulse(format!("lane {index}")))
                .run(),
        );
    }
    (inputs, lanes)
}

/// Runs intake, then waits for the lanes, then closes the source: the order of a drain.
async fn supervise<So: Source>(
    intake: Intake<So>,
    mut lanes: JoinSet<()>,
    (stopped, mut cut_off): (watch::Receiver<bool>, watch::Receiver<bool>),
    failure: mpsc::Sender<Error>,
) -> Result<(), Error> {
    let (source, ended) = {
        let intake = intake.run(stopped);
        tokio::pin!(intake);
        tokio::select! {
            ended = &mut intake => ended,
            // A lane ends before its input only by a panic.
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
    /// How the pipeline is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Waits until the pipeline ends by itself: `None` when its source was exhausted and everything
    /// is settled, else why it cannot go on. Cancel safe.
    pub async fn ended(&mut self) -> Option<Error> {
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

    /// Drains: stops intake, transforms what is in hand, writes every batch, settles, closes the
    /// source. What is not settled by then is nacked 5 s before the end of `grace`, or after three quarters
    /// of a short one: the source needs the rest to send its acknowledgements.
    ///
    /// # Errors
    /// When something was left, or the source lost verdicts.
    pub async fn shutdown(mut self, grace: Duration) -> Result<(), ShutdownError> {
        let for_close = (grace / 4).min(MAX_CLOSE);
        // Without a receiver the pipeline has ended already.
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

/// Why a shutdown was not clean.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// Time was over before everything was settled.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// The source lost verdicts, or a task died.
    #[error(transparent)]
    Failed(#[from] Error),
}
