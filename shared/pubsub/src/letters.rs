//! Dead letters for the person on call: list them, look into one, replay them.
//!
//! All of it reads a subscription of the dead-letter topic. What is not replayed is handed back.

mod filter;
mod replay;
mod show;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use pipeline::{Delivery, Message, Source as _};
use service::{Action, args};
use tokio::time::timeout;

use replay::as_it_was;
pub use replay::{Prepare, original};

use crate::connection::{Connection, TopicName};
use crate::intake::Reads;
use crate::settings::{Endpoint, Subscription};
use crate::source::{Source, SourceMetrics};
use filter::Filter;

/// A replayed letter goes to the topic of the service's own subscription, as it came from there.
#[derive(Debug, Clone)]
pub struct Office<'a> {
    /// The service's name.
    pub service: &'static str,
    /// The project.
    pub project: &'a str,
    /// How Pub/Sub is reached.
    pub pubsub: &'a Endpoint,
    /// The topic of the dead letters.
    pub topic: Option<TopicName>,
    /// The subscription that the service reads, if it does.
    pub reads: Option<&'a Subscription>,
}

/// The action of a service whose letters go back to where it reads.
#[must_use]
pub const fn action<T: Reads + 'static>() -> Action<T> {
    Action {
        command,
        act: |settings, given| {
            Box::pin(async move { settings.intake().office().act(&given, as_it_was).await })
        },
    }
}

/// The subcommand.
#[must_use]
pub fn command() -> Command {
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
             attributes and ingest_id stay as they were; they go oldest first, without an ordering key, which \
             letters do not have. Mend first what refused them: `explain` tells. \
             Every subscription of the topic receives the message, so other services may see it twice, \
             with the same ingest_id.",
        )
        .args(filter::arguments())
        .args([rate, dry_run, to, args::json()]);
    let list = Command::new("list")
        .about("Lists letters, oldest first; they stay where they are")
        .args(filter::arguments())
        .arg(args::json());
    let show = Command::new("show")
        .about("Shows one letter whole; it stays where it is")
        .args([id, args::json()]);
    Command::new("dead-letters")
        .about("Lists, shows and replays the messages that were refused")
        .subcommand_required(true)
        .args(common())
        .subcommands([list, show, replay])
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
            .default_value("1000")
            .value_parser(value_parser!(u32).range(1..=100_000))
            .global(true)
            .help("Most letters to read"),
        Arg::new("wait")
            .long("wait")
            .value_name("SECONDS")
            .default_value("3")
            .value_parser(value_parser!(u64).range(1..=60))
            .global(true)
            .help("How long to wait for another letter before that is all"),
    ]
}

impl Office<'_> {
    /// Does what the command line asks. `prepare` makes of a letter what is sent again.
    ///
    /// # Errors
    /// When letters cannot be read, or some could not be replayed.
    pub async fn act(&self, given: &ArgMatches, prepare: impl Prepare) -> anyhow::Result<()> {
        let (what, given) = given.subcommand().context("list, show or replay")?;
        let filter = Filter::of(given, self.service)?;
        let letters = self.read(given).await?;
        let outcome = match what {
            "show" => show::one(&letters, given),
            "list" => show::list(&letters, &filter, args::form(given)),
            _ => return self.replay(letters, (given, &filter), prepare).await,
        };
        letters.hand_back().await?;
        outcome
    }

    /// The letters that are there, in the order in which they were published. They are held until they
    /// are dropped.
    async fn read(&self, given: &ArgMatches) -> anyhow::Result<Letters> {
        let number = |name| given.get_one::<u32>(name).copied().unwrap_or_default() as usize;
        let max = number("max");
        let wait = Duration::from_secs(given.get_one("wait").copied().unwrap_or(3));
        let subscription = Subscription {
            id: given.get_one::<String>("subscription").cloned().unwrap_or_default(),
            streams: 1,
            max_outstanding_messages: max,
            // What is handed back in the moment of the close comes again after this.
            lease_extension: Duration::from_secs(10),
            ..Subscription::default()
        };
        let connection = Connection::new(self.pubsub.clone());
        self.check(&connection, &subscription.id).await?;
        let metrics = SourceMetrics::default();
        let mut source = Source::open(&connection, self.project, &subscription, metrics).await?;
        let mut held = Vec::new();
        while held.len() < max
            && let Ok(received) = timeout(wait, source.receive()).await
            && let Some(delivery) = received?
        {
            held.push(delivery);
        }
        held.sort_by_key(|letter| letter.message.publish_time);
        Ok(Letters { held, source })
    }

    /// Says what is wrong before a stream waits for it in vain.
    async fn check(&self, connection: &Connection, id: &str) -> anyhow::Result<()> {
        let admin = crate::admin::Admin::new(connection).await?;
        let name = crate::connection::full_name(self.project, "subscriptions", id);
        let found = admin.find_subscription(&name).await.with_context(|| {
            format!(
                "{name} cannot be read: make a subscription of the dead-letter topic, and name it with \
                 --subscription"
            )
        })?;
        match &self.topic {
            Some(topic) if found.topic != topic.as_str() => {
                anyhow::bail!("{name} reads {}, but dead letters go to {topic}", found.topic)
            }
            _ => Ok(()),
        }
    }
}

/// Letters, held.
struct Letters {
    held: Vec<Delivery>,
    source: Source,
}

impl Letters {
    /// Lets go of all that are left.
    async fn hand_back(self) -> anyhow::Result<()> {
        drop(self.held);
        Ok(self.source.close().await?)
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.held.iter().map(|letter| &letter.message)
    }
}
