//! Command-line tool for dead letters: lists, counts, shows and replays them.
//!
//! It reads a subscription of the dead-letter topic. Dead letters that are not replayed are
//! returned to the subscription.

mod filter;
mod print;
mod pull;
mod reader;
mod replay;
mod show;

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use google_cloud_pubsub::model;
use message::Message;
use pipeline::{Error, Reason};
use service::{Action, args};

use replay::as_it_was;
pub use replay::{Prepare, original};

use crate::connection::Connection;
use crate::intake::{Intake, Reads};
use crate::names::{TopicName, full_name};
use crate::settings::{Endpoint, Subscription};
use filter::Filter;
use print::{Console, Print};
use pull::Puller;
use reader::{LEASE, Limits, Reader};

/// The dead-letter tool of a service. A replayed message goes to the topic of the service's own
/// subscription, because it came from there.
#[derive(Debug, Clone)]
pub struct DeadLetterTool<'a> {
    /// Name of the service.
    pub service: &'static str,
    /// Id of the project.
    pub project: &'a str,
    /// Connection settings of Pub/Sub.
    pub pubsub: &'a Endpoint,
    /// Topic of the dead letters.
    pub topic: Option<TopicName>,
    /// Subscription that the service reads, if it reads one.
    pub reads: Option<&'a Subscription>,
}

/// Returns the action of a service whose dead letters return to the topic that it reads from.
#[must_use]
pub const fn action<T: Reads + 'static>() -> Action<T> {
    Action {
        command: || command(T::REASONS.refused()),
        act: |settings, given| {
            Box::pin(
                async move { settings.intake().dead_letter_tool().act(&given, as_it_was).await },
            )
        },
    }
}

/// Returns the subcommand of a service whose dead letters have these reasons.
#[must_use]
pub fn command(reasons: impl IntoIterator<Item = Reason>) -> Command {
    let reason = filter::reason(reasons);
    let id =
        Arg::new("id").required(true).help("The letter's ingest_id or message id, from `list`");
    let rate = Arg::new("rate")
        .long("rate")
        .value_name("N")
        .default_value("100")
        .value_parser(value_parser!(u32).range(1..))
        .help("Messages a second");
    let dry_run = Arg::new("dry-run")
        .long("dry-run")
        .action(ArgAction::SetTrue)
        .help("Show what would be replayed, and send nothing");
    let to = Arg::new("to").long("to").value_name("TOPIC").help(
        "The topic to replay to; by default the one that the service reads from, or, for ingestion, the \
         one that its routes name now",
    );
    let replay = Command::new("replay")
        .about("Sends letters on their way again, and removes them")
        .long_about(
            "Sends letters on their way again, and removes each when its message is confirmed. Data, \
             attributes and ingest_id stay as they were. They go about oldest first, without an ordering \
             key, which letters do not have. Mend first what refused them: `explain` tells. A letter that is \
             refused again is a new one, and left for the next replay. \
             Every subscription of the topic receives the message, so other services may see it twice, \
             with the same ingest_id.",
        )
        .arg(&reason)
        .args(filter::arguments())
        .args([rate, dry_run, to, args::json()]);
    let list = Command::new("list")
        .about("Lists this service's letters, oldest first; they stay where they are")
        .arg(reason)
        .args(filter::arguments())
        .arg(args::json());
    let count = Command::new("count")
        .about("Counts the letters of all services by reason; they stay where they are")
        .args(filter::arguments())
        .arg(args::json());
    let show = Command::new("show")
        .about("Shows one letter whole; it stays where it is")
        .args([id, args::json()]);
    Command::new("dead-letters")
        .about("Lists, counts, shows and replays the messages that were refused")
        .after_long_help(
            "Every letter of the subscription is read, whatever its number, and hidden from other readers \
             meanwhile: Pub/Sub has no way to look at a message without taking it. At the end all are given \
             back, after Ctrl-C too; if the tool is killed, they are back after a minute. So two people who \
             read at once each see a part: read again when the other has finished, or make a subscription \
             of your own. Letters that arrive while the tool runs are left for the next run.\n\n\
             Exits with 0 when all letters were read, and all that match were replayed. Exits with 1 when \
             not all could be read (JSON says \"complete\": false, why, and what to do) or replayed, and \
             with 2 for wrong options.",
        )
        .subcommand_required(true)
        .args(common())
        .subcommands([list, count, show, replay])
}

fn common() -> [Arg; 3] {
    [
        Arg::new("subscription")
            .long("subscription")
            .value_name("ID")
            .default_value("dead-letters")
            .global(true)
            .help("The subscription of the dead-letter topic to read"),
        Arg::new("max")
            .long("max")
            .value_name("N")
            .default_value("1000000")
            .value_parser(value_parser!(u32).range(1..=100_000_000))
            .global(true)
            .help("Most letters to read; about 500 bytes of memory for each"),
        Arg::new("wait")
            .long("wait")
            .value_name("SECONDS")
            .default_value("3")
            .value_parser(value_parser!(u64).range(1..=60))
            .global(true)
            .help("How long to wait for another letter before that is all"),
    ]
}

impl<'a> Intake<'a> {
    /// Returns the tool for its dead letters. It replays them to the topic that the service reads
    /// from.
    #[must_use]
    pub fn dead_letter_tool(self) -> DeadLetterTool<'a> {
        DeadLetterTool {
            service: self.service,
            project: self.project,
            pubsub: &self.settings.pubsub,
            topic: self.settings.dead_letters.as_ref().and_then(|to| to.topic(self.project)),
            reads: Some(&self.settings.subscription),
        }
    }
}

