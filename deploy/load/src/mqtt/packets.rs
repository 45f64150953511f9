//! Packets of MQTT 5 and 3.1.1, made of common requests and read as common events.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS as QoS4, v4};
use rumqttc::v5::mqttbytes::{self as mqttbytes5, QoS as QoS5, v5};

use super::MqttLink;
use crate::args::Version;
use crate::content::Message;

/// Most bytes of a packet that a broker sends to a client without subscriptions.
const MAX_READ_BYTES: u32 = 65_536;
/// Time for which a broker keeps a session without a connection, in seconds.
const SESSION_EXPIRY: u32 = 3600;
/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xE0;

/// Event from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The broker accepted the connection.
    Connected(Granted),
    /// Answer to a PUBLISH.
    Acked { packet_id: u16, answer: Answer },
    /// Packet without a meaning here, such as PINGRESP.
    Other,
}

/// Terms of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    /// True if the broker has kept the session of an earlier connection.
    pub has_session: bool,
    /// Most PUBLISHes without PUBACK.
    pub receive_maximum: u16,
    /// Most bytes of a packet.
    pub max_packet_bytes: Option<u32>,
    /// Keep-alive in seconds, if the broker wants another one.
    pub keep_alive: Option<u16>,
}

/// Answer to a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The broker has taken the message.
    Taken(&'static str),
    /// The broker refuses the message.
    Refused(&'static str),
}

/// Kind of an attempt to send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The first one in the session of the broker.
    First,
    /// A further one, which has the flag DUP.
    Again,
}

/// State that a connection starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// The session of an earlier connection, if there is one. It stays after the connection.
    Keep,
    /// A new session, which ends with its connection.
    Clean,
}

/// Encoder and decoder of packets.
#[derive(Debug)]
pub(super) struct Codec {
    version: Version,
    max_packet_bytes: Option<u32>,
}

impl Codec {
    pub(super) fn new(version: Version) -> Self {
        Self { version, max_packet_bytes: None }
    }

    /// Sets the size of packets that the broker takes.
    pub(super) fn limit(&mut self, max_packet_bytes: Option<u32>) {
        self.max_packet_bytes = max_packet_bytes;
    }

    /// Adds a CONNECT of the device with this number.
    ///
    /// # Errors
    /// Fails for a client id that is too long for MQTT.
    pub(super) fn connect(
        &self,
        link: &MqttLink,
        device: u32,
        session: Session,
        outbox: &mut BytesMut,
    ) -> Result<(), String> {
        let client_id = format!("{}-{device}", link.client_id);
        let login = link.login.clone();
        match self.version {
            Version::V5 => {
                let expiry = if session == Session::Keep { SESSION_EXPIRY } else { 0 };
                let properties = v5::ConnectProperties {
                    session_expiry_interval: Some(expiry),
                    max_packet_size: Some(MAX_READ_BYTES),
                    ..v5::ConnectProperties::new()
                };
                let connect = v5::Connect {
                    keep_alive: link.keep_alive,
                    client_id,
                    clean_start: session == Session::Clean,
                    properties: Some(properties),
                };
                let login = login.map(|(user, password)| v5::Login::new(user, password));
                self.write5(&v5::Packet::Connect(connect, None, login), outbox)
            }
            Version::V311 => {
                let mut connect = v4::Connect::new(client_id);
                connect.keep_alive = link.keep_alive;
                connect.clean_session = session == Session::Clean;
                connect.login = login.map(|(user, password)| v4::Login::new(user, password));
                self.write4(&v4::Packet::Connect(connect), outbox)
            }
        }
    }

