//! Bounds the rate of attempts while a destination refuses every message.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
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
    /// Time of the last attempt. Its holder is the next to make one; the others wait in their order.
    last: Mutex<Option<Instant>>,
    /// Distance between attempts; zero after a success.
    distance: std::sync::Mutex<Duration>,
    over: Notify,
}

impl Spacing {
    /// Waits for the time of an attempt. A wait that is dropped leaves its time to the next one.
    pub(crate) async fn turn(&self) {
        let over = self.over.notified();
        tokio::pin!(over);
        // From here on, a success wakes this task.
        over.as_mut().enable();
        if self.distance().is_zero() {
            return;
        }
        let turn = async {
            let mut last = self.last.lock().await;
            if let Some(last) = *last {
                sleep_until(last + self.distance()).await;
            }
            *last = Some(Instant::now());
        };
        tokio::select! {
            () = turn => {}
            () = over => {}
        }
    }

    /// Records that an attempt failed.
    pub(crate) fn failed(&self) {
        let mut distance = self.distance.lock().unwrap_or_else(PoisonError::into_inner);
        *distance = (*distance * 2).clamp(MIN_DISTANCE, MAX_DISTANCE);
    }

    /// Records that an attempt succeeded. All attempts that wait may begin.
    pub(crate) fn succeeded(&self) {
        let mut distance = self.distance.lock().unwrap_or_else(PoisonError::into_inner);
        if !distance.is_zero() {
            *distance = Duration::ZERO;
            drop(distance);
            self.over.notify_waiters();
        }
    }

    fn distance(&self) -> Duration {
        *self.distance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::join_all;
    use tokio::time::timeout;

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
        spacing.turn().await;
        let from = Instant::now();

        let (_, ()) = tokio::join!(join_all((0..1000).map(|_| spacing.turn())), async {
            spacing.succeeded();
        });

        assert!(from.elapsed() < Duration::from_millis(1));
        assert!(spacing.turn().now_or_never().is_some());
    }

    /// A message whose lease ends while it waits must not delay the others.
    #[tokio::test(start_paused = true)]
    async fn waits_that_are_dropped_take_no_time() {
        let spacing = Spacing::default();
        (0..10).for_each(|_| spacing.failed());
        let second = Duration::from_secs(1);

        let waits = (0..1000).map(|_| timeout(second, spacing.turn()));
        let done = join_all(waits).await.into_iter().filter(Result::is_ok).count();

        assert_eq!(done, 5, "one at once, and four in a second");
        assert!(timeout(MAX_DISTANCE, spacing.turn()).await.is_ok());
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
