//! All parts of the platform, in the order in which they start and end.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bigqueries::Bigqueries;
use e2e::cloud::Cloud;
use e2e::redis::Redis;
use emulator::{Emulator, Options, Profile};
use enrich::Enrich;
use icestore::Icestore;
use ingestion::Ingestion;
use pubsub::Endpoint;
use service::Hosted;
use tokio::time::{sleep, timeout};

use crate::args::Args;
use crate::broker::Broker;
use crate::metrics::Scrape;
use crate::names::{
    ARCHIVE, BUCKET, BURIED, DATASET, DEAD_LETTERS, DEVICES, ENRICH, ENRICHED, LETTERS, PROJECT,
    RAW, ROWS,
};
use crate::progress::Progress;
use crate::settings;

/// Longest wait for the services to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest drain of each service.
const GRACE: Duration = Duration::from_secs(30);

/// Running platform.
pub(crate) struct Platform {
    pub broker: Broker,
    pub redis: Option<Redis>,
    pub emulator: Emulator,
    pub cloud: Cloud,
    pub data_dir: PathBuf,
    pub stages: Vec<Stage>,
}

/// Service of the platform.
pub(crate) struct Stage {
    pub name: &'static str,
    pub hosted: Hosted,
}

impl Stage {
    /// Reads the current metrics of the service.
    pub(crate) fn scrape(&self) -> Scrape {
        Scrape::parse(&self.hosted.metrics().unwrap_or_default())
    }
}

impl Platform {
    /// Starts all parts, and returns when they are ready.
    pub(crate) async fn start(args: &Args, data_dir: &Path) -> anyhow::Result<Self> {
        check_ports(args)?;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("create the data folder {}", data_dir.display()))?;
        let broker = Broker::start(args.broker, &data_dir.join("broker"), args.mqtt_port).await?;
        let options = Options {
            port: args.cloud_port,
            data_dir: Some(data_dir.to_owned()),
            profile: profile(args),
            ..Options::default()
        };
        let emulator =
            Emulator::start(options).await.context("choose another with --cloud-port")?;
        let cloud = Cloud::embedded(&emulator.url());
        prepare(&cloud, args.devices).await?;
        // Without redis-server, enrich has two cache layers instead of three.
        let redis = match e2e::redis::program() {
            Some(_) => Some(Redis::start().await?),
            None => None,
        };
        let redis_url = redis.as_ref().map(Redis::url);
        let endpoint = Endpoint { endpoint: Some(emulator.url()), ..Endpoint::default() };
        let settings = settings::all(args, broker.protocol(), redis_url, &endpoint);
        settings.write(&data_dir.join("settings")).context("write the services' settings")?;
        let stages = start(&settings).await?;
        let data_dir = std::path::absolute(data_dir).context("find the data folder")?;
        let platform = Self { broker, redis, emulator, cloud, data_dir, stages };
        platform.ready().await?;
        Ok(platform)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let waited = timeout(PATIENCE, async {
            while !self.stages.iter().all(|stage| stage.hosted.health().is_ready()) {
                sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_ok() {
            return Ok(());
        }
        for stage in &self.stages {
            for (name, state) in stage.hosted.health().conditions() {
                if !state.ready {
                    bail!("{} waits for {name}: {}", stage.name, state.reason);
                }
            }
        }
        bail!("the services did not become ready")
    }

    /// Returns the reason why a service cannot go on. Never returns while all services run. Cancel
    /// safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let ended = self
            .stages
            .iter_mut()
            .map(|stage| Box::pin(async { stage.hosted.ended().await.context(stage.name) }));
        futures::future::select_all(ended).await.0
    }

    /// Returns the messages in the dead letters.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<Vec<e2e::cloud::Received>> {
        let mut letters = Vec::new();
        loop {
            let pulled = self.cloud.pull(BURIED).await?;
            if pulled.is_empty() {
                return Ok(letters);
            }
            letters.extend(pulled);
        }
    }

