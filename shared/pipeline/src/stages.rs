//! The three parts of a pipeline.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use crate::{Delivery, Error, Message};

/// Where deliveries come from.
pub trait Source: Send + 'static {
    /// The next delivery, or `None` when the source has ended for good.
    ///
    /// Cancel safe: a delivery that was not returned is not lost. A source must keep its order
    /// within an ordering key.
    ///
    /// # Errors
    /// With `Retry` the pipeline logs and asks again after a back-off; anything else stops it.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Delivery>, Error>> + Send;

    /// Ends the source: returns once all verdicts given so far are as durable as the source can
    /// make them. Deliveries that nobody received are nacked.
    ///
    /// # Errors
    /// When verdicts were lost: those messages will be delivered again.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What a transform makes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// The record to write.
    Pass(R),
    /// Nothing to write: acknowledge, and count under this reason.
    Skip(&'static str),
}

/// What happens to a message on its way.
///
/// Calls of one lane run concurrently where they wait; those of one ordering key run one after
/// another.
pub trait Transform: Send + Sync + 'static {
    /// What comes out.
    type Record: Send + 'static;

    /// Makes a record of a message.
    ///
    /// May run again for the same message, so it must be idempotent.
    ///
    /// # Errors
    /// `Reject` sends the message to the dead letters; `Retry` tries again while the lease lasts.
    fn apply(
        &self,
        message: &Message,
    ) -> impl Future<Output = Result<Step<Self::Record>, Error>> + Send;
}

/// Why a batch did not take a record.
#[derive(Debug)]
pub enum Join<R> {
    /// It does not fit any more: close the batch, open a new one, offer the record again.
    Full(R),
    /// It fits no batch at all: to the dead letters.
    Refused(Error),
}

/// A record that the destination refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Position in the batch, from 0.
    pub index: usize,
    /// Stable code, such as `row_type_mismatch`.
    pub reason: &'static str,
    /// What exactly was wrong: column, expected, actual.
    pub detail: String,
}

/// Where records end up.
pub trait Sink: Send + Sync + 'static {
    /// What a transform hands over.
    type Record: Send + 'static;
    /// Which batch a record joins: a topic, a table, an archive folder.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    /// A batch that grows by one encoded record at a time.
    type Batch: Send + 'static;
    /// A batch that is closed: the same bytes at every attempt to write it.
    type Sealed: Send + Sync + 'static;
    /// What the batches of a lane share, such as a compressor.
    type Scratch: Send + 'static;

    /// Whether the pipeline keeps each original message until its record is durable, so that a
    /// record refused by [`Sink::write`] can go to the dead letters. A sink that never refuses a
    /// record once it has joined saves that memory.
    const KEEPS_ORIGINALS: bool = true;

    /// What the batches of one lane share.
    fn scratch(&self) -> Self::Scratch;

    /// The batch that this record belongs to.
    fn key(&self, record: &Self::Record) -> Self::Key;

    /// Bytes that a key holds on the heap. Where originals are not kept, they count as memory of a batch.
    fn key_bytes(&self, _key: &Self::Key) -> usize {
        0
    }

    /// An empty batch.
    fn open(&self, key: &Self::Key) -> Self::Batch;

    /// Encodes a record into a batch and returns the batch's size in bytes after it.
    ///
    /// # Errors
    /// [`Join::Full`] only for a batch that holds a record already.
    fn join(
        &self,
        batch: &mut Self::Batch,
        record: Self::Record,
        scratch: &mut Self::Scratch,
    ) -> Result<usize, Join<Self::Record>>;

    /// Closes a batch. From here on its content and its name are fixed.
    fn seal(&self, batch: Self::Batch, scratch: &mut Self::Scratch) -> Self::Sealed;

    /// Longest duration of an attempt to write a small batch. `longest` is the one of the settings, and the
    /// most that may be said: leases last long enough for that.
    fn attempt_timeout(&self, longest: Duration) -> Duration {
        longest
    }

    /// Writes a batch and returns once it is durable.
    ///
    /// `Ok` lists the records that the destination refused for good; all others are durable. After
    /// `Err` none of them may be taken as durable, so a sink must bear the same batch twice.
    ///
    /// The call is dropped at `time_limit`. Nothing of it may go on after that: an upload that
    /// nobody waits for would take bandwidth from its own repetition.
    ///
    /// # Errors
    /// `Retry` writes the same batch again, `Reject` splits it until the culprit stands alone.
    fn write(
        &self,
        batch: &Self::Sealed,
        time_limit: Duration,
    ) -> impl Future<Output = Result<Vec<Refusal>, Error>> + Send;

    /// The first `at` records and the others, or `None` for a batch that cannot be parted.
    fn split(&self, batch: &Self::Sealed, at: usize) -> Option<(Self::Sealed, Self::Sealed)>;
}
