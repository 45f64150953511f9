//! The signals that ask a process to end, and the time by which it must have ended.
//!
//! Both are watched by a thread of their own, because a runtime whose threads are all blocked sees neither
//! signals nor timers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use crate::run::{FAILED, LOG_PATIENCE};
use crate::{Health, logs};

/// Time between the end of the grace period and the forced end of the process. Kubernetes, as the
/// manifests set it up, kills three seconds later.
const MARGIN: Duration = Duration::from_secs(2);

/// Longest wait for what is done before the process is ended by force: a disk may hang too.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT, as they come.
pub(crate) struct Signals {
    received: mpsc::UnboundedReceiver<&'static str>,
    deadline: Deadline,
}

/// The time by which the process must have ended; it is ended with exit code 1 then.
#[derive(Clone)]
pub(crate) struct Deadline {
    end: watch::Sender<Option<Instant>>,
    health: Arc<OnceLock<Health>>,
}

impl Deadline {
    /// Notes in the crash file of this service, before the process is ended by force, that no message is to
    /// blame.
    pub(crate) fn excuse_later(&self, health: &Health) {
        // A process has one service.
        self.health.get_or_init(|| health.clone());
    }

    /// Does that now, and waits for it only for a moment: what blocks a worker may block this too.
    pub(crate) fn excuse(&self) {
        let (done, is_done) = std::sync::mpsc::channel();
        let health = Arc::clone(&self.health);
        let excuse = move || {
            health.get().iter().for_each(|health| health.excuse());
            // Nobody waits any more where that took too long.
            done.send(()).unwrap_or_default();
        };
        let thread = std::thread::Builder::new().name("excuse".into()).spawn(excuse);
        if thread.is_err() || is_done.recv_timeout(LAST_PATIENCE).is_err() {
            warn!("the crash file still blames what was at work");
        }
    }

    /// Ends the process after `grace` and a margin, whatever blocks it.
    pub(crate) fn end_within(&self, grace: Duration) {
        let now = Instant::now();
        // A grace period beyond what the clock can hold is no deadline.
        let end = now.checked_add(grace).and_then(|end| end.checked_add(MARGIN));
        self.end.send_if_modified(|set| {
            let earliest = [*set, end].into_iter().flatten().min();
            std::mem::replace(set, earliest) != earliest
        });
    }
}

impl Signals {
    /// Listens from now on. The first signal sets the deadline `grace` and a margin ahead, the second one
    /// that margin alone.
    ///
    /// # Errors
    /// When the process may not listen.
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
        // It lives as long as the process.
        drop(thread.context("start the thread for signals")?);
        Ok(Self { received, deadline })
    }

    /// The deadline, for an end that no signal asks for.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline.clone()
    }

    /// Waits for the next signal and returns its name. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.received.recv().await {
            Some(name) => name,
            // The thread holds the sender as long as the process lives.
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
    /// Never returns: the process ends before.
    fn run(mut self, runtime: &Runtime) {
        let mut grace = self.grace;
        let mut deadline = self.deadline.end.subscribe();
        runtime.block_on(async {
            loop {
                let end = *deadline.borrow_and_update();
                let name = tokio::select! {
                    _ = self.terminate.recv() => "SIGTERM",
                    _ = self.interrupt.recv() => "SIGINT",
                    // The sender lives in `self`.
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

/// Ends the process. It waits for nothing but a note in the crash file and the last log lines, and not long.
fn end_now(deadline: &Deadline) -> ! {
    error!(
        "the process did not end in time, ending it; what is not settled will be delivered again"
    );
    deadline.excuse();
    logs::flush(LOG_PATIENCE);
    std::process::exit(FAILED.into())
}
