//! A broker that replayed messages go to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS, TlsConfiguration, Transport,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use uuid::Uuid;

use super::CHUNK;

/// Longest wait for the broker.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest packet: what MQTT itself allows.
const MAX_PACKET_BYTES: usize = 256 * 1024 * 1024;

/// A connection. One that ends does not come again: what is not confirmed then is not counted as sent.
pub(super) struct Broker {
    client: AsyncClient,
    eventloop: EventLoop,
}

impl Broker {
    /// The broker of a URL; it is reached with the first message.
    pub(super) fn at(
        url: &str,
        (user, password_file): (Option<&str>, Option<&Path>),
    ) -> anyhow::Result<Self> {
        let right = "--to-mqtt must be mqtt://host:port or mqtts://host:port";
        let (scheme, address) = url.split_once("://").context(right)?;
        let (usual, is_tls) = match scheme {
            "mqtt" => ("1883", false),
            "mqtts" => ("8883", true),
            _ => bail!(right),
        };
        let address = address.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').unwrap_or((address, usual));
        let id = format!("replay-{}", Uuid::new_v4().simple());
        let mut options = MqttOptions::new(id, host, port.parse().context(right)?);
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if is_tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls()?)));
        }
        if let Some(user) = user {
            let read = |file: &Path| {
                std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
            };
            let password = password_file.map(read).transpose()?.unwrap_or_default();
            options.set_credentials(user, password.trim_end_matches(['\n', '\r']));
        }
        let (client, eventloop) = AsyncClient::new(options, CHUNK);
        Ok(Self { client, eventloop })
    }

    /// Publishes with QoS 1, and returns when each is acknowledged.
    pub(super) async fn send(&mut self, messages: Vec<(String, Bytes)>) -> anyhow::Result<()> {
        let mut missing = messages.len();
        for (topic, payload) in messages {
            let payload = Vec::from(payload);
            self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).context("publish")?;
        }
        while missing > 0 {
            match timeout(PATIENCE, self.eventloop.poll()).await.context("the broker is silent")? {
                Ok(Event::Incoming(Incoming::PubAck(_))) => missing -= 1,
                Ok(_) => {}
                Err(error) => bail!("the broker ended the connection: {error}"),
            }
        }
        Ok(())
    }
}

/// TLS that trusts the system's roots, or those that `SSL_CERT_FILE` names.
fn tls() -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!("this system has no root certificates: name a file with SSL_CERT_FILE");
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
