//! A run, from the arguments to the report.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use service::output;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use uuid::Uuid;

use crate::args::{Args, Version};
use crate::content::{AddressKind, Content};
use crate::device::{Device, Script};
use crate::gate::{Gate, Phase};
use crate::plan::{Due, Plan};
use crate::report::{Report, RunSubject};
use crate::tally::Tally;
use crate::target::Target;
use crate::{http, mqtt};

/// Exit code of wrong arguments.
const WRONG_ARGUMENTS: u8 = 2;
/// Time between two looks at the progress.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two lines about the progress.
const LOOKS_OF_A_LINE: u64 = 5;
/// Messages of a dry run without a number.
const DRY_MESSAGES: u64 = 10;

/// Shared parts of all connections.
enum Link {
    Mqtt(Arc<mqtt::MqttLink>),
    Http(Arc<http::HttpLink>),
}

/// Run that was read, and not begun.
struct Prepared {
    target: Target,
    link: Link,
    script: Arc<Script>,
    protocol: &'static str,
}

/// Reads everything, sends, and reports. Returns the exit code.
///
/// # Errors
/// Fails when no connection can be opened at the start, or the report cannot be written.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let prepared = match Prepared::new(&args).await {
        Ok(prepared) => prepared,
        Err(wrong) => {
            output::note(format_args!("error: {wrong:#}"));
            return Ok(WRONG_ARGUMENTS.into());
        }
    };
    if args.dry_run {
        prepared.print(args.amount.devices);
        output::finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = prepared.send(&args).await?;
    if let Some(file) = &args.report {
        let json = serde_json::to_vec_pretty(&report).context("write the report")?;
        let shown = file.display();
        std::fs::write(file, json).with_context(|| format!("write the report to {shown}"))?;
    }
    output::line(&report);
    output::finish()?;
    Ok(report.exit_code().into())
}

impl Prepared {
    async fn new(args: &Args) -> anyhow::Result<Self> {
        let target = Target::parse(&args.target).map_err(anyhow::Error::msg)?;
        let kind = match target {
            Target::Broker(_) => AddressKind::Topic,
            Target::Ingest(_) => AddressKind::Source,
        };
        let batch = match kind {
            AddressKind::Topic => 1,
            AddressKind::Source => args.http.batch,
        };
        let script = Arc::new(Script {
            run: Uuid::new_v4().simple().to_string()[..12].to_owned(),
            seed: args.content.seed.unwrap_or_else(rand::random),
            prefix: args.content.prefix.clone(),
            plan: Plan::new(&args.amount, batch),
            batch: u64::from(batch),
            speed: args.content.speed,
            duration: args.amount.duration,
            content: Content::read(&args.content, &args.amount, kind).await?,
        });
        check_first(&script, kind)?;
        let (run, max_in_flight) = (&script.run, args.max_in_flight);
        let (link, protocol) = match &target {
            Target::Broker(broker) => {
                let link = mqtt::MqttLink::new(broker.clone(), &args.mqtt, run, max_in_flight)?;
                let protocol = match args.mqtt.version {
                    Version::V5 => "MQTT 5",
                    Version::V311 => "MQTT 3.1.1",
                };
                (Link::Mqtt(Arc::new(link)), protocol)
            }
            Target::Ingest(url) => {
                let link = http::HttpLink::new(url.clone(), &args.http, run, max_in_flight)?;
                (Link::Http(Arc::new(link)), "HTTP")
            }
        };
        Ok(Self { target, link, script, protocol })
    }

    /// Prints the messages instead of sending them.
    fn print(&self, devices: u32) {
        let most = self.script.expected().unwrap_or(DRY_MESSAGES);
        let mut devices: Vec<_> =
            (0..devices).map(|index| Device::new(index, &self.script)).collect();
        let mut printed = 0;
        while printed < most {
            let before = printed;
            for device in devices.iter_mut().filter(|device| device.due() != Due::Never) {
                if printed < most {
                    let message = device.take();
                    let payload = String::from_utf8_lossy(&message.payload);
                    output::line(format_args!("{}\t{payload}", message.address));
                    printed += 1;
                }
            }
            if printed == before {
                return;
            }
        }
    }

    async fn send(self, args: &Args) -> anyhow::Result<Report> {
        let subject = RunSubject {
            target: self.target.to_string(),
            protocol: self.protocol,
            run: self.script.run.clone(),
            seed: self.script.seed,
            devices: args.amount.devices,
            expected: self.script.expected(),
            planned_rate: self.script.rate(),
        };
        let expected =
            subject.expected.map_or("no limit".to_owned(), |expected| expected.to_string());
        output::note(format_args!(
            "sending to {} ({}), planned messages: {expected}",
            subject.target, subject.protocol
        ));
        let mut signals = Signals::new()?;
        let mut run = Run::start(&self, args.amount.devices);
        tokio::select! {
            connected = run.connected(args.mqtt.connect_timeout) => connected?,
            () = signals.next() => bail!("interrupted before all devices were connected"),
        }
        let start = Instant::now();
        run.phase.send_replace(Phase::Sending(start));
        let end = run.sending(&self.script, start, args, &mut signals).await?;
        if end != End::Done {
            run.phase.send_replace(Phase::Draining);
        }
        if matches!(end, End::Interrupted | End::TimeOver) {
            tokio::select! {
                drained = timeout(args.grace, run.drained()) => {
                    // What has no answer after this time is unconfirmed.
                    drained.unwrap_or(Ok(()))?;
                }
                () = signals.next() => {}
            }
        }
        let stopped = end.reason(args);
        Ok(Report::new(subject, &run.tally.snapshot(), start, stopped))
    }
}