    /// Drains the services in the order of the flow. The cloud keeps running, so that its content
    /// can be read.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        for stage in self.stages.drain(..) {
            let seconds = GRACE.as_secs();
            Progress::begin(&format!("draining {}, at most {seconds} s", stage.name));
            stage.hosted.shutdown(GRACE).await.with_context(|| format!("drain {}", stage.name))?;
        }
        Ok(())
    }

    /// Stops the remaining parts.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        if let Some(mut redis) = self.redis {
            redis.kill().await?;
        }
        self.broker.stop().await?;
        self.emulator.shutdown().await;
        Ok(())
    }
}

/// Returns the behaviour of the embedded cloud. Google's knows only projects that were created.
fn profile(args: &Args) -> Profile {
    if args.like_google { Profile::like_google().with_project(PROJECT) } else { Profile::default() }
}

/// Refuses ports that are in use, before anything is started or written.
fn check_ports(args: &Args) -> anyhow::Result<()> {
    let mut ports = vec![
        (args.mqtt_port, "MQTT: choose another with --mqtt-port"),
        (args.cloud_port, "the embedded cloud: choose another with --cloud-port"),
    ];
    // With port 0, each service takes a free port.
    let services = if args.http_port == 0 { 0 } else { 4 };
    ports.extend((0..services).map(|index| {
        (args.http_port.saturating_add(index), "the services: choose others with --http-port")
    }));
    for (port, whose) in ports {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("listen on 127.0.0.1:{port} for {whose}"))?;
    }
    Ok(())
}

/// Creates the resources that the services need in the cloud.
async fn prepare(cloud: &Cloud, devices: u32) -> anyhow::Result<()> {
    for topic in [RAW, ENRICHED, DEAD_LETTERS] {
        cloud.create_topic(topic).await?;
    }
    let subscriptions = [
        (ENRICH, RAW),
        (ARCHIVE, ENRICHED),
        (ROWS, ENRICHED),
        (LETTERS, DEAD_LETTERS),
        (BURIED, DEAD_LETTERS),
    ];
    for (subscription, topic) in subscriptions {
        cloud.create_subscription(subscription, topic).await?;
    }
    cloud.create_bucket(BUCKET).await?;
    cloud.create_dataset(DATASET).await?;
    cloud.put_documents(DEVICES, e2e::reading::documents(devices)).await
}

/// Starts the services in the order of the flow.
async fn start(settings: &settings::All) -> anyhow::Result<Vec<Stage>> {
    let settings::All { ingestion, enrich, bigqueries, icestore } = settings.clone();
    Ok(vec![
        Stage {
            name: "ingestion",
            hosted: Hosted::start(Ingestion::new(ingestion.clone()), &ingestion).await?,
        },
        Stage {
            name: "enrich",
            hosted: Hosted::start(Enrich::new(enrich.clone()), &enrich).await?,
        },
        Stage {
            name: "bigqueries",
            hosted: Hosted::start(Bigqueries::new(bigqueries.clone()), &bigqueries).await?,
        },
        Stage {
            name: "icestore",
            hosted: Hosted::start(Icestore::new(icestore.clone()), &icestore).await?,
        },
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_cloud_like_googles_knows_the_own_project_alone() {
        let profile =
            |options: &[&str]| profile(&Args::parse_from([&["dataflow"], options].concat()));

        assert_eq!(profile(&["--like-google"]), Profile::like_google().with_project("local"));
        assert_eq!(profile(&[]), Profile::default());
    }

    #[test]
    fn a_port_that_is_taken_is_told_before_anything_is_written() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let taken = listen();
        let (port, spare) = (port_of(&taken), format!("--mqtt-port={}", port_of(&listen())));
        for option in ["--mqtt-port", "--cloud-port", "--http-port"] {
            let own = format!("{option}={port}");
            let free = [&*spare, "--cloud-port=0", "--http-port=0"];
            let others = free.into_iter().filter(|other| !other.starts_with(option));
            let args = Args::parse_from(std::iter::once("dataflow").chain(others).chain([&*own]));

            let error = format!("{:#}", check_ports(&args).unwrap_err());
            assert!(error.contains(option), "{error}");
            assert!(error.contains(&port.to_string()), "{error}");
        }
    }
}
