//! Adapts time limits and concurrency to a slow destination, by learning from time-outs.
//!
//! A fixed time limit fails on a slow link. Once the bytes under way need longer than the limit,
//! every attempt is cancelled and its bytes are sent again. So a time-out doubles the time that a
//! byte may take, and halves the number of concurrent writes. Successes undo both, step by step.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Number of bytes that add one second to `attempt_timeout`, as long as the destination is not
/// known to be slow.
const BYTES_A_SECOND: f64 = 1024.0 * 1024.0;
/// Maximum number of times that the time for a byte is doubled, down to 4 KiB a second.
///
/// Without a maximum, an attempt in a long outage could wait for a lost reply as long as the outage
/// lasted. It would delay other attempts for that time.
const MAX_SLOWNESS: u32 = 8;
/// Number of successes in a row that allow one more concurrent write, even if they were slow. High
/// latency alone does not mean that the link is slow.
const PATIENCE: u32 = 32;

/// Speed of the destination, shared by all lanes.
#[derive(Debug)]
pub(crate) struct Pace {
    attempt_timeout: Duration,
    max_writes: usize,
    state: Mutex<PaceState>,
    freed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct PaceState {
    /// Number of times that the time for a byte was doubled.
    slowness: u32,
    /// Maximum number of concurrent writes.
    allowed: usize,
    running: usize,
    /// Successes since the last time-out, or since they last allowed one more write.
    successes: u32,
}

/// State when an attempt began. Concurrent attempts often time out together. With this state they
/// count only once.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pace: &'a Pace,
    state: PaceState,
}

/// The right to one attempt. Dropping it returns the right. The holder must be polled, because
/// others wait for the right.
#[derive(Debug)]
pub(crate) struct Turn<'a>(Seen<'a>);

impl Pace {
    /// Starts without knowledge: with the plain time limit, and with all writes side by side.
    pub(crate) fn new(attempt_timeout: Duration, max_writes: usize) -> Self {
        let max_writes = max_writes.max(1);
        let state = PaceState { slowness: 0, allowed: max_writes, running: 0, successes: 0 };
        Self { attempt_timeout, max_writes, state: Mutex::new(state), freed: Notify::new() }
    }

    /// Waits until one more attempt may run. Cancel safe.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on, a turn that is returned wakes this task.
            freed.as_mut().enable();
            if let Some(state) = self.try_enter() {
                return Turn(Seen { pace: self, state });
            }
            freed.await;
        }
    }

    fn try_enter(&self) -> Option<PaceState> {
        let mut state = self.lock();
        (state.running < state.allowed).then(|| {
            state.running += 1;
            *state
        })
    }

    fn time_limit(&self, bytes: usize, slowness: u32) -> Duration {
        let seconds = bytes as f64 / BYTES_A_SECOND * f64::from(1_u32 << slowness);
        self.attempt_timeout.saturating_add(Duration::from_secs_f64(seconds))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen<'_> {
    /// Returns the longest duration of an attempt to write this many bytes.
    pub(crate) fn time_limit(&self, bytes: usize) -> Duration {
        self.pace.time_limit(bytes, self.state.slowness)
    }

    /// Records that the attempt timed out.
    pub(crate) fn timed_out(&self) {
        let mut state = self.pace.lock();
        state.slowness = state.slowness.max((self.state.slowness + 1).min(MAX_SLOWNESS));
        state.allowed = state.allowed.min((self.state.allowed / 2).max(1));
        state.successes = 0;
    }

    /// Records that the attempt succeeded.
    ///
    /// The time limit becomes shorter only if the attempt took less than half of the shorter limit.
    /// So a limit that is just long enough stays.
    pub(crate) fn succeeded(&self, bytes: usize, took: Duration) {
        let mut state = self.pace.lock();
        if let Some(faster) = state.slowness.checked_sub(1)
            && took < self.pace.time_limit(bytes, faster) / 2
        {
            state.slowness = faster;
        }
        state.successes += 1;
        let is_fast = took < self.pace.time_limit(bytes, state.slowness) / 4;
        if state.allowed < self.pace.max_writes && (is_fast || state.successes >= PATIENCE) {
            state.allowed += 1;
            state.successes = 0;
            drop(state);
            self.pace.freed.notify_waiters();
        }
    }
}

impl<'a> Deref for Turn<'a> {
    type Target = Seen<'a>;

