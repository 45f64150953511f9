//! Writes log lines on a thread of its own, so that no worker ever waits for standard error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Most lines that wait for standard error. Further ones are lost, and counted.
const MAX_WAITING: usize = 4096;

/// Lines on their way out; clones share the queue.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

enum Item {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// The lines of this process, once [`Lines::of_process`] was called.
static OF_PROCESS: OnceLock<Lines> = OnceLock::new();

impl Lines {
    /// The queue to standard error. All callers share one.
    pub(super) fn of_process(form: fn(u64) -> String) -> Self {
        OF_PROCESS.get_or_init(|| Self::start(MAX_WAITING, io::stderr(), form)).clone()
    }

    /// A queue of `max_waiting` lines to `out`, written by a new thread. `form` makes the line that
    /// tells how many were lost.
    fn start(
        max_waiting: usize,
        out: impl Write + Send + 'static,
        form: fn(u64) -> String,
    ) -> Self {
        let (queue, lines) = sync_channel(max_waiting);
        let lost = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&lost);
        let work = move || write_all(&lines, out, &of_thread, form);
        let thread = std::thread::Builder::new().name("logs".into()).spawn(work);
        // Without the thread the queue has no receiver, and each line counts as lost.
        drop(thread);
        Self { queue, lost }
    }

    /// Lines that were lost so far.
    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until the lines so far are written, at most for `patience`.
    fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        // A full queue means that nobody reads: there is nothing to wait for.
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            // After the time-out, what is left is lost with the process.
            written.recv_timeout(patience).unwrap_or_default();
        }
    }
}

/// Log lines that this process has lost because nobody read standard error.
pub(crate) fn lost() -> u64 {
    OF_PROCESS.get().map_or(0, Lines::lost)
}

/// Waits until all log lines are written, at most for `patience`.
pub(crate) fn flush(patience: Duration) {
    if let Some(lines) = OF_PROCESS.get() {
        lines.flush(patience);
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sent = self.queue.try_send(Item::Line(line.to_vec()));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(
    lines: &Receiver<Item>,
    mut out: impl Write,
    lost: &AtomicU64,
    form: fn(u64) -> String,
) {
    let mut told = 0;
    for item in lines {
        let written = match item {
            Item::Line(line) => out.write_all(&line),
            // Whoever asked may have stopped waiting, which is no fault.
            Item::Flush(done) => done.try_send(()).or(Ok(())),
        };
        let now = lost.load(Ordering::Relaxed);
        if now > told && out.write_all(format!("{}\n", form(now - told)).as_bytes()).is_ok() {
            told = now;
        }
        if written.is_err() {
            // A closed standard error has nobody to tell; the counter tells.
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Standard error whose reader takes a line at each permission.
    struct Slow {
        permissions: Receiver<()>,
        taken: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let ended = |_| io::Error::other("the test is over");
            self.permissions.recv().map_err(ended)?;
            self.taken.send(String::from_utf8_lossy(bytes).trim_end().to_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_stands_still_costs_lines_and_not_time() {
        let (permit, permissions) = mpsc::channel();
        let (taken, lines_read) = mpsc::channel();
        let form = |lost| format!("{lost} lost");
        let mut lines = Lines::start(2, Slow { permissions, taken }, form);

        // None of these waits: one is in the thread's hands or still queued, the rest do not fit.
        for line in 0..10 {
            lines.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        let lost = lines.lost();
        for _ in 0..20 {
            permit.send(()).unwrap();
        }
        lines.flush(Duration::from_secs(30));
        drop(lines);

        assert!((7..=8).contains(&lost), "{lost} lines were lost");
        let read: Vec<_> = lines_read.iter().collect();
        assert_eq!(read[0], "0");
        assert!(read.contains(&format!("{lost} lost")), "{read:?}");
    }
}
