//! Hostile clients: the messages that they send, and the required outcome of each.

mod edges;
mod large;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Connect, Publish};
use rumqttc::{QoS, v5};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::fault_env::{LOCATION_COUNT, located_device};
use crate::cloud::Cloud;
use crate::names::RAW;

/// Longest wait for a PUBACK before a client connects again.
const PATIENCE: Duration = Duration::from_secs(10);
/// PUBLISHes that a client sends before it waits for their PUBACKs.
const WINDOW: usize = 20;

/// Kind of messages that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Payloads that are too large for Pub/Sub, and packets that are too large for ingestion.
    Oversized,
    /// Payloads that are not JSON.
    InvalidJson,
    /// Messages on the raw topic that are not envelopes.
    WrongEnvelope,
    /// Values that do not fit their column.
    Misfit,
    /// Devices whose names cannot be document ids, or are too long for attributes.
    StrangeDevice,
    /// Thousands of locations, each a folder of the archive.
    ManyLocations,
    /// The same packet twice, with the DUP flag.
    Duplicate,
    /// A retained message: the broker keeps it for later subscribers.
    Retained,
    /// Times, numbers and ids at the edge of every type, over MQTT and published directly to both
    /// topics.
    Edges,
    /// Bursts of payloads of 1 MB, some of them with QoS 0.
    Bursts,
    /// 1 MB of MQTT 5 user properties in one packet, with one name more than once.
    Properties,
    /// A raw topic with 20,000 ordering keys.
    ManyKeys,
}

impl Behaviour {
    /// All kinds, with their names.
    pub(super) const ALL: [(&str, Self); 12] = [
        ("oversized", Self::Oversized),
        ("invalid-json", Self::InvalidJson),
        ("wrong-envelope", Self::WrongEnvelope),
        ("misfit", Self::Misfit),
        ("strange-device", Self::StrangeDevice),
        ("places", Self::ManyLocations),
        ("duplicate", Self::Duplicate),
        ("retained", Self::Retained),
        ("edges", Self::Edges),
        ("bursts", Self::Bursts),
        ("properties", Self::Properties),
        ("many-keys", Self::ManyKeys),
    ];
}

/// Required outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It is in the table and in the archive.
    Arrives,
    /// It is in the archive, and in the dead letters instead of the table.
    NoRow(&'static str),
    /// It is in the dead letters alone, with this service and reason.
    DeadLettered(&'static str, &'static str),
    /// It is at both destinations. A dead letter with any reason may replace what follows its
    /// service.
    ArrivesOrDeadLettered,
    /// Its receipt was not confirmed, so it may be anywhere or nowhere.
    Unconfirmed,
}

/// A message whose receipt was confirmed.
#[derive(Debug, Clone)]
pub(super) struct HostileMessage {
    pub(super) payload: Vec<u8>,
    pub(super) expected: Expected,
    pub(super) at: Instant,
}

/// All messages that hostile clients have sent.
pub(super) struct HostileClients {
    port: u16,
    cloud: Cloud,
    confirmed: Mutex<Vec<HostileMessage>>,
    next: AtomicU64,
    next_location: AtomicU32,
}

/// A message before it is sent.
struct Packet {
    device: String,
    payload: Vec<u8>,
    expected: Option<Expected>,
    qos: QoS,
    is_retained: bool,
    is_sent_twice: bool,
}

impl HostileClients {
    pub(super) fn new(port: u16, cloud: Cloud) -> Self {
        let (next, next_location) = (AtomicU64::default(), AtomicU32::default());
        Self { port, cloud, confirmed: Mutex::default(), next, next_location }
    }

    /// Returns the messages that must be accounted for.
    pub(super) fn confirmed(&self) -> Vec<HostileMessage> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends messages of this kind until all of them are confirmed.
    pub(super) async fn run(&self, behaviour: Behaviour) -> anyhow::Result<()> {
        let mut packets = match behaviour {
            Behaviour::WrongEnvelope => return self.publish_no_envelopes().await,
            Behaviour::Properties => return self.send_properties().await,
            Behaviour::ManyKeys => return self.publish_many_keys().await,
            Behaviour::Edges => {
                self.publish_edges().await;
                let payloads = edges::payloads(|| self.next.fetch_add(1, Ordering::Relaxed));
                let expected = Some(Expected::ArrivesOrDeadLettered);
                let packet =
                    |payload| Packet { payload, ..self.packet("device-00006", 0, expected) };
                payloads.into_iter().map(packet).collect()
            }
            Behaviour::Bursts => self.bursts(),
            Behaviour::Oversized => {
                // The broker disconnects a client whose packet is too large, so no outcome is
                // required.
                drop(self.send(&[self.packet("huge", 17 << 20, None)]).await);
                let expected = Expected::DeadLettered("ingestion", "message_too_large");
                vec![self.packet("large", 8 << 20, Some(expected))]
            }
            Behaviour::InvalidJson => self.invalid_json(),
            Behaviour::Misfit => self.misfits(),
            Behaviour::StrangeDevice => self.strange_devices(),
            Behaviour::ManyLocations => self.many_locations(),
            Behaviour::Duplicate => {
                let packet = self.packet("device-00001", 0, Some(Expected::Arrives));
                vec![Packet { is_sent_twice: true, ..packet }]
            }
            Behaviour::Retained => {
                let packet = self.packet("device-00002", 0, Some(Expected::Arrives));
                vec![Packet { is_retained: true, ..packet }]
            }
        };
        while !packets.is_empty() {
            let count = packets.len().min(WINDOW);
            while let Err(error) = self.send(&packets[..count]).await {
                // Another fault may have stopped the broker.
                debug!("send again: {error:#}");
                sleep(Duration::from_millis(200)).await;
            }
            for packet in packets.drain(..count) {
                self.confirm(packet);
            }
        }
        Ok(())
    }

