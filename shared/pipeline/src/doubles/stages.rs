use std::time::Duration;

use super::{Fault, Faults, Recorder, reasons};
use crate::{
    DeadLetter, DeadLetters, Error, Event, PushError, Recovery, Refusal, Sink, Step, Transform,
};

/// A record of a [`MemorySink`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Key of the batch that it joins.
    pub key: String,
    /// Id of the message.
    pub id: String,
    /// Size in the batch, in bytes.
    pub bytes: usize,
    /// Treatment by the sink.
    pub kind: Kind,
}

/// Treatment of a record by a [`MemorySink`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The record is written.
    Good,
    /// The record alone is refused; the rest of its batch is written.
    Refused,
    /// Like `Refused`, for another reason.
    Malformed,
    /// The whole batch of the record is refused.
    Poison,
    /// The record is never written, and no attempt succeeds; the rest of its batch is written.
    Late,
    /// The message becomes no record. It is only acknowledged.
    Skipped,
}

/// A sink in memory. Batches hold at most `max_bytes`.
pub struct MemorySink {
    recorder: Recorder,
    faults: Faults,
    max_bytes: usize,
}

impl MemorySink {
    /// Creates a sink that reports to `recorder`.
    #[must_use]
    pub fn new(recorder: Recorder, faults: Faults, max_bytes: usize) -> Self {
        Self { recorder, faults, max_bytes }
    }

    /// Writes the records that were not written and are not late.
    fn put_some(&self, batch: &[Item]) {
        let mut recording = self.recorder.recording();
        for item in batch.iter().filter(|item| item.kind != Kind::Late) {
            if !recording.written.contains(&item.id) {
                recording.written.push(item.id.clone());
            }
        }
    }

    fn put(&self, batch: &[Item]) -> Vec<Refusal> {
        let mut recording = self.recorder.recording();
        recording.batches.push(batch.iter().map(|item| item.id.clone()).collect());
        let mut refusals = Vec::new();
        for (index, item) in batch.iter().enumerate() {
            let reason = match item.kind {
                Kind::Refused => reasons::REFUSED_RECORD,
                Kind::Malformed => reasons::MALFORMED,
                Kind::Good | Kind::Poison | Kind::Late | Kind::Skipped => {
                    recording.written.push(item.id.clone());
                    continue;
                }
            };
            refusals.push(Refusal { index, reason, detail: item.id.clone() });
        }
        // A destination may name its refusals in any order, and more than once.
        self.faults.shuffle(&mut refusals);
        refusals
    }
}

impl Sink for MemorySink {
    type Record = Item;
    type Key = String;
    type Batch = Vec<Item>;
    type EncodedBatch = Vec<Item>;
    type Scratch = ();

    fn scratch(&self) {}

    fn key(&self, record: &Item) -> String {
        record.key.clone()
    }

    fn open(&self, _key: &String) -> Vec<Item> {
        Vec::new()
    }

    fn push(
        &self,
        batch: &mut Vec<Item>,
        item: Item,
        (): &mut (),
    ) -> Result<usize, PushError<Item>> {
        if item.bytes > self.max_bytes {
            return Err(PushError::Refused(
                Recovery::Reject(reasons::TOO_LARGE).because("join", "too large"),
            ));
        }
        let bytes: usize = batch.iter().map(|item| item.bytes).sum();
        if !batch.is_empty() && bytes + item.bytes > self.max_bytes {
            return Err(PushError::Full(item));
        }
        let bytes = bytes + item.bytes;
        batch.push(item);
        Ok(bytes)
    }

    fn encode(&self, batch: Vec<Item>, (): &mut ()) -> Vec<Item> {
        batch
    }

    async fn write(&self, batch: &Vec<Item>, _: Duration) -> Result<Vec<Refusal>, Error> {
        let (delay, fault) = self.faults.draw();
        tokio::time::sleep(delay).await;
        fault.before("write").await?;
        if batch.iter().any(|item| item.kind == Kind::Poison) {
            return Err(
                Recovery::Reject(reasons::POISON).because("write", "a record spoils the batch")
            );
        }
        if batch.iter().any(|item| item.kind == Kind::Late) {
            self.put_some(batch);
            return Err(Recovery::Retry.because("write", "a record is late"));
        }
        let refusals = self.put(batch);
        fault.after("write")?;
        Ok(refusals)
    }

    fn destination(&self, batch: &Vec<Item>) -> Option<String> {
        batch.first().map(|item| item.key.clone())
    }

    fn written(&self, batch: &Vec<Item>) -> Vec<usize> {
        let recording = self.recorder.recording();
        let items = batch.iter().enumerate();
        items
            .filter(|(_, item)| recording.written.contains(&item.id))
            .map(|(index, _)| index)
            .collect()
    }

    fn split(&self, batch: &Vec<Item>, at: usize) -> Option<(Vec<Item>, Vec<Item>)> {
        let (first, second) = batch.split_at(at);
        Some((first.to_vec(), second.to_vec()))
    }
}

/// A [`MemorySink`] whose batches cannot be split, and that keeps no originals.
pub struct Archive(pub MemorySink);

impl Sink for Archive {
    type Record = Item;
    type Key = String;
    type Batch = Vec<Item>;
    type EncodedBatch = Vec<Item>;
    type Scratch = ();

    const KEEPS_ORIGINALS: bool = false;

    fn scratch(&self) {}

    fn key(&self, record: &Item) -> String {
        self.0.key(record)
    }

    fn key_bytes(&self, key: &String) -> usize {
        key.len()
    }

    fn open(&self, key: &String) -> Vec<Item> {
        self.0.open(key)
    }

    fn push(
        &self,
        batch: &mut Vec<Item>,
        item: Item,
        (): &mut (),
    ) -> Result<usize, PushError<Item>> {
        self.0.push(batch, item, &mut ())
    }

    fn encode(&self, batch: Vec<Item>, (): &mut ()) -> Vec<Item> {
        batch
    }

    async fn write(&self, batch: &Vec<Item>, limit: Duration) -> Result<Vec<Refusal>, Error> {
        self.0.write(batch, limit).await
    }

    fn split(&self, _: &Vec<Item>, _: usize) -> Option<(Vec<Item>, Vec<Item>)> {
        None
    }
}

/// A transform that turns each message into the [`Item`] that the function returns.
pub struct FnTransform<F>(pub F, pub Faults);

impl<F, E> Transform<E> for FnTransform<F>
where
    F: Fn(&E) -> Item + Send + Sync + 'static,
    E: Event,
{
    type Record = Item;

    async fn apply(&self, message: &E) -> Result<Step<Item>, Error> {
        let (delay, fault) = self.1.draw();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fault == Fault::LostReply {
            // A transform has no reply to lose. It asks for another delivery instead.
            return Err(Recovery::HandBack.because("look up", "later"));
        }
        fault.before("look up").await?;
        let item = (self.0)(message);
        Ok(if item.kind == Kind::Skipped {
            Step::Skip(reasons::SKIPPED_MESSAGE)
        } else {
            Step::Pass(item)
        })
    }
}

/// Dead letters that are stored in the [`Recorder`].
pub struct MemoryDeadLetters(pub Recorder, pub Faults);

impl<E: Event> DeadLetters<E> for MemoryDeadLetters {
    async fn write(&self, letter: &DeadLetter<'_, E>, _: Duration) -> Result<(), Error> {
        let (delay, fault) = self.1.draw();
        tokio::time::sleep(delay).await;
        fault.before("dead letter").await?;
        let id = letter.message.id().to_owned();
        self.0.recording().dead_lettered.insert(id, letter.reason.as_str());
        fault.after("dead letter")
    }
}
