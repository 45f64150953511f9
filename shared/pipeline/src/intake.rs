//! Takes deliveries from the source and hands each to its lane.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Interval;

use crate::backoff::Backoff;
use crate::bound::{InFlight, Permit};
use crate::hops::{HopStep, MAX_RECORD_BYTES, Owner, Shown, Told};
use crate::metrics::Metrics;
use crate::oldest_unacked::UnackedGuard;
use crate::retry::{Attempt, Failure, Report, Series};
use crate::watchdog::Heartbeat;
use crate::{Delivery, Error, Event, Recovery, Settlement, Source};

/// A message that a lane is working on.
#[derive(Debug)]
pub(crate) struct Tracked<E> {
    pub message: E,
    pub handle: AckHandle,
}

/// Everything owed for a message: its settlement, and its share of the bounds.
#[derive(Debug)]
pub(crate) struct AckHandle {
    pub settlement: Settlement,
    pub permit: Permit,
    pub first_seen: OffsetDateTime,
    /// Maximum number of messages in a batch with this one. Usually above every limit, so that it
    /// has no effect.
    pub max_batch: u32,
    /// Identifies the message in the crash file. It is 0 if there is no crash file.
    pub fingerprint: u64,
    /// Position among the messages of the lane, for a message with an ordering key. The lane
    /// assigns it.
    pub sequence: u64,
    /// Copy of the message's property of this name. It remains after the message itself is dropped.
    pub counts_attempts: bool,
    /// Identity of the message for those who watch it.
    pub owner: Option<Box<Owner>>,
    /// Counts the message as unacked until it is dropped.
    pub _unacked: UnackedGuard,
}

pub(crate) struct Intake<S, E> {
    pub source: S,
    pub lanes: Vec<mpsc::Sender<Tracked<E>>>,
    pub in_flight: Arc<InFlight>,
    pub metrics: Metrics,
    pub shown: Shown,
    pub retry: Backoff,
    pub heartbeat: Heartbeat,
}

/// Reason why intake ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Intake was asked to stop.
    Stopped,
    /// The source has ended permanently.
    Exhausted,
    /// The source or a lane failed.
    Failed(Error),
}

impl<S: Source<E>, E: Event> Intake<S, E> {
    /// Takes messages until `stop` becomes true or the source ends. Returns the source, and closes
    /// the inputs of the lanes.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> (S, Ended) {
        let ended = tokio::select! {
            // `receive` and `admit` inside are cancel safe. A delivery that was received but not
            // yet handed over is dropped here, and dropping nacks it.
            ended = self.take_all() => ended,
            // An error means that the sender is gone, so the pipeline is shutting down too.
            _ = stop.wait_for(|stop| *stop) => Ended::Stopped,
        };
        (self.source, ended)
    }

    async fn take_all(&mut self) -> Ended {
        let mut next_lane = 0;
        let mut interval = tokio::time::interval(self.heartbeat.interval());
        loop {
            let delivery = match self.receive(&mut interval).await {
                Ok(Some(delivery)) => delivery,
                Ok(None) => return Ended::Exhausted,
                Err(error) => return Ended::Failed(error),
            };
            self.metrics.received.inc();
            if delivery.message.attempts() > 1 {
                self.metrics.repeated.inc();
            }
            if self.shown.is_watched() {
                show(&self.shown, &delivery.message);
            }
            let lane = &self.lanes[pick(&delivery.message, self.lanes.len(), &mut next_lane)];
            // Beats while it waits, because room depends on the sink.
            let hand_over = hand_over(delivery, lane, &self.in_flight, &self.metrics);
            if let Err(error) = beating(hand_over, &mut interval, &self.heartbeat).await {
                return Ended::Failed(error);
            }
        }
    }

    /// Waits for the next delivery. Beats meanwhile, and between two attempts: a source that is away
    /// for long is no reason to restart the process.
    async fn receive(&mut self, interval: &mut Interval) -> Result<Option<Delivery<E>>, Error> {
        let series = Series {
            action: "receive",
            backoff: self.retry,
            lease_end: None,
            attempt_time: Duration::ZERO,
            report: Report::Source,
            metrics: &self.metrics,
        };
        let receive = Receive { source: &mut self.source, event: PhantomData };
        beating(series.run(receive), interval, &self.heartbeat).await
    }
}

/// Tells the viewers that a message was received. A message without ids gets them by its transform,
/// and is told then.
fn show(shown: &Shown, message: &impl Event) {
    if shown.is_new(message) {
        return;
    }
    if let Some(owner) = shown.owner(message, || message.ids()) {
        let record = || Told { record: message.show(MAX_RECORD_BYTES), ..Told::default() };
        shown.tell(&owner, HopStep::Received, record);
    }
}

/// Waits for a future, and beats meanwhile.
async fn beating<F: Future>(
    future: F,
    interval: &mut Interval,
    heartbeat: &Heartbeat,
) -> F::Output {
    tokio::pin!(future);
    loop {
        tokio::select! {
            output = &mut future => return output,
            _ = interval.tick() => heartbeat.beat(),
        }
    }
}

/// The wait for a delivery.
struct Receive<'a, S, E> {
    source: &'a mut S,
    event: PhantomData<fn() -> E>,
}

impl<S: Source<E>, E: Event> Attempt for Receive<'_, S, E> {
    type Done = Option<Delivery<E>>;

    async fn attempt(&mut self) -> Result<Option<Delivery<E>>, Failure> {
        Ok(self.source.receive().await?)
    }
}

/// Waits for room within the bounds, then for room in the queue of the lane.
async fn hand_over<E: Event>(
    delivery: Delivery<E>,
    lane: &mpsc::Sender<Tracked<E>>,
    in_flight: &Arc<InFlight>,
    metrics: &Metrics,
) -> Result<(), Error> {
    let (message, settlement) = delivery.into_parts();
    let unacked = metrics.oldest_unacked.track(message.publish_time());
    let permit = in_flight.admit(message.size()).await;
    let first_seen = OffsetDateTime::now_utc();
    let handle = AckHandle {
        settlement,
        permit,
        first_seen,
        max_batch: u32::MAX,
        fingerprint: 0,
        sequence: 0,
        counts_attempts: message.counts_attempts(),
        owner: None,
        _unacked: unacked,
    };
    let sent = lane.send(Tracked { message, handle }).await;
    sent.map_err(|_| Recovery::Stop.because("hand over", "a lane has died"))
}

/// Picks a lane. An ordering key always uses the same lane, which keeps its order. Other messages
/// are spread evenly over the lanes.
fn pick(event: &impl Event, lanes: usize, next_lane: &mut usize) -> usize {
    if event.ordering_key().is_empty() {
        *next_lane = (*next_lane + 1) % lanes;
        return *next_lane;
    }
    let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(event.ordering_key());
    usize::try_from(hash % lanes as u64).unwrap_or(0)
}
