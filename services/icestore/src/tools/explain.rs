//! Explanation of one message: shows its object and its line, and needs no store.

use message::Message;
use pipeline::Transform as _;
use service::tools::explain::{self, Explains, Story};

use crate::archive::Archive;
use crate::config::Settings;
use crate::object;

impl Explains for Settings {
    const ABOUT: &'static str = "Shows the object that a message goes to, and its line in it";

    async fn story(&self, message: &Message) -> anyhow::Result<Story> {
        let template = self.archive.template()?;
        let archive = Archive::new(template, self.archive.input);
        let archive = archive.with_levels(!self.storage.is_bucket());
        let mut story = Story::new();
        explain::end(&mut story, archive.apply(message).await, |story, line| {
            let format = self.archive.format;
            let object = object::with_stem(&self.archive.prefix, &line.key, format, &"<unique>");
            story.insert("object".into(), self.storage.address(&object).into());
            story.insert("batch_key".into(), line.key.into());
            story.insert("line".into(), explain::readable(&line.bytes));
        });
        Ok(story)
    }
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

        let story = settings.story(&message).await.unwrap();

        let object = story["object"].as_str().unwrap();
        assert!(object.starts_with("gs://b/archive/2025/06/15/"), "{object}");
        assert!(!object.contains(".."), "{object}");
        assert_eq!(story["line"]["originalPubSubPayload"], "eA==");
    }
}
