//! A lane: one task that transforms messages, collects records in batches and starts their writes.
//!
//! A lane owns its state, so it needs no locks. A message takes these steps through it:
//!
//! 1. `accept` takes the message from the input. It is parked if an earlier message of its ordering
//!    key is not transformed yet, and `resume` continues with it later.
//! 2. `transform` turns it into a record.
//! 3. `append` adds the record to the open batch of its key.
//! 4. `flush` closes the batch and puts it into the queue of writes.
//! 5. `start_writes` starts its write when one is free, and `on_written` ends it.
//!
//! There are three other ways:
//!
//! - `refuse` sends a message without a record to the dead letters.
//! - `nack_later` holds a message, and `send_due_nacks` nacks it when its time has come.
//! - `lose` takes the messages out of a batch after a panic, and `rebuild` transforms them again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::batch::FlushReason;
use crate::dead_letter::DeadLetters;
use crate::intake::Tracked;
use crate::keyed::Keyed;
use crate::shared::Shared;
use crate::suspects::{Note, Noted, Work};
use crate::watchdog::Heartbeat;
use crate::write::Closed;
use crate::{Event, Sink, Transform};

mod accepting;
mod appending;
mod clock;
mod expiring;
mod flushing;
mod nacking;
mod open;
mod order;
mod rebuilding;
mod transforming;
mod writing;

use clock::Clock;
use nacking::DelayedNack;
use open::OpenBatches;
use order::Order;
use transforming::Transformed;
use writing::Written;

pub(crate) struct Lane<T: Transform<E>, S: Sink<Record = T::Record>, D, E: Event> {
    index: usize,
    shared: Arc<Shared<T, S, D>>,
    input: Option<mpsc::Receiver<Tracked<E>>>,
    heartbeat: Heartbeat,
    sink_state: S::LaneState,
    open: OpenBatches<S, E>,
    clock: Clock<S::Key>,
    last_accepted: Instant,
    /// Closed batches that wait for a free write. The lane accepts nothing while there is one.
    closed: VecDeque<Closed<S, E>>,
    writing: FuturesUnordered<Noted<Written<S::Key, E>>>,
    /// Keys with an ordered batch being written. The next ordered batch of such a key must wait.
    ordered: HashSet<S::Key>,
    transforming: FuturesUnordered<Noted<Transformed<T::Record, E>>>,
    /// Messages whose records were lost with their batch, in order. No other record is appended
    /// before theirs.
    lost: VecDeque<Tracked<E>>,
    /// The first of the lost messages, while it is transformed again.
    rebuilding: FuturesUnordered<Noted<Transformed<T::Record, E>>>,
    /// Messages on their way to the dead letters or back to the source. Always polled, because they
    /// may hold resources that writes wait for.
    leaving: FuturesUnordered<BoxFuture<'static, Vec<Keyed>>>,
    /// Messages that will be nacked, in order.
    delayed_nacks: VecDeque<DelayedNack<E>>,
    /// Time at which a short lease may end in a batch that is not being written.
    give_up_at: Option<Instant>,
    /// Messages that wait for an earlier message of the same ordering key.
    parked: HashMap<String, VecDeque<Tracked<E>>>,
    /// Ordering keys whose parked messages can continue once there is room.
    resumable: Vec<String>,
    /// Ordering keys with a nacked message that must be redelivered before later messages may
    /// continue.
    order: Order,
    /// True if this lane has already told the other lanes that memory is short.
    has_called_for_memory: bool,
    starved: watch::Receiver<()>,
    freed: watch::Receiver<()>,
}

/// Clears the lane's note in the crash file when the lane ends, even in the middle of a drain.
impl<T: Transform<E>, S: Sink<Record = T::Record>, D, E: Event> Drop for Lane<T, S, D, E> {
    fn drop(&mut self) {
        self.shared.suspects.iter().for_each(|suspects| suspects.leave(self.index));
    }
}

