//! Sends archived messages to MQTT again, with the original payload on the original topic.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::time::timeout;
use uuid::Uuid;

use crate::archive::Line;

/// Longest wait for the broker to acknowledge messages on their way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes each line's payload to its topic and waits for every PUBACK.
///
/// # Errors
/// Fails when a line has no topic, or the broker does not acknowledge.
pub async fn to_mqtt(lines: &[Line], port: u16) -> anyhow::Result<u64> {
    let largest = 64 * 1024 * 1024;
    let id = format!("replay-{}", Uuid::new_v4().simple());
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_max_packet_size(largest, largest);
    let (client, mut eventloop) = AsyncClient::new(options, 100);
    let publish = async {
        for line in lines {
            let topic = line.topic()?.with_context(|| format!("line {} has no topic", line.id))?;
            client.publish(topic, QoS::AtLeastOnce, false, line.payload()?).await?;
        }
        anyhow::Ok(())
    };
    let count = async {
        let mut acknowledged = 0;
        while acknowledged < lines.len() as u64 {
            match timeout(PATIENCE, eventloop.poll()).await.context("wait for the broker")? {
                Ok(Event::Incoming(Incoming::PubAck(_))) => acknowledged += 1,
                Ok(_) => {}
                Err(error) => bail!("the broker ended the connection: {error}"),
            }
        }
        Ok(acknowledged)
    };
    let ((), acknowledged) = tokio::try_join!(publish, count)?;
    Ok(acknowledged)
}
