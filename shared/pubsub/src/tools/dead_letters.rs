//! Command-line tool for dead letters: lists, counts, shows and replays them.
//!
//! It reads a subscription of the dead-letter topic. Dead letters that are not replayed are
//! returned to the subscription.

mod filter;
mod print;
mod pull;
mod reader;
mod replay;
mod replay_one;
mod show;

use anyhow::{anyhow, bail};
use clap::builder::PossibleValuesParser;
use clap::{Arg, CommandFactory as _, Parser, Subcommand};
use google_cloud_pubsub::model;
use message::Message;
use pipeline::{Error, Reason};
use service::args::JsonOption;
use service::{Action, Tool, WrongSettings};

pub use replay::{Prepare, as_it_was, original};
pub use replay_one::Replayed;

use crate::clients::Clients;
use crate::connection::Connection;
use crate::intake::{Intake, Reads};
use crate::names::{TopicName, full_name};
use crate::settings::{Endpoint, Subscription};
use filter::{Conditions, Filter};
use print::{Console, Print};
use pull::Puller;
use reader::{LEASE, Limits, Reader};

/// The dead-letter tool of a service. A replayed message goes to the topic of the service's own
/// subscription, because it came from there.
#[derive(Debug, Clone)]
pub struct DeadLetterTool<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Id of the project.
    pub project: &'a str,
    /// Connection settings of Pub/Sub.
    pub pubsub: &'a Endpoint,
    /// Topic of the dead letters.
    pub topic: Option<TopicName>,
    /// Subscription that the service reads, if it reads one.
    pub reads: Option<&'a Subscription>,
    /// Credentials, and clients that are handed in.
    pub clients: Clients,
}

/// Arguments of `dead-letters`.
#[derive(Debug, Parser)]
#[command(
    name = "dead-letters",
    about = "Lists, counts, shows and replays the messages that were refused",
    after_long_help = "\
        Every letter of the subscription is read, whatever its number, and hidden from other readers \
        meanwhile: Pub/Sub has no way to look at a message without taking it. At the end all are given \
        back, after Ctrl-C too; if the tool is killed, they are back after a minute. So two people who \
        read at once each see a part: read again when the other has finished, or make a subscription \
        of your own. Letters that arrive while the tool runs are left for the next run.\n\n\
        Exits with 0 when all letters were read, and all that match were replayed. Exits with 1 when \
        not all could be read (JSON says \"complete\": false, why, and what to do) or replayed, and \
        with 2 for wrong options.",
    arg_required_else_help = false
)]
pub struct Arguments {
    /// The subscription of the dead-letter topic to read.
    #[arg(long, value_name = "ID", default_value = "dead-letters", global = true)]
    subscription: String,
    #[command(flatten)]
    limits: Limits,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists this service's letters, oldest first; they stay where they are.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        output: JsonOption,
    },
    /// Counts the letters of all services by reason; they stay where they are.
    Count {
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        output: JsonOption,
    },
    /// Shows one letter whole; it stays where it is.
    Show {
        /// The letter's ingest_id or message id, from `list`.
        #[arg(value_name = "id")]
        id: String,
        #[command(flatten)]
        output: JsonOption,
    },
    #[command(
        about = "Sends letters on their way again, and removes them",
        long_about = "\
            Sends letters on their way again, and removes each when its message is confirmed. Data, \
            attributes and ingest_id stay as they were. They go about oldest first, without an ordering \
            key, which letters do not have. Mend first what refused them: `explain` tells. A letter that is \
            refused again is a new one, and left for the next replay. \
            Every subscription of the topic receives the message, so other services may see it twice, \
            with the same ingest_id."
    )]
    Replay(replay::Options),
}

/// Returns the action of a service whose dead letters return to the topic that it reads from.
#[must_use]
pub const fn action<T: Reads + 'static>() -> Action<T> {
    Action { command: || command(T::REASONS.refused()), ..Action::of::<Arguments>() }
}

/// Returns the subcommand of a service whose dead letters have these reasons.
#[must_use]
pub fn command(reasons: impl IntoIterator<Item = Reason>) -> clap::Command {
    let codes = PossibleValuesParser::new(reasons.into_iter().map(Reason::as_str));
    let parse = |arg: Arg| match arg.get_id() == "reason" {
        true => arg.value_parser(codes.clone()),
        false => arg,
    };
    Arguments::command().mut_subcommands(|command| command.mut_args(parse))
}

