//! Everything that runs, and the order in which it starts and ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use e2e::cloud::Cloud;
use emulator::{Emulator, Options};
use icestore::Icestore;
use ingestion::Ingestion;
use ingestion::config::{Producer, Route};
use pubsub::{Endpoint, Graves};
use service::{Hosted, Http};
use tokio::time::{sleep, timeout};

use crate::args::Args;
use crate::broker::Broker;
use crate::metrics::Scrape;

/// Longest wait for the services to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long each service may drain.
const GRACE: Duration = Duration::from_secs(30);

const PROJECT: &str = "local";
const RAW: &str = "raw";
const DEAD_LETTERS: &str = "dead-letters";
/// What icestore reads; enrich will stand between it and the raw topic.
const ARCHIVE: &str = "archive";
const BURIED: &str = "dead-letters-report";
/// Where archived messages end.
pub(crate) const BUCKET: &str = "archive";
/// The first part of every object's name.
pub(crate) const PREFIX: &str = "messages";

/// A running platform.
pub(crate) struct Platform {
    pub broker: Broker,
    pub emulator: Emulator,
    pub cloud: Cloud,
    pub data_dir: PathBuf,
    pub stages: Vec<Stage>,
}

/// A service of the platform.
pub(crate) struct Stage {
    pub name: &'static str,
    pub hosted: Hosted,
}

impl Stage {
    /// The service's metrics now.
    pub(crate) fn scrape(&self) -> Scrape {
        Scrape::parse(&self.hosted.metrics().unwrap_or_default())
    }
}

impl Platform {
    /// Starts everything, and returns when all of it is ready.
    pub(crate) async fn start(args: &Args, data_dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("create the data folder {}", data_dir.display()))?;
        let broker = Broker::start(args.broker, &data_dir.join("broker"), args.mqtt_port).await?;
        let options = Options {
            port: args.cloud_port,
            data_dir: Some(data_dir.to_owned()),
            ..Options::default()
        };
        let emulator =
            Emulator::start(options).await.context("choose another with --cloud-port")?;
        let cloud = Cloud::embedded(&emulator.url());
        for topic in [RAW, DEAD_LETTERS] {
            cloud.create_topic(topic).await?;
        }
        cloud.create_subscription(ARCHIVE, RAW).await?;
        cloud.create_subscription(BURIED, DEAD_LETTERS).await?;
        cloud.create_bucket(BUCKET).await?;

        let endpoint = Endpoint { endpoint: Some(emulator.url()), ..Endpoint::default() };
        let ingestion = ingestion_settings(args, &broker, &endpoint);
        let icestore = icestore_settings(args, &endpoint);
        let stages = vec![
            Stage {
                name: "ingestion",
                hosted: Hosted::start(Ingestion::new(ingestion.clone()), &ingestion).await?,
            },
            Stage {
                name: "icestore",
                hosted: Hosted::start(Icestore::new(icestore.clone()), &icestore).await?,
            },
        ];
        let data_dir = std::path::absolute(data_dir).context("find the data folder")?;
        let platform = Self { broker, emulator, cloud, data_dir, stages };
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

    /// Why a service cannot go on; never returns while all can. Cancel safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let [first, second] = self.stages.as_mut_slice() else {
            return std::future::pending().await;
        };
        tokio::select! {
            error = first.hosted.ended() => error.context(first.name),
            error = second.hosted.ended() => error.context(second.name),
        }
    }

    /// Messages that are in the dead letters.
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

    /// Drains the services in the order of the flow. The cloud stays, so that it can be asked.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        for stage in self.stages.drain(..) {
            stage.hosted.shutdown(GRACE).await.with_context(|| format!("drain {}", stage.name))?;
        }
        Ok(())
    }

    /// Ends what is left.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.broker.stop().await?;
        self.emulator.shutdown().await;
        Ok(())
    }
}

fn http(args: &Args, index: u16) -> Http {
    // 0 stays 0: each takes a free one.
    let port = if args.http_port == 0 { 0 } else { args.http_port.saturating_add(index) };
    Http { host: "127.0.0.1".into(), port }
}

fn dead_letters() -> Option<Graves> {
    Some(Graves::Topic { topic_id: DEAD_LETTERS.into(), bucket: None })
}

fn ingestion_settings(
    args: &Args,
    broker: &Broker,
    endpoint: &Endpoint,
) -> ingestion::config::Settings {
    let mut route = Route::default();
    route.source.mqtt_topic = "devices/{device_id}/up".into();
    route.source.qos = 1;
    route.destination.route_name = "uplinks".into();
    let mut settings = ingestion::config::Settings {
        project: PROJECT.into(),
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 0),
        ..ingestion::config::Settings::default()
    };
    settings.mqtt.url = format!("mqtt://127.0.0.1:{}", args.mqtt_port);
    settings.mqtt.protocol = broker.protocol();
    settings.routes.insert("uplinks".into(), route);
    settings.producers.insert("uplinks".into(), Producer { topic_id: RAW.into() });
    settings
}

fn icestore_settings(args: &Args, endpoint: &Endpoint) -> icestore::config::Settings {
    let mut settings = icestore::config::Settings {
        project: PROJECT.into(),
        dead_letters: dead_letters(),
        pubsub: endpoint.clone(),
        http: http(args, 1),
        ..icestore::config::Settings::default()
    };
    settings.subscription.id = ARCHIVE.into();
    settings.storage.bucket = BUCKET.into();
    settings.storage.endpoint.clone_from(&endpoint.endpoint);
    settings.archive.prefix = PREFIX.into();
    // Objects to look at within seconds, where production collects for a minute.
    settings.pipeline.batch.max_age = Duration::from_secs(2);
    settings
}
