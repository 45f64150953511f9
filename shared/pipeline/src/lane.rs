//! One lane: a task that transforms records, grows batches and starts their writes. No locks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::batch::Cause;
use crate::dead_letter::DeadLetters;
use crate::intake::Parcel;
use crate::metrics::{FlushCause, Metrics};
use crate::progress::Pulse;
use crate::runner::Shared;
use crate::suspects::{Note, Noted, Work};
use crate::write::{self, Closed};
use crate::{Join, Sink, Transform, panics, suspects};

mod clock;
mod flushing;
mod open;
mod order;
mod rebuilding;
mod transforming;

use clock::Clock;
use open::{Open, OpenBatches};
pub(crate) use order::Keyed;
use order::Order;
use transforming::Transformed;

/// Messages taken in at one turn before writes and clocks are looked at again.
const TURN: usize = 256;

pub(crate) struct Lane<T: Transform, S: Sink<Record = T::Record>, D> {
    index: usize,
    shared: Arc<Shared<T, S, D>>,
    input: Option<mpsc::Receiver<Parcel>>,
    pulse: Pulse,
    scratch: S::Scratch,
    open: OpenBatches<S>,
    clock: Clock<S::Key>,
    last_taken: Instant,
    /// Closed batches that wait for a free write; intake pauses while there is one.
    waiting: VecDeque<Closed<S>>,
    writing: FuturesUnordered<Noted<Written<S::Key>>>,
    /// Keys with an ordered batch under way: the next one of the key must wait for it.
    ordered: HashSet<S::Key>,
    transforming: FuturesUnordered<Noted<Transformed<T::Record>>>,
    /// Messages whose records were lost with their batch, in order. Nothing else joins before them.
    lost: VecDeque<Parcel>,
    /// The first of them, while it is transformed again.
    rebuilding: FuturesUnordered<Noted<Transformed<T::Record>>>,
    /// Messages on their way to the dead letters. Polled always, because they may hold what writes need.
    leaving: FuturesUnordered<BoxFuture<'static, Vec<Keyed>>>,
    /// Messages that are held before they are handed back, in their order, and until when.
    held: VecDeque<(Instant, write::Entry)>,
    /// Messages that wait for an earlier one of their ordering key.
    parked: HashMap<String, VecDeque<Parcel>>,
    /// Keys whose parked messages can go on once there is room.
    resumable: Vec<String>,
    /// Keys with a message that must come again before those behind it.
    order: Order,
    /// Whether the other lanes know already that memory is short.
    has_called_for_memory: bool,
    starved: watch::Receiver<()>,
    freed: watch::Receiver<()>,
}

/// A write that has ended; its deliveries are settled.
struct Written<K> {
    key: K,
    was_ordered: bool,
    /// Ordered messages that were handed back, in their order.
    nacked: Vec<Keyed>,
}

/// A lane that ends, be it by a cut drain, has nothing at work.
impl<T: Transform, S: Sink<Record = T::Record>, D> Drop for Lane<T, S, D> {
    fn drop(&mut self) {
        self.shared.suspects.iter().for_each(|suspects| suspects.leave(self.index));
    }
}

