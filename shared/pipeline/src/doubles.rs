//! Test doubles of the stages: a [`Feed`] that redelivers what is nacked, a [`Shelf`] that keeps
//! what is written, [`Faults`] that make it fail, and a [`Ledger`] that watches the promise.
//!
//! They are real code: a source, a sink and dead letters in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{
    DeadLetters, Delivery, Error, Join, Letter, Message, Recovery, Refusal, Settlement, Sink,
    Source, Step, Transform, Verdict,
};

/// What happened to each message, by its id; clones look at the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

/// The pages of a [`Ledger`].
#[derive(Debug, Default)]
pub struct Book {
    /// Ids in the order in which they became durable, repeats included.
    pub written: Vec<String>,
    /// Ids in the dead letters, with their reasons.
    pub buried: HashMap<String, &'static str>,
    /// Ids that were acknowledged.
    pub acked: HashSet<String>,
    /// Ids that were handed back at least once.
    pub nacked: HashSet<String>,
    /// Deliveries without a verdict.
    pub unsettled: usize,
    /// The most deliveries that were ever without a verdict.
    pub most_unsettled: usize,
    /// Broken promises, in words.
    pub broken: Vec<String>,
}

impl Ledger {
    /// Opens the book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self) {
        let mut book = self.book();
        book.unsettled += 1;
        book.most_unsettled = book.most_unsettled.max(book.unsettled);
    }

    fn settled(&self, id: &str, verdict: Verdict) {
        let mut book = self.book();
        book.unsettled -= 1;
        if verdict == Verdict::Nack {
            book.nacked.insert(id.to_owned());
            return;
        }
        let is_durable = book.buried.contains_key(id) || book.written.iter().any(|done| done == id);
        if !is_durable {
            book.broken.push(format!("{id} was acked before it was durable"));
        }
        book.acked.insert(id.to_owned());
    }
}

/// A source of prepared messages that delivers again what is nacked, and ends when all are acked.
pub struct Feed {
    queue: Arc<Queue>,
    ledger: Ledger,
    lease: Option<Duration>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Message>>,
    changed: Notify,
}

impl Feed {
    /// Feeds these messages; each needs an id of its own.
    #[must_use]
    pub fn new(messages: impl IntoIterator<Item = Message>, ledger: Ledger) -> Self {
        let queue =
            Queue { waiting: Mutex::new(messages.into_iter().collect()), ..Queue::default() };
        Self { queue: Arc::new(queue), ledger, lease: None }
    }

    /// Gives each delivery a lease of this length. The lease only informs: it never ends by itself.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    fn deliver(&self, message: Message) -> Delivery {
        self.ledger.delivered();
        let (queue, ledger, again) =
            (Arc::clone(&self.queue), self.ledger.clone(), message.clone());
        let settle = move |verdict| {
            ledger.settled(&again.id, verdict);
            if verdict == Verdict::Nack {
                queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(again);
            }
            queue.changed.notify_one();
        };
        let lease_end = self.lease.map(|lease| Instant::now() + lease);
        Delivery::new(message, Settlement::new(settle, lease_end))
    }
}

impl Source for Feed {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            let next =
                self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(message) = next {
                return Ok(Some(self.deliver(message)));
            }
            if self.ledger.book().unsettled == 0 {
                return Ok(None);
            }
            self.queue.changed.notified().await;
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// How often a [`Shelf`] misbehaves: shares of 100 attempts, drawn from a seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// Attempts that fail and write nothing.
    pub refused: u8,
    /// Attempts that write everything and lose the reply.
    pub lost_replies: u8,
    /// Attempts that never return.
    pub hung: u8,
    /// The longest duration of an attempt.
    pub max_delay: Duration,
}

/// Draws faults.
#[derive(Debug)]
pub struct Faults {
    rates: FaultRates,
    random: Mutex<StdRng>,
}

enum Fault {
    None,
    Refused,
    LostReply,
    Hung,
}

impl Faults {
    /// Faults at these rates; the same seed draws the same ones.
    #[must_use]
    pub fn new(rates: FaultRates, seed: u64) -> Self {
        Self { rates, random: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    fn draw(&self) -> (Duration, Fault) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = self.rates.max_delay.mul_f64(random.random_range(0.0..=1.0));
        let FaultRates { refused, lost_replies, hung, .. } = self.rates;
        let drawn = random.random_range(0..100_u16);
        let (refused, lost) = (u16::from(refused), u16::from(lost_replies));
        let fault = match drawn {
            _ if drawn < refused => Fault::Refused,
            _ if drawn < refused + lost => Fault::LostReply,
            _ if drawn < refused + lost + u16::from(hung) => Fault::Hung,
            _ => Fault::None,
        };
        (delay, fault)
    }
}

/// A record of a [`Shelf`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which batch it joins.
    pub key: String,
    /// The message's id.
    pub id: String,
    /// Its size in the batch.
    pub bytes: usize,
    /// What the shelf does with it.
    pub kind: Kind,
}