impl<T: Transform<E>, S: Sink<Record = T::Record>, D: DeadLetters<E>, E: Event> Lane<T, S, D, E> {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared<T, S, D>>,
        input: mpsc::Receiver<Tracked<E>>,
        heartbeat: Heartbeat,
    ) -> Self {
        Self {
            index,
            sink_state: shared.sink.lane_state(),
            starved: shared.in_flight.starved(),
            freed: shared.memory.freed(),
            shared,
            input: Some(input),
            heartbeat,
            open: OpenBatches::default(),
            clock: Clock::default(),
            last_accepted: Instant::now(),
            closed: VecDeque::new(),
            writing: FuturesUnordered::new(),
            ordered: HashSet::new(),
            transforming: FuturesUnordered::new(),
            lost: VecDeque::new(),
            rebuilding: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
            delayed_nacks: VecDeque::new(),
            give_up_at: None,
            parked: HashMap::new(),
            resumable: Vec::new(),
            order: Order::default(),
            has_called_for_memory: false,
        }
    }

    /// Runs until the input is closed and every accepted message is settled.
    pub(crate) async fn run(mut self) {
        while !self.is_drained() {
            self.heartbeat.beat();
            self.handle_next_event().await;
            self.send_due_nacks();
            self.nack_early();
            self.start_writes();
            // Must come before memory takes the free writes. Memory flushes the largest batches
            // first, so a small batch that is due would wait too long.
            self.flush_due();
            self.flush_for_memory();
            self.rebuild();
            self.resume_keys().await;
            if self.is_input_done() {
                self.flush_all(FlushReason::Shutdown);
            } else {
                self.flush_idle().await;
            }
            self.clear_note();
        }
    }

    /// Clears the lane's note in the crash file, unless another message is ready. That message will
    /// replace the note.
    fn clear_note(&mut self) {
        let Some(suspects) = &self.shared.suspects else { return };
        if self.is_input_empty() || !self.can_accept() {
            suspects.leave(self.index);
        }
    }

    /// Creates a note of the lane's current work. Returns `None` if there is no crash file.
    fn note(&self, fingerprints: impl IntoIterator<Item = u64>, work: Work) -> Option<Note> {
        let suspects = self.shared.suspects.as_ref()?;
        Some(Note::new(suspects, self.index, fingerprints, work))
    }

    /// Waits for the next event and handles it.
    ///
    /// Cancel safety: dropping a branch of the `select!` loses nothing, because each is a stream, a
    /// channel or a clock.
    async fn handle_next_event(&mut self) {
        let (can_accept, can_append) = (self.can_accept(), self.can_append());
        let wake_at = self.wake_at();
        let input = async {
            match &mut self.input {
                Some(input) if can_accept => input.recv().await,
                _ => std::future::pending().await,
            }
        };
        // The branches are polled in this order, and the first that is ready wins:
        //
        // 1. Finished writes. They free resources. They also report nacked messages, and the lane
        //    must know of those before it accepts later messages of the same ordering key.
        // 2. Messages on their way out, for the same reasons.
        // 3. Lost messages that were transformed again. They are older than all that follow.
        // 4. Finished transforms. They are older than the messages in the input.
        // 5. New messages from the input.
        // 6. The call for room by intake, then freed memory, then the clock. They may come last,
        //    because nothing depends on them alone. The lane checks due batches and memory after
        //    every event. If intake waits for room, the input soon becomes empty, and then the lane
        //    sees the call.
        tokio::select! {
            biased;
            Some(written) = self.writing.next() => self.on_written(written),
            Some(nacked) = self.leaving.next() => self.on_nacked(nacked),
            // A record that cannot be appended yet stays in its future, so that the bounds hold.
            Some(rebuilt) = self.rebuilding.next(), if can_append => self.on_rebuilt(rebuilt),
            Some(transformed) = self.transforming.next(), if can_accept => {
                self.on_transformed(transformed).await;
            }
            tracked = input => match tracked {
                Some(tracked) => self.accept_ready(tracked).await,
                None => self.input = None,
            },
            Ok(()) = self.starved.changed() => self.flush_for_intake(),
            Ok(()) = self.freed.changed(), if !can_accept => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }

    /// Returns true if no more records will be appended.
    fn is_input_done(&self) -> bool {
        self.input.is_none()
            && self.transforming.is_empty()
            && self.resumable.is_empty()
            && !self.is_rebuilding()
    }

    fn is_drained(&self) -> bool {
        self.is_input_done()
            && self.open.is_empty()
            && self.closed.is_empty()
            && self.writing.is_empty()
            && self.leaving.is_empty()
    }

    /// Returns true if the bounds allow the lane to append another record.
    fn can_append(&self) -> bool {
        self.closed.is_empty() && !self.shared.memory.is_over()
    }

    /// Returns true if another message may be accepted.
    fn can_accept(&self) -> bool {
        self.can_append() && !self.is_rebuilding()
    }

    /// Returns true if a batch that is flushed now would be written at once. Ordered batches may
    /// still have to wait for an earlier batch of their key.
    fn can_flush(&self) -> bool {
        self.closed.is_empty() && self.has_free_write()
    }
}
