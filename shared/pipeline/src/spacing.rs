//! Bounds the rate of attempts while a destination refuses every message.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Distance of two attempts after the first failure. Each further failure doubles it.
const MIN_DISTANCE: Duration = Duration::from_millis(10);
/// Longest distance of two attempts.
const MAX_DISTANCE: Duration = Duration::from_millis(250);

/// Distance between the attempts of many messages, each with retries of its own.
///
/// The wait of a retry bounds the attempts for one message only. In an outage, a thousand messages
/// still make a thousand times as many. So after a failure, the attempts for all messages follow one
/// another at a distance. A success ends it for all messages that wait.
#[derive(Debug, Default)]
pub(crate) struct Spacing {
    state: Mutex<SpacingState>,
    over: Notify,
}

#[derive(Debug, Default)]
struct SpacingState {
    /// Distance between attempts; zero after a success.
    distance: Duration,
    /// Earliest time of the next attempt that nobody has taken yet.
    next: Option<Instant>,
}

impl Spacing {
    /// Waits for the time of an attempt. If the wait is dropped, that time passes without one.
    pub(crate) async fn turn(&self) {
        let over = self.over.notified();
        tokio::pin!(over);
        // From here on, a success wakes this task.
        over.as_mut().enable();
        let Some(at) = self.take() else { return };
        tokio::select! {
            () = sleep_until(at) => {}
            () = over => {}
        }
    }

    /// Takes the time of the next attempt. Returns `None` if attempts need no distance.
    fn take(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state.distance.is_zero() {
            return None;
        }
        let now = Instant::now();
        let at = state.next.map_or(now, |next| next.max(now));
        state.next = Some(at + state.distance);
        Some(at)
    }

    /// Records that an attempt failed.
    pub(crate) fn failed(&self) {
        let mut state = self.lock();
        state.distance = (state.distance * 2).clamp(MIN_DISTANCE, MAX_DISTANCE);
    }

    /// Records that an attempt succeeded. All attempts that wait may begin.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        if !state.distance.is_zero() {
            *state = SpacingState::default();
            drop(state);
            self.over.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SpacingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_need_no_distance_without_a_failure() {
        let spacing = Spacing::default();

        assert!((0..1000).all(|_| spacing.turn().now_or_never().is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn many_messages_together_make_four_attempts_a_second() {
        let spacing = Spacing::default();
        (0..10).for_each(|_| spacing.failed());
        let from = Instant::now();

        join_all((0..41).map(|_| spacing.turn())).await;

        assert_eq!(from.elapsed(), MAX_DISTANCE * 40);
    }

    #[tokio::test(start_paused = true)]
    async fn the_distance_grows_with_each_failure() {
        let spacing = Spacing::default();

        let mut distances = Vec::new();
        for _ in 0..7 {
            spacing.failed();
            spacing.turn().await;
            let from = Instant::now();
            spacing.turn().await;
            distances.push(from.elapsed().as_millis());
        }

        assert_eq!(distances, [10, 20, 40, 80, 160, 250, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_wakes_every_message_that_waits() {
        let spacing = Spacing::default();
        (0..10).for_each(|_| spacing.failed());
        let from = Instant::now();

        let (_, ()) = tokio::join!(join_all((0..1000).map(|_| spacing.turn())), async {
            spacing.turn().now_or_never();
            spacing.succeeded();
        });

        assert!(from.elapsed() < Duration::from_millis(1));
        assert!(spacing.turn().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_has_passed_is_not_waited_for() {
        let spacing = Spacing::default();
        spacing.failed();
        spacing.turn().await;
        tokio::time::advance(Duration::from_secs(1)).await;

        assert!(spacing.turn().now_or_never().is_some());
    }
}
