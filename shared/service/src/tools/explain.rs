//! Subcommand `explain`, which shows how a service would process one message. Each service shares
//! this part.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{CommandFactory as _, Parser};
use message::Message;
use message::timestamp::parse_rfc3339;
use pipeline::{Error, Recovery, Step, catch_async};
use serde_json::{Map, Value, json};

use crate::args::JsonOption;
use crate::tools::preflight::Form;
use crate::{Action, Tool, output};

/// Keys of the final result, printed last.
const VERDICT: [&str; 3] = ["outcome", "reason", "detail"];

/// Facts about a message, by name.
pub type Story = Map<String, Value>;

/// Settings of a service that reads from Pub/Sub and explains its messages.
pub trait Explains {
    /// Short help of the subcommand.
    const ABOUT: &'static str;

    /// Returns the facts about a message and its outcome.
    ///
    /// # Errors
    /// Fails when the service cannot process any message now.
    fn story(&self, message: &Message) -> impl Future<Output = anyhow::Result<Story>>;
}

/// Explains a message from Pub/Sub.
#[derive(Debug, Parser)]
#[command(name = "explain")]
struct Explain {
    /// An attribute of the message; may be given again and again.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair)]
    attributes: Vec<(String, String)>,
    /// Standard input is a Pub/Sub message in JSON, as `gcloud pubsub subscriptions pull
    /// --format=json` prints it, or another service's `explain --json`.
    #[arg(long)]
    pubsub_json: bool,
    #[command(flatten)]
    output: JsonOption,
}

/// Returns the action `explain` of a service that reads from Pub/Sub.
#[must_use]
pub const fn action<T: Explains + 'static>() -> Action<T> {
    Action { command: || command(T::ABOUT), ..Action::of::<Explain>() }
}

fn command(about: &'static str) -> clap::Command {
    Explain::command().about(about).long_about(format!(
        "{about}. Reads the message's data from standard input, and sends nothing. Exits with 1 if \
         the message would be refused."
    ))
}

impl<T: Explains> Tool<T> for Explain {
    async fn run(self, settings: T) -> anyhow::Result<()> {
        let input = input()?;
        let mut message = if self.pubsub_json { read(&input)? } else { Message::new(input) };
        message.attributes.extend(self.attributes);
        print(&survive(settings.story(&message)).await?, self.output.form)
    }
}

/// Parses the value of an option that takes `NAME=VALUE`.
///
/// # Errors
/// Fails when the text has no `=`.
pub fn pair(given: &str) -> Result<(String, String), &'static str> {
    let (name, value) = given.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads all of standard input. Returns nothing if standard input is a terminal.
///
/// # Errors
/// Fails when it cannot be read.
pub fn input() -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    let mut stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin.read_to_end(&mut input).context("read standard input")?;
    }
    Ok(input)
}

/// Parses a message in the JSON format of Pub/Sub's REST API. It may stand alone, in a list, or
/// below `message`.
fn read(input: &[u8]) -> anyhow::Result<Message> {
    let mut json: Value = serde_json::from_slice(input).context("standard input is no JSON")?;
    if let Some(first) = json.get_mut(0) {
        json = first.take();
    }
    if let Some(inner) = json.get_mut("message") {
        json = inner.take();
    }
    let Some(text) = json["data"].as_str() else {
        bail!("standard input has no `data`: must be a message of Pub/Sub in JSON");
    };
    let mut message = Message::new(STANDARD.decode(text).context("`data` is not base64")?);
    let attributes: HashMap<String, String> = match json.get_mut("attributes") {
        Some(attributes) => {
            serde_json::from_value(attributes.take()).context("`attributes` must be texts")?
        }
        None => HashMap::new(),
    };
    message.attributes = attributes.into();
    message.id = json["messageId"].as_str().unwrap_or_default().to_owned();
    message.ordering_key = json["orderingKey"].as_str().unwrap_or_default().to_owned();
    if let Some(time) = json["publishTime"].as_str() {
        message.publish_time = parse_rfc3339(time)
            .context("`publishTime` must be RFC 3339, in the years 0 to 9999")?;
    }
    Ok(message)
}

/// Returns a message in the JSON format of Pub/Sub's REST API. The next service's `explain` can
/// read it.
#[must_use]
pub fn to_json(data: &[u8], attributes: &HashMap<String, String>, ordering_key: &str) -> Value {
    let mut message = json!({ "data": STANDARD.encode(data), "attributes": attributes });
    if !ordering_key.is_empty() {
        message["orderingKey"] = ordering_key.into();
    }
    message
}

