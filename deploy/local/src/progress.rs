//! Progress of steps on the terminal.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

/// Reports the progress of a step, at most once a second.
#[derive(Debug)]
pub(crate) struct Progress(Instant);

impl Progress {
    /// Prints the name of the step that begins.
    pub(crate) fn begin(text: &str) -> Self {
        write(&format!("{text}\n"));
        Self(Instant::now())
    }

    /// Prints the progress of the step.
    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.is_due() {
            write(&format!("  {}\n", text()));
        }
    }

    fn is_due(&mut self) -> bool {
        const INTERVAL: Duration = Duration::from_secs(1);
        let is_due = self.0.elapsed() >= INTERVAL;
        if is_due {
            self.0 = Instant::now();
        }
        is_due
    }
}

/// Writes to standard output. The platform goes on if standard output is closed.
pub(crate) fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_once_a_second() {
        let mut progress = Progress::begin("counting");
        let mut told = Vec::new();
        for millis in [0, 999, 1, 999, 1] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            told.push(progress.is_due());
        }

        assert_eq!(told, [false, false, true, false, true]);
    }
}