    /// Adds a PUBLISH with QoS 1.
    ///
    /// # Errors
    /// Fails for a packet that is larger than the broker takes.
    pub(super) fn publish(
        &self,
        message: &Message,
        packet_id: u16,
        attempt: Attempt,
        outbox: &mut BytesMut,
    ) -> Result<(), String> {
        let dup = attempt == Attempt::Again;
        match self.version {
            Version::V5 => {
                let publish = v5::Publish {
                    dup,
                    qos: QoS5::AtLeastOnce,
                    retain: false,
                    topic: Bytes::copy_from_slice(message.address.as_bytes()),
                    pkid: packet_id,
                    payload: message.payload.clone(),
                    properties: message.properties.clone(),
                };
                self.write5(&v5::Packet::Publish(publish), outbox)
            }
            Version::V311 => {
                let publish = v4::Publish {
                    dup,
                    qos: QoS4::AtLeastOnce,
                    retain: false,
                    topic: message.address.clone(),
                    pkid: packet_id,
                    payload: message.payload.clone(),
                };
                self.write4(&v4::Packet::Publish(publish), outbox)
            }
        }
    }

    /// Adds a PINGREQ.
    pub(super) fn ping(&self, outbox: &mut BytesMut) -> Result<(), String> {
        match self.version {
            Version::V5 => self.write5(&v5::Packet::PingReq(v5::PingReq), outbox),
            Version::V311 => self.write4(&v4::Packet::PingReq, outbox),
        }
    }

    /// Adds a DISCONNECT. With MQTT 5 it also ends the session.
    pub(super) fn disconnect(&self, outbox: &mut BytesMut) -> Result<(), String> {
        match self.version {
            Version::V5 => {
                let properties = v5::DisconnectProperties {
                    session_expiry_interval: Some(0),
                    reason_string: None,
                    user_properties: Vec::new(),
                    server_reference: None,
                };
                let disconnect = v5::Disconnect {
                    reason_code: v5::DisconnectReasonCode::NormalDisconnection,
                    properties: Some(properties),
                };
                self.write5(&v5::Packet::Disconnect(disconnect), outbox)
            }
            Version::V311 => self.write4(&v4::Packet::Disconnect, outbox),
        }
    }

