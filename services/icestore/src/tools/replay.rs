//! Replay of archived messages: from objects to a topic of Pub/Sub, or to MQTT.
//!
//! The data is the original data, byte for byte. Pub/Sub receives the message as it was archived,
//! with its attributes and so with its `ingest_id`. MQTT receives the payload of the device, on the
//! topic of the device. Ingestion then gives that message a new id.

pub mod line;
pub mod lines;
mod mqtt;
mod parquet;
pub mod properties;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{ArgGroup, Args, Parser, value_parser};
use service::tools::moment;
use service::{Tool, output};
use storage::{ObjectStore as _, Store};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::config::Settings;
use crate::format::Format;
use crate::object;
use line::ArchivedLine;
use mqtt::Protocol;
use target::Target;

/// Maximum messages in flight.
const CHUNK: usize = 100;

/// Arguments of `replay`.
#[derive(Debug, Parser)]
#[command(
    name = "replay",
    about = "Sends archived messages again, to Pub/Sub or to MQTT",
    long_about = "\
        Sends archived messages again, with their original bytes. To a topic of Pub/Sub they go as they \
        were archived, with their attributes and ingest_id, so that a table can be filled again. To \
        MQTT goes what the device sent, on its topic, with QoS 1 and the properties of MQTT 5. Takes the \
        right to read objects (roles/storage.objectViewer, or s3:GetObject and s3:ListBucket), which the service itself does not have.\n\n\
        icestore replay --prefix 2025/06/15 --to-topic recovery --dry-run",
    group(ArgGroup::new("to").multiple(true).required(true))
)]
pub struct Arguments {
    /// Only objects whose name, after archive.prefix, begins so.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    #[command(flatten)]
    times: Times,
    /// The Pub/Sub topic to publish to; all its subscriptions receive the messages.
    #[arg(long, value_name = "TOPIC", group = "to")]
    to_topic: Option<String>,
    /// The broker to publish to, mqtt://host:port or mqtts://host:port.
    #[arg(long, value_name = "URL", group = "to")]
    to_mqtt: Option<String>,
    /// The user at the broker.
    #[arg(long, value_name = "NAME", requires = "to_mqtt")]
    mqtt_username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "mqtt_username")]
    mqtt_password_file: Option<PathBuf>,
    /// The version of MQTT; 3.1.1 carries no properties.
    #[arg(long, value_name = "VERSION", requires = "to_mqtt")]
    mqtt_protocol: Option<Protocol>,
    /// Messages a second.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// Count what would be sent, and send nothing.
    #[arg(long, group = "to")]
    dry_run: bool,
}

/// Range of event times that are replayed.
#[derive(Debug, Args)]
struct Times {
    /// Only messages of this event time or later: 1h (ago), 2026-11-20, or 2026-11-20T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<OffsetDateTime>,
    /// Only messages of an earlier event time: 1h (ago), 2026-11-20, or 2026-11-20T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<OffsetDateTime>,
}

impl Times {
    /// Returns true if the line is in the range. The program that wrote a line may have written no
    /// time. Such a line is only in a range without bounds.
    fn take(&self, line: &ArchivedLine) -> bool {
        match line.time() {
            Some(time) => {
                self.since.is_none_or(|since| time >= since)
                    && self.until.is_none_or(|until| time < until)
            }
            None => self.since.is_none() && self.until.is_none(),
        }
    }
}

/// Progress of the replay.
#[derive(Debug, Default)]
struct Count {
    is_dry: bool,
    objects: u64,
    sent: u64,
    other_times: u64,
}