/// What a [`Shelf`] does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is written.
    Good,
    /// It is refused alone, its batch is written.
    Refused,
    /// Its whole batch is refused.
    Poison,
}

/// A sink in memory. Batches hold at most `max_bytes`.
pub struct Shelf {
    ledger: Ledger,
    faults: Faults,
    max_bytes: usize,
}

impl Shelf {
    /// A shelf that reports what it holds to `ledger`.
    #[must_use]
    pub fn new(ledger: Ledger, faults: Faults, max_bytes: usize) -> Self {
        Self { ledger, faults, max_bytes }
    }

    fn put(&self, batch: &[Item]) -> Vec<Refusal> {
        let mut book = self.ledger.book();
        let mut refusals = Vec::new();
        for (index, item) in batch.iter().enumerate() {
            if item.kind == Kind::Refused {
                refusals.push(Refusal { index, reason: "refused", detail: item.id.clone() });
            } else {
                book.written.push(item.id.clone());
            }
        }
        refusals
    }
}

impl Sink for Shelf {
    type Record = Item;
    type Key = String;
    type Batch = Vec<Item>;
    type Sealed = Vec<Item>;
    type Scratch = ();

    fn scratch(&self) {}

    fn key(&self, record: &Item) -> String {
        record.key.clone()
    }

    fn open(&self, _key: &String) -> Vec<Item> {
        Vec::new()
    }

    fn join(&self, batch: &mut Vec<Item>, item: Item, (): &mut ()) -> Result<usize, Join<Item>> {
        if item.bytes > self.max_bytes {
            return Err(Join::Refused(Recovery::Reject("too_large").because("join", "too large")));
        }
        let bytes: usize = batch.iter().map(|item| item.bytes).sum();
        if !batch.is_empty() && bytes + item.bytes > self.max_bytes {
            return Err(Join::Full(item));
        }
        let bytes = bytes + item.bytes;
        batch.push(item);
        Ok(bytes)
    }

    fn seal(&self, batch: Vec<Item>, (): &mut ()) -> Vec<Item> {
        batch
    }

    async fn write(&self, batch: &Vec<Item>, _: Duration) -> Result<Vec<Refusal>, Error> {
        let (delay, fault) = self.faults.draw();
        tokio::time::sleep(delay).await;
        match fault {
            Fault::Refused => return Err(Recovery::Retry.because("write", "refused")),
            Fault::Hung => std::future::pending().await,
            Fault::None | Fault::LostReply => {}
        }
        if batch.iter().any(|item| item.kind == Kind::Poison) {
            return Err(Recovery::Reject("poison").because("write", "a record spoils the batch"));
        }
        let refusals = self.put(batch);
        match fault {
            Fault::LostReply => Err(Recovery::Retry.because("write", "the reply was lost")),
            _ => Ok(refusals),
        }
    }

    fn split(&self, batch: &Vec<Item>, at: usize) -> Option<(Vec<Item>, Vec<Item>)> {
        let (first, second) = batch.split_at(at);
        Some((first.to_vec(), second.to_vec()))
    }
}

/// A transform that makes each message the [`Item`] that `describe` says.
pub struct Describe<F>(pub F, pub Faults);

impl<F> Transform for Describe<F>
where
    F: Fn(&Message) -> Item + Send + Sync + 'static,
{
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        let (delay, fault) = self.1.draw();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            Fault::None => Ok(Step::Pass((self.0)(message))),
            // A transform has no reply to lose; it asks for another delivery instead.
            Fault::LostReply => Err(Recovery::HandBack.because("look up", "later")),
            Fault::Refused => Err(Recovery::Retry.because("look up", "refused")),
            Fault::Hung => std::future::pending().await,
        }
    }
}

/// Dead letters in the [`Ledger`].
pub struct Graveyard(pub Ledger, pub Faults);

impl DeadLetters for Graveyard {
    async fn bury(&self, letter: &Letter<'_>, _: Duration) -> Result<(), Error> {
        let (delay, fault) = self.1.draw();
        tokio::time::sleep(delay).await;
        match fault {
            Fault::Refused => return Err(Recovery::Retry.because("bury", "refused")),
            Fault::Hung => std::future::pending().await,
            Fault::None | Fault::LostReply => {}
        }
        self.0.book().buried.insert(letter.message.id.clone(), letter.reason);
        match fault {
            Fault::LostReply => Err(Recovery::Retry.because("bury", "the reply was lost")),
            _ => Ok(()),
        }
    }
}
