//! Replays one dead letter, for a program that shows them to people.

use std::time::Duration;

use anyhow::{Context as _, bail};
use message::Message;

use super::print::Print;
use super::pull::Puller;
use super::reader::{Limits, Reader};
use super::replay::{Counter, Prepare, original};
use super::{DeadLetterTool, show};
use crate::names::full_name;

/// Maximum number of dead letters that are read to find one.
const MAX_READ: usize = 100_000;
/// Wait for another dead letter before the wanted one counts as missing.
const WAIT: Duration = Duration::from_secs(3);

/// Outcome of the replay of one dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// Its message is confirmed, and the dead letter is removed.
    Sent,
    /// There is no such dead letter: it was replayed before, or somebody reads it now.
    Missing,
}

/// Notes that nobody reads.
struct Nowhere;

impl Print for Nowhere {
    fn line(&mut self, _: &dyn std::fmt::Display) {}

    fn note(&mut self, _: &dyn std::fmt::Display) {}
}

impl DeadLetterTool<'_> {
    /// Sends the message of the dead letter with this id, and removes the dead letter. `subscription`
    /// is the one of the dead letters. All others return to it.
    ///
    /// # Errors
    /// The message could not be sent, or the dead letter could not be removed. Then the message may
    /// be sent again by the next replay.
    pub async fn replay_one(
        &self,
        subscription: &str,
        id: &str,
        prepare: impl Prepare,
    ) -> anyhow::Result<Replayed> {
        let name = full_name(self.project, "subscriptions", subscription);
        self.check(&name, &mut Nowhere).await?;
        let limits = Limits { max: MAX_READ, wait: WAIT };
        let mut reader = Reader::new(Puller::new(&self.connection(), &name).await?, limits)?;
        let outcome = self.find_and_send(&mut reader, id, prepare).await;
        let returned = reader.close().await.context("return the other letters");
        let outcome = outcome?;
        returned.map(|()| outcome)
    }

    async fn find_and_send(
        &self,
        reader: &mut Reader,
        id: &str,
        prepare: impl Prepare,
    ) -> anyhow::Result<Replayed> {
        let is_wanted = |letter: &&Message| {
            show::id(letter) == id
                && letter.attributes.get("dl_service").is_some_and(|name| name == self.service)
        };
        let letter = loop {
            let Some(page) = reader.page().await? else {
                return match reader.shortfall() {
                    None => Ok(Replayed::Missing),
                    Some(shortfall) => {
                        bail!("not all letters were read: {}", shortfall.explain().0)
                    }
                };
            };
            if let Some(letter) = page.iter().find(is_wanted) {
                break letter.clone();
            }
        };
        let topic = self.target(None).await?;
        let outgoing = prepare.prepare(original(&letter)?, topic.as_ref()).await?;
        let mut counter = Counter::open(&self.connection()).await?;
        reader.while_leased(counter.send(outgoing)).await?;
        reader.finish(&letter.id);
        reader.remove().await.context("the letter was sent, but not removed")?;
        Ok(Replayed::Sent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ToolEnv, refused, texts};
    use super::*;
    use crate::settings::Subscription;
    use crate::tools::dead_letters::as_it_was;

    #[tokio::test(flavor = "multi_thread")]
    async fn one_letter_is_sent_and_the_others_stay() {
        let env = ToolEnv::with_letters(0).await.with_source().await;
        for (data, id, service) in
            [("a", "1", "bigqueries"), ("b", "2", "bigqueries"), ("c", "2", "enrich")]
        {
            let letter = refused(data).with_attribute("ingest_id", id);
            env.add(letter.with_attribute("dl_service", service)).await;
        }
        let reads = Subscription { id: "messages".into(), ..Subscription::default() };
        let tool = DeadLetterTool { reads: Some(&reads), ..env.dead_letter_tool() };
        let replay = async |id| tool.replay_one("dead-letters", id, as_it_was).await;

        assert_eq!(replay("2").await.unwrap(), Replayed::Sent);
        assert_eq!(
            replay("2").await.unwrap(),
            Replayed::Missing,
            "the other is of another service"
        );

        assert_eq!(texts(&env.pull("messages").await), ["b"]);
        let mut left = texts(&env.backlog().await);
        left.sort();
        assert_eq!(left, ["a", "c"]);
    }
}
