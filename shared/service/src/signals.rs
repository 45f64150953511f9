//! Signals that ask a process to end, and the deadline by which it must have ended.
//!
//! A separate thread watches both. A runtime whose threads are all blocked would see neither
//! signals nor timers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use crate::{Health, logs};

/// Exit code of a service that failed, or could not drain in time.
pub(crate) const FAILED: u8 = 1;
/// Longest wait for the last log lines at the end of the process.
pub(crate) const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Time between the end of the grace period and the forced end of the process.
///
/// In our Kubernetes manifests the kubelet kills the process three seconds after the forced end.
const MARGIN: Duration = Duration::from_secs(2);

/// Maximum wait for the last work before the forced end. The limit exists because a disk may hang
/// too.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Stream of SIGTERM and SIGINT.
pub(crate) struct Signals {
    received: mpsc::UnboundedReceiver<&'static str>,
    deadline: Deadline,
}

/// Deadline by which the process must have ended. At the deadline, the process is ended with exit
/// code 1.
#[derive(Clone)]
pub(crate) struct Deadline {
    end: watch::Sender<Option<Instant>>,
    health: Arc<OnceLock<Health>>,
}

impl Deadline {
    /// Remembers the health of the service. Before a forced end, the service's crash file gets a
    /// note that no message caused the end.
    pub(crate) fn excuse_later(&self, health: &Health) {
        // A process has only one service.
        self.health.get_or_init(|| health.clone());
    }

    /// Writes that note now. Waits only briefly, because a cause that blocks a worker may block
    /// this too.
    pub(crate) fn excuse(&self) {
        let (done, is_done) = std::sync::mpsc::channel();
        let health = Arc::clone(&self.health);
        let excuse = move || {
            health.get().iter().for_each(|health| health.excuse());
            // The receiver is gone if this took too long.
            let _ = done.send(());
        };
        let thread = std::thread::Builder::new().name("excuse".into()).spawn(excuse);
        if thread.is_err() || is_done.recv_timeout(LAST_PATIENCE).is_err() {
            warn!("the crash file still blames what was at work");
        }
    }

    /// Ends the process after `grace` and a margin, even if it is blocked.
    pub(crate) fn end_within(&self, grace: Duration) {
        let now = Instant::now();
        // A grace period that the clock cannot represent sets no deadline.
        let end = now.checked_add(grace).and_then(|end| end.checked_add(MARGIN));
        self.end.send_if_modified(|set| {
            let earliest = [*set, end].into_iter().flatten().min();
            std::mem::replace(set, earliest) != earliest
        });
    }
}

impl Signals {
    /// Starts to listen. The first signal sets the deadline to `grace` plus a margin. The second
    /// signal sets it to the margin alone.
    ///
    /// # Errors
    /// Fails when the process cannot register for the signals, or cannot start the thread.
    pub(crate) fn listen(grace: Duration) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the runtime for signals")?;
        let (tell, received) = mpsc::unbounded_channel();
        let deadline = Deadline { end: watch::Sender::new(None), health: Arc::default() };
        let watch = {
            let _entered = runtime.enter();
            Watch {
                terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
                interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
                tell,
                deadline: deadline.clone(),
                grace,
            }
        };
        let work = move || watch.run(&runtime);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(work);
        // The thread lives as long as the process.
        drop(thread.context("start the thread for signals")?);
        Ok(Self { received, deadline })
    }

    /// Returns the deadline, for an end that no signal asks for.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline.clone()
    }

    /// Waits for the next signal and returns its name. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.received.recv().await {
            Some(name) => name,
            // The thread keeps the sender as long as the process lives.
            None => std::future::pending().await,
        }
    }
}

struct Watch {
    terminate: Signal,
    interrupt: Signal,
    tell: mpsc::UnboundedSender<&'static str>,
    deadline: Deadline,
    grace: Duration,
}

impl Watch {
    /// Watches signals and the deadline. Never returns, because the process ends first.
    fn run(mut self, runtime: &Runtime) {
        let mut grace = self.grace;
        let mut deadline = self.deadline.end.subscribe();
        runtime.block_on(async {
            loop {
                let end = *deadline.borrow_and_update();
                let name = tokio::select! {
                    _ = self.terminate.recv() => "SIGTERM",
                    _ = self.interrupt.recv() => "SIGINT",
                    // The sender lives in `self`, so this cannot fail.
                    _ = deadline.changed() => continue,
                    () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                        end_now(&self.deadline)
                    }
                };
                self.deadline.end_within(std::mem::take(&mut grace));
                if self.tell.send(name).is_err() {
                    debug!(name, "a signal came after the drain");
                }
            }
        });
    }
}

/// Ends the process. Waits briefly for the note in the crash file and the last log lines, and for
/// nothing else.
fn end_now(deadline: &Deadline) -> ! {
    error!(
        "the process did not end in time, ending it; what is not settled will be delivered again"
    );
    deadline.excuse();
    logs::flush(LOG_PATIENCE);
    std::process::exit(FAILED.into())
}
