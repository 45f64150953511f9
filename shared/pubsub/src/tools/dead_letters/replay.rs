//! Sends the messages of dead letters again.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, value_parser};
use message::Message;
use message::attribute;
use pipeline::{Error, Recovery};
use serde_json::json;
use service::args::JsonOption;
use service::tools::preflight::Form;
use tokio::time::{Instant, Interval, interval};

use super::filter::{Filter, first_seen};
use super::print::Print;
use super::reader::Reader;
use super::show::Row;
use super::{DeadLetterTool, Seen};
use crate::admin::{Admin, LookupError};
use crate::connection::Connection;
use crate::dead_letters::restore;
use crate::names::TopicName;
use crate::outgoing::Outgoing;
use crate::publishers::Publishers;
use crate::reasons;

/// Interval at which dead letters that were sent are removed.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a replay.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    filter: Filter,
    /// Messages a second.
    #[arg(long, value_name = "N", default_value = "100", value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// Show what would be replayed, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// The topic to replay to; by default the one that the service reads from, or, for ingestion,
    /// the one that its routes name now.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    #[command(flatten)]
    output: JsonOption,
}

/// Turns a refused message into the message that is sent again.
pub trait Prepare: Send + Sync {
    /// Returns the message to send. `topic` is the topic that the service reads from, if it reads
    /// from one.
    ///
    /// # Errors
    /// The message would be refused again.
    fn prepare(
        &self,
        message: Message,
        topic: Option<&TopicName>,
    ) -> impl Future<Output = Result<Outgoing, Error>> + Send;
}

impl<F, R> Prepare for F
where
    F: Fn(Message, Option<TopicName>) -> R + Send + Sync,
    R: Future<Output = Result<Outgoing, Error>> + Send,
{
    fn prepare(
        &self,
        message: Message,
        topic: Option<&TopicName>,
    ) -> impl Future<Output = Result<Outgoing, Error>> + Send {
        self(message, topic.cloned())
    }
}

/// Returns the message as it was before it was refused, for the topic that it came from.
///
/// # Errors
/// The topic is not known.
pub async fn as_it_was(message: Message, topic: Option<TopicName>) -> Result<Outgoing, Error> {
    let unknown = || Recovery::Stop.because("replay", "the topic is not known: give it with --to");
    Ok(Outgoing {
        topic: topic.ok_or_else(unknown)?,
        data: message.data,
        attributes: message.attributes,
        ordering_key: String::new(),
    })
}

/// Republishes messages.
pub(super) struct Counter {
    admin: Admin,
    publishers: Publishers,
    /// Topics that are known to have an audience. A message that nobody would see must stay a dead
    /// letter.
    heard: HashSet<TopicName>,
}

impl Counter {
    pub(super) async fn open(connection: &Connection) -> Result<Self, Error> {
        let publishers = Publishers::new(connection).await?;
        Ok(Self { admin: Admin::new(connection).await?, publishers, heard: HashSet::new() })
    }

    pub(super) async fn send(&mut self, outgoing: Outgoing) -> Result<(), Error> {
        let topic = outgoing.topic.clone();
        if !self.heard.contains(&topic) {
            self.admin.require_audience(&topic).await?;
            self.heard.insert(topic.clone());
        }
        self.publishers.send(&topic, &[outgoing]).await.map(drop)
    }
}

/// State of a replay.
struct Sending<'a, P> {
    filter: &'a Filter,
    prepare: P,
    topic: Option<TopicName>,
    counter: Counter,
    ticks: Interval,
    mode: Mode,
    form: Form,
    out: &'a mut dyn Print,
    tally: Tally,
    /// Messages that this run has sent, by their `ingest_id`, or by their data if they have none.
    sent: HashSet<Vec<u8>>,
}

/// Selects between a real replay and a dry run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Dry,
}

/// Numbers of dead letters by outcome.
#[derive(Debug, Default)]
struct Tally {
    replayed: usize,
    failed: usize,
}

impl<P: Prepare> Sending<'_, P> {
    /// Replays the selected dead letters of a page, oldest first, and removes them.
    async fn page(&mut self, mut page: Vec<Message>, reader: &mut Reader) -> Result<(), Error> {
        page.sort_by(|a, b| (a.publish_time, &a.id).cmp(&(b.publish_time, &b.id)));
        let mut removed_at = Instant::now();
        for dead_letter in page.iter().filter(|dead_letter| self.filter.takes(dead_letter)) {
            if reader.is_interrupted().await {
                break;
            }
            // A message that was sent and refused again meanwhile is left for the next run.
            if reader.may_be_new(dead_letter) && self.sent.contains(identity(dead_letter)) {
                continue;
            }
            reader.extend_leases().await;
            let sent = reader.while_leased(self.send(dead_letter)).await;
            tell(dead_letter, &sent, self.form, self.out);
            if sent.is_err() {
                self.tally.failed += 1;
                continue;
            }
            self.tally.replayed += 1;
            self.sent.insert(identity(dead_letter).to_vec());
            if self.mode == Mode::Real {
                reader.finish(&dead_letter.id);
            }
            // After a crash, only the dead letters of one interval are sent again.
            if is_removal_due(removed_at) {
                reader.remove().await?;
                removed_at = Instant::now();
            }
        }
        reader.remove().await
    }

    async fn send(&mut self, dead_letter: &Message) -> Result<(), Error> {
        let outgoing = self.prepare.prepare(original(dead_letter)?, self.topic.as_ref()).await?;
        if self.mode == Mode::Dry {
            return Ok(());
        }
        self.ticks.tick().await;
        self.counter.send(outgoing).await
    }
}

