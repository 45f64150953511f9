//! Time limit of a query. All tables are locked while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// Longest time of one query.
pub(super) const MAX_TIME: Duration = Duration::from_secs(60);
/// Steps of SQLite between two checks of the clock.
const STEPS: i32 = 100_000;

/// Interrupts queries that take too long. Clones share the same limit.
#[derive(Debug, Clone)]
pub(super) struct Deadline {
    pub max_time: Duration,
    ends_at: Arc<Mutex<Option<Instant>>>,
}

/// A running query. Dropping it removes the limit.
#[must_use = "the limit ends with it"]
pub(super) struct Running<'a>(&'a Deadline);

impl Deadline {
    /// Applies the limit to a connection.
    pub(super) fn watch(connection: &mut Connection) -> rusqlite::Result<Self> {
        let deadline = Self { max_time: MAX_TIME, ends_at: Arc::default() };
        let watched = deadline.clone();
        let is_over = move || watched.ends_at().is_some_and(|end| Instant::now() >= end);
        connection.progress_handler(STEPS, Some(is_over))?;
        Ok(deadline)
    }

    /// Limits all statements from now on.
    pub(super) fn start(&self) -> Running<'_> {
        self.set(Some(Instant::now() + self.max_time));
        Running(self)
    }

    fn ends_at(&self) -> Option<Instant> {
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, end: Option<Instant>) {
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
