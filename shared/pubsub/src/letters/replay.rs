//! Sends letters on their way again.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use pipeline::{Delivery, Error, Message, Recovery};
use serde_json::json;
use service::args;
use service::survey::Form;
use tokio::time::interval;

use super::filter::{Filter, first_seen};
use super::{Letters, Office, show};
use crate::admin::Admin;
use crate::connection::{Connection, TopicName, full_name};
use crate::dead_letters::restore;
use crate::publishers::Publishers;
use crate::sink::Outgoing;

/// Makes of a message that was refused what is sent again.
pub trait Prepare: Send + Sync {
    /// The message as it goes out; `topic` is where the service's messages come from, if they come
    /// from a topic.
    ///
    /// # Errors
    /// When it would be refused again.
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

/// The message as it was before it was refused, to the topic that it came from.
///
/// # Errors
/// When that is not known.
pub(super) async fn as_it_was(
    message: Message,
    topic: Option<TopicName>,
) -> Result<Outgoing, Error> {
    let unknown = || Recovery::Stop.because("replay", "the topic is not known: give it with --to");
    Ok(Outgoing {
        topic: topic.ok_or_else(unknown)?,
        data: message.data,
        attributes: message.attributes,
        ordering_key: String::new(),
    })
}

/// Where letters are handed in.
struct Counter {
    admin: Admin,
    publishers: Publishers,
    /// Topics that somebody listens to: what nobody would see must stay a letter.
    heard: HashSet<TopicName>,
}

impl Counter {
    async fn open(connection: &Connection) -> Result<Self, Error> {
        let publishers = Publishers::new(connection).await?;
        Ok(Self { admin: Admin::new(connection).await?, publishers, heard: HashSet::new() })
    }

    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Error> {
        let topic = outgoing.topic.clone();
        if !self.heard.contains(&topic) {
            self.admin.require_audience(&topic).await?;
            self.heard.insert(topic.clone());
        }
        self.publishers.send(&topic, &[outgoing]).await
    }
}

impl Office<'_> {
    pub(super) async fn replay(
        &self,
        mut letters: Letters,
        (given, filter): (&ArgMatches, &Filter),
        prepare: impl Prepare,
    ) -> anyhow::Result<()> {
        let is_dry = given.get_flag("dry-run");
        let rate = given.get_one::<u32>("rate").copied().unwrap_or(100);
        let topic = self.target(given).await?;
        let mut counter = Counter::open(&Connection::new(self.pubsub.clone())).await?;
        let mut ticks = interval(Duration::from_secs(1) / rate);
        let (mut replayed, mut failed) = (0_usize, 0_usize);
        let is_meant = |letter: &mut Delivery| filter.takes(&letter.message);
        let meant: Vec<_> = letters.held.extract_if(.., is_meant).collect();
        for letter in meant {
            let prepared = match original(&letter.message) {
                Ok(message) => prepare.prepare(message, topic.as_ref()).await,
                Err(error) => Err(error),
            };
            let sent = match prepared {
                Ok(_) if is_dry => Ok(()),
                Ok(outgoing) => {
                    ticks.tick().await;
                    counter.send(outgoing).await
                }
                Err(error) => Err(error),
            };
            tell(&letter.message, &sent, args::form(given));
            match sent {
                Ok(()) => {
                    replayed += 1;
                    if is_dry { letters.held.push(letter) } else { letter.ack() }
                }
                Err(_) => {
                    failed += 1;
                    letters.held.push(letter);
                }
            }
        }
        letters.hand_back().await?;
        let replayed_word = if is_dry { "would be replayed" } else { "replayed" };
        eprintln!("{replayed} {replayed_word}, {failed} stay");
        if failed > 0 { bail!("{failed} letters could not be replayed") } else { Ok(()) }
    }

    /// Where replayed messages go, unless the service itself knows.
    async fn target(&self, given: &ArgMatches) -> anyhow::Result<Option<TopicName>> {
        if let Some(id) = given.get_one::<String>("to") {
            return Ok(Some(TopicName::new(self.project, id)));
        }
        let Some(subscription) = self.reads else { return Ok(None) };
        let admin = Admin::new(&Connection::new(self.pubsub.clone())).await?;
        let name = full_name(self.project, "subscriptions", &subscription.id);
        let found = admin.find_subscription(&name).await;
        let found =
            found.with_context(|| format!("{name} cannot be read; give the topic with --to"))?;
        Ok(Some(TopicName::new(self.project, &found.topic)))
    }
}

/// The message without what the letter added.
///
/// # Errors
/// `Reject` for a letter that does not hold all of the message's data.
pub fn original(letter: &Message) -> Result<Message, Error> {
    let refuse = |why: String| Err(Recovery::Reject("not_replayable").because("replay", why));
    if let Some(object) = letter.attributes.get("dl_object") {
        return refuse(format!("its data is too big for Pub/Sub and lies in {object}"));
    }
    let (data, attributes) = restore(letter, letter.data.clone())?;
    let mut message = Message::new(data);
    message.attributes = attributes;
    message.publish_time = first_seen(letter);
    Ok(message)
}

fn tell(letter: &Message, sent: &Result<(), Error>, form: Form) {
    let why = sent.as_ref().err().map(|error| format!("{error:#}"));
    if form == Form::Json {
        let mut row = show::head(letter);
        row["error"] = json!(why);
        println!("{row}");
        return;
    }
    println!("{}", show::line(letter));
    if let Some(why) = why {
        println!("    stays: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_becomes_the_message_that_it_was() {
        let letter = Message::new("data")
            .with_attribute("ingest_id", "i-1")
            .with_attribute("dl_reason", "row_type_mismatch")
            .with_attribute("dl_first_seen", "2025-06-15T10:00:00Z");

        let message = original(&letter).unwrap();

        assert_eq!(&message.data[..], b"data");
        assert_eq!(message.attributes.len(), 1);
        assert_eq!(message.attributes["ingest_id"], "i-1");
        assert_eq!(message.publish_time, time::macros::datetime!(2025-06-15 10:00 UTC));
    }

    #[test]
    fn what_is_not_whole_is_not_replayed() {
        for (name, value) in [("dl_object", "gs://b/o"), ("dl_truncated", "true")] {
            let letter = Message::new("da").with_attribute(name, value);

            assert_eq!(
                original(&letter).unwrap_err().recovery(),
                Recovery::Reject("not_replayable")
            );
        }
    }
}
