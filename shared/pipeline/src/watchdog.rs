//! Distinguishes a pipeline that waits from one that hangs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Watches the heartbeats of the tasks of a pipeline.
///
/// A task beats at every turn of its loop, and everything that it waits for has a time-out. So a
/// failed attempt counts as progress too, and an outage elsewhere never looks like a hang.
#[derive(Debug, Clone)]
pub struct Watchdog {
    stall_after: Duration,
    tasks: Arc<Mutex<Vec<WatchedTask>>>,
}

#[derive(Debug)]
struct WatchedTask {
    name: String,
    /// Time of its last heartbeat. `None` once the task has ended.
    last_beat: Option<Instant>,
}

impl Watchdog {
    /// Watches for tasks without a heartbeat for longer than `stall_after`.
    #[must_use]
    pub fn new(stall_after: Duration) -> Self {
        Self { stall_after, tasks: Arc::default() }
    }

    /// Time without a heartbeat after which a task is stalled.
    pub(crate) fn stall_after(&self) -> Duration {
        self.stall_after
    }

    /// Creates the heartbeat of a new task.
    #[must_use]
    pub fn heartbeat(&self, name: String) -> Heartbeat {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(WatchedTask { name, last_beat: Some(Instant::now()) });
        Heartbeat { watchdog: self.clone(), index: tasks.len() - 1 }
    }

    /// Returns a stalled task, and the time since its last heartbeat.
    #[must_use]
    pub fn stalled(&self) -> Option<(String, Duration)> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().find_map(|task| {
            let silent = task.last_beat?.elapsed();
            (silent > self.stall_after).then(|| (task.name.clone(), silent))
        })
    }
}

/// Heartbeat of one task. Dropping it marks the task as ended.
#[derive(Debug)]
pub struct Heartbeat {
    watchdog: Watchdog,
    index: usize,
}

impl Heartbeat {
    /// Reports that the task is alive.
    pub fn beat(&self) {
        self.set(Some(Instant::now()));
    }

    /// Longest time between two heartbeats of a task that has nothing to do.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.watchdog.stall_after / 4
    }

    fn set(&self, last_beat: Option<Instant>) {
        let mut tasks = self.watchdog.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks[self.index].last_beat = last_beat;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_beats_in_its_interval_is_never_stalled() {
        let watchdog = Watchdog::new(Duration::from_secs(10));
        let heartbeat = watchdog.heartbeat("task".into());
        assert_eq!(heartbeat.interval(), Duration::from_millis(2500));

        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(watchdog.stalled(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(watchdog.stalled(), Some(("task".into(), Duration::from_millis(10_001))));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_silent_task_is_stalled() {
        let watchdog = Watchdog::new(Duration::from_secs(10));
        let (alive, silent) =
            (watchdog.heartbeat("alive".into()), watchdog.heartbeat("silent".into()));
        let ended = watchdog.heartbeat("ended".into());
        drop(ended);

        tokio::time::advance(Duration::from_secs(11)).await;
        alive.beat();

        assert_eq!(watchdog.stalled().unwrap().0, "silent");
        silent.beat();
        assert_eq!(watchdog.stalled(), None);
    }
}
