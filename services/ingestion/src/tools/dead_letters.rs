//! Subcommand `dead-letters`. A dead letter that is replayed takes the current routes.

use std::sync::Arc;

use message::Message;
use pipeline::{Error, Recovery, Step, Transform as _};
use pubsub::tools::dead_letters::{self, Arguments, DeadLetterTool};
use pubsub::{Outgoing, TopicName};
use service::{Action, Service as _, Tool};

use crate::Ingestion;
use crate::config::Settings;
use crate::enricher::FromTopic;
use crate::metrics::Metrics;
use crate::route::Route;
use crate::routes::Routes;

/// Action `dead-letters`.
pub const ACTION: Action<Settings> = Action {
    command: || dead_letters::command(crate::REASONS.refused()),
    ..Action::of::<Arguments>()
};

impl Tool<Settings> for Arguments {
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let project = &settings.process.project;
        let dead_letters = settings.dead_letters.as_ref();
        let dead_letter_tool = DeadLetterTool {
            service: Ingestion::<FromTopic>::NAME,
            project,
            pubsub: &settings.pubsub,
            topic: dead_letters.map(|to| to.topic(project)).transpose()?.flatten(),
            reads: None,
            clients: settings.process.google.identity().into(),
        };
        let routes = Arc::new(Routes::new(&settings.routes)?);
        let route = Route::new(&settings, routes, FromTopic, Metrics::default())?;
        let route = &route;
        let prepare =
            async |message: Message, topic: Option<TopicName>| wrap(route, &message, topic).await;
        dead_letter_tool.act(self, prepare).await
    }
}

/// Returns the message that is sent again, as the current routes say.
pub(crate) async fn wrap(
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
