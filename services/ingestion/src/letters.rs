//! Dead letters of ingestion: a replayed one takes the routes as they are now.

use std::sync::Arc;

use clap::ArgMatches;
use pipeline::{Error, Message, Recovery, Step, Transform as _};
use pubsub::letters::Office;
use pubsub::{Outgoing, TopicName};
use service::Service as _;

use crate::Ingestion;
use crate::config::Settings;
use crate::enricher::FromTopic;
use crate::metrics::Metrics;
use crate::route::Route;
use crate::routes::Routes;

/// The subcommand.
#[must_use]
pub fn command() -> clap::Command {
    pubsub::letters::command(&crate::REASONS)
}

/// Lists, counts, shows or replays them.
///
/// # Errors
/// When letters cannot be read, or some could not be replayed.
pub async fn act(settings: Settings, given: ArgMatches) -> anyhow::Result<()> {
    let office = Office {
        service: Ingestion::<FromTopic>::NAME,
        project: &settings.project,
        pubsub: &settings.pubsub,
        topic: settings.dead_letters.as_ref().and_then(|graves| graves.topic(&settings.project)),
        reads: None,
    };
    let routes = Arc::new(Routes::new(&settings.routes));
    let route = Route::new(&settings, routes, FromTopic, Metrics::default());
    let route = &route;
    let prepare =
        async |message: Message, topic: Option<TopicName>| wrap(route, &message, topic).await;
    office.act(&given, prepare).await
}

async fn wrap(
    route: &Route<FromTopic>,
    message: &Message,
    topic: Option<TopicName>,
) -> Result<Outgoing, Error> {
    match route.apply(message).await? {
        Step::Pass(outgoing) => {
            let topic = topic.unwrap_or_else(|| outgoing.topic.clone());
            Ok(Outgoing { topic, ..outgoing })
        }
        Step::Skip(reason) => {
            Err(Recovery::Reject(reason).because("route", "the settings skip it"))
        }
    }
}
