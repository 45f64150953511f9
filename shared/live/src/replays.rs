//! Replays that go on when their callers leave.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;
use web::Problem;

/// Maximum number of replays at once.
const MAX_REPLAYS: usize = 8;
/// Longest wait for running replays when the page server ends.
const GRACE: Duration = Duration::from_secs(10);

/// Running replays. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Replays {
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl Replays {
    pub(crate) fn new() -> Self {
        Self { tasks: TaskTracker::new(), places: Arc::new(Semaphore::new(MAX_REPLAYS)) }
    }

    /// Runs a replay. If the caller does not wait for it, it goes on to its end. Otherwise its message
    /// could be sent, and its dead letter remain.
    pub(crate) async fn run(
        &self,
        replay: impl Future<Output = Result<(), Problem>> + Send + 'static,
    ) -> Result<(), Problem> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = "too many dead letters are replayed now, or the page server ends: try again";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        let task = self.tasks.spawn(async move {
            let outcome = replay.await;
            drop(place);
            outcome
        });
        task.await.unwrap_or_else(|panicked| {
            warn!(error = %panicked, "a replay has panicked");
            let why = "the replay has failed: read the log of the page server";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why))
        })
    }

    /// Refuses further replays, and waits for those that run.
    pub(crate) async fn finish(&self) {
        self.places.close();
        self.tasks.close();
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            warn!("a replay was cut: its message may be sent, and its dead letter remain");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_replay_goes_on_without_its_caller_and_is_waited_for() {
        let replays = Replays::new();
        let (go, wait) = oneshot::channel();
        let (done, mut is_done) = oneshot::channel();
        let mut caller = Box::pin(replays.run(async move {
            wait.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        }));
        assert!(futures::poll!(&mut caller).is_pending());

        drop(caller);
        go.send(()).unwrap();
        replays.finish().await;

        assert_eq!(is_done.try_recv(), Ok(()));
        assert!(replays.run(async { Ok(()) }).await.is_err(), "the server ends");
    }

    #[tokio::test]
    async fn only_some_replays_run_at_once() {
        let replays = Replays::new();
        let mut waiting: Vec<_> =
            (0..MAX_REPLAYS).map(|_| Box::pin(replays.run(std::future::pending()))).collect();
        for replay in &mut waiting {
            assert!(futures::poll!(replay).is_pending());
        }

        assert!(replays.run(async { Ok(()) }).await.is_err());
    }
}