impl DeadLetterTool<'_> {
    /// Replays the dead letters of a reader.
    pub(super) async fn replay(
        &self,
        mut reader: Reader,
        options: Options,
        prepare: impl Prepare,
        out: &mut dyn Print,
    ) -> anyhow::Result<()> {
        let Options { filter, rate, dry_run, to, output } = options;
        let mut sending = Sending {
            filter: &filter.of_service(self.service),
            prepare,
            topic: self.target(to.as_deref()).await?,
            counter: Counter::open(&self.connection()).await?,
            ticks: interval(Duration::from_secs(1) / rate),
            mode: if dry_run { Mode::Dry } else { Mode::Real },
            form: output.form,
            out,
            tally: Tally::default(),
            sent: HashSet::new(),
        };
        let outcome = loop {
            let page = match reader.page().await {
                Ok(Some(page)) => page,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            if let Err(error) = sending.page(page, &mut reader).await {
                break Err(error)
                    .context("letters that were sent could not be removed, and may come again");
            }
        };
        let seen = Seen::close(reader).await;
        sending.tally.print(&seen, sending.mode, sending.form, sending.out);
        outcome?;
        match sending.tally.failed {
            0 => seen.whole(),
            failed => bail!("letters that could not be replayed: {failed}"),
        }
    }

    /// Returns the topic of replayed messages, unless the service itself knows it.
    pub(super) async fn target(&self, to: Option<&str>) -> anyhow::Result<Option<TopicName>> {
        if let Some(id) = to {
            return Ok(Some(TopicName::new(self.project, id)));
        }
        let Some(subscription) = self.reads else { return Ok(None) };
        let admin = Admin::new(&self.connection()).await?;
        let name = subscription.name(self.project)?;
        let found = admin.find_subscription(&name).await;
        let advice = |error: &LookupError| error.advice(self.pubsub, "give the topic with --to");
        let found = found.map_err(|error| anyhow!("{error}; {}", advice(&error)))?;
        Ok(Some(TopicName::new(self.project, &found.topic)))
    }
}

/// Returns true if it is time to remove the dead letters that were sent. `removed_at` is the time of
/// the last removal.
fn is_removal_due(removed_at: Instant) -> bool {
    removed_at.elapsed() >= REMOVAL_INTERVAL
}

/// Returns an identity that a message shares with its copies.
fn identity(dead_letter: &Message) -> &[u8] {
    let id = dead_letter.attributes.get(attribute::INGEST_ID);
    id.map_or(&dead_letter.data[..], |id| id.as_bytes())
}

/// Returns the message without the attributes that the dead letter added.
///
/// # Errors
/// `Reject` if the dead letter does not hold all of the message's data.
pub fn original(dead_letter: &Message) -> Result<Message, Error> {
    let refuse =
        |why: String| Err(Recovery::Reject(reasons::NOT_REPLAYABLE).because("replay", why));
    if let Some(object) = dead_letter.attributes.get("dl_object") {
        return refuse(format!("its data is too big for Pub/Sub and lies in {object}"));
    }
    let (data, attributes) = restore(dead_letter, dead_letter.data.clone())?;
    let mut message = Message::new(data);
    message.attributes = attributes;
    message.publish_time = first_seen(dead_letter);
    Ok(message)
}

fn tell(dead_letter: &Message, sent: &Result<(), Error>, form: Form, out: &mut dyn Print) {
    let why = sent.as_ref().err().map(|error| format!("{error:#}"));
    let row = Row::of(dead_letter);
    if form == Form::Json {
        let mut row = json!(row);
        row["error"] = json!(why);
        out.line(&row);
        return;
    }
    out.line(&row.line());
    if let Some(why) = why {
        out.line(&format_args!("    cannot be replayed: {why}"));
    }
}

impl Tally {
    fn print(&self, seen: &Seen, mode: Mode, form: Form, out: &mut dyn Print) {
        let Self { replayed, failed } = *self;
        let matching = replayed + failed;
        if form == Form::Json {
            let mut told = seen.to_json();
            told["matching"] = matching.into();
            told[if mode == Mode::Dry { "would_be_replayed" } else { "replayed" }] =
                replayed.into();
            told["failed"] = failed.into();
            out.line(&told);
            return;
        }
        out.line(&seen.sum(matching));
        out.line(&self.words(mode));
    }

    fn words(&self, mode: Mode) -> String {
        let done = if mode == Mode::Dry { "would be replayed" } else { "replayed" };
        match (self.replayed, self.failed, mode) {
            (0, 0, Mode::Real) => "nothing was replayed".into(),
            (0, 0, Mode::Dry) => "nothing would be replayed".into(),
            (replayed, 0, _) => format!("{replayed} {done}"),
            (replayed, failed, _) => {
                format!(
                    "{replayed} {done}, {failed} cannot be replayed, for the reason beside each"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