    fn confirm(&self, packet: Packet) {
        let Packet { payload, expected: Some(expected), .. } = packet else { return };
        let message = HostileMessage { payload, expected, at: Instant::now() };
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// Uses one connection: CONNECT, some PUBLISHes, and as many PUBACKs.
    async fn send(&self, packets: &[Packet]) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        let id = format!("hostile-{}", self.next.fetch_add(1, Ordering::Relaxed));
        Connect::new(id).write(&mut out)?;
        let mut answers = 1;
        for (index, packet) in packets.iter().enumerate() {
            let topic = format!("hostile/{}/up", packet.device);
            let mut publish = Publish::new(topic, packet.qos, packet.payload.clone());
            if packet.qos != QoS::AtMostOnce {
                publish.pkid = u16::try_from(index + 1)?;
                answers += 1;
            }
            publish.retain = packet.is_retained;
            publish.write(&mut out)?;
            if packet.is_sent_twice {
                publish.dup = true;
                publish.write(&mut out)?;
                answers += 1;
            }
        }
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(&out).await?;
            // CONNACK and PUBACK are four bytes each.
            let mut answer = [0; 4];
            for _ in 0..answers {
                stream.read_exact(&mut answer).await?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, exchange).await.context("wait for the broker")?
    }

    async fn publish_no_envelopes(&self) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let payloads = [
            json!({ "hostile": number, "id": 5, "payload": "", "publishTime": "2025-01-01T00:00:00Z" }),
            json!({ "hostile": number, "id": "5", "payload": 7 }),
            json!({ "hostile": number, "id": "5", "payload": "not base64!" }),
            json!([{ "hostile": number }]),
        ];
        for payload in payloads {
            let payload = payload.to_string().into_bytes();
            // Another fault may lose the reply. An unconfirmed message is not required to arrive.
            if self.cloud.publish(RAW, &payload, json!({ "device_id": "d" })).await.is_ok() {
                let expected = Some(Expected::DeadLettered("enrich", "not_an_envelope"));
                let packet = Packet { payload, expected, ..self.packet("d", 0, None) };
                self.confirm(packet);
            }
        }
        Ok(())
    }

    fn packet(&self, device: &str, bytes: usize, expected: Option<Expected>) -> Packet {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let payload = json!({ "hostile": number, "padding": "x".repeat(bytes) });
        let payload = payload.to_string().into_bytes();
        let (device, qos) = (device.into(), QoS::AtLeastOnce);
        Packet { device, payload, expected, qos, is_retained: false, is_sent_twice: false }
    }

    fn invalid_json(&self) -> Vec<Packet> {
        let endings: [&[u8]; 3] = [b"}", b"\"\xff\xfe", b"{{{{"];
        let packets = endings.into_iter().map(|ending| {
            let mut packet = self.packet("device-00003", 0, Some(Expected::Arrives));
            packet.payload.extend_from_slice(ending);
            packet
        });
        packets.collect()
    }

    fn misfits(&self) -> Vec<Packet> {
        let packets = [json!("hot"), json!([1]), json!({ "celsius": 20 })].map(|temperature| {
            let expected = Some(Expected::NoRow("row_type_mismatch"));
            let packet = self.packet("device-00004", 0, expected);
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let payload = json!({ "hostile": number, "temperature": temperature });
            Packet { payload: payload.to_string().into_bytes(), ..packet }
        });
        packets.into()
    }

    fn strange_devices(&self) -> Vec<Packet> {
        let no_ids = ["..", ".", "__id__", "a b\"c\\", "😀"];
        let mut packets: Vec<_> =
            no_ids.map(|device| self.packet(device, 0, Some(Expected::Arrives))).into();
        // Too long for an attribute and for a document id.
        packets.push(self.packet(&"d".repeat(1_600), 0, Some(Expected::Arrives)));
        packets
    }

    fn many_locations(&self) -> Vec<Packet> {
        let packets = (0..LOCATION_COUNT).map(|_| {
            let location = self.next_location.fetch_add(1, Ordering::Relaxed) % LOCATION_COUNT;
            self.packet(&located_device(location), 0, Some(Expected::Arrives))
        });
        packets.collect()
    }
}

/// Returns true if the topic has a subscriber. An MQTT 5 broker says so in the PUBACK.
pub(super) async fn has_audience(port: u16, topic: &str) -> bool {
    let options = v5::MqttOptions::new("probe", "127.0.0.1", port);
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let probe = client.try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, "probe");
    let answer = async {
        loop {
            match events.poll().await {
                Ok(v5::Event::Incoming(v5::Incoming::PubAck(ack))) => {
                    return ack.reason == v5::mqttbytes::v5::PubAckReason::Success;
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    probe.is_ok() && timeout(PATIENCE, answer).await.unwrap_or(false)
}

/// Returns the number in a message of a hostile client.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"hostile\":";
    let at = payload.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = payload[at..].iter().copied().skip_while(u8::is_ascii_whitespace);
    let digits: Vec<_> = digits.take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

impl HostileMessage {
    /// Returns true if the payload is from a hostile client, not from a fleet.
    pub(super) fn is_one(payload: &[u8]) -> bool {
        number_of(payload).is_some()
    }

    /// Describes the message for a report.
    pub(super) fn describe(&self) -> String {
        let start = self.payload.get(..60).unwrap_or(&self.payload);
        format!("{} ({:?})", String::from_utf8_lossy(start), self.expected)
    }
}
