//! The three parts of a pipeline: [`Source`], [`Transform`] and [`Sink`].
//!
//! All of them work on [`Message`]s, unless they name another [`Event`].

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use crate::hops::{Ids, RecordText};
use crate::{Delivery, Error, Event, Reason};
use message::Message;

/// A stream of deliveries, such as an MQTT connection or a Pub/Sub subscription.
pub trait Source<E = Message>: Send + 'static {
    /// Waits for the next delivery. Returns `None` once the source has ended permanently.
    ///
    /// Cancel safety: the pipeline may drop this future before it is ready, and call `receive`
    /// again. The source must not lose a delivery because of that.
    ///
    /// Order: messages with the same ordering key must be returned in the order of their key.
    /// Messages without an ordering key may be returned in any order.
    ///
    /// # Errors
    /// After `Retry` the pipeline logs the error and calls `receive` again after a back-off. Any
    /// other error stops the pipeline.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Delivery<E>>, Error>> + Send;

    /// Closes the source. Deliveries that were never received are nacked.
    ///
    /// Returns once all acks and nacks so far are as durable as the source can make them. For
    /// example, a source may wait until its last acknowledgements are sent.
    ///
    /// # Errors
    /// Acks or nacks were lost. Those messages will be delivered again.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the name of the source for people, such as that of a subscription. Without one, people
    /// see the origin of each message.
    fn name(&self) -> Option<String> {
        None
    }
}

/// Result of transforming a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// The record to write.
    Pass(R),
    /// Nothing to write: the message is acknowledged and counted under this reason.
    Skip(Reason),
}

/// The step that turns a message into a record.
///
/// Concurrency: a lane runs other calls while one call waits. Messages with the same ordering key
/// are an exception. They are transformed one after another, in their order.
pub trait Transform<E = Message>: Send + Sync + 'static {
    /// The output of the transform, which the sink writes.
    type Record: Send + 'static;

    /// Turns a message into a record.
    ///
    /// Idempotence: this may run more than once for the same message, after an error, a panic or a
    /// redelivery. A repeated call must have no other effect than the first.
    ///
    /// # Errors
    /// - `Reject` moves the message to the dead letters.
    /// - `Retry` calls `apply` again after a back-off, as long as the lease of the message lasts.
    /// - `Nack` nacks the message. If the message has an ordering key, or its deliveries are
    ///   counted, it is retried like `Retry` instead.
    /// - `Stop` nacks the message and stops the service.
    fn apply(&self, message: &E) -> impl Future<Output = Result<Step<Self::Record>, Error>> + Send;

    /// Returns the ids by which people find a message. `record` is its record, if it has one. This is
    /// called only while somebody watches.
    fn ids<'a>(&'a self, message: &'a E, _record: Option<&'a Self::Record>) -> Ids<'a>
    where
        E: Event,
    {
        message.ids()
    }

    /// Returns a record as text for people. Without one, people do not see the record. This is called
    /// only while somebody watches the message.
    fn show(&self, _message: &E, _record: &Self::Record) -> Option<RecordText> {
        None
    }
}

/// Reason why a batch did not take a record.
#[derive(Debug)]
pub enum PushError<R> {
    /// The batch has no room left. The pipeline closes it, opens a new one and offers the record
    /// again.
    Full(R),
    /// No batch can take the record, and the batch stays as it was. With `Reject` the message goes to
    /// the dead letters. With `Retry` and `Nack` it is nacked later, and `Stop` stops the service.
    Refused(Error),
}

/// A record that the destination refused permanently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Position of the record in the batch, from 0.
    pub index: usize,
    /// Reason for the dead letter, such as `row_type_mismatch`.
    pub reason: Reason,
    /// Exact cause: the column, the expected value and the actual value.
    pub detail: String,
}

