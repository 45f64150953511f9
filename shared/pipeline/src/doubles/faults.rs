use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::reasons;
use crate::{Error, Recovery};

/// Rates of the faults of a double, drawn from a seed. Each rate is a number out of 100 attempts.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// Attempts that fail and do nothing. Another attempt may succeed.
    pub retryable: u8,
    /// Attempts that write everything but lose the reply.
    pub lost_replies: u8,
    /// Attempts that never return.
    pub hung: u8,
    /// Attempts that fail permanently.
    pub permanent: u8,
    /// Attempts after which no other attempt can succeed.
    pub stopped: u8,
    /// Longest duration of an attempt.
    pub max_delay: Duration,
}

/// Fault of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// The attempt does nothing and fails, and can be retried.
    Retryable,
    /// The attempt does everything, but reports a failure.
    LostReply,
    /// The attempt never returns.
    Hung,
    /// The attempt fails, and would fail each time, with the reason `rejected`.
    Permanent,
    /// The attempt fails, and so would everything else.
    Stopped,
}

impl Fault {
    /// Returns the error of an attempt that does nothing. Never returns for an attempt that hangs.
    ///
    /// # Errors
    /// The fault is one of an attempt that does nothing.
    pub async fn before(self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::None | Self::LostReply => Ok(()),
            Self::Retryable => Err(Recovery::Retry.because(action, "refused")),
            Self::Permanent => Err(Recovery::Reject(reasons::REJECTED).because(action, "rejected")),
            Self::Stopped => Err(Recovery::Stop.because(action, "stopped")),
            Self::Hung => std::future::pending().await,
        }
    }

    /// Returns the error of an attempt that has done everything.
    ///
    /// # Errors
    /// The fault is one of an attempt whose reply is lost.
    pub fn after(self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::LostReply => Err(Recovery::Retry.because(action, "the reply was lost")),
            _ => Ok(()),
        }
    }
}

/// A source of faults.
#[derive(Debug)]
pub struct Faults {
    rates: FaultRates,
    script: Mutex<VecDeque<Fault>>,
    then: Option<Fault>,
    random: Mutex<StdRng>,
}

impl Faults {
    /// Creates faults at these rates. The same seed draws the same faults.
    #[must_use]
    pub fn new(rates: FaultRates, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { rates, script: Mutex::default(), then: None, random }
    }

    /// Creates no faults.
    #[must_use]
    pub fn none() -> Self {
        Self::new(FaultRates::default(), 0)
    }

    /// Creates the same fault for each attempt.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { then: Some(fault), ..Self::none() }
    }

    /// Creates these faults one after another, then none.
    #[must_use]
    pub fn script(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { script: Mutex::new(faults.into_iter().collect()), ..Self::none() }
    }

    /// Draws a delay and a fault for one attempt.
    pub fn draw(&self) -> (Duration, Fault) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = self.rates.max_delay.mul_f64(random.random_range(0.0..=1.0));
        let drawn = random.random_range(0..100_u16);
        let scripted = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let fault = scripted.or(self.then).unwrap_or_else(|| self.rates.fault(drawn));
        (delay, fault)
    }

    /// Shuffles the items, and duplicates some of them.
    pub(super) fn shuffle<T: Clone>(&self, items: &mut Vec<T>) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let again: Vec<T> = items.iter().filter(|_| random.random()).cloned().collect();
        items.extend(again);
        items.shuffle(&mut *random);
    }
}

impl FaultRates {
    /// Returns the fault for a number below 100.
    fn fault(&self, drawn: u16) -> Fault {
        let shares = [
            (self.retryable, Fault::Retryable),
            (self.lost_replies, Fault::LostReply),
            (self.hung, Fault::Hung),
            (self.permanent, Fault::Permanent),
            (self.stopped, Fault::Stopped),
        ];
        let mut below = 0;
        for (share, fault) in shares {
            below += u16::from(share);
            if drawn < below {
                return fault;
            }
        }
        Fault::None
    }
}
