//! Packets of MQTT 5 and 3.1.1, converted from and to common requests and events.

use bytes::{Buf as _, BytesMut};
use rumqttc::mqttbytes::{QoS as QoS4, v4 as packets4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5 as packets5};

use super::negotiated::Negotiated;
use super::properties;
use super::published::Published;
use crate::config::{Mqtt, Protocol};
use crate::routes::Subscription;

/// Maximum size of packets that are copied out of the read buffer. The copy prevents a small packet
/// from keeping the whole buffer in memory.
const COPIED_BYTES: usize = 16_384;
/// Minimum free space in the read buffer.
const READ_BYTES: usize = 32_768;
/// Reason why a QoS 2 message ends the connection. A PUBACK is no valid answer to it [MQTT-4.3.3].
const EXACTLY_ONCE: &str = "the broker sends a message with QoS 2, this client subscribes with QoS \
    0 or 1: another client may have used its id, so end the broker's session or set mqtt.name";
/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xE0;

/// Event from the broker.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker accepted the connection.
    Connected {
        session_present: bool,
        negotiated: Negotiated,
    },
    /// Answer to a SUBSCRIBE. For each filter it has the granted QoS, or the reason for a refusal.
    Subscribed {
        packet_id: u16,
        answers: Vec<Result<u8, String>>,
    },
    /// Answer to an UNSUBSCRIBE. `refused` has the reasons for filters that stay subscribed.
    Unsubscribed {
        packet_id: u16,
        refused: Vec<String>,
    },
    Published(Published),
    Ponged,
    /// Another client has connected with our id, so the broker ends this connection.
    TakenOver,
    /// Packet that has no meaning here.
    Other,
}

/// Handling of our session at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// The session is resumed, and stays when we disconnect.
    Keep,
    /// The session ends.
    End,
}

/// Request to the broker.
#[derive(Debug)]
pub(super) enum Request<'a> {
    Connect { settings: &'a Mqtt, index: u16, session: Session, login: Option<(String, String)> },
    Subscribe { packet_id: u16, filters: &'a [Subscription] },
    Unsubscribe { packet_id: u16, filters: &'a [String] },
    Ack { packet_id: u16 },
    Ping,
    Disconnect,
}

/// Encoder of requests and decoder of events.
#[derive(Debug)]
pub(super) struct Codec {
    protocol: Protocol,
    /// Maximum size of a packet that we accept.
    max_packet_bytes: u32,
    /// Maximum size of a packet that the broker accepts.
    pub max_sent_bytes: Option<u32>,
}

impl Codec {
    pub(super) fn new(settings: &Mqtt) -> Self {
        let (protocol, max_packet_bytes) = (settings.protocol, settings.max_packet_bytes);
        Self { protocol, max_packet_bytes, max_sent_bytes: None }
    }

    /// Takes the first packet out of `inbox`. Returns `None` while it is incomplete.
    ///
    /// # Errors
    /// Fails for data that is no packet, for a packet that is too large, and for a packet by which
    /// the broker ends the connection.
    pub(super) fn decode(&self, inbox: &mut BytesMut) -> Result<Option<Event>, String> {
        let Some(length) = frame_length(inbox)? else {
            inbox.reserve(READ_BYTES);
            return Ok(None);
        };
        let most = self.max_packet_bytes;
        if length > most as usize {
            return Err(format!(
                "the broker sends a packet of {length} bytes, above {most} (mqtt.max_packet_bytes)"
            ));
        }
        if inbox.len() < length {
            inbox.reserve((length - inbox.len()).max(READ_BYTES));
            return Ok(None);
        }
        let mut frame = if length <= COPIED_BYTES {
            let copy = BytesMut::from(&inbox[..length]);
            inbox.advance(length);
            copy
        } else {
            inbox.split_to(length)
        };
        if frame[0] == DISCONNECT && length == 3 {
            // This packet has no properties. MQTT allows that, but rumqttc cannot read it.
            frame = BytesMut::from(&[DISCONNECT, 2, frame[2], 0][..]);
        }
        let header = 1 + frame.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
        if self.protocol == Protocol::V5
            && let Some(published) = properties::read_without(&frame, header)
        {
            return Ok(Some(Event::Published(published)));
        }
        match self.protocol {
            _ if frame[0] == DISCONNECT && length == 2 => Err("the broker disconnects".into()),
            Protocol::V5 => packets5::Packet::read(&mut frame, None)
                .map_err(|error| error.to_string())
                .and_then(event5),
            Protocol::V4 => packets4::Packet::read(&mut frame, length)
                .map_err(|error| error.to_string())
                .and_then(event4),
        }
        .map(Some)
    }

    /// Adds a request to `outbox`.
    ///
    /// # Errors
    /// Fails when it is larger than the broker accepts.
    pub(super) fn encode(&self, request: Request<'_>, outbox: &mut BytesMut) -> Result<(), String> {
        let written = match self.protocol {
            Protocol::V5 => {
                packet5(request).write(outbox, self.max_sent_bytes).map_err(|e| e.to_string())
            }
            Protocol::V4 => packet4(request).write(outbox, usize::MAX).map_err(|e| e.to_string()),
        };
        written.map(drop)
    }
}

/// Returns the length of the first packet, including its header. Returns `None` while the header is
/// incomplete.
fn frame_length(inbox: &[u8]) -> Result<Option<usize>, String> {
    let mut length = 0;
    for (index, byte) in inbox.iter().skip(1).enumerate() {
        if index == 4 {
            return Err("the broker sends something else than MQTT".into());
        }
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(2 + index + length));
        }
    }
    Ok(None)
}

