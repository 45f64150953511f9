//! MQTT broker as the destination of a replay.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::ValueEnum;
use rumqttc::v5::mqttbytes::v5::{PubAckReason, PublishProperties};
use rumqttc::{TlsConfiguration, Transport, v5};
use rustls::{ClientConfig, RootCertStore};
use service::settings::url;
use tokio::time::timeout;
use uuid::Uuid;

use super::CHUNK;

/// Longest wait for an answer of the broker.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum bytes of a packet, which is the maximum of MQTT itself.
const MAX_PACKET_BYTES: u32 = 256 * 1024 * 1024;

/// Supported version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    #[value(name = "5")]
    V5,
    #[value(name = "3.1.1")]
    V311,
}

/// Message as a device published it.
#[derive(Debug)]
pub struct Publication {
    /// Topic of the message.
    pub topic: String,
    /// Payload, byte for byte.
    pub payload: Bytes,
    /// Properties of MQTT 5. They are left out with MQTT 3.1.1, which has none.
    pub properties: PublishProperties,
}

/// Connection to a broker. It is not opened again after it has ended. Messages without a
/// confirmation do not count as sent.
pub(super) struct Broker(Version);

enum Version {
    V5(v5::AsyncClient, Box<v5::EventLoop>),
    V4(rumqttc::AsyncClient, Box<rumqttc::EventLoop>),
}

impl Broker {
    /// Creates a client for the broker of a URL. It connects with the first message.
    pub(super) fn at(
        url: &str,
        user: Option<&str>,
        password_file: Option<&Path>,
        protocol: Protocol,
    ) -> anyhow::Result<Self> {
        const LIKE: &str = "must be mqtt://host:port or mqtts://host:port";
        const INSTEAD: &str = "use --mqtt-username and --mqtt-password-file";
        if let Err(wrong) = url::split(url, &["mqtt", "mqtts"], LIKE) {
            bail!("--to-mqtt {}", wrong.because(INSTEAD));
        }
        let right = format!("--to-mqtt {LIKE}");
        let (scheme, address) = url.split_once("://").with_context(|| right.clone())?;
        let (usual, is_tls) = match scheme {
            "mqtt" => ("1883", false),
            "mqtts" => ("8883", true),
            _ => bail!("{right}"),
        };
        let address = address.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').unwrap_or((address, usual));
        let port = port.parse().context(right)?;
        let id = format!("replay-{}", Uuid::new_v4().simple());
        let transport = match is_tls {
            true => Transport::tls_with_config(TlsConfiguration::Rustls(tls()?)),
            false => Transport::tcp(),
        };
        let read = |file: &Path| {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| {
                let wrong = url::unreadable_secret(file, &error);
                anyhow!("--mqtt-password-file: {wrong}")
            })
        };
        let password = password_file.map(read).transpose()?.unwrap_or_default();
        let credentials = user.map(|user| (user, password.trim_end_matches(['\n', '\r'])));
        if protocol == Protocol::V5 {
            let mut options = v5::MqttOptions::new(id, host, port);
            options.set_max_packet_size(Some(MAX_PACKET_BYTES)).set_transport(transport);
            if let Some((user, password)) = credentials {
                options.set_credentials(user, password);
            }
            let (client, eventloop) = v5::AsyncClient::new(options, CHUNK);
            return Ok(Self(Version::V5(client, Box::new(eventloop))));
        }
        let mut options = rumqttc::MqttOptions::new(id, host, port);
        options.set_max_packet_size(MAX_PACKET_BYTES as usize, MAX_PACKET_BYTES as usize);
        options.set_transport(transport);
        if let Some((user, password)) = credentials {
            options.set_credentials(user, password);
        }
        let (client, eventloop) = rumqttc::AsyncClient::new(options, CHUNK);
        Ok(Self(Version::V4(client, Box::new(eventloop))))
    }

    /// Publishes messages with QoS 1, and returns when all are acknowledged.
    pub(super) async fn send(&mut self, messages: Vec<Publication>) -> anyhow::Result<()> {
        let mut missing = messages.len();
        for message in messages {
            self.0.publish(message).context("publish")?;
        }
        while missing > 0 {
            let is_confirmed = timeout(PATIENCE, self.0.poll()).await;
            if is_confirmed.context("the broker is silent")?? {
                missing -= 1;
            }
        }
        Ok(())
    }
}

impl Version {
    fn publish(&self, message: Publication) -> anyhow::Result<()> {
        let Publication { topic, payload, properties } = message;
        match self {
            Self::V5(client, _) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_publish_with_properties(topic, qos, false, payload, properties)?;
            }
            Self::V4(client, _) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.try_publish(topic, qos, false, Vec::from(payload))?;
            }
        }
        Ok(())
    }

    /// Waits for the next event. Returns true if the broker has confirmed a message.
    async fn poll(&mut self) -> anyhow::Result<bool> {
        const ENDED: &str = "the broker ended the connection";
        match self {
            Self::V5(_, eventloop) => match eventloop.poll().await.context(ENDED)? {
                v5::Event::Incoming(v5::Incoming::PubAck(ack)) => match ack.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(true),
                    refused => bail!("the broker refused a message: {refused:?}"),
                },
                _ => Ok(false),
            },
            Self::V4(_, eventloop) => {
                let event = eventloop.poll().await.context(ENDED)?;
                Ok(matches!(event, rumqttc::Event::Incoming(rumqttc::Incoming::PubAck(_))))
            }
        }
    }
}

/// Returns a TLS configuration that trusts the system's root certificates, or those of
/// `SSL_CERT_FILE`.
fn tls() -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!("this system has no root certificates: name a file with SSL_CERT_FILE");
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_url_is_refused_with_what_to_use_instead() {
        let wrong = |url| Broker::at(url, None, None, Protocol::V5).err().unwrap().to_string();

        let said = wrong("mqtt://user:hunter2@broker");

        assert!(said.contains("use --mqtt-username and --mqtt-password-file"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(wrong("http://broker").contains("must be mqtt://host:port"));
    }
}
