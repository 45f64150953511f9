use std::future::{Future, ready};
use std::time::Duration;

use super::{Item, MemorySink};
use crate::{Error, PushError, Refusal, Sink};

/// A method of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Sink::key`].
    Key,
    /// [`Sink::open`].
    Open,
    /// [`Sink::push`].
    Push,
    /// [`Sink::encode`].
    Encode,
    /// [`Sink::write`].
    Write,
}

/// Code that runs in the calls of a [`Hooked`] sink.
pub trait Hook: Send + Sync + 'static {
    /// Called for each record of a call, with the id of the record. For [`Call::Open`] it is called
    /// with the key of the batch. In [`Call::Push`] the record is already in the batch.
    fn called(&self, _call: Call, _name: &str) {}

    /// Longest duration of an attempt to write.
    fn attempt_timeout(&self, longest: Duration) -> Duration {
        longest
    }

    /// Runs before a batch is written.
    fn before_write(&self, _batch: &[Item]) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// A [`MemorySink`] with a hook in each call.
pub struct Hooked<H>(pub MemorySink, pub H);

impl<H: Hook> Sink for Hooked<H> {
    type Record = Item;
    type Key = String;
    type Batch = Vec<Item>;
    type EncodedBatch = Vec<Item>;
    type LaneState = ();

    fn lane_state(&self) {}

    fn key(&self, record: &Item) -> String {
        self.1.called(Call::Key, &record.id);
        self.0.key(record)
    }

    fn open(&self, key: &String) -> Vec<Item> {
        self.1.called(Call::Open, key);
        self.0.open(key)
    }

    fn push(
        &self,
        batch: &mut Vec<Item>,
        item: Item,
        (): &mut (),
    ) -> Result<usize, PushError<Item>> {
        let id = item.id.clone();
        let joined = self.0.push(batch, item, &mut ())?;
        self.1.called(Call::Push, &id);
        Ok(joined)
    }

    fn encode(&self, batch: Vec<Item>, (): &mut ()) -> Vec<Item> {
        batch.iter().for_each(|item| self.1.called(Call::Encode, &item.id));
        self.0.encode(batch, &mut ())
    }

    fn attempt_timeout(&self, longest: Duration) -> Duration {
        self.1.attempt_timeout(longest)
    }

    async fn write(&self, batch: &Vec<Item>, limit: Duration) -> Result<Vec<Refusal>, Error> {
        batch.iter().for_each(|item| self.1.called(Call::Write, &item.id));
        self.1.before_write(batch).await;
        self.0.write(batch, limit).await
    }

    fn split(&self, batch: &Vec<Item>, at: usize) -> Option<(Vec<Item>, Vec<Item>)> {
        self.0.split(batch, at)
    }
}