    fn deref(&self) -> &Seen<'a> {
        &self.0
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.lock().running -= 1;
        self.pace.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn turn(pace: &Pace) -> Option<Turn<'_>> {
        pace.turn().now_or_never()
    }

    #[test]
    fn a_time_limit_grows_with_the_bytes() {
        let pace = Pace::new(seconds(30), 8);

        let turn = turn(&pace).unwrap();

        assert_eq!(turn.time_limit(0), seconds(30));
        assert_eq!(turn.time_limit(4 * MIB), seconds(34));
    }

    #[test]
    fn a_time_out_doubles_the_time_of_a_byte_and_halves_the_writes() {
        let pace = Pace::new(seconds(30), 8);

        turn(&pace).unwrap().timed_out();
        let one = turn(&pace).unwrap();
        assert_eq!(one.time_limit(4 * MIB), seconds(38));
        one.timed_out();
        drop(one);

        let turns: Vec<_> = (0..3).map(|_| turn(&pace)).collect();
        assert_eq!(turns.iter().flatten().count(), 2);
        assert_eq!(turns[0].as_ref().unwrap().time_limit(4 * MIB), seconds(46));
    }

    #[test]
    fn attempts_side_by_side_that_time_out_count_once() {
        let pace = Pace::new(seconds(30), 8);
        let turns: Vec<_> = (0..8).map(|_| turn(&pace).unwrap()).collect();

        turns.iter().for_each(|turn| turn.timed_out());
        drop(turns);

        let turns: Vec<_> = (0..8).map_while(|_| turn(&pace)).collect();
        assert_eq!(turns.len(), 4);
        assert_eq!(turns[0].time_limit(MIB), seconds(32));
    }

    #[test]
    fn growth_ends() {
        let pace = Pace::new(seconds(30), 1);

        for _ in 0..100 {
            turn(&pace).unwrap().timed_out();
        }

        assert_eq!(turn(&pace).unwrap().time_limit(MIB), seconds(30 + 256));
    }

    #[test]
    fn fast_writes_undo_what_time_outs_did() {
        let pace = Pace::new(seconds(30), 8);
        for _ in 0..3 {
            turn(&pace).unwrap().timed_out();
        }

        for _ in 0..7 {
            turn(&pace).unwrap().succeeded(MIB, seconds(1));
        }

        let turns: Vec<_> = (0..9).map_while(|_| turn(&pace)).collect();
        assert_eq!(turns.len(), 8);
        assert_eq!(turns[0].time_limit(MIB), seconds(31));
    }

    #[test]
    fn a_write_that_needed_its_time_keeps_the_limit() {
        let pace = Pace::new(seconds(30), 8);
        for _ in 0..3 {
            turn(&pace).unwrap().timed_out();
        }

        turn(&pace).unwrap().succeeded(MIB, seconds(17));

        let turns: Vec<_> = (0..8).map_while(|_| turn(&pace)).collect();
        assert_eq!(turns.len(), 1);
        assert_eq!(turns[0].time_limit(MIB), seconds(38));
    }

    #[test]
    fn latency_alone_does_not_keep_writes_apart_forever() {
        let pace = Pace::new(seconds(10), 4);
        for _ in 0..3 {
            turn(&pace).unwrap().timed_out();
        }

        for _ in 0..3 * PATIENCE {
            turn(&pace).unwrap().succeeded(0, seconds(9));
        }

        assert_eq!((0..9).map_while(|_| turn(&pace)).collect::<Vec<_>>().len(), 4);
    }

    #[test]
    fn no_success_allows_more_writes_than_there_are() {
        let pace = Pace::new(seconds(30), 2);

        for _ in 0..3 {
            turn(&pace).unwrap().succeeded(MIB, Duration::ZERO);
        }

        assert_eq!((0..9).map_while(|_| turn(&pace)).collect::<Vec<_>>().len(), 2);
    }

    #[test]
    fn a_write_that_took_a_quarter_of_its_time_is_not_fast() {
        for (took, allowed) in [(Duration::from_millis(2499), 2), (Duration::from_millis(2500), 1)]
        {
            let pace = Pace::new(seconds(10), 2);
            turn(&pace).unwrap().timed_out();

            turn(&pace).unwrap().succeeded(0, took);

            assert_eq!((0..9).map_while(|_| turn(&pace)).collect::<Vec<_>>().len(), allowed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_when_a_turn_is_given_back() {
        let pace = Pace::new(seconds(30), 1);
        let first = pace.turn().await;

        let (second, ()) =
            tokio::join!(tokio::time::timeout(seconds(60), pace.turn()), async move {
                tokio::time::sleep(seconds(1)).await;
                drop(first);
            });

        assert!(second.is_ok());
    }
}
