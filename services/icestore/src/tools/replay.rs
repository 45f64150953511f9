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

use std::time::Duration;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use service::output;
use service::tools::moment;
use storage::Bucket;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::config::Settings;
use crate::format::Format;
use crate::object;
use line::ArchivedLine;
use target::Target;

/// Maximum messages in flight.
const CHUNK: usize = 100;

/// Returns the subcommand.
#[must_use]
pub fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("replay")
        .about("Sends archived messages again, to Pub/Sub or to MQTT")
        .long_about(
            "Sends archived messages again, with their original bytes. To a topic of Pub/Sub they go as they \
             were archived, with their attributes and ingest_id, so that a table can be filled again. To \
             MQTT goes what the device sent, on its topic, with QoS 1 and the properties of MQTT 5. Takes the right to read objects \
             (roles/storage.objectViewer), which the service itself does not have.\n\n\
             icestore replay --prefix 2025/06/15 --to-topic recovery --dry-run",
        )
        .args([
            option("prefix", "PREFIX", "Only objects whose name, after archive.prefix, begins so"),
            moment::option("since", "Only messages of this event time or later"),
            moment::option("until", "Only messages of an earlier event time"),
            option("to-topic", "TOPIC", "The Pub/Sub topic to publish to; all its subscriptions receive the messages"),
            option("to-mqtt", "URL", "The broker to publish to, mqtt://host:port or mqtts://host:port"),
            option("mqtt-username", "NAME", "The user at the broker").requires("to-mqtt"),
            option("mqtt-password-file", "FILE", "A file with the user's password")
                .requires("mqtt-username"),
            option("mqtt-protocol", "VERSION", "The version of MQTT; 3.1.1 carries no properties")
                .requires("to-mqtt")
                .value_parser(mqtt::PROTOCOLS),
            option("rate", "N", "Messages a second")
                .default_value("1000")
                .value_parser(value_parser!(u32).range(1..)),
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Count what would be sent, and send nothing"),
        ])
        .group(ArgGroup::new("to").args(["to-topic", "to-mqtt", "dry-run"]).multiple(true).required(true))
}

/// Range of event times that are replayed.
#[derive(Debug)]
struct Times {
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

impl Times {
    fn of(given: &ArgMatches) -> Self {
        let time = |name: &str| given.get_one(name).copied();
        Self { since: time("since"), until: time("until") }
    }

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

/// Runs the replay.
///
/// # Errors
/// When an object cannot be read, or a message is not accepted. All messages before it are sent.
pub async fn act(settings: Settings, given: ArgMatches) -> anyhow::Result<()> {
    let times = Times::of(&given);
    let bucket = Bucket::new(&settings.storage.bucket, &settings.storage.endpoint()).await?;
    let target = Target::of(&settings, &given).await?;
    let wanted = given.get_one::<String>("prefix").map(|prefix| prefix.trim_start_matches('/'));
    let prefix =
        format!("{}{}", object::root(&settings.archive.prefix), wanted.unwrap_or_default());
    let rate = given.get_one::<u32>("rate").copied().unwrap_or(1000);
    let chunk = CHUNK.min(rate as usize);
    let is_dry = given.get_flag("dry-run");
    let pace = if is_dry { Duration::ZERO } else { Duration::from_secs(1) / rate };
    let count = Count { is_dry, ..Count::default() };
    let mut replay = Replay { times, chunk, pace, target, count };
    let mut page = None;
    loop {
        let (names, next) = bucket.list(&prefix, page.as_deref()).await?;
        for name in &names {
            let Some(format) = Format::of(name) else { continue };
            if let Err(error) = replay.object(&bucket, name, format).await {
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
        bail!("gs://{}/{prefix} has no objects of the archive", bucket.name());
    }
    Ok(())
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
    async fn object(&mut self, bucket: &Bucket, name: &str, format: Format) -> anyhow::Result<()> {
        let object = bucket.read(name).await?;
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
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();

        assert!(command().try_get_matches_from(["replay"]).is_err(), "it must be told where to");
        assert!(command().try_get_matches_from(["replay", "--to-topic", "enriched"]).is_ok());
        let soon = ["replay", "--to-topic", "enriched", "--since", "soon"];
        let text = command().try_get_matches_from(soon).unwrap_err().to_string();
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
