//! Faults on demand: what a client must bear, when a test asks for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Code;

use crate::status::Status;

/// What goes wrong with the next calls of a method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fault {
    /// The method, such as `Publish`, `StreamingPull`, `Acknowledge` or `storage.objects.insert`;
    /// `*` for all.
    pub method: String,
    /// How many calls it befalls.
    pub count: u64,
    /// What happens to them.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// It fails with this gRPC code (for REST the matching HTTP status) and changes nothing.
    Refuse {
        /// The number of the gRPC code, 1 to 16.
        code: i32,
    },
    /// It is answered later.
    Delay {
        /// How much later, in milliseconds.
        millis: u64,
    },
    /// It is carried out, and its reply is lost: the caller sees UNAVAILABLE.
    LoseReply,
}

/// The faults of an emulator; clones are the same ones.
#[derive(Debug, Clone)]
pub struct Faults {
    planned: Arc<Mutex<Vec<Fault>>>,
    cuts: Arc<watch::Sender<u64>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { planned: Arc::default(), cuts: Arc::new(watch::Sender::new(0)) }
    }
}

impl Faults {
    /// Adds a fault after those that are planned already.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Refuses the next calls of a method with a code.
    pub fn refuse(&self, method: &str, count: u64, code: Code) {
        let kind = Kind::Refuse { code: code.into() };
        self.add(Fault { method: method.into(), count, kind });
    }

    /// Delays the next calls of a method.
    pub fn delay(&self, method: &str, count: u64, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.add(Fault { method: method.into(), count, kind: Kind::Delay { millis } });
    }

    /// Carries out the next calls of a method and loses their replies.
    pub fn lose_reply(&self, method: &str, count: u64) {
        self.add(Fault { method: method.into(), count, kind: Kind::LoseReply });
    }

    /// Ends all open streams with UNAVAILABLE.
    pub fn cut_streams(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Forgets what is planned.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What is still planned.
    #[must_use]
    pub fn planned(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// Changes at each [`Faults::cut_streams`].
    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// Carries out a call, or what is planned for it.
    pub(crate) async fn around<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        match self.take(method) {
            None => call.await,
            Some(Kind::Refuse { code }) => {
                Err(Status::new(Code::from_i32(code), format!("{method} refused on demand")))
            }
            Some(Kind::Delay { millis }) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                call.await
            }
            Some(Kind::LoseReply) => {
                call.await?;
                Err(Status::new(Code::Unavailable, format!("the reply of {method} was lost")))
            }
        }
    }

    fn take(&self, method: &str) -> Option<Kind> {
        let mut planned = self.lock();
        let at = planned.iter().position(|fault| fault.method == method || fault.method == "*")?;
        planned[at].count = planned[at].count.saturating_sub(1);
        let kind = planned[at].kind.clone();
        if planned[at].count == 0 {
            planned.remove(at);
        }
        Some(kind)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
