//! Explanation of one message: shows its object and its line, and needs no bucket.

use clap::{ArgMatches, Command};
use message::Message;
use pipeline::Transform as _;
use service::WrongSettings;
use service::args;
use service::tools::explain::{self, Story};

use crate::archive::Archive;
use crate::config::Settings;
use crate::object;

/// Returns the subcommand.
#[must_use]
pub fn command() -> Command {
    explain::command("Shows the object that a message goes to, and its line in it")
}

/// Prints the explanation of a message.
///
/// # Errors
/// When the message cannot be read, or cannot be archived.
pub async fn act(settings: Settings, given: ArgMatches) -> anyhow::Result<()> {
    let message = explain::message(&given)?;
    let story = explain::survive(story(&settings, &message)).await?;
    explain::print(&story, args::form(&given))
}

/// Explains the processing of a message.
///
/// # Errors
/// The template of the batch key is wrong.
pub async fn story(settings: &Settings, message: &Message) -> Result<Story, WrongSettings> {
    let template = settings.archive.template()?.clone();
    let archive = Archive::new(template, settings.archive.input);
    let mut story = Story::new();
    explain::end(&mut story, archive.apply(message).await, |story, line| {
        let format = settings.archive.format;
        let object = object::with_stem(&settings.archive.prefix, &line.key, format, &"<unique>");
        story.insert("object".into(), format!("gs://{}/{object}", settings.storage.bucket).into());
        story.insert("batch_key".into(), line.key.into());
        story.insert("line".into(), explain::readable(&line.bytes));
    });
    Ok(story)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_object_and_the_line_are_shown() {
        let mut settings = Settings::default();
        settings.storage.bucket = "b".into();
        let mut message = Message::new("x").with_attribute("location", "../hall");
        message.publish_time = time::macros::datetime!(2025-06-15 10:00 UTC);

        let story = story(&settings, &message).await.unwrap();

        let object = story["object"].as_str().unwrap();
        assert!(object.starts_with("gs://b/archive/2025/06/15/"), "{object}");
        assert!(!object.contains(".."), "{object}");
        assert_eq!(story["line"]["originalPubSubPayload"], "eA==");
    }
}
