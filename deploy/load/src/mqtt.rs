//! Devices over MQTT: a connection and a persistent session each.

mod connection;
mod packets;
mod pending;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use service::settings::{Tls, url};

pub(crate) use connection::Connection;

use crate::args::{self, Version};
use crate::target::Broker;

/// Everything that the connections of a run share. It cannot be shown, because it has a password.
pub(crate) struct MqttLink {
    /// Address of the broker.
    pub broker: Broker,
    /// TLS, for `mqtts`.
    pub tls: Option<Arc<ClientConfig>>,
    /// Version of MQTT.
    pub version: Version,
    /// User and password.
    pub login: Option<(String, String)>,
    /// Beginning of the client ids.
    pub client_id: String,
    /// Longest time without a packet, in seconds.
    pub keep_alive: u16,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Most messages that wait for their PUBACK.
    pub max_in_flight: u16,
}

impl MqttLink {
    /// Reads the files that the options name.
    ///
    /// # Errors
    /// Fails for a file that cannot be read, and for certificates without TLS.
    pub(crate) fn new(
        broker: Broker,
        options: &args::Mqtt,
        run: &str,
        max_in_flight: u16,
    ) -> anyhow::Result<Self> {
        let files = Tls {
            ca_file: options.ca_file.clone(),
            client_cert_file: options.client_cert_file.clone(),
            client_key_file: options.client_key_file.clone(),
        };
        if !broker.is_tls && files != Tls::default() {
            bail!("certificates need TLS: use mqtts:// instead of mqtt://");
        }
        let tls = match broker.is_tls {
            true => Some(service::tls::client(&files).map_err(anyhow::Error::msg)?),
            false => None,
        };
        let password = match &options.password_file {
            None => String::new(),
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| url::unreadable_secret(file, &error));
                text.map_err(anyhow::Error::msg).context("--password-file")?
            }
        };
        let password = password.trim_end_matches(['\n', '\r']);
        let login = options.username.clone().map(|user| (user, password.to_owned()));
        Ok(Self {
            broker,
            tls,
            version: options.version,
            login,
            client_id: options.client_id.clone().unwrap_or_else(|| format!("load-{run}")),
            keep_alive: options.keep_alive,
            connect_timeout: options.connect_timeout,
            max_in_flight,
        })
    }
}
