//! Broker: mosquitto if it is installed, else rumqttd in this process.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use e2e::mosquitto::{self, Mosquitto};
use ingestion::config::Protocol;
use service::output;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::args::BrokerChoice;

/// Running broker.
pub(crate) enum Broker {
    Mosquitto(Box<Mosquitto>),
    /// rumqttd cannot be stopped. It runs until the process ends.
    BuiltIn,
}

impl Broker {
    /// Starts the broker on a port of the loopback interface.
    pub(crate) async fn start(
        choice: BrokerChoice,
        folder: &Path,
        port: u16,
    ) -> anyhow::Result<Self> {
        let is_installed = mosquitto::program().is_some();
        match choice {
            BrokerChoice::Mosquitto if !is_installed => bail!("mosquitto is not installed"),
            BrokerChoice::Auto | BrokerChoice::Mosquitto if is_installed => {
                Ok(Self::Mosquitto(Box::new(Mosquitto::start(folder, port).await?)))
            }
            BrokerChoice::Auto | BrokerChoice::Mosquitto | BrokerChoice::BuiltIn => {
                start_built_in(port).await?;
                Ok(Self::BuiltIn)
            }
        }
    }

    /// Returns the name of the broker, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mosquitto(_) => "mosquitto",
            Self::BuiltIn => "rumqttd, MQTT 3.1.1 (install mosquitto for MQTT 5)",
        }
    }

    /// Returns the version of MQTT that ingestion uses with this broker. With rumqttd it is the
    /// version that every client supports, because rumqttd needs a separate port for each version.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Mosquitto(_) => Protocol::V5,
            Self::BuiltIn => Protocol::V4,
        }
    }
    /// Stops the broker, if it can be stopped.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Mosquitto(mut mosquitto) => mosquitto.stop().await,
            Self::BuiltIn => Ok(()),
        }
    }
}

async fn start_built_in(port: u16) -> anyhow::Result<()> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 16 * 1024 * 1024,
        max_inflight_count: 1000,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "local".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = rumqttd::RouterConfig {
        max_connections: 10_000,
        max_outgoing_packet_count: 1000,
        // Messages that are kept for a slow or absent subscriber.
        max_segment_size: 32 * 1024 * 1024,
        max_segment_count: 16,
        ..rumqttd::RouterConfig::default()
    };
    let config = rumqttd::Config {
        router,
        v4: Some(HashMap::from([("local".to_owned(), server)])),
        ..rumqttd::Config::default()
    };
    // The broker blocks forever, and has its own runtimes.
    std::thread::Builder::new()
        .name("rumqttd".into())
        .spawn(move || {
            if let Err(error) = rumqttd::Broker::new(config).start() {
                output::note(format_args!("the built-in broker failed: {error}"));
            }
        })
        .context("start the built-in broker")?;
    let answers = async {
        while TcpStream::connect(listen).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), answers).await.context("wait for the built-in broker")
}