impl DeadLetterTool<'_> {
    /// Runs the command line. `prepare` turns a dead letter into the message that is sent again.
    ///
    /// # Errors
    /// Not all dead letters could be read, or some could not be replayed.
    pub async fn act(&self, given: &ArgMatches, prepare: impl Prepare) -> anyhow::Result<()> {
        self.run(given, prepare, &mut Console).await
    }

    async fn run(
        &self,
        given: &ArgMatches,
        prepare: impl Prepare,
        out: &mut dyn Print,
    ) -> anyhow::Result<()> {
        let (what, given) = given.subcommand().context("list, count, show or replay")?;
        let form = args::form(given);
        let filter = Filter::of(given, (what != "count").then_some(self.service));
        match what {
            "list" => {
                let mut list = show::List::new(&filter);
                let seen = self.scan(given, out, |letter| list.visit(&letter)).await?;
                list.print(&seen, form, out);
                seen.whole()
            }
            "count" => {
                let mut count = show::Count::new(&filter);
                let seen = self.scan(given, out, |letter| count.visit(&letter)).await?;
                count.print(&seen, form, out);
                seen.whole()
            }
            "show" => {
                let id = given.get_one::<String>("id").map_or("", String::as_str);
                let mut wanted = show::Wanted::new(id, self.service);
                let seen = self.scan(given, out, |letter| wanted.visit(letter)).await?;
                // Unread dead letters matter only if the wanted one was not found.
                if wanted.print(form, out) { seen.given_back() } else { seen.without(id) }
            }
            _ => self.replay(given, &filter, prepare, out).await,
        }
    }

    /// Reads all dead letters, and returns them to the subscription.
    async fn scan(
        &self,
        given: &ArgMatches,
        out: &mut dyn Print,
        mut visit: impl FnMut(Message),
    ) -> anyhow::Result<Seen> {
        let mut reader = self.open(given, out).await?;
        let outcome = loop {
            match reader.page().await {
                Ok(Some(page)) => page.into_iter().for_each(&mut visit),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let seen = Seen::close(reader).await;
        outcome.map(|()| seen)
    }

    /// Opens a reader of the subscription in the options.
    async fn open(&self, given: &ArgMatches, out: &mut dyn Print) -> anyhow::Result<Reader> {
        let id = given.get_one::<String>("subscription").map_or("", String::as_str);
        let name = full_name(self.project, "subscriptions", id);
        self.check(&name, out).await?;
        let limits = Limits {
            max: given.get_one::<u32>("max").map_or(1, |max| *max as usize),
            wait: Duration::from_secs(given.get_one("wait").copied().unwrap_or(3)),
        };
        Reader::new(Puller::new(self.pubsub, &name).await?, limits)
    }

    /// Checks a subscription before it is read.
    async fn check(&self, name: &str, out: &mut dyn Print) -> anyhow::Result<()> {
        let admin = crate::admin::Admin::new(&Connection::new(self.pubsub.clone())).await?;
        const INSTEAD: &str =
            "name another subscription of the dead-letter topic with --subscription, or make one";
        let found = admin.find_subscription(name).await;
        let found =
            found.map_err(|unseen| anyhow!("{unseen}; {}", unseen.advice(self.pubsub, INSTEAD)))?;
        if let Some(topic) = self.topic.as_ref().filter(|topic| found.topic != topic.as_str()) {
            bail!("{name} reads {}, but dead letters go to {topic}", found.topic);
        }
        check_policies(&found, out)
    }
}

/// Refuses a subscription that loses dead letters when they are read.
fn check_policies(found: &model::Subscription, out: &mut dyn Print) -> anyhow::Result<()> {
    let name = &found.name;
    if let Some(policy) = &found.dead_letter_policy {
        bail!(
            "{name} has a dead-letter policy: each look at a letter is a delivery, and after {} of them \
             Pub/Sub takes it away; remove the policy, or name another subscription with --subscription",
            policy.max_delivery_attempts
        );
    }
    if found.retry_policy.is_some() {
        out.note(&format_args!(
            "{name} has a retry policy: letters come back after its delay, so a next run within it misses \
             some"
        ));
    }
    Ok(())
}

/// Result of a reader after it was closed.
struct Seen {
    read: usize,
    /// Reason why dead letters may have been missed, and advice.
    shortfall: Option<(String, String)>,
    /// Reason why some were not returned or not removed.
    unsettled: Option<Error>,
}

impl Seen {
    /// Returns all remaining dead letters to the subscription.
    async fn close(mut reader: Reader) -> Self {
        let unsettled = reader.close().await.err();
        let shortfall = reader.shortfall().map(reader::Shortfall::explain);
        Self { read: reader.read(), shortfall, unsettled }
    }

    /// Fails if dead letters may have been missed, or were not returned.
    fn whole(&self) -> anyhow::Result<()> {
        self.given_back()?;
        match &self.shortfall {
            Some((why, what_to_do)) => bail!("not all letters were read: {why}; {what_to_do}"),
            None => Ok(()),
        }
    }

    /// Fails if dead letters were not returned.
    fn given_back(&self) -> anyhow::Result<()> {
        match &self.unsettled {
            Some(error) => bail!(
                "letters that were read stay hidden for up to {} s: {error:#}",
                LEASE.as_secs()
            ),
            None => Ok(()),
        }
    }

    /// Fails because a dead letter was not found.
    fn without(&self, id: &str) -> anyhow::Result<()> {
        self.given_back()?;
        match &self.shortfall {
            Some((why, what_to_do)) => {
                bail!("no letter of the id {id} among the {} read; {why}; {what_to_do}", self.read)
            }
            None => bail!("no letter has the id {id}; {} were read, which is all", self.read),
        }
    }
}

#[cfg(test)]
mod tests;