impl<T: Reads> Tool<T> for Arguments {
    async fn run(self, settings: T) -> anyhow::Result<()> {
        settings.intake().dead_letter_tool()?.act(self, as_it_was).await
    }
}

impl<'a> Intake<'a> {
    /// Returns the tool for its dead letters. It replays them to the topic that the service reads
    /// from.
    ///
    /// # Errors
    /// The topic of dead letters is wrong, and nobody has checked these settings.
    pub fn dead_letter_tool(self) -> Result<DeadLetterTool<'a>, WrongSettings> {
        let dead_letters = self.settings.dead_letters.as_ref();
        Ok(DeadLetterTool {
            service: self.service,
            project: self.project,
            pubsub: &self.settings.pubsub,
            topic: dead_letters.map(|to| to.topic(self.project)).transpose()?.flatten(),
            reads: Some(&self.settings.subscription),
            clients: self.clients,
        })
    }
}

impl DeadLetterTool<'_> {
    /// Runs the command line. `prepare` turns a dead letter into the message that is sent again.
    ///
    /// # Errors
    /// Not all dead letters could be read, or some could not be replayed.
    pub async fn act(&self, given: Arguments, prepare: impl Prepare) -> anyhow::Result<()> {
        self.run(given, prepare, &mut Console).await
    }

    async fn run(
        &self,
        given: Arguments,
        prepare: impl Prepare,
        out: &mut dyn Print,
    ) -> anyhow::Result<()> {
        let Arguments { subscription, limits, command } = given;
        let reader = self.open(&subscription, limits, out).await?;
        match command {
            Command::List { filter, output } => {
                let filter = filter.of_service(self.service);
                let mut list = show::List::new(&filter);
                let seen = scan(reader, |dead_letter| list.visit(&dead_letter)).await?;
                list.print(&seen, output.form, out);
                seen.whole()
            }
            Command::Count { conditions, output } => {
                let filter = Filter::of_all(conditions);
                let mut count = show::Count::new(&filter);
                let seen = scan(reader, |dead_letter| count.visit(&dead_letter)).await?;
                count.print(&seen, output.form, out);
                seen.whole()
            }
            Command::Show { id, output } => {
                let mut wanted = show::Wanted::new(&id, self.service);
                let seen = scan(reader, |dead_letter| wanted.visit(dead_letter)).await?;
                // Unread dead letters matter only if the wanted one was not found.
                if wanted.print(output.form, out) { seen.given_back() } else { seen.without(&id) }
            }
            Command::Replay(options) => self.replay(reader, options, prepare, out).await,
        }
    }

    /// Opens a reader of a subscription.
    async fn open(
        &self,
        subscription: &str,
        limits: Limits,
        out: &mut dyn Print,
    ) -> anyhow::Result<Reader> {
        let name = full_name(self.project, "subscriptions", subscription);
        self.check(&name, out).await?;
        Reader::new(Puller::new(&self.connection(), &name).await?, limits)
    }

    /// Returns the connection to Pub/Sub.
    fn connection(&self) -> Connection {
        Connection::new(self.pubsub.clone()).with_clients(self.clients.clone())
    }

    /// Checks a subscription before it is read.
    async fn check(&self, name: &str, out: &mut dyn Print) -> anyhow::Result<()> {
        let admin = crate::admin::Admin::new(&self.connection()).await?;
        const INSTEAD: &str =
            "name another subscription of the dead-letter topic with --subscription, or make one";
        let found = admin.find_subscription(name).await;
        let found =
            found.map_err(|error| anyhow!("{error}; {}", error.advice(self.pubsub, INSTEAD)))?;
        if let Some(topic) = self.topic.as_ref().filter(|topic| found.topic != topic.as_str()) {
            bail!("{name} reads {}, but dead letters go to {topic}", found.topic);
        }
        check_policies(&found, out)
    }
}

/// Reads all dead letters, and returns them to the subscription.
async fn scan(mut reader: Reader, mut visit: impl FnMut(Message)) -> anyhow::Result<Seen> {
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
