use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::{Error, Recovery};

/// How often a double misbehaves: shares of 100 attempts, drawn from a seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// Attempts that fail and do nothing.
    pub refused: u8,
    /// Attempts that write everything and lose the reply.
    pub lost_replies: u8,
    /// Attempts that never return.
    pub hung: u8,
    /// Attempts that fail permanently.
    pub rejected: u8,
    /// Attempts after which no other can succeed.
    pub stopped: u8,
    /// The longest duration of an attempt.
    pub max_delay: Duration,
}

/// What goes wrong in one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails, does nothing, and can be tried again.
    Refused,
    /// It does everything, and says that it failed.
    LostReply,
    /// It never returns.
    Hung,
    /// It fails, and would fail each time, for the reason `rejected`.
    Rejected,
    /// It fails, and so would everything else.
    Stopped,
}

impl Fault {
    /// The error of an attempt that does nothing; never returns where the attempt never does.
    pub(super) async fn before(self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::None | Self::LostReply => Ok(()),
            Self::Refused => Err(Recovery::Retry.because(action, "refused")),
            Self::Rejected => Err(Recovery::Reject("rejected").because(action, "rejected")),
            Self::Stopped => Err(Recovery::Stop.because(action, "stopped")),
            Self::Hung => std::future::pending().await,
        }
    }

    /// The error of an attempt that has done everything.
    pub(super) fn after(self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::LostReply => Err(Recovery::Retry.because(action, "the reply was lost")),
            _ => Ok(()),
        }
    }
}

/// Draws faults.
#[derive(Debug)]
pub struct Faults {
    rates: FaultRates,
    script: Mutex<VecDeque<Fault>>,
    then: Option<Fault>,
    random: Mutex<StdRng>,
}

impl Faults {
    /// Faults at these rates; the same seed draws the same ones.
    #[must_use]
    pub fn new(rates: FaultRates, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { rates, script: Mutex::default(), then: None, random }
    }

    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self::new(FaultRates::default(), 0)
    }

    /// The same fault in each attempt.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { then: Some(fault), ..Self::none() }
    }

    /// These faults one after another, then none.
    #[must_use]
    pub fn script(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { script: Mutex::new(faults.into_iter().collect()), ..Self::none() }
    }

    pub(super) fn draw(&self) -> (Duration, Fault) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = self.rates.max_delay.mul_f64(random.random_range(0.0..=1.0));
        let drawn = random.random_range(0..100_u16);
        let scripted = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let fault = scripted.or(self.then).unwrap_or_else(|| self.rates.fault(drawn));
        (delay, fault)
    }

    /// Puts these into any order, some of them twice.
    pub(super) fn shuffle<T: Clone>(&self, items: &mut Vec<T>) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let again: Vec<T> = items.iter().filter(|_| random.random()).cloned().collect();
        items.extend(again);
        items.shuffle(&mut *random);
    }
}

impl FaultRates {
    /// The fault for a number below 100.
    fn fault(&self, drawn: u16) -> Fault {
        let shares = [
            (self.refused, Fault::Refused),
            (self.lost_replies, Fault::LostReply),
            (self.hung, Fault::Hung),
            (self.rejected, Fault::Rejected),
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