/// The destination of records, such as a Pub/Sub topic or a BigQuery table.
///
/// A sink does not retry, and does not handle dead letters. The pipeline does both, so that every
/// service behaves alike. The life of a batch has four steps:
///
/// 1. [`Sink::open`] creates it.
/// 2. [`Sink::push`] adds one record at a time.
/// 3. [`Sink::encode`] closes it.
/// 4. [`Sink::write`] is called until it succeeds.
///
/// Order: a lane writes the ordered batches of one [`Sink::Key`] one after another. A batch is
/// ordered if one of its messages has an ordering key. All messages of an ordering key are in the
/// same lane, so their order is kept. Other batches are written side by side, even with the same
/// key.
pub trait Sink: Send + Sync + 'static {
    /// The output of the transform.
    type Record: Send + 'static;
    /// Identity of the batch that a record belongs to: a topic, a table or an archive folder.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    /// An open batch. It grows by one encoded record at a time.
    type Batch: Send + 'static;
    /// A closed batch. Every attempt to write it sends the same bytes.
    type EncodedBatch: Send + Sync + 'static;
    /// State that the batches of a lane share, such as a compressor.
    type LaneState: Send + 'static;

    /// True if the pipeline keeps each original message until its record is durable.
    ///
    /// The original is needed when [`Sink::write`] refuses a record, because a dead letter holds
    /// the whole message. A sink that never refuses a record after [`Sink::push`] sets this to
    /// `false` and saves the memory. Its [`Sink::write`] returns no [`Refusal`] and no `Reject`: without
    /// the message there is no dead letter, so the message would be nacked each time.
    const KEEPS_ORIGINALS: bool = true;

    /// Creates the state that the batches of one lane share.
    fn lane_state(&self) -> Self::LaneState;

    /// Returns the key of the batch that this record belongs to.
    fn key(&self, record: &Self::Record) -> Self::Key;

    /// Returns the number of bytes that a key holds on the heap. They count as memory of the batch
    /// if [`Sink::KEEPS_ORIGINALS`] is `false`.
    fn key_bytes(&self, _key: &Self::Key) -> usize {
        0
    }

    /// Creates an empty batch.
    fn open(&self, key: &Self::Key) -> Self::Batch;

    /// Encodes a record into a batch. Returns the memory that the batch takes, including the new
    /// record. It is at least the encoded size, and counts for the limit of a batch and of the memory.
    ///
    /// # Errors
    /// [`PushError::Full`] is only allowed if the batch already holds a record. Otherwise the pipeline
    /// would offer the record to one empty batch after another, forever.
    fn push(
        &self,
        batch: &mut Self::Batch,
        record: Self::Record,
        state: &mut Self::LaneState,
    ) -> Result<usize, PushError<Self::Record>>;

    /// Closes a batch. After this call its content and its name are fixed.
    fn encode(&self, batch: Self::Batch, state: &mut Self::LaneState) -> Self::EncodedBatch;

    /// Returns the longest duration of one attempt to write a small batch.
    ///
    /// `longest` is the time-out from the settings. The result must not exceed it, because leases
    /// are planned with `longest`.
    fn attempt_timeout(&self, longest: Duration) -> Duration {
        longest
    }

    /// Writes a batch and returns once it is durable.
    ///
    /// `Ok` lists the records that the destination refused permanently. All other records are
    /// durable. After `Err` the pipeline assumes that only those of [`Sink::written`] are durable,
    /// and may write the same batch again. So the sink must tolerate a batch that is written twice.
    ///
    /// Cancel safety: the pipeline drops the call after `time_limit`. No part of it may continue in
    /// the background after that. For example, a forgotten upload would take bandwidth from its own
    /// retry.
    ///
    /// # Errors
    /// - `Retry` writes the same batch again after a back-off, as long as the leases of its
    ///   messages last.
    /// - `Reject` splits the batch in halves and writes each half, until the bad record is alone.
    ///   That record becomes a dead letter. A batch that cannot be split is rejected as a whole.
    /// - `Nack` nacks all messages of the batch. The next batch is written at once, so a sink that
    ///   fails at once must wait itself.
    /// - `Stop` nacks them and stops the service.
    fn write(
        &self,
        batch: &Self::EncodedBatch,
        time_limit: Duration,
    ) -> impl Future<Output = Result<Vec<Refusal>, Error>> + Send;

    /// Returns the destination of a batch for people: a topic, a table or an object. This is called
    /// only while somebody watches.
    fn destination(&self, _batch: &Self::EncodedBatch) -> Option<String> {
        None
    }

    /// Returns the indices of the records that are durable although every attempt has failed.
    ///
    /// Their messages are acked when the other messages of the batch are nacked. Records that were
    /// refused are not among them.
    fn written(&self, _batch: &Self::EncodedBatch) -> Vec<usize> {
        Vec::new()
    }

    /// Splits a batch into its first `at` records and the others. Returns `None` if the batch
    /// cannot be split.
    fn split(
        &self,
        batch: &Self::EncodedBatch,
        at: usize,
    ) -> Option<(Self::EncodedBatch, Self::EncodedBatch)>;
}
