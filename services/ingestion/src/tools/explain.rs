//! Subcommand `explain`: shows how a message from the broker would be processed. It needs no
//! broker.

use std::sync::Arc;

use clap::Parser;
use message::{Message, Origin, OriginKind};
use pipeline::Transform as _;
use pubsub::Outgoing;
use service::args::JsonOption;
use service::tools::explain::{self, Story};
use service::{Tool, WrongSettings};

use crate::config::Settings;
use crate::enricher::FromTopic;
use crate::metrics::Metrics;
use crate::mqtt;
use crate::ordering::Ordering;
use crate::route::Route;
use crate::routes::Routes;

/// Explains a message from the broker, or an item that comes over HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "explain",
    about = "Shows what would become of a message: its route, its attributes, its envelope",
    long_about = "Shows what would become of a message: its route, its attributes and its envelope, or why \
        it is refused. Reads the payload from standard input, and sends nothing. Exits with 1 if \
        the message would be refused.\n\n\
        echo '{\"temperature\":21.5}' | ingestion explain devices/abc/up --config FILE"
)]
pub struct Explain {
    /// The MQTT topic, such as devices/abc/up, or the source id with --http.
    #[arg(value_name = "topic", value_parser = topic)]
    topic: String,
    /// Explains an item that comes over HTTP; standard input is its payload.
    #[arg(long)]
    http: bool,
    /// A user property of MQTT 5; may be given again and again.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = explain::pair)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    output: JsonOption,
}

/// Parses the topic of one message, which is no filter.
fn topic(given: &str) -> Result<String, String> {
    if given.is_empty() || given.contains(['+', '#', '\0']) {
        return Err("must be the topic of one message, without the wildcards + and #".into());
    }
    Ok(given.to_owned())
}

impl Tool<Settings> for Explain {
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let mut message = Message::new(explain::input()?);
        let properties = mqtt::user_properties(self.properties, &Metrics::default());
        message.attributes = properties.into();
        let kind = if self.http { OriginKind::Http } else { OriginKind::Mqtt };
        message.attributes.insert(kind.attribute().into(), self.topic);
        explain::print(&explain::survive(story(&settings, message)).await?, self.output.form)
    }
}

/// Returns the facts about a message and its outcome.
///
/// # Errors
/// A route is wrong.
pub async fn story(settings: &Settings, mut message: Message) -> Result<Story, WrongSettings> {
    let attributes = message.attributes.clone();
    let origin = Origin::of(&attributes);
    let routes = Arc::new(Routes::new(&settings.routes)?);
    let mut story = Story::new();
    story.insert(origin.kind.noun().into(), origin.address.into());
    if let Some(entry) = routes.find(origin) {
        story.insert("route".into(), entry.name.clone().into());
        match origin.kind {
            OriginKind::Mqtt => {
                story.insert("filter".into(), entry.filter.as_subscribed().into());
                story.insert("qos".into(), entry.route.source.qos.min(1).into());
            }
            OriginKind::Http => {
                story.insert("filter".into(), entry.filter.as_subscribed().into());
            }
        }
    }
    if let Some(ordering) = Ordering::new(&routes, settings.ordering_buckets) {
        message.ordering_key = ordering.key(origin);
    }
    let route = Route::new(settings, routes, FromTopic, Metrics::default())?;
    let outcome = route.apply(&message).await.and_then(Outgoing::check);
    explain::end(&mut story, outcome, |story, outgoing| {
        let (data, key) = (&outgoing.data, &outgoing.ordering_key);
        story.insert("pubsub_topic".into(), outgoing.topic.as_str().into());
        story.insert("envelope".into(), explain::readable(data));
        story.insert("message".into(), explain::to_json(data, &outgoing.attributes, key));
    });
    Ok(story)
}

#[cfg(test)]
mod tests {
    use message::attribute;

    use super::*;
    use crate::config::{Producer, RouteSettings, RouteSource};

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.process.project = "p".into();
        let mut route = RouteSettings::default();
        route.source.mqtt_topic = "devices/{device_id}/up".into();
        route.destination.route_name = "uplinks".into();
        settings.routes.insert("up".into(), route);
        settings.producers.insert("uplinks".into(), Producer { topic_id: "raw".into() });
        settings
    }

    fn message(topic: &str) -> Message {
        Message::new("x").with_attribute(attribute::MQTT_TOPIC, topic)
    }

    #[tokio::test]
    async fn a_message_is_followed_to_its_topic() {
        let story = story(&settings(), message("devices/abc/up")).await.unwrap();

        assert_eq!(story["topic"], "devices/abc/up");
        assert_eq!(story["route"], "up");
        assert_eq!((&story["filter"], &story["qos"]), (&"devices/+/up".into(), &0.into()));
        assert_eq!(story["pubsub_topic"], "projects/p/topics/raw");
        assert_eq!(story["envelope"]["enrichmentData"]["DeviceID"], "abc");
        assert_eq!(story["message"]["attributes"]["device_id"], "abc");
        assert_eq!(story["outcome"], "passed");
    }

    #[tokio::test]
    async fn an_item_over_http_takes_the_routes_of_http() {
        let mut settings = settings();
        let mut route = settings.routes["up"].clone();
        route.source =
            RouteSource { http_source: Some("{device_id}".into()), ..Default::default() };
        settings.routes.insert("over_http".into(), route);
        let message = Message::new("1").with_attribute(attribute::HTTP_SOURCE, "sensor-1");

        let story = story(&settings, message).await.unwrap();

        assert_eq!((&story["source"], &story["route"]), (&"sensor-1".into(), &"over_http".into()));
        assert_eq!(story["message"]["attributes"]["device_id"], "sensor-1");
        assert!(!story.contains_key("qos"), "{story:?}");
    }

    #[test]
    fn a_filter_is_no_topic_of_a_message() {
        assert!(Explain::try_parse_from(["explain", "devices/abc/up"]).is_ok());
        for filter in ["devices/+/up", "devices/#", ""] {
            assert!(Explain::try_parse_from(["explain", filter]).is_err(), "{filter}");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_for_pubsub_is_refused() {
        let topic = (attribute::MQTT_TOPIC, "devices/abc/up");
        let large = Message::new(vec![0; 8_000_000]).with_attribute(topic.0, topic.1);

        let story = story(&settings(), large).await.unwrap();

        assert_eq!(story["reason"], "message_too_large");
    }

    #[tokio::test]
    async fn a_message_without_a_route_is_refused_with_the_reason() {
        let story = story(&settings(), message("other")).await.unwrap();

        assert_eq!(story["reason"], "no_route");
        assert_eq!(story["detail"], "no route matches the topic other");
    }
}
