//! Distinguishes a pipeline that waits from one that hangs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The heartbeats of the tasks of a pipeline.
///
/// A task beats at every turn of its loop, and everything that it waits for has a time-out. So a
/// failed attempt counts as progress too, and an outage elsewhere never looks like a hang.
#[derive(Debug, Clone)]
pub struct Progress {
    stall_after: Duration,
    beats: Arc<Mutex<Vec<Beat>>>,
}

/// Name of a task and the time of its last heartbeat. `None` once the task has ended.
type Beat = (String, Option<Instant>);

impl Progress {
    /// Watches for tasks without a heartbeat for longer than `stall_after`.
    #[must_use]
    pub fn new(stall_after: Duration) -> Self {
        Self { stall_after, beats: Arc::default() }
    }

    /// Time without a heartbeat after which a task is stalled.
    pub(crate) fn stall_after(&self) -> Duration {
        self.stall_after
    }

    /// Creates the heartbeat of a new task.
    #[must_use]
    pub fn pulse(&self, name: String) -> Pulse {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.push((name, Some(Instant::now())));
        Pulse { progress: self.clone(), index: beats.len() - 1 }
    }

    /// Returns a stalled task, and the time since its last heartbeat.
    #[must_use]
    pub fn stalled(&self) -> Option<(String, Duration)> {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats.iter().find_map(|(name, beat)| {
            let silent = beat.as_ref()?.elapsed();
            (silent > self.stall_after).then(|| (name.clone(), silent))
        })
    }
}

/// Heartbeat of one task. Dropping it marks the task as ended.
#[derive(Debug)]
pub struct Pulse {
    progress: Progress,
    index: usize,
}

impl Pulse {
    /// Reports that the task is alive.
    pub fn beat(&self) {
        self.set(Some(Instant::now()));
    }

    /// Longest time between two heartbeats of a task that has nothing to do.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.progress.stall_after / 4
    }

    fn set(&self, beat: Option<Instant>) {
        let mut beats = self.progress.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats[self.index].1 = beat;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_beats_in_its_interval_is_never_stalled() {
        let progress = Progress::new(Duration::from_secs(10));
        let pulse = progress.pulse("task".into());
        assert_eq!(pulse.interval(), Duration::from_millis(2500));

        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(progress.stalled(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(progress.stalled(), Some(("task".into(), Duration::from_millis(10_001))));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_silent_task_is_stalled() {
        let progress = Progress::new(Duration::from_secs(10));
        let (alive, silent) = (progress.pulse("alive".into()), progress.pulse("silent".into()));
        let ended = progress.pulse("ended".into());
        drop(ended);

        tokio::time::advance(Duration::from_secs(11)).await;
        alive.beat();

        assert_eq!(progress.stalled().unwrap().0, "silent");
        silent.beat();
        assert_eq!(progress.stalled(), None);
    }
}
