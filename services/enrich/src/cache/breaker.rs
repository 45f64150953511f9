//! Circuit breaker that skips a failing layer for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::LayerError;

/// Number of successive failures that open a breaker.
const FAILURES: u32 = 3;
/// First and maximum time for which the breaker stays open.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Circuit breaker. It is closed while a layer works, and opens after several successive failures.
/// After a pause, it lets one call through. That call closes it, or opens it for longer.
#[derive(Debug)]
pub struct Breaker {
    layer: &'static str,
    state: Mutex<BreakerState>,
}

#[derive(Debug)]
struct BreakerState {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
    last_error: String,
}

impl Breaker {
    /// Creates a closed breaker for the layer of this name.
    #[must_use]
    pub fn new(layer: &'static str) -> Self {
        let state = BreakerState {
            failures: 0,
            pause: FIRST_PAUSE,
            open_until: None,
            last_error: String::new(),
        };
        Self { layer, state: Mutex::new(state) }
    }

    /// Makes a call. Returns `None` without a call while the breaker is open.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, LayerError>>,
    ) -> Option<Result<T, LayerError>> {
        if !self.enter() {
            return None;
        }
        let outcome = call.await;
        match &outcome {
            Ok(_) => self.succeeded(),
            Err(error) => self.failed(error),
        }
        Some(outcome)
    }

    /// Returns the reason why the breaker is open, if it is.
    #[must_use]
    pub fn open_reason(&self) -> Option<String> {
        let state = self.lock();
        state.open_until.is_some().then(|| format!("{}: {}", self.layer, state.last_error))
    }

    /// Returns whether a call may pass. The call that ends a pause also starts the next pause, so
    /// other calls keep waiting until it has succeeded.
    fn enter(&self) -> bool {
        let mut state = self.lock();
        match state.open_until {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                state.open_until = Some(Instant::now() + state.pause);
                true
            }
        }
    }

    fn succeeded(&self) {
        let mut state = self.lock();
        if state.open_until.take().is_some() {
            info!(layer = self.layer, "the layer answers again");
        }
        state.failures = 0;
        state.pause = FIRST_PAUSE;
    }

    fn failed(&self, error: &LayerError) {
        let mut state = self.lock();
        state.failures += 1;
        state.last_error.clone_from(&error.0);
        if state.failures < FAILURES {
            return;
        }
        if state.open_until.is_none() {
            warn!(layer = self.layer, %error, "the layer fails and is left alone");
        }
        state.open_until = Some(Instant::now() + state.pause);
        state.pause = (state.pause * 2).min(LONGEST_PAUSE);
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fails(breaker: &Breaker) -> bool {
        breaker.call(async { Err::<(), _>(LayerError("down".into())) }).await.is_some()
    }

    async fn works(breaker: &Breaker) -> bool {
        breaker.call(async { Ok(()) }).await.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_a_success() {
        let breaker = Breaker::new("redis");
        assert!(fails(&breaker).await && fails(&breaker).await);
        assert!(works(&breaker).await, "a success starts the count anew");
        for _ in 0..FAILURES {
            assert!(fails(&breaker).await);
        }

        assert!(!works(&breaker).await);
        assert_eq!(breaker.open_reason().as_deref(), Some("redis: down"));
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(works(&breaker).await);
        assert_eq!(breaker.open_reason(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_ends_a_pause_and_the_others_wait_for_it() {
        let breaker = Breaker::new("redis");
        for _ in 0..FAILURES {
            fails(&breaker).await;
        }
        tokio::time::advance(FIRST_PAUSE).await;

        assert!(breaker.enter());
        assert!(!breaker.enter());
    }
}
