//! Publisher for programs: single messages and batches, with the ids that Pub/Sub gives them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use message::Attributes;
use pipeline::backoff::Backoff;
use pipeline::{Error, Recovery};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::error;

use crate::admin::Admin;
use crate::connection::Connection;
use crate::limits::MAX_REQUEST_MESSAGES;
use crate::names::TopicName;
use crate::outgoing::{Outgoing, check, encoded_size};
use crate::publishers::Publishers;

/// Name of the action in errors.
const PUBLISH: &str = "publish";
/// Memory that a waiting message takes besides its content.
const OVERHEAD: usize = 256;
/// Number of attempts that share [`PublisherLimits::timeout`], if each of them hangs.
const ATTEMPTS: u32 = 4;

/// A message to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// Data of the message.
    pub data: Bytes,
    /// String pairs that accompany the data.
    pub attributes: Attributes,
    /// Ordering key. Messages with the same non-empty key keep their order.
    pub ordering_key: String,
}

impl NewMessage {
    /// Creates a message without attributes.
    #[must_use]
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Sets the ordering key.
    #[must_use]
    pub fn with_ordering_key(self, key: impl Into<String>) -> Self {
        Self { ordering_key: key.into(), ..self }
    }
}

/// Bounds of a [`Publisher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherLimits {
    /// Maximum memory of messages that are not confirmed yet; at most 4 GiB. A new message waits for
    /// room. A message that is larger takes all of it.
    pub max_waiting_bytes: u32,
    /// Longest time from the sending of a message to its result, over all attempts. The wait for
    /// earlier messages comes before it.
    ///
    /// An attempt gets a quarter of it, so that a request that hangs is sent again. Everything that
    /// waits together must be uploaded in that quarter; `max_waiting_bytes` bounds it.
    pub timeout: Duration,
    /// Waits between attempts.
    pub retry: Backoff,
}

impl Default for PublisherLimits {
    fn default() -> Self {
        let timeout = Duration::from_secs(60);
        Self { max_waiting_bytes: 64 * 1024 * 1024, timeout, retry: Backoff::default() }
    }
}

/// Publishes messages of a program to one topic.
///
/// Messages that wait at the same time share a request, so there is no timer: a single message is
/// sent at once. A message may be published twice after a failure, but none is lost unseen: either
/// it has an id, or its caller gets an error. Messages of one ordering key keep their order, and a
/// message that is given up does not hold up the next ones of its key.
///
/// Dropping it without [`Publisher::stop`] gives up the messages that wait.
#[must_use = "a publisher that is dropped gives up the messages that wait"]
pub struct Publisher {
    topic: TopicName,
    waiting: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    max_bytes: u32,
    /// The task that sends.
    sender: JoinSet<()>,
    unheard: Arc<Unheard>,
}

/// Failed messages whose errors nobody has read.
#[derive(Debug)]
struct Unheard {
    topic: TopicName,
    count: AtomicUsize,
}

impl Unheard {
    /// Counts and logs a failed message.
    fn note(&self, error: &Error) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let topic = &self.topic;
        error!(%topic, error = format!("{error:#}"), "a message was not published");
    }
}

/// A message that waits for its confirmation.
struct Waiting {
    message: Outgoing,
    caller: Caller,
}

/// Caller who waits for the id of a message.
struct Caller {
    answer: oneshot::Sender<Result<String, Error>>,
    _room: OwnedSemaphorePermit,
}

/// Id of a message that is on its way. Dropping it does not take the message back.
///
/// [`Publisher::stop`] fails if a message failed and its confirmation was dropped unread.
#[derive(Debug)]
#[must_use = "the message may fail"]
pub struct Confirmation {
    answer: oneshot::Receiver<Result<String, Error>>,
    unheard: Arc<Unheard>,
}

impl Future for Confirmation {
    type Output = Result<String, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let given_up = |_| Err(Recovery::Retry.because(PUBLISH, "the publisher was dropped"));
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(given_up))
    }
}

impl Drop for Confirmation {
    fn drop(&mut self) {
        // The sender itself counts failures that come after this.
        self.answer.close();
        if let Ok(Err(error)) = self.answer.try_recv() {
            self.unheard.note(&error);
        }
    }
}

impl Publisher {
    /// Opens a publisher. The topic must have a subscription or retention, so that somebody sees the
    /// messages.
    ///
    /// # Errors
    /// `Stop` if no client can be built. `Retry` if nobody would see the messages, or if Pub/Sub
    /// cannot be asked.
    pub async fn open(
        connection: &Connection,
        topic: TopicName,
        limits: PublisherLimits,
    ) -> Result<Self, Error> {
        Admin::new(connection).await?.require_audience(&topic).await?;
        let publishers = Publishers::new(connection).await?;
        let (waiting, messages) = mpsc::unbounded_channel();
        let unheard = Arc::new(Unheard { topic: topic.clone(), count: AtomicUsize::new(0) });
        let sending =
            SendTask { publishers, topic: topic.clone(), limits, unheard: Arc::clone(&unheard) };
        let mut sender = JoinSet::new();
        sender.spawn(sending.run(messages));
        let max_bytes = limits.max_waiting_bytes.max(1);
        let room = Arc::new(Semaphore::new(usize::try_from(max_bytes).unwrap_or(usize::MAX)));
        Ok(Self { topic, waiting, room, max_bytes, sender, unheard })
    }

    /// Publishes a message, and returns its id once Pub/Sub has confirmed it.
    ///
    /// # Errors
    /// `Reject` if Pub/Sub does not accept the message, otherwise `Retry`. The message may have been
    /// published nevertheless.
    pub async fn publish(&self, message: NewMessage) -> Result<String, Error> {
        self.enqueue(message).await?.await
    }