fn packet5(request: Request<'_>) -> packets5::Packet {
    match request {
        Request::Connect { settings, index, session, login } => {
            let expiry = u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX);
            let ends = session == Session::End;
            let properties = packets5::ConnectProperties {
                session_expiry_interval: Some(if ends { 0 } else { expiry }),
                receive_maximum: Some(settings.receive_maximum),
                max_packet_size: Some(settings.max_packet_bytes),
                ..packets5::ConnectProperties::new()
            };
            let connect = packets5::Connect {
                keep_alive: keep_alive(settings),
                client_id: settings.client_id(index),
                clean_start: ends,
                properties: Some(properties),
            };
            let login = login.map(|(user, password)| packets5::Login::new(user, password));
            packets5::Packet::Connect(connect, None, login)
        }
        Request::Subscribe { packet_id, filters } => {
            let filters = filters.iter().map(|subscription| {
                let qos = match subscription.qos {
                    0 => QoS5::AtMostOnce,
                    _ => QoS5::AtLeastOnce,
                };
                let mut filter = packets5::Filter::new(&subscription.filter, qos);
                // Retain handling 1: a resumed subscription does not deliver all retained messages
                // again.
                filter.retain_forward_rule = packets5::RetainForwardRule::OnNewSubscribe;
                filter
            });
            let filters = filters.collect();
            let subscribe = packets5::Subscribe { pkid: packet_id, filters, properties: None };
            packets5::Packet::Subscribe(subscribe)
        }
        Request::Unsubscribe { packet_id, filters } => {
            let filters = filters.to_vec();
            let unsubscribe = packets5::Unsubscribe { pkid: packet_id, filters, properties: None };
            packets5::Packet::Unsubscribe(unsubscribe)
        }
        Request::Ack { packet_id } => {
            packets5::Packet::PubAck(packets5::PubAck::new(packet_id, None))
        }
        Request::Ping => packets5::Packet::PingReq(packets5::PingReq),
        Request::Disconnect => packets5::Packet::Disconnect(packets5::Disconnect::new(
            packets5::DisconnectReasonCode::NormalDisconnection,
        )),
    }
}

fn packet4(request: Request<'_>) -> packets4::Packet {
    match request {
        Request::Connect { settings, index, session, login } => {
            let mut connect = packets4::Connect::new(settings.client_id(index));
            connect.keep_alive = keep_alive(settings);
            connect.clean_session = session == Session::End;
            connect.login = login.map(|(user, password)| packets4::Login::new(user, password));
            packets4::Packet::Connect(connect)
        }
        Request::Subscribe { packet_id, filters } => {
            let filters = filters.iter().map(|subscription| {
                let qos = match subscription.qos {
                    0 => QoS4::AtMostOnce,
                    _ => QoS4::AtLeastOnce,
                };
                packets4::SubscribeFilter::new(subscription.filter.clone(), qos)
            });
            let filters = filters.collect();
            packets4::Packet::Subscribe(packets4::Subscribe { pkid: packet_id, filters })
        }
        Request::Unsubscribe { packet_id, filters } => {
            let topics = filters.to_vec();
            packets4::Packet::Unsubscribe(packets4::Unsubscribe { pkid: packet_id, topics })
        }
        Request::Ack { packet_id } => packets4::Packet::PubAck(packets4::PubAck::new(packet_id)),
        Request::Ping => packets4::Packet::PingReq,
        Request::Disconnect => packets4::Packet::Disconnect,
    }
}

fn keep_alive(settings: &Mqtt) -> u16 {
    u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX)
}