/// Returns data as JSON if it is valid JSON, else as text or as base64.
#[must_use]
pub fn readable(data: &[u8]) -> Value {
    serde_json::from_slice(data).unwrap_or_else(|_| match std::str::from_utf8(data) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(data) }),
    })
}

/// Adds the outcome of the transform to the story. `tell` adds the details of the record.
pub fn end<R>(
    story: &mut Story,
    outcome: Result<Step<R>, Error>,
    tell: impl FnOnce(&mut Story, R),
) {
    let (outcome, why) = match outcome {
        Ok(Step::Pass(record)) => {
            tell(story, record);
            ("passed", None)
        }
        Ok(Step::Skip(reason)) => ("acknowledged, and counted as skipped", Some(reason.as_str())),
        Err(error) => {
            story.insert("detail".into(), error.detail().into());
            match error.recovery() {
                Recovery::Reject(reason) => ("refused", Some(reason.as_str())),
                Recovery::Retry => ("retried", None),
                Recovery::Nack => ("nacked, to come again", None),
                Recovery::Stop => ("the service would stop", None),
            }
        }
    };
    story.insert("outcome".into(), outcome.into());
    story.extend(why.map(|why| ("reason".into(), why.into())));
}

/// Runs an explanation. A panic is a story too: the service would reject the message for it.
///
/// # Errors
/// Returns the error of the explanation.
pub async fn survive<E>(explanation: impl Future<Output = Result<Story, E>>) -> Result<Story, E> {
    catch_async("explain", async { Ok(explanation.await) }).await.unwrap_or_else(|panic| {
        let mut story = Story::new();
        end::<()>(&mut story, Err(panic), |_, ()| {});
        Ok(story)
    })
}

/// Prints the story.
///
/// # Errors
/// Fails for a message that does not pass, so the exit code shows it.
pub fn print(story: &Story, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => output::line(format_args!("{:#}", Value::Object(story.clone()))),
        Form::Text => {
            let before = story.iter().filter(|(name, _)| !VERDICT.contains(&name.as_str()));
            let disposition = VERDICT.iter().filter_map(|name| story.get_key_value(*name));
            for (name, value) in before.chain(disposition) {
                output::line(format_args!("{name}: {}", text(value)));
            }
        }
    }
    match story.get("outcome").and_then(Value::as_str) {
        Some(outcome) if outcome != "passed" => {
            let reason = story.get("reason").and_then(Value::as_str).unwrap_or("see above");
            bail!("{outcome}: {reason}")
        }
        _ => Ok(()),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => format!("{other:#}").replace('\n', "\n  "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_service_prints_the_next_one_reads() {
        let attributes = HashMap::from([("device_id".to_owned(), "d1".to_owned())]);
        let message = json!({ "route": "up", "message": to_json(b"data", &attributes, "k") });

        let read = read(message.to_string().as_bytes()).unwrap();

        assert_eq!(&read.data[..], b"data");
        assert_eq!(read.attributes["device_id"], "d1");
        assert_eq!(read.ordering_key, "k");
    }

    #[test]
    fn what_gcloud_pulls_is_read() {
        let pulled = br#"[{"ackId":"a","message":{"data":"eA==","messageId":"7",
            "publishTime":"2025-06-15T10:00:00Z"}}]"#;

        let read = read(pulled).unwrap();

        assert_eq!((&read.data[..], &*read.id), (&b"x"[..], "7"));
        assert_eq!(read.publish_time, time::macros::datetime!(2025-06-15 10:00 UTC));
    }

    #[tokio::test]
    async fn a_panic_is_told_like_any_refusal() {
        let story = survive::<Error>(async { panic!("year {}", 10_000) }).await.unwrap();

        assert_eq!((&story["outcome"], &story["reason"]), (&"refused".into(), &"panicked".into()));
        assert_eq!(story["detail"], "year 10000");
    }

    #[test]
    fn a_refused_message_is_told_and_fails() {
        use pipeline::reasons::NOT_AN_ENVELOPE;

        let mut story = Story::new();
        let error = Recovery::Reject(NOT_AN_ENVELOPE).because("route", "nothing matches");

        end::<()>(&mut story, Err(error), |_, ()| {});

        assert_eq!(story["reason"], "not_an_envelope");
        assert_eq!(story["detail"], "nothing matches");
        let failure = print(&story, Form::Json).unwrap_err();
        assert_eq!(failure.to_string(), "refused: not_an_envelope");
    }
}
