//! Destinations of a replay.

use anyhow::Context as _;
use pubsub::{Admin, Connection, Outgoing, Publishers, TopicName};

use super::Arguments;
use super::line::ArchivedLine;
use super::mqtt::{Broker, Protocol};
use crate::config::Settings;

/// Destination of a replay.
pub(super) enum Target {
    /// A topic. Pub/Sub confirms each message.
    Topic(Publishers, TopicName),
    /// A broker. It confirms each message.
    Mqtt(Box<Broker>),
    /// No destination: messages are only counted.
    Nowhere,
}

impl Target {
    pub(super) async fn of(settings: &Settings, given: &Arguments) -> anyhow::Result<Self> {
        if given.dry_run {
            return Ok(Self::Nowhere);
        }
        if let Some(url) = &given.to_mqtt {
            let user = given.mqtt_username.as_deref();
            let password = given.mqtt_password_file.as_deref();
            let protocol = given.mqtt_protocol.unwrap_or(Protocol::V5);
            return Ok(Self::Mqtt(Box::new(Broker::at(url, user, password, protocol)?)));
        }
        let topic = given.to_topic.as_deref().context("--to-topic or --to-mqtt")?;
        let (connection, topic) = (
            Connection::new(settings.intake.pubsub.clone())
                .with_clients(settings.process.google.identity().into()),
            TopicName::new(&settings.process.project, topic),
        );
        Admin::new(&connection).await?.require_audience(&topic).await?;
        Ok(Self::Topic(Publishers::new(&connection).await?, topic))
    }

    /// Sends messages. Returns their number when all are confirmed.
    pub(super) async fn send(&mut self, lines: &[ArchivedLine]) -> anyhow::Result<u64> {
        match self {
            Self::Topic(publishers, topic) => {
                let messages: Vec<_> = lines.iter().map(|line| outgoing(line, topic)).collect();
                publishers.send(topic, &messages).await?;
            }
            Self::Mqtt(broker) => {
                let messages: Vec<_> =
                    lines.iter().map(ArchivedLine::for_mqtt).collect::<Result<_, _>>()?;
                broker.send(messages).await?;
            }
            Self::Nowhere => {}
        }
        Ok(lines.len() as u64)
    }
}

fn outgoing(line: &ArchivedLine, topic: &TopicName) -> Outgoing {
    Outgoing {
        topic: topic.clone(),
        data: line.data(),
        attributes: line.attributes.clone().into(),
        ordering_key: String::new(),
    }
}
