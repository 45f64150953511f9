//! Dead letters, on their way again.

use axum::http::StatusCode;
use pubsub::tools::dead_letters::{DeadLetterTool, Replayed, as_it_was};
use pubsub::{Clients, Subscription};
use tracing::{info, warn};
use web::Problem;

use crate::Parts;
use crate::settings::{Replay, Stage};

/// Character between the name of a stage, the time of its dead letter, and the id of the message.
const SEPARATOR: char = '~';

/// Returns the id of a dead letter for the page. A message that is refused again gets another one.
pub(crate) fn letter_id(stage: &str, at: &str, ingest_id: &str) -> String {
    format!("{stage}{SEPARATOR}{at}{SEPARATOR}{ingest_id}")
}

/// Returns the stage and the id of the message of a dead letter's id.
fn split(id: &str) -> Option<(&str, &str)> {
    let (stage, rest) = id.split_once(SEPARATOR)?;
    let (_at, ingest_id) = rest.split_once(SEPARATOR)?;
    Some((stage, ingest_id))
}

/// Sends the message of a dead letter again, and removes the dead letter.
pub(crate) async fn replay(parts: &Parts, id: &str) -> Result<(), Problem> {
    let unknown = |why: &str| Problem::new(StatusCode::NOT_FOUND, why);
    let (name, ingest_id) = split(id).ok_or_else(|| unknown("there is no such dead letter"))?;
    let settings = &parts.settings;
    let stage = settings.services.iter().find(|stage| stage.name == name);
    let (Some(stage), Some(letters)) = (stage, &settings.dead_letters) else {
        return Err(unknown("the dead letters of this service cannot be replayed here"));
    };
    let Some(subscription) = &stage.subscription else {
        let why = "the topic of this service is not known: set live.services[].subscription, or use its \
                   tool dead-letters";
        return Err(unknown(why));
    };
    let reads = Subscription { id: subscription.as_str().into(), ..Subscription::default() };
    let tool = tool(stage, letters, &reads, parts.clients.clone());
    match tool.replay_one(&letters.subscription, ingest_id, as_it_was).await {
        Ok(Replayed::Sent) => {
            info!(stage = stage.name, ingest_id, "a dead letter was replayed");
            Ok(())
        }
        Ok(Replayed::Missing) => Err(unknown(
            "the dead letter is gone: it was replayed before, or somebody reads it now",
        )),
        Err(error) => {
            let why = format!("{error:#}");
            warn!(stage = stage.name, ingest_id, error = why, "a dead letter was not replayed");
            Err(Problem::new(StatusCode::BAD_GATEWAY, why))
        }
    }
}

/// Returns the tool for the dead letters of a stage.
fn tool<'a>(
    stage: &'a Stage,
    letters: &'a Replay,
    reads: &'a Subscription,
    clients: Clients,
) -> DeadLetterTool<'a> {
    DeadLetterTool {
        service: &stage.name,
        project: &letters.project,
        pubsub: &letters.pubsub,
        topic: None,
        reads: Some(reads),
        clients,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_tells_two_letters_of_a_message_apart_and_a_replay_ignores_it() {
        let [one, two] = ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:01.000Z"]
            .map(|at| letter_id("rows", at, "a~b"));

        assert_ne!(one, two);
        assert_eq!((split(&one), split(&two)), (Some(("rows", "a~b")), Some(("rows", "a~b"))));
        assert_eq!(split("rows~a"), None);
    }
}
