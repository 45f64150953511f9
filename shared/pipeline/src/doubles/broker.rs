use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Recorder;
use crate::{Delivery, Disposition, Error, Settle, Settlement, Source};
use message::Message;

/// Time from the end of a connection to the next one.
const RECONNECT: Duration = Duration::from_secs(1);

/// A source whose connection ends at a nack, as an MQTT connection does.
///
/// The next connection redelivers everything in the same order, from the oldest unacknowledged
/// message. The source ends when all messages are acknowledged.
pub struct Broker {
    messages: Vec<Message>,
    session: Arc<Session>,
    recorder: Recorder,
}

#[derive(Default)]
struct Session {
    state: Mutex<BrokerState>,
    changed: Notify,
}

#[derive(Default)]
struct BrokerState {
    /// Index of the oldest unacknowledged message.
    first: usize,
    /// Index of the next message to deliver.
    next: usize,
    /// Messages that were acked on this connection while an older one was still unacknowledged.
    acked: BTreeSet<usize>,
    connection: u64,
    is_over: bool,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Acknowledge {
    place: usize,
    id: String,
    connection: u64,
    session: Arc<Session>,
    recorder: Recorder,
}

impl Settle for Acknowledge {
    fn settle(self: Box<Self>, disposition: Disposition) {
        if !self.is_current() {
            return self.recorder.settled_late(&self.id, disposition);
        }
        self.recorder.settled(&self.id, disposition);
        let mut state = self.session.state();
        if disposition == Disposition::Nack {
            state.is_over = true;
        } else {
            state.acked.insert(self.place);
            while let first = state.first
                && state.acked.remove(&first)
            {
                state.first += 1;
            }
        }
        drop(state);
        self.session.changed.notify_one();
    }

    fn is_current(&self) -> bool {
        let state = self.session.state();
        state.connection == self.connection && !state.is_over
    }
}

impl Broker {
    /// Delivers these messages. Each needs a unique id.
    #[must_use]
    pub fn new(messages: impl IntoIterator<Item = Message>, recorder: Recorder) -> Self {
        Self { messages: messages.into_iter().collect(), session: Arc::default(), recorder }
    }

    fn deliver(&self, state: &mut BrokerState, message: Message) -> Delivery {
        self.recorder.delivered();
        let settle = Acknowledge {
            place: state.next,
            id: message.id.clone(),
            connection: state.connection,
            session: Arc::clone(&self.session),
            recorder: self.recorder.clone(),
        };
        state.next += 1;
        Delivery::new(message, Settlement::new(settle, None))
    }
}

impl Source for Broker {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            let is_over = {
                let mut state = self.session.state();
                if state.first == self.messages.len() {
                    return Ok(None);
                }
                if !state.is_over
                    && let Some(message) = self.messages.get(state.next)
                {
                    return Ok(Some(self.deliver(&mut state, message.clone())));
                }
                state.is_over
            };
            if is_over {
                sleep(RECONNECT).await;
                let mut state = self.session.state();
                let (first, connection) = (state.first, state.connection + 1);
                *state = BrokerState { first, next: first, connection, ..BrokerState::default() };
            } else {
                self.session.changed.notified().await;
            }
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