    /// Publishes messages together, and returns their ids in the same order.
    ///
    /// # Errors
    /// Same as [`Publisher::publish`], for the first message that failed. All messages before the
    /// first that is refused here are sent. Errors of further messages count as unread.
    pub async fn publish_batch(
        &self,
        messages: impl IntoIterator<Item = NewMessage>,
    ) -> Result<Vec<String>, Error> {
        let mut confirmations = Vec::new();
        for message in messages {
            confirmations.push(self.enqueue(message).await?);
        }
        let mut ids = Vec::with_capacity(confirmations.len());
        for confirmation in confirmations {
            ids.push(confirmation.await?);
        }
        Ok(ids)
    }

    /// Waits for room, and hands a message over. It is sent, whether somebody waits for the
    /// confirmation or not.
    ///
    /// # Errors
    /// `Reject` if Pub/Sub would not accept the message.
    pub async fn enqueue(&self, message: NewMessage) -> Result<Confirmation, Error> {
        let NewMessage { data, attributes, ordering_key } = message;
        let message = Outgoing { topic: self.topic.clone(), data, attributes, ordering_key };
        let size = encoded_size(&message);
        check(&message, size)?;
        let ended = || Recovery::Stop.because(PUBLISH, "the publisher has ended");
        let bytes = u32::try_from(size + OVERHEAD).unwrap_or(u32::MAX).min(self.max_bytes);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let (answer, confirmed) = oneshot::channel();
        let caller = Caller { answer, _room: room.map_err(|_| ended())? };
        self.waiting.send(Waiting { message, caller }).map_err(|_| ended())?;
        Ok(Confirmation { answer: confirmed, unheard: Arc::clone(&self.unheard) })
    }

    /// Sends everything that waits, and returns once it is confirmed.
    ///
    /// # Errors
    /// `Retry` if a message failed and its confirmation was dropped unread, or if not all messages
    /// are confirmed within `grace`. Confirmations that still exist can be read afterwards.
    pub async fn stop(self, grace: Duration) -> Result<(), Error> {
        let Self { waiting, mut sender, unheard, .. } = self;
        drop(waiting);
        let ended = timeout(grace, sender.join_next()).await;
        let ended = ended.map_err(|late| Recovery::Retry.because("flush", late))?;
        if let Some(Err(panic)) = ended {
            return Err(Recovery::Stop.because("flush", panic));
        }
        match unheard.count.load(Ordering::Relaxed) {
            0 => Ok(()),
            failed => {
                let why = format!("{failed} messages failed, and nobody waited for them");
                Err(Recovery::Retry.because("flush", why))
            }
        }
    }
}

/// State of the task that sends.
struct SendTask {
    publishers: Publishers,
    topic: TopicName,
    limits: PublisherLimits,
    unheard: Arc<Unheard>,
}

impl SendTask {
    /// Sends batches until the publisher is stopped and nothing waits. One batch is sent at a time,
    /// which keeps the order of keys. The next one grows meanwhile.
    async fn run(self, mut messages: mpsc::UnboundedReceiver<Waiting>) {
        let mut batch = Vec::new();
        while messages.recv_many(&mut batch, MAX_REQUEST_MESSAGES).await > 0 {
            let (messages, callers): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|Waiting { message, caller }| (message, caller)).unzip();
            self.send(&messages, callers).await;
        }
    }

    /// Sends a batch, and tells each caller the result. If Pub/Sub calls the batch invalid, each
    /// message is sent alone, so only the wrong ones fail. All of this shares one time limit.
    async fn send(&self, messages: &[Outgoing], callers: Vec<Caller>) {
        let deadline = Instant::now() + self.limits.timeout;
        match self.attempts(messages, deadline).await {
            Ok(ids) => {
                for (caller, id) in callers.into_iter().zip(ids) {
                    self.tell(caller, Ok(id));
                }
            }
            Err(error) if messages.len() > 1 && matches!(error.recovery(), Recovery::Reject(_)) => {
                for (message, caller) in messages.iter().zip(callers) {
                    let sent = self.attempts(std::slice::from_ref(message), deadline).await;
                    self.tell(caller, sent.map(|mut ids| ids.pop().unwrap_or_default()));
                }
            }
            Err(error) => {
                for caller in callers {
                    self.tell(caller, Err(error.recovery().because(PUBLISH, error.detail())));
                }
            }
        }
    }

    /// Sends messages until they are confirmed or refused, or until their time is over.
    async fn attempts(
        &self,
        messages: &[Outgoing],
        deadline: Instant,
    ) -> Result<Vec<String>, Error> {
        if Instant::now() >= deadline {
            return Err(Recovery::Retry.because(PUBLISH, "no time was left to send it"));
        }
        let mut waits = self.limits.retry.waits();
        loop {
            let limit = deadline.min(Instant::now() + self.limits.timeout / ATTEMPTS);
            let sent = timeout_at(limit, self.publishers.publish(&self.topic, messages)).await;
            let error = match sent {
                Ok(Ok(published)) => return Ok(published.into_ids()),
                Ok(Err(error)) => error,
                Err(late) => Recovery::Retry.because(PUBLISH, late),
            };
            let wait = waits.next_wait();
            if error.recovery() != Recovery::Retry || Instant::now() + wait >= deadline {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    fn tell(&self, caller: Caller, result: Result<String, Error>) {
        if let Err(Err(error)) = caller.answer.send(result) {
            self.unheard.note(&error);
        }
    }
}