fn event5(packet: packets5::Packet) -> Result<Event, String> {
    Ok(match packet {
        packets5::Packet::ConnAck(ack) if ack.code != packets5::ConnectReturnCode::Success => {
            let text = ack.properties.and_then(|given| given.reason_string);
            return Err(refusal(&format!("{:?}", ack.code), text));
        }
        packets5::Packet::ConnAck(ack) => Event::Connected {
            session_present: ack.session_present,
            negotiated: ack.properties.map(Negotiated::from).unwrap_or_default(),
        },
        packets5::Packet::SubAck(ack) => {
            let answer = |code: &packets5::SubscribeReasonCode| match code {
                packets5::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                refused => Err(format!("{refused:?}")),
            };
            let answers = ack.return_codes.iter().map(answer).collect();
            Event::Subscribed { packet_id: ack.pkid, answers }
        }
        packets5::Packet::UnsubAck(ack) => {
            use packets5::UnsubAckReason::{NoSubscriptionExisted, Success};
            let refused = ack.reasons.iter();
            let refused =
                refused.filter(|reason| !matches!(reason, Success | NoSubscriptionExisted));
            let refused = refused.map(|reason| format!("{reason:?}")).collect();
            Event::Unsubscribed { packet_id: ack.pkid, refused }
        }
        packets5::Packet::Publish(publish) if publish.qos == QoS5::ExactlyOnce => {
            return Err(EXACTLY_ONCE.into());
        }
        packets5::Packet::Publish(publish) => {
            let has_id = publish.qos != QoS5::AtMostOnce;
            Event::Published(Published {
                topic: publish.topic,
                payload: publish.payload,
                is_retained: publish.retain,
                is_repeated: publish.dup,
                packet_id: has_id.then_some(publish.pkid),
                properties: publish.properties,
                dropped_properties: None,
            })
        }
        packets5::Packet::Disconnect(end)
            if end.reason_code == packets5::DisconnectReasonCode::SessionTakenOver =>
        {
            Event::TakenOver
        }
        packets5::Packet::Disconnect(end) => {
            let text = end.properties.and_then(|given| given.reason_string);
            let text = text.map(|text| format!(": {text}")).unwrap_or_default();
            return Err(format!("the broker disconnects: {:?}{text}", end.reason_code));
        }
        packets5::Packet::PingResp(_) => Event::Ponged,
        // These answer requests that we never send.
        _ => Event::Other,
    })
}

fn event4(packet: packets4::Packet) -> Result<Event, String> {
    Ok(match packet {
        packets4::Packet::ConnAck(ack) if ack.code != packets4::ConnectReturnCode::Success => {
            return Err(refusal(&format!("{:?}", ack.code), None));
        }
        packets4::Packet::ConnAck(ack) => Event::Connected {
            session_present: ack.session_present,
            negotiated: Negotiated::default(),
        },
        packets4::Packet::SubAck(ack) => {
            let answer = |code: &packets4::SubscribeReasonCode| match code {
                packets4::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                packets4::SubscribeReasonCode::Failure => Err("refused".to_owned()),
            };
            let answers = ack.return_codes.iter().map(answer).collect();
            Event::Subscribed { packet_id: ack.pkid, answers }
        }
        packets4::Packet::UnsubAck(ack) => {
            Event::Unsubscribed { packet_id: ack.pkid, refused: Vec::new() }
        }
        packets4::Packet::Publish(publish) if publish.qos == QoS4::ExactlyOnce => {
            return Err(EXACTLY_ONCE.into());
        }
        packets4::Packet::Publish(publish) => Event::Published(Published {
            topic: publish.topic.into(),
            payload: publish.payload,
            is_retained: publish.retain,
            is_repeated: publish.dup,
            packet_id: (publish.qos != QoS4::AtMostOnce).then_some(publish.pkid),
            properties: None,
            dropped_properties: None,
        }),
        packets4::Packet::PingResp => Event::Ponged,
        // These answer requests that we never send.
        _ => Event::Other,
    })
}