/// Checks the first message of a script, because all others fail like it.
fn check_first(script: &Arc<Script>, kind: AddressKind) -> anyhow::Result<()> {
    if matches!(script.content, Content::Archive(_)) {
        return Ok(());
    }
    let first = Device::new(0, script).take();
    match kind {
        AddressKind::Topic => {
            let topic = &first.address;
            let is_topic = !topic.is_empty() && !topic.contains(['+', '#', '\0']);
            if !is_topic || topic.len() > usize::from(u16::MAX) {
                bail!("--topic must make topics without + and #, makes `{topic}`");
            }
        }
        AddressKind::Source => {
            let payload = String::from_utf8_lossy(&first.payload);
            serde_json::from_str::<serde::de::IgnoredAny>(&payload).with_context(|| {
                format!("ingest over HTTP needs payloads in JSON, not {payload}")
            })?;
        }
    }
    Ok(())
}

/// End of the time in which messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every device has sent its messages, and has the answers.
    Done,
    /// The duration is over.
    TimeOver,
    /// A signal came.
    Interrupted,
    /// Nothing was confirmed for too long.
    Stalled,
}

impl End {
    fn reason(self, args: &Args) -> Option<String> {
        match self {
            Self::Done | Self::TimeOver => None,
            Self::Interrupted => Some("by a signal".into()),
            Self::Stalled => {
                let patience = args.patience;
                Some(format!("nothing was confirmed for {patience:?} (--patience)"))
            }
        }
    }
}

/// Devices that are running. Dropping it ends them at once.
struct Run {
    tally: Arc<Tally>,
    phase: watch::Sender<Phase>,
    devices: JoinSet<()>,
    /// Devices that tell when they are connected.
    connecting: u32,
    ready: mpsc::Receiver<()>,
}

impl Run {
    fn start(prepared: &Prepared, devices: u32) -> Self {
        let tally = Arc::new(Tally::default());
        let (phase, gate) = Gate::new();
        let (tell, ready) = mpsc::channel(1);
        let mut running = JoinSet::new();
        for index in 0..devices {
            let device = Device::new(index, &prepared.script);
            match &prepared.link {
                Link::Mqtt(link) => {
                    let tell = tell.clone();
                    running.spawn(mqtt::Connection::new(link, &tally, &gate, device, tell).run());
                }
                Link::Http(link) => {
                    let (link, tally) = (Arc::clone(link), Arc::clone(&tally));
                    running.spawn(http::run(link, tally, gate.clone(), device));
                }
            }
        }
        let connecting = match prepared.link {
            Link::Mqtt(_) => devices,
            Link::Http(_) => 0,
        };
        Self { tally, phase, devices: running, connecting, ready }
    }

    /// Waits until all devices are connected.
    async fn connected(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        for connected in 0..self.connecting {
            let waited = tokio::time::timeout_at(deadline, self.ready.recv()).await;
            if !matches!(waited, Ok(Some(()))) {
                let failures = self.tally.snapshot().failures;
                let why = failures.keys().next().map_or("no answer", |why| why);
                let all = self.connecting;
                bail!("{connected} of {all} devices are connected after {limit:?}: {why}");
            }
        }
        Ok(())
    }

    /// Waits until everything is sent, or sending must end.
    async fn sending(
        &mut self,
        script: &Script,
        start: Instant,
        args: &Args,
        signals: &mut Signals,
    ) -> anyhow::Result<End> {
        // Messages of a rate were planned before the end, so late ones may still be sent.
        let late = if script.rate().is_some() { args.grace } else { Duration::ZERO };
        let deadline = script.duration.map(|duration| start + duration + late);
        let mut looks = interval_at(start + LOOK, LOOK);
        let (mut settled, mut settled_at, mut count) = (0, start, 0);
        loop {
            tokio::select! {
                ended = self.devices.join_next() => match ended {
                    Some(ended) => ended.context("a device failed")?,
                    None => return Ok(End::Done),
                },
                () = signals.next() => return Ok(End::Interrupted),
                () = sleep_until(deadline.unwrap_or(start)), if deadline.is_some() => {
                    return Ok(End::TimeOver);
                }
                now = looks.tick() => {
                    let progress = self.tally.progress();
                    let is_waiting = progress.sent > progress.settled || progress.cut_off > 0;
                    if progress.settled > settled || !is_waiting {
                        (settled, settled_at) = (progress.settled, now);
                    }
                    if now - settled_at >= args.patience {
                        return Ok(End::Stalled);
                    }
                    count += 1;
                    if count % LOOKS_OF_A_LINE == 0 {
                        let (sent, settled) = (progress.sent, progress.settled);
                        output::note(format_args!("{count} s: {sent} sent, {settled} answered"));
                    }
                }
            }
        }
    }

    /// Waits until every device has its answers.
    async fn drained(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.devices.join_next().await {
            ended.context("a device failed")?;
        }
        Ok(())
    }
}

/// Signals that end a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