    /// Takes the first packet out of `inbox`. Returns `None` while it is incomplete.
    ///
    /// # Errors
    /// Fails for data that is no packet, and for a packet that ends or refuses the connection.
    pub(super) fn decode(&self, inbox: &mut BytesMut) -> Result<Option<Event>, String> {
        // rumqttc cannot read these short forms.
        if inbox.len() >= 2 && inbox[0] == DISCONNECT && inbox[1] < 2 {
            let code = inbox.get(2).map(|code| format!(" ({code:#04x})")).unwrap_or_default();
            return Err(format!("the broker disconnects{code}"));
        }
        match self.version {
            Version::V5 => match v5::Packet::read(inbox, Some(MAX_READ_BYTES)) {
                Ok(packet) => event5(packet).map(Some),
                Err(mqttbytes5::Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(format!("read a packet: {error}")),
            },
            Version::V311 => match v4::Packet::read(inbox, MAX_READ_BYTES as usize) {
                Ok(packet) => event4(&packet).map(Some),
                Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(format!("read a packet: {error}")),
            },
        }
    }

    fn write5(&self, packet: &v5::Packet, outbox: &mut BytesMut) -> Result<(), String> {
        packet.write(outbox, self.max_packet_bytes).map(drop).map_err(|error| error.to_string())
    }

    fn write4(&self, packet: &v4::Packet, outbox: &mut BytesMut) -> Result<(), String> {
        packet.write(outbox, usize::MAX).map(drop).map_err(|error| error.to_string())
    }
}

fn event5(packet: v5::Packet) -> Result<Event, String> {
    Ok(match packet {
        v5::Packet::ConnAck(ack) if ack.code == v5::ConnectReturnCode::Success => {
            let given = ack.properties;
            let given = given.as_ref();
            Event::Connected(Granted {
                has_session: ack.session_present,
                receive_maximum: given.and_then(|given| given.receive_max).unwrap_or(u16::MAX),
                max_packet_bytes: given.and_then(|given| given.max_packet_size),
                keep_alive: given.and_then(|given| given.server_keep_alive),
            })
        }
        v5::Packet::ConnAck(ack) => {
            return Err(format!("the broker refuses the connection: {:?}", ack.code));
        }
        v5::Packet::PubAck(ack) => Event::Acked { packet_id: ack.pkid, answer: answer(ack.reason) },
        v5::Packet::Disconnect(end) => {
            return Err(format!("the broker disconnects: {:?}", end.reason_code));
        }
        _ => Event::Other, // A client without subscriptions acts on no other packet.
    })
}

fn event4(packet: &v4::Packet) -> Result<Event, String> {
    Ok(match packet {
        v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => {
            Event::Connected(Granted {
                has_session: ack.session_present,
                receive_maximum: u16::MAX,
                max_packet_bytes: None,
                keep_alive: None,
            })
        }
        v4::Packet::ConnAck(ack) => {
            return Err(format!("the broker refuses the connection: {:?}", ack.code));
        }
        v4::Packet::PubAck(ack) => {
            Event::Acked { packet_id: ack.pkid, answer: Answer::Taken("PUBACK") }
        }
        _ => Event::Other, // A client without subscriptions acts on no other packet.
    })
}

/// Returns the answer of a reason code. A code from 0x80 is a refusal [MQTT-3.4.2.1].
fn answer(reason: v5::PubAckReason) -> Answer {
    match reason {
        v5::PubAckReason::Success => Answer::Taken("0x00 Success"),
        v5::PubAckReason::NoMatchingSubscribers => Answer::Taken("0x10 No matching subscribers"),
        v5::PubAckReason::UnspecifiedError => Answer::Refused("0x80 Unspecified error"),
        v5::PubAckReason::ImplementationSpecificError => {
            Answer::Refused("0x83 Implementation specific error")
        }
        v5::PubAckReason::NotAuthorized => Answer::Refused("0x87 Not authorized"),
        v5::PubAckReason::TopicNameInvalid => Answer::Refused("0x90 Topic Name invalid"),
        v5::PubAckReason::PacketIdentifierInUse => Answer::Refused("0x91 Packet Identifier in use"),
        v5::PubAckReason::QuotaExceeded => Answer::Refused("0x97 Quota exceeded"),
        v5::PubAckReason::PayloadFormatInvalid => Answer::Refused("0x99 Payload format invalid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let payload = Bytes::from_static(b"{}");
        Message { number: 0, address: "devices/d/up".into(), payload, properties: None, time: None }
    }

    #[test]
    fn a_further_attempt_has_the_flag_dup() {
        for version in [Version::V5, Version::V311] {
            let first = |attempt| {
                let mut outbox = BytesMut::new();
                Codec::new(version).publish(&message(), 7, attempt, &mut outbox).unwrap();
                outbox[0]
            };

            assert_eq!(first(Attempt::First), 0b0011_0010, "{version:?}");
            assert_eq!(first(Attempt::Again), 0b0011_1010, "{version:?}");
        }
    }

    #[test]
    fn a_packet_larger_than_the_broker_takes_is_refused() {
        let mut codec = Codec::new(Version::V5);
        codec.limit(Some(10));
        let mut outbox = BytesMut::new();

        let refused = codec.publish(&message(), 1, Attempt::First, &mut outbox);

        assert!(refused.is_err());
        assert!(outbox.is_empty());
    }

    #[test]
    fn pubacks_tell_their_reasons() {
        let decode = |version, bytes: &[u8]| Codec::new(version).decode(&mut BytesMut::from(bytes));

        let acked = |answer| Ok(Some(Event::Acked { packet_id: 7, answer }));
        assert_eq!(decode(Version::V311, &[0x40, 2, 0, 7]), acked(Answer::Taken("PUBACK")));
        assert_eq!(decode(Version::V5, &[0x40, 2, 0, 7]), acked(Answer::Taken("0x00 Success")));
        let refused = acked(Answer::Refused("0x87 Not authorized"));
        assert_eq!(decode(Version::V5, &[0x40, 3, 0, 7, 0x87]), refused);
        assert_eq!(decode(Version::V5, &[0x40, 3, 0]), Ok(None), "incomplete");
        assert!(decode(Version::V5, &[0xE0, 1, 0x8E]).unwrap_err().contains("0x8e"));
        assert!(decode(Version::V5, &[0xE0, 0]).is_err());
    }
}
