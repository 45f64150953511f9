//! One connection to a broker, the same for MQTT 5 and 3.1.1.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{TlsConfiguration, Transport, mqttbytes::v4 as packets4, v5};

use super::security;
use crate::config::{Mqtt, Protocol};
use crate::routes::Subscription;

/// Room for what we ask the client to send beside acknowledgements.
const OTHER_REQUESTS: usize = 16;

/// What the broker said.
#[derive(Debug)]
pub(super) enum Event {
    Connected {
        session_present: bool,
    },
    /// One answer for each filter; an error says why it was refused.
    Subscribed(Vec<Result<(), String>>),
    /// The answer to one filter.
    Unsubscribed,
    Published(Published),
    /// Nothing that matters here.
    Other,
}

/// A message from the broker.
#[derive(Debug)]
pub(super) struct Published {
    pub topic: Bytes,
    pub payload: Bytes,
    pub is_retained: bool,
    /// Whether the broker says that it has sent this before.
    pub is_repeated: bool,
    /// `None` for QoS 0.
    pub packet_id: Option<u16>,
    pub properties: Vec<(String, String)>,
}

/// The sending half of a connection.
pub(super) enum Client {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// The polling half of a connection. A future of [`EventLoop::poll`] that is dropped may lose what it
/// was sending, so it is dropped only with its connection.
pub(super) enum EventLoop {
    V5(Box<v5::EventLoop>),
    V4(Box<rumqttc::EventLoop>),
}

/// What becomes of the broker's session of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// It goes on, and stays when we leave.
    Keep,
    /// It ends.
    End,
}

/// A fresh connection: nothing of an earlier one can come out of it. It connects when polled.
///
/// # Errors
/// For certificates or a password that cannot be read.
pub(super) fn open(
    settings: &Mqtt,
    connection: u16,
    session: Session,
) -> Result<(Client, EventLoop), String> {
    let (host, port) = settings.address().unwrap_or(("localhost", 1883));
    let requests = usize::from(u16::MAX) + OTHER_REQUESTS;
    let (id, ends) = (settings.client_id(connection), session == Session::End);
    let credentials = security::credentials(settings)?;
    let transport = match settings.is_tls() {
        true => Transport::tls_with_config(TlsConfiguration::Rustls(security::tls(&settings.tls)?)),
        false => Transport::tcp(),
    };
    Ok(match settings.protocol {
        Protocol::V5 => {
            let mut options = v5::MqttOptions::new(id, host, port);
            options.set_clean_start(ends);
            options.set_transport(transport);
            if let Some((user, password)) = credentials {
                options.set_credentials(user, password);
            }
            options.set_manual_acks(true);
            options.set_keep_alive(settings.keep_alive);
            options.set_connection_timeout(settings.connect_timeout.as_secs());
            options.set_receive_maximum(Some(settings.receive_maximum));
            options.set_max_packet_size(Some(settings.max_packet_bytes));
            let expiry = u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX);
            options.set_session_expiry_interval(Some(if ends { 0 } else { expiry }));
            let (client, eventloop) = v5::AsyncClient::new(options, requests);
            (Client::V5(client), EventLoop::V5(Box::new(eventloop)))
        }
        Protocol::V4 => {
            let mut options = rumqttc::MqttOptions::new(id, host, port);
            options.set_clean_session(ends);
            options.set_transport(transport);
            if let Some((user, password)) = credentials {
                options.set_credentials(user, password);
            }
            options.set_manual_acks(true);
            options.set_keep_alive(settings.keep_alive);
            let largest = settings.max_packet_bytes as usize;
            options.set_max_packet_size(largest, largest);
            let (client, mut eventloop) = rumqttc::AsyncClient::new(options, requests);
            let mut network = eventloop.network_options();
            network.set_connection_timeout(settings.connect_timeout.as_secs());
            eventloop.set_network_options(network);
            (Client::V4(client), EventLoop::V4(Box::new(eventloop)))
        }
    })
}

impl Client {
    /// Acknowledges a message; false when there is no room for the request now.
    pub(super) fn try_ack(&self, packet_id: u16) -> bool {
        match self {
            Self::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let mut publish = packets5::Publish::new("", qos, Bytes::new(), None);
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
            Self::V4(client) => {
                let mut publish =
                    packets4::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::<u8>::new());
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
        }
    }

