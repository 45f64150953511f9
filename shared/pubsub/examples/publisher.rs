//! Publishes messages of a program, and prints their ids.
//!
//! `PUBSUB_EMULATOR_HOST=localhost:8085 cargo run -p pubsub --example publisher -- PROJECT TOPIC`

use std::time::Duration;

use anyhow::Context as _;
use pubsub::{Connection, Endpoint, NewMessage, Publisher, PublisherLimits, TopicName};
use service::output;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::install_crypto();
    let mut args = std::env::args().skip(1);
    let (project, id) = args.next().zip(args.next()).context("give a project and a topic")?;
    let emulator = std::env::var("PUBSUB_EMULATOR_HOST").ok();
    let endpoint = emulator.map(|host| format!("http://{host}").into());
    publish(Endpoint { endpoint, ..Endpoint::default() }, TopicName::new(&project, &id)).await
}

async fn publish(endpoint: Endpoint, topic: TopicName) -> anyhow::Result<()> {
    let connection = Connection::new(endpoint);
    let publisher = Publisher::open(&connection, topic, PublisherLimits::default()).await?;

    let id = publisher.publish(NewMessage::new("21.5").with_attribute("unit", "C")).await?;
    output::line(format_args!("one message: {id}"));

    let readings = ["20.1", "20.2", "20.4"];
    let batch = readings.map(|data| NewMessage::new(data).with_ordering_key("sensor-1"));
    let ids = publisher.publish_batch(batch).await?;
    output::line(format_args!("a batch: {}", ids.join(", ")));

    // Returns once it has room. The id comes later.
    let confirmation = publisher.enqueue(NewMessage::new("20.5")).await?;
    drop(confirmation);
    publisher.stop(Duration::from_secs(30)).await?;
    output::finish()
}
