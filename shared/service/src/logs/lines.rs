//! Log writer on its own thread, so no worker ever waits for standard error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Maximum number of lines that wait for standard error. Further lines are lost and counted.
const MAX_WAITING: usize = 4096;

/// Queue of lines to write. Clones share the queue.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered once all lines before it are written.
    Flush(SyncSender<()>),
}

/// Queue of this process, once [`Lines::of_process`] was called.
static OF_PROCESS: OnceLock<Lines> = OnceLock::new();

impl Lines {
    /// Returns the queue to standard error. All callers share one queue.
    pub(super) fn of_process(form: fn(u64) -> String) -> Self {
        OF_PROCESS.get_or_init(|| Self::start(MAX_WAITING, io::stderr(), form)).clone()
    }

    /// Starts a thread that writes up to `max_waiting` queued lines to `out`. `form` makes the line
    /// that reports the number of lost lines.
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

    /// Returns the number of lines lost so far.
    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines queued so far are written, but at most `patience`.
    fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        // A full queue means that standard error is not read, so waiting is useless.
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            // After the time-out, the remaining lines are lost with the process.
            written.recv_timeout(patience).unwrap_or_default();
        }
    }
}

/// Returns the number of log lines that this process has lost because nobody read standard error.
pub(crate) fn lost() -> u64 {
    OF_PROCESS.get().map_or(0, Lines::lost)
}

/// Waits until all log lines are written, but at most `patience`.
pub(crate) fn flush(patience: Duration) {
    if let Some(lines) = OF_PROCESS.get() {
        lines.flush(patience);
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sent = self.queue.try_send(Entry::Line(line.to_vec()));
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
    lines: &Receiver<Entry>,
    mut out: impl Write,
    lost: &AtomicU64,
    form: fn(u64) -> String,
) {
    let mut told = 0;
    for item in lines {
        let written = match item {
            Entry::Line(line) => out.write_all(&line),
            // The caller may have stopped waiting, which is no error.
            Entry::Flush(done) => done.try_send(()).or(Ok(())),
        };
        let now = lost.load(Ordering::Relaxed);
        if now > told && out.write_all(format!("{}\n", form(now - told)).as_bytes()).is_ok() {
            told = now;
        }
        if written.is_err() {
            // A closed standard error cannot report this. The counter does.
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Standard error whose reader takes one line per permission.
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

        // None of these calls waits. The thread takes one line, two more fit into the queue, and
        // the rest are lost.
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