    /// Subscribes; false when there is no room for the request now.
    pub(super) fn try_subscribe(&self, filters: &[Subscription]) -> bool {
        match self {
            Self::V5(client) => {
                let filters = filters.iter().map(|subscription| {
                    let qos = match subscription.qos {
                        0 => v5::mqttbytes::QoS::AtMostOnce,
                        _ => v5::mqttbytes::QoS::AtLeastOnce,
                    };
                    let mut filter = packets5::Filter::new(&subscription.filter, qos);
                    // Retain handling 1: a resumed subscription does not bring them all again.
                    filter.retain_forward_rule = packets5::RetainForwardRule::OnNewSubscribe;
                    filter
                });
                client.try_subscribe_many(filters).is_ok()
            }
            Self::V4(client) => {
                let filters = filters.iter().map(|subscription| {
                    let qos = match subscription.qos {
                        0 => rumqttc::QoS::AtMostOnce,
                        _ => rumqttc::QoS::AtLeastOnce,
                    };
                    rumqttc::SubscribeFilter::new(subscription.filter.clone(), qos)
                });
                client.try_subscribe_many(filters).is_ok()
            }
        }
    }

    /// Ends subscriptions; false when there is no room for the requests now.
    pub(super) fn try_unsubscribe(&self, filters: &[Subscription]) -> bool {
        filters.iter().all(|subscription| match self {
            Self::V5(client) => client.try_unsubscribe(&subscription.filter).is_ok(),
            Self::V4(client) => client.try_unsubscribe(&subscription.filter).is_ok(),
        })
    }

    /// Says good-bye; the session stays.
    pub(super) fn try_disconnect(&self) -> bool {
        match self {
            Self::V5(client) => client.try_disconnect().is_ok(),
            Self::V4(client) => client.try_disconnect().is_ok(),
        }
    }
}

impl EventLoop {
    /// The next thing that the broker says, or why the connection ended. Not cancel safe.
    pub(super) async fn poll(&mut self) -> Result<Event, String> {
        match self {
            Self::V5(eventloop) => match eventloop.poll().await {
                Ok(v5::Event::Incoming(packet)) => Ok(event5(packet)),
                Ok(v5::Event::Outgoing(_)) => Ok(Event::Other),
                Err(error) => Err(error.to_string()),
            },
            Self::V4(eventloop) => match eventloop.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => Ok(event4(packet)),
                Ok(rumqttc::Event::Outgoing(_)) => Ok(Event::Other),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

fn event5(packet: v5::Incoming) -> Event {
    match packet {
        v5::Incoming::ConnAck(ack) => Event::Connected { session_present: ack.session_present },
        v5::Incoming::SubAck(ack) => {
            let answer = |code: &packets5::SubscribeReasonCode| match code {
                packets5::SubscribeReasonCode::Success(_) => Ok(()),
                refused => Err(format!("{refused:?}")),
            };
            Event::Subscribed(ack.return_codes.iter().map(answer).collect())
        }
        v5::Incoming::UnsubAck(_) => Event::Unsubscribed,
        v5::Incoming::Publish(publish) => {
            let has_id = publish.qos != v5::mqttbytes::QoS::AtMostOnce;
            Event::Published(Published {
                topic: publish.topic,
                payload: publish.payload,
                is_retained: publish.retain,
                is_repeated: publish.dup,
                packet_id: has_id.then_some(publish.pkid),
                properties: publish
                    .properties
                    .map(|given| given.user_properties)
                    .unwrap_or_default(),
            })
        }
        // Pings, and answers to what we never send.
        _ => Event::Other,
    }
}

fn event4(packet: rumqttc::Incoming) -> Event {
    match packet {
        rumqttc::Incoming::ConnAck(ack) => {
            Event::Connected { session_present: ack.session_present }
        }
        rumqttc::Incoming::SubAck(ack) => {
            let answer = |code: &packets4::SubscribeReasonCode| match code {
                packets4::SubscribeReasonCode::Success(_) => Ok(()),
                packets4::SubscribeReasonCode::Failure => Err("refused".to_owned()),
            };
            Event::Subscribed(ack.return_codes.iter().map(answer).collect())
        }
        rumqttc::Incoming::UnsubAck(_) => Event::Unsubscribed,
        rumqttc::Incoming::Publish(publish) => Event::Published(Published {
            topic: publish.topic.into(),
            payload: publish.payload,
            is_retained: publish.retain,
            is_repeated: publish.dup,
            packet_id: (publish.qos != rumqttc::QoS::AtMostOnce).then_some(publish.pkid),
            properties: Vec::new(),
        }),
        // Pings, and answers to what we never send.
        _ => Event::Other,
    }
}
