//! Service for tests that fails in a chosen way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{FaultRates, Faults as Fates, MemoryDeadLetters, Recorder};
use pipeline::{
    Delivery, Error, Limits, Pipeline, PushError, Recovery, Refusal, Settlement, Sink, Source,
    Step, Transform,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::memory::Share;
use crate::settings::ProcessSettings;
use crate::{Context, Faults, Running, Service, Settings, WrongSettings};

/// Variable that names the crash file.
pub(crate) const CRASH_FILE: &str = "SCRIPTED_CRASH_FILE";

/// Name of the second pipeline.
pub(crate) const SECOND: &str = "second";

/// Fault that the service runs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Trouble {
    /// No fault.
    None,
    /// A blocking call never returns.
    BlockingCall,
    /// All workers of the runtime are blocked.
    BlockedWorkers,
    /// The service logs more than fits into a pipe that nobody reads.
    Chatter,
    /// The source fails permanently.
    SourceFails,
    /// The source fails permanently while a write hangs.
    SourceFailsWhileAWriteHangs,
    /// The source fails permanently while all workers are blocked.
    SourceFailsWithBlockedWorkers,
    /// The source panics.
    SourcePanics,
    /// A lane panics.
    LanePanics,
    /// A lane blocks its thread.
    LaneHangs,
    /// A write never ends.
    WriteNeverEnds,
    /// A write blocks its thread.
    WriteHangs,
    /// The first write fails, and the next one succeeds.
    FirstWriteFails,
    /// The sink reports that no message can succeed.
    SinkStops,
    /// The settings do not match the resources that they name.
    WrongSettings,
}

/// Settings of the scripted service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub(crate) struct ScriptedSettings {
    #[schemars(flatten)]
    pub process: ProcessSettings,
}

impl Settings for ScriptedSettings {
    fn check(&self, _: &mut Faults) {}

    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn memory(&self) -> Vec<Share> {
        vec![Share::of_process()]
    }
}

/// Service whose `start` causes the fault.
pub(crate) struct Scripted {
    pub trouble: Trouble,
    /// Fault of a second pipeline, if there is one.
    pub second: Option<Trouble>,
    pub settings: ScriptedSettings,
}

impl Service for Scripted {
    const NAME: &'static str = "scripted";

    type Settings = ScriptedSettings;

    fn settings(&self) -> &ScriptedSettings {
        &self.settings
    }

    async fn start(self, context: &Context) -> anyhow::Result<Running> {
        let Self { trouble, second, .. } = self;
        if matches!(trouble, Trouble::WrongSettings) {
            return Err(WrongSettings("the table is another one".into()).into());
        }
        let mut running = Running::new(JoinSet::new())
            .start(pipeline(Self::NAME, trouble, context), &context.health);
        if let Some(trouble) = second {
            running = running.start(pipeline(SECOND, trouble, context), &context.health);
        }
        running.watchers.spawn(async move { get_into(trouble) });
        Ok(running)
    }
}

/// Returns a pipeline of this name, with one message.
fn pipeline(
    name: &'static str,
    trouble: Trouble,
    context: &Context,
) -> Pipeline<Script, Unchanged, Destination, MemoryDeadLetters> {
    let no_reasons = pipeline::Reasons { refused: &[], skipped: &[] };
    Pipeline {
        service: Scripted::NAME,
        source: Script { trouble, is_sent: false },
        transform: Unchanged,
        sink: Destination { trouble, attempts: AtomicUsize::new(0), is_broken: false.into() },
        dead_letters: Policy::Write(MemoryDeadLetters(
            Recorder::default(),
            Fates::new(FaultRates::default(), 1),
        )),
        limits: Limits {
            stall_after: Duration::from_secs(1),
            crash_file: std::env::var_os(CRASH_FILE).map(Into::into),
            ..Limits::default()
        },
        metrics: context.registry.pipeline(name, &no_reasons),
    }
}

/// Causes the fault in the runtime.
fn get_into(trouble: Trouble) {
    match trouble {
        Trouble::BlockingCall => drop(tokio::task::spawn_blocking(block)),
        Trouble::BlockedWorkers | Trouble::SourceFailsWithBlockedWorkers => {
            // This line is logged before this worker is blocked too.
            error!("in trouble");
            let workers = tokio::runtime::Handle::current().metrics().num_workers();
            (0..workers).for_each(|_| drop(tokio::spawn(async { block() })));
            block();
        }
        Trouble::Chatter => {
            error!("in trouble");
            let line = "x".repeat(1024);
            (0..10_000).for_each(|_| info!(line, "chatter"));
        }
        _ => {}
    }
    error!("in trouble");
}

fn block() -> ! {
    loop {
        std::thread::park();
    }
}

struct Script {
    trouble: Trouble,
    is_sent: bool,
}

impl Source for Script {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        use Trouble::{SourceFails, SourceFailsWhileAWriteHangs, SourceFailsWithBlockedWorkers};
        assert_ne!(self.trouble, Trouble::SourcePanics, "a panic for the test");
        let is_failing = match self.trouble {
            SourceFails | SourceFailsWithBlockedWorkers => true,
            SourceFailsWhileAWriteHangs => self.is_sent,
            _ => false,
        };
        if is_failing {
            return Err(Recovery::Stop.because("receive", "the source is gone"));
        }
        if std::mem::replace(&mut self.is_sent, true) {
            return std::future::pending().await;
        }
        let mut message = Message::new("data");
        message.publish_time = OffsetDateTime::now_utc() - Duration::from_secs(3600);
        let nobody = |_| {};
        Ok(Some(Delivery::new(message, Settlement::new(nobody, None))))
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

struct Unchanged;

impl Transform for Unchanged {
    type Record = ();

    async fn apply(&self, _: &Message) -> Result<Step<()>, Error> {
        Ok(Step::Pass(()))
    }
}

struct Destination {
    trouble: Trouble,
    attempts: AtomicUsize,
    /// True after a panic, if a lane gets no new state then.
    is_broken: AtomicBool,
}

impl Sink for Destination {
    type Record = ();
    type Key = ();
    type Batch = ();
    type EncodedBatch = ();
    type LaneState = ();

    fn lane_state(&self) {
        assert!(!self.is_broken.load(Ordering::Relaxed), "a panic for the test");
    }

    fn key(&self, (): &()) {}

    fn open(&self, (): &()) {}

    fn push(&self, (): &mut (), (): (), (): &mut ()) -> Result<usize, PushError<()>> {
        if self.trouble == Trouble::LaneHangs {
            // Other tasks go on, those that wait behind this one for its thread too.
            tokio::task::block_in_place(|| -> () { block() });
        }
        if self.trouble == Trouble::LanePanics {
            self.is_broken.store(true, Ordering::Relaxed);
            panic!("a panic for the test");
        }
        Ok(1)
    }

    fn encode(&self, (): (), (): &mut ()) {}

    async fn write(&self, (): &(), _: Duration) -> Result<Vec<Refusal>, Error> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        match self.trouble {
            Trouble::FirstWriteFails if attempt == 0 => {
                Err(Recovery::Retry.because("write", "not today"))
            }
            Trouble::WriteHangs => block(),
            Trouble::SinkStops => Err(Recovery::Stop.because("write", "no message can succeed")),
            Trouble::SourceFailsWhileAWriteHangs | Trouble::WriteNeverEnds => {
                std::future::pending().await
            }
            _ => Ok(Vec::new()),
        }
    }

    fn split(&self, (): &(), _: usize) -> Option<((), ())> {
        None
    }
}
