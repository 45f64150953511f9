//! Hostile clients that send much at once, or publish to Pub/Sub directly.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rumqttc::QoS;
use rumqttc::v5;
use serde_json::json;
use std::sync::atomic::Ordering;
use tokio::time::timeout;

use super::{Expected, HostileClients, PATIENCE, Packet, edges};
use crate::cloud::Publication;
use crate::names::{ENRICHED, RAW};

/// Size of a large payload.
const LARGE_BYTES: usize = 1_000_000;
/// Number of large packets in one burst.
const LARGE_COUNT: usize = 40;
/// One in this many large packets has QoS 0.
const QOS_ZERO_SHARE: usize = 4;
/// User properties of one packet. Their values are almost as long as MQTT allows.
const PROPERTIES: usize = 16;
const PROPERTY_BYTES: usize = 65_000;
/// Number of different ordering keys.
const KEYS: usize = 20_000;
/// Messages in one publish request.
const PUBLISHED_AT_ONCE: usize = 500;

impl HostileClients {
    pub(super) fn bursts(&self) -> Vec<Packet> {
        let packets = (0..LARGE_COUNT).map(|index| {
            if index % QOS_ZERO_SHARE == 0 {
                // A message with QoS 0 may be lost, but it may also arrive.
                return Packet {
                    qos: QoS::AtMostOnce,
                    ..self.packet("device-00007", LARGE_BYTES, Some(Expected::Unconfirmed))
                };
            }
            self.packet("device-00007", LARGE_BYTES, Some(Expected::Arrives))
        });
        packets.collect()
    }

    /// Sends one packet over MQTT 5, repeatedly until its receipt is confirmed.
    pub(super) async fn send_properties(&self) -> anyhow::Result<()> {
        loop {
            let packet = self.packet("device-00008", 0, Some(Expected::Arrives));
            if self.send_with_properties(&packet).await.is_ok() {
                self.confirm(packet);
                return Ok(());
            }
            // The unconfirmed message may arrive, too.
            self.confirm(Packet { expected: Some(Expected::Unconfirmed), ..packet });
        }
    }

    async fn send_with_properties(&self, packet: &Packet) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut options = v5::MqttOptions::new(format!("hostile-{number}"), "127.0.0.1", self.port);
        options.set_max_packet_size(Some(8 << 20));
        let (client, mut events) = v5::AsyncClient::new(options, 10);
        let property = |index| (format!("property-{index}"), "v".repeat(PROPERTY_BYTES));
        let mut user_properties: Vec<_> = (0..PROPERTIES).map(property).collect();
        user_properties.extend(["first", "second"].map(|value| ("again".into(), value.into())));
        let properties =
            v5::mqttbytes::v5::PublishProperties { user_properties, ..Default::default() };
        let topic = format!("hostile/{}/up", packet.device);
        let (qos, payload) = (v5::mqttbytes::QoS::AtLeastOnce, packet.payload.clone());
        client.try_publish_with_properties(topic, qos, false, payload, properties)?;
        let answer = async {
            loop {
                match events.poll().await {
                    Ok(v5::Event::Incoming(v5::Incoming::PubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => bail!("the broker ended the connection: {error}"),
                }
            }
        };
        timeout(PATIENCE, answer).await.context("wait for the broker")?
    }

    /// Publishes messages directly to Pub/Sub, each with its own ordering key.
    pub(super) async fn publish_many_keys(&self) -> anyhow::Result<()> {
        let packets: Vec<_> =
            (0..KEYS).map(|_| self.packet("device-00009", 0, Some(Expected::Arrives))).collect();
        let mut packets = packets.into_iter().enumerate().peekable();
        while packets.peek().is_some() {
            let part: Vec<_> = packets.by_ref().take(PUBLISHED_AT_ONCE).collect();
            let publications = part.iter().map(|(index, packet)| {
                let payload = STANDARD.encode(&packet.payload);
                let time = "2025-06-15T10:00:00Z";
                let data =
                    json!({ "id": format!("k{index}"), "payload": payload, "publishTime": time });
                Publication {
                    data: data.to_string().into_bytes(),
                    attributes: json!({ "device_id": packet.device }),
                    ordering_key: format!("key-{index}"),
                }
            });
            let publications: Vec<_> = publications.collect();
            // Another fault may lose the reply. Then these messages may arrive or not.
            let is_confirmed = self.cloud.publish_with_keys(RAW, &publications).await.is_ok();
            for (_, packet) in part {
                let expected =
                    if is_confirmed { packet.expected } else { Some(Expected::Unconfirmed) };
                self.confirm(Packet { expected, ..packet });
            }
        }
        Ok(())
    }

    /// Publishes envelopes directly to the raw and the enriched topic.
    pub(super) async fn publish_edges(&self) {
        for topic in [RAW, ENRICHED] {
            for (number, data) in edges::envelopes(|| self.next.fetch_add(1, Ordering::Relaxed)) {
                let published =
                    self.cloud.publish(topic, &data, json!({ "device_id": "device-00006" }));
                let expected = if published.await.is_ok() {
                    Expected::ArrivesOrDeadLettered
                } else {
                    Expected::Unconfirmed
                };
                let payload = json!({ "hostile": number }).to_string().into_bytes();
                self.confirm(Packet {
                    payload,
                    expected: Some(expected),
                    ..self.packet("d", 0, None)
                });
            }
        }
    }
}