impl Tool<Settings> for Arguments {
    /// Runs the replay.
    ///
    /// # Errors
    /// When an object cannot be read, or a message is not accepted. All messages before it are
    /// sent.
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let clients = settings.process.google.identity().into();
        let store = settings.storage.open(&clients).await?;
        let target = Target::of(&settings, &self).await?;
        let wanted = self.prefix.as_deref().unwrap_or_default().trim_start_matches('/');
        let prefix = format!("{}{wanted}", object::root(&settings.archive.prefix));
        let chunk = CHUNK.min(self.rate as usize);
        let is_dry = self.dry_run;
        let pace = if is_dry { Duration::ZERO } else { Duration::from_secs(1) / self.rate };
        let count = Count { is_dry, ..Count::default() };
        let mut replay = Replay { times: self.times, chunk, pace, target, count };
        let mut page = None;
        loop {
            let (names, next) = store.list(&prefix, page.as_deref()).await?;
            for name in &names {
                let Some(format) = Format::of(name) else { continue };
                if let Err(error) = replay.object(&store, name, format).await {
                    bail!("{}; stopped at {name}: {error:#}", tell(&replay.count));
                }
                output::note(format_args!("{name}: {}", tell(&replay.count)));
            }
            page = next;
            if page.is_none() {
                break;
            }
        }
        output::note(tell(&replay.count));
        if replay.count.objects == 0 {
            bail!("{} has no objects of the archive", store.address(&prefix));
        }
        Ok(())
    }
}

fn tell(count: &Count) -> String {
    let Count { is_dry, objects, sent, other_times } = count;
    let word = if *is_dry { "messages that would be sent" } else { "messages sent" };
    format!("objects read: {objects}, {word}: {sent}, outside --since and --until: {other_times}")
}

/// A replay that is under way.
struct Replay {
    times: Times,
    /// Maximum number of messages that are sent at once.
    chunk: usize,
    /// Time between two messages.
    pace: Duration,
    target: Target,
    count: Count,
}

impl Replay {
    /// Sends the lines of an object.
    async fn object(&mut self, store: &Store, name: &str, format: Format) -> anyhow::Result<()> {
        let object = store.read(name).await?;
        self.count.objects += 1;
        let mut waiting = Vec::with_capacity(self.chunk);
        for line in lines::all(format, object)? {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    self.send(&waiting).await?;
                    return Err(error);
                }
            };
            if !self.times.take(&line) {
                self.count.other_times += 1;
                continue;
            }
            waiting.push(line);
            if waiting.len() == self.chunk {
                self.send_at_pace(&waiting).await?;
                waiting.clear();
            }
        }
        self.send_at_pace(&waiting).await
    }

    /// Sends lines, then waits as long as their number allows.
    async fn send_at_pace(&mut self, lines: &[ArchivedLine]) -> anyhow::Result<()> {
        self.send(lines).await?;
        sleep(self.pace * lines.len() as u32).await;
        Ok(())
    }

    async fn send(&mut self, lines: &[ArchivedLine]) -> anyhow::Result<()> {
        self.count.sent += self.target.send(lines).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Arguments::command().debug_assert();

        assert!(Arguments::try_parse_from(["replay"]).is_err(), "it must be told where to");
        assert!(Arguments::try_parse_from(["replay", "--to-topic", "enriched"]).is_ok());
        let soon = ["replay", "--to-topic", "enriched", "--since", "soon"];
        let text = Arguments::try_parse_from(soon).unwrap_err().to_string();
        assert!(text.contains("--since") && text.contains("2026-11-20"), "{text}");
    }

    #[test]
    fn the_event_time_counts() {
        let at = |text: &str| Some(moment::parse(text).unwrap());
        let line = ArchivedLine::of_time(at("2025-06-15T10:00:00Z"));
        let hour = Times { since: at("2025-06-15T10:00:00Z"), until: at("2025-06-15T11:00:00Z") };
        let before = Times { since: None, until: at("2025-06-15T10:00:00Z") };

        assert!(hour.take(&line));
        assert!(!before.take(&line));
        assert!(!hour.take(&ArchivedLine::of_time(None)));
        assert!(Times { since: None, until: None }.take(&ArchivedLine::of_time(None)));
    }
}