impl<T, S, D> Lane<T, S, D>
where
    T: Transform,
    S: Sink<Record = T::Record>,
    D: DeadLetters,
{
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared<T, S, D>>,
        input: mpsc::Receiver<Parcel>,
        pulse: Pulse,
    ) -> Self {
        Self {
            index,
            scratch: shared.sink.scratch(),
            starved: shared.in_flight.starved(),
            freed: shared.memory.freed(),
            shared,
            input: Some(input),
            pulse,
            open: OpenBatches::default(),
            clock: Clock::default(),
            last_taken: Instant::now(),
            waiting: VecDeque::new(),
            writing: FuturesUnordered::new(),
            ordered: HashSet::new(),
            transforming: FuturesUnordered::new(),
            lost: VecDeque::new(),
            rebuilding: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
            held: VecDeque::new(),
            parked: HashMap::new(),
            resumable: Vec::new(),
            order: Order::default(),
            has_called_for_memory: false,
        }
    }

    /// Runs until the input is closed and everything taken in is settled.
    pub(crate) async fn run(mut self) {
        while !self.is_drained() {
            self.pulse.beat();
            self.turn().await;
            self.release_held();
            self.start_waiting();
            // Before memory takes the free writes: a small batch is never the largest.
            self.flush_due();
            self.relieve_memory();
            self.rebuild();
            self.resume_parked().await;
            if self.is_taken_in() {
                self.flush_all(Cause::Shutdown);
            } else {
                self.flush_idle().await;
            }
            self.rest();
        }
    }

    /// Notes that nothing is at work, unless the next message is at hand and notes itself.
    fn rest(&mut self) {
        let Some(suspects) = &self.shared.suspects else { return };
        if self.is_input_empty() || !self.has_room() {
            suspects.leave(self.index);
        }
    }

    /// A note of what the lane works on, where a file is kept of that.
    fn note(&self, fingerprints: impl IntoIterator<Item = u64>, work: Work) -> Option<Note> {
        let suspects = self.shared.suspects.as_ref()?;
        Some(Note::new(suspects, self.index, fingerprints, work))
    }

    /// Waits for the next thing to happen, and does it.
    ///
    /// Every branch is cancel safe: streams, channels and clocks lose nothing when dropped.
    async fn turn(&mut self) {
        let (accepting, can_join) = (self.has_room(), self.can_join());
        let wake_at = self.wake_at();
        let input = async {
            match &mut self.input {
                Some(input) if accepting => input.recv().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(written) = self.writing.next() => self.finish(written),
            Some(nacked) = self.leaving.next() => self.handed_back(nacked),
            // A record that cannot join yet stays where it is, so that the bounds hold.
            Some(rebuilt) = self.rebuilding.next(), if can_join => self.rebuilt(rebuilt),
            Some(transformed) = self.transforming.next(), if accepting => {
                self.transformed(transformed).await;
            }
            parcel = input => match parcel {
                Some(parcel) => self.take_turn(parcel).await,
                None => self.input = None,
            },
            Ok(()) = self.starved.changed() => self.make_room(),
            Ok(()) = self.freed.changed(), if !accepting => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }

    /// Whether nothing more can join a batch.
    fn is_taken_in(&self) -> bool {
        self.input.is_none()
            && self.transforming.is_empty()
            && self.resumable.is_empty()
            && !self.is_rebuilding()
    }

    fn is_drained(&self) -> bool {
        self.is_taken_in()
            && self.open.is_empty()
            && self.waiting.is_empty()
            && self.writing.is_empty()
            && self.leaving.is_empty()
    }

    /// Takes what is at hand, without waiting, as long as there is room for it.
    async fn take_turn(&mut self, first: Parcel) {
        self.take(first).await;
        for _ in 1..TURN {
            if !self.has_room() {
                break;
            }
            // An empty and a closed input look the same here; the next turn tells them apart.
            let next = self.input.as_mut().and_then(|input| input.try_recv().ok());
            let Some(parcel) = next else { break };
            self.take(parcel).await;
        }
        self.last_taken = Instant::now();
    }

    /// Adds a record to its batch, and closes the batch when that reaches a limit.
    fn join(&mut self, parcel: Parcel, mut record: T::Record) {
        let note = self.note([parcel.duty.fingerprint], Work::Compute);
        let choose = || panics::catch("choose batch", || self.shared.sink.key(&record));
        let key = match suspects::during(note.as_ref(), choose) {
            Ok(key) => key,
            Err(error) => return self.refuse(parcel, error),
        };
        let max_messages = self.shared.limits.batch.max_messages.min(parcel.duty.max_batch);
        let open = self.open.get_mut(&key);
        let mut full =
            open.is_some_and(|open| open.is_full_for(max_messages)).then_some(Cause::Count);
        loop {
            if let Some(cause) = full.take() {
                let lost = self.close(&key, cause);
                if lost != 0 {
                    // A panic: those of the batch come before this one.
                    return self.lost.insert(lost, parcel);
                }
            }
            let offer = || self.offer(&key, record, max_messages);
            match suspects::during(note.as_ref(), offer) {
                Ok(()) => return self.joined(&key, parcel),
                Err(Join::Full(back)) => {
                    record = back;
                    full = Some(Cause::Bytes);
                }
                Err(Join::Refused(error)) => {
                    if self.open.get(&key).is_some_and(|open| open.entries.is_empty()) {
                        let _empty = self.take_open(&key);
                    }
                    return self.refuse(parcel, error);
                }
            }
        }
    }

    /// Offers a record to the open batch of its key. After a panic the batch may hold half of it: it
    /// is thrown away, and built again from the other messages.
    fn offer(
        &mut self,
        key: &S::Key,
        record: T::Record,
        max_messages: usize,
    ) -> Result<(), Join<T::Record>> {
        let shared = Arc::clone(&self.shared);
        if !self.open.contains(key) {
            let open = || (shared.sink.open(key), shared.sink.key_bytes(key));
            let opened = panics::catch("open batch", open);
            let (batch, key_bytes) = opened.map_err(Join::Refused)?;
            let started = self.clock.start(key, shared.limits.batch.max_age);
            shared.metrics.open_batches.inc();
            let mut open = Open::new(batch, key_bytes, shared.memory.share(), started);
            open.max_messages = max_messages;
            self.open.insert(key, open);
        }
        let Some(open) = self.open.get_mut(key) else { return Ok(()) };
        let (batch, scratch) = (&mut open.batch, &mut self.scratch);
        match panics::catch("join batch", || shared.sink.join(batch, record, scratch)) {
            Ok(joined) => {
                open.bytes = joined?;
                Ok(())
            }
            Err(error) => {
                self.scratch = shared.sink.scratch();
                self.lose_open(key);
                Err(Join::Refused(error))
            }
        }
    }

    fn joined(&mut self, key: &S::Key, parcel: Parcel) {
        let limits = &self.shared.limits.batch;
        let Some(open) = self.open.get_mut(key) else { return };
        open.is_ordered |= !parcel.message.ordering_key.is_empty();
        let lease_end = parcel.duty.settlement.lease_end();
        open.push(write::Entry::new(parcel, S::KEEPS_ORIGINALS));
        let is_full = open.entries.len() >= open.max_messages;
        let is_large = open.bytes >= limits.max_bytes;
        if let Some(lease_end) = lease_end {
            let at = lease_end.checked_sub(self.shared.limits.lease_margin());
            let at = at.unwrap_or_else(Instant::now);
            if at < open.started.due_at {
                open.started = self.clock.hasten(open.started, at);
            }
        }
        self.open.measure(key);
        if is_full {
            self.close(key, Cause::Count);
        } else if is_large {
            self.close(key, Cause::Bytes);
        }
    }

    /// Takes the open batch of a key out of the lane.
    fn take_open(&mut self, key: &S::Key) -> Option<Open<S>> {
        let open = self.open.remove(key)?;
        self.clock.stop(open.started);
        self.shared.metrics.open_batches.dec();
        Some(open)
    }

    /// Seals a batch and starts its write, or queues it for one. Returns how many of its messages have to be
    /// put into batches again, after a panic.
    fn close(&mut self, key: &S::Key, cause: Cause) -> usize {
        let Some(mut open) = self.take_open(key) else { return 0 };
        self.shared.metrics.flushed.get_or_create(&FlushCause { cause }).inc();
        self.shared.metrics.batch_records.observe(open.entries.len() as f64);
        let note = self.note(open.entries.iter().map(write::Entry::fingerprint), Work::Compute);
        let (sink, batch, scratch) = (&self.shared.sink, open.batch, &mut self.scratch);
        let seal = || panics::catch("close batch", || sink.seal(batch, scratch));
        let sealed = match suspects::during(note.as_ref(), seal) {
            Ok(sealed) => sealed,
            Err(error) => {
                self.scratch = self.shared.sink.scratch();
                return self.lose_closed(open.entries, &error);
            }
        };
        open.share.leave();
        self.waiting.push_back(Closed {
            key: key.clone(),
            sealed,
            entries: open.entries,
            share: open.share,
            bytes: open.bytes,
            is_ordered: open.is_ordered,
            note: note.map(Note::written),
        });
        self.start_waiting();
        0
    }

    fn start_waiting(&mut self) {
        while let Some(closed) = self.waiting.front() {
            if !self.can_write(closed.is_ordered, &closed.key) {
                return;
            }
            let Some(mut closed) = self.waiting.pop_front() else { return };
            let note = closed.note.take();
            let (key, was_ordered) = (closed.key.clone(), closed.is_ordered);
            if was_ordered {
                self.ordered.insert(key.clone());
            }
            let shared = Arc::clone(&self.shared);
            let written = async move {
                let nacked = write::settle_batch(&shared, closed).await;
                Written { key, was_ordered, nacked }
            };
            self.writing.push(Noted::new(Box::pin(written), note));
        }
    }

    fn can_write(&self, is_ordered: bool, key: &S::Key) -> bool {
        self.has_free_write() && !(is_ordered && self.ordered.contains(key))
    }

    /// Whether the bounds let another record join.
    fn can_join(&self) -> bool {
        self.waiting.is_empty() && !self.shared.memory.is_over()
    }

    /// Whether another message may be taken in.
    fn has_room(&self) -> bool {
        self.can_join() && !self.is_rebuilding()
    }

    /// Whether a batch that is closed now would be written at once, as far as it needs no order.
    fn has_slot(&self) -> bool {
        self.waiting.is_empty() && self.has_free_write()
    }

    fn has_free_write(&self) -> bool {
        self.writing.len() < self.shared.limits.max_writes
    }

    fn finish(&mut self, written: Written<S::Key>) {
        if written.was_ordered {
            self.ordered.remove(&written.key);
        }
        if !written.nacked.is_empty() {
            self.handed_back(written.nacked);
            self.hand_back_behind(&written.key);
        }
    }

    /// Hands back the batches of a key that hold messages behind one that has to come again.
    fn hand_back_behind(&mut self, key: &S::Key) {
        let must_follow = |order: &Order, entries: &[write::Entry]| {
            let mut keyed = entries.iter().filter_map(write::Entry::keyed);
            keyed.any(|message| order.awaits(&message.ordering_key, message.sequence))
        };
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for closed in std::mem::take(&mut self.waiting) {
            if closed.key == *key && must_follow(&self.order, &closed.entries) {
                closed.entries.into_iter().for_each(|entry| self.hand_back(entry, "order"));
            } else {
                kept.push_back(closed);
            }
        }
        self.waiting = kept;
        if self.open.get(key).is_some_and(|open| must_follow(&self.order, &open.entries)) {
            self.hand_back_open(key, "order");
        }
    }

    /// Hands back all messages of an open batch; what was made of them is thrown away.
    fn hand_back_open(&mut self, key: &S::Key, reason: &'static str) {
        let Some(open) = self.take_open(key) else { return };
        open.entries.into_iter().for_each(|entry| self.hand_back(entry, reason));
    }

    /// Hands back what was held for long enough, in order: the source delivers it again in the order of
    /// the verdicts.
    fn release_held(&mut self) {
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, entry)) = self.held.pop_front()
        {
            entry.nack();
            self.shared.gauge();
        }
    }

    /// Hands a message back because of another one, after a while. Where attempts are counted that is
    /// long enough for the next delivery to be no copy that was on its way, so that one attempt suffices.
    fn hand_back(&mut self, entry: write::Entry, reason: &'static str) {
        let more = if entry.counts_attempts() { order::REDELIVERY } else { Duration::ZERO };
        let due = Instant::now() + write::HOLD + more;
        if let Some(keyed) = entry.keyed() {
            self.order.handed_back(keyed, due);
        }
        Metrics::count(&self.shared.metrics.nacked, reason, 1);
        self.held.push_back((due, entry));
    }

    /// Notes ordered messages that were just handed back.
    fn handed_back(&mut self, messages: Vec<Keyed>) {
        let now = Instant::now();
        messages.into_iter().for_each(|message| self.order.handed_back(message, now));
    }
}