fn refusal(code: &str, text: Option<String>) -> String {
    let text = text.map(|text| format!(" ({text})")).unwrap_or_default();
    format!("the broker refuses the connection: {code}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::published::{MESSAGE_OVERHEAD, PROPERTY_OVERHEAD};

    /// Returns a QoS 0 message of MQTT 3.1.1 with a topic of one letter.
    fn packet(payload_bytes: usize) -> Vec<u8> {
        let publish = packets4::Publish::new("t", QoS4::AtMostOnce, vec![0; payload_bytes]);
        let mut bytes = BytesMut::new();
        packets4::Packet::Publish(publish).write(&mut bytes, usize::MAX).unwrap();
        bytes.to_vec()
    }

    #[test]
    fn all_that_accompanies_a_message_is_part_of_its_size() {
        let text = |length| Some("x".repeat(length));
        let properties = packets5::PublishProperties {
            content_type: text(1_000),
            response_topic: text(20_000),
            correlation_data: Some(vec![0; 300_000].into()),
            user_properties: vec![("n".repeat(4_000_000), "v".repeat(50_000_000))],
            ..packets5::PublishProperties::default()
        };
        let published = Published {
            topic: vec![b't'; 7].into(),
            payload: vec![0; 60].into(),
            is_retained: false,
            is_repeated: false,
            packet_id: None,
            properties: Some(properties),
            dropped_properties: None,
        };

        assert_eq!(published.size(), 54_321_067 + MESSAGE_OVERHEAD + PROPERTY_OVERHEAD);
    }

    #[test]
    fn a_connect_says_what_the_settings_say() {
        let settings = Mqtt {
            receive_maximum: 17,
            max_packet_bytes: 4_321,
            session_expiry: std::time::Duration::from_secs(99),
            keep_alive: std::time::Duration::from_secs(33),
            ..Mqtt::default()
        };
        for (session, ends) in [(Session::Keep, false), (Session::End, true)] {
            let login = || Some(("user".to_owned(), "word".to_owned()));
            let connect =
                || Request::Connect { settings: &settings, index: 2, session, login: login() };

            let packets5::Packet::Connect(sent, _, Some(user)) = packet5(connect()) else {
                panic!("a CONNECT")
            };
            let properties = sent.properties.unwrap();
            assert_eq!((sent.clean_start, sent.keep_alive), (ends, 33));
            assert_eq!(sent.client_id, settings.client_id(2));
            assert_eq!(properties.receive_maximum, Some(17));
            assert_eq!(properties.max_packet_size, Some(4_321));
            assert_eq!(properties.session_expiry_interval, Some(if ends { 0 } else { 99 }));
            assert_eq!((user.username.as_str(), user.password.as_str()), ("user", "word"));

            let packets4::Packet::Connect(sent) = packet4(connect()) else { panic!("a CONNECT") };
            assert_eq!((sent.clean_session, sent.keep_alive), (ends, 33));
            assert_eq!(sent.client_id, settings.client_id(2));
            assert_eq!(sent.login.unwrap().username, "user");
        }
    }

    #[test]
    fn a_subscription_asks_for_its_qos_and_not_for_retained_messages_again() {
        let subscription =
            |qos| Subscription { filter: format!("of/{qos}"), qos, is_shared: false };
        let filters = [subscription(0), subscription(1)];
        let subscribe = || Request::Subscribe { packet_id: 7, filters: &filters };

        let packets5::Packet::Subscribe(sent) = packet5(subscribe()) else { panic!("a SUBSCRIBE") };
        let rule = packets5::RetainForwardRule::OnNewSubscribe;
        let filter = |path: &str, qos| {
            let mut filter = packets5::Filter::new(path, qos);
            filter.retain_forward_rule = rule.clone();
            filter
        };
        assert_eq!(sent.pkid, 7);
        assert_eq!(
            sent.filters,
            [filter("of/0", QoS5::AtMostOnce), filter("of/1", QoS5::AtLeastOnce)]
        );

        let packets4::Packet::Subscribe(sent) = packet4(subscribe()) else { panic!("a SUBSCRIBE") };
        let sent: Vec<_> = sent.filters.iter().map(|filter| (&*filter.path, filter.qos)).collect();
        assert_eq!(sent, [("of/0", QoS4::AtMostOnce), ("of/1", QoS4::AtLeastOnce)]);
    }

    #[test]
    fn a_small_message_does_not_keep_the_read_buffer_and_a_large_one_is_not_copied() {
        let codec =
            Codec { protocol: Protocol::V4, max_packet_bytes: 100_000, max_sent_bytes: None };
        // Each packet has two bytes of header and length, two of the topic's length, and one of the
        // topic. Lengths above 127 take one more byte.
        for (payload_bytes, is_copied) in [(10, true), (16_384 - 6, true), (16_384 - 5, false)] {
            let mut inbox = BytesMut::with_capacity(50_000);
            let room = inbox.capacity();
            inbox.extend_from_slice(&packet(payload_bytes));

            let event = codec.decode(&mut inbox).unwrap();

            assert!(matches!(event, Some(Event::Published(_))), "{payload_bytes}");
            assert_eq!(inbox.try_reclaim(room), is_copied, "{payload_bytes}");
        }
    }
}
