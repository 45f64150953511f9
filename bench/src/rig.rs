//! Environment of a measured service: a fresh embedded cloud, broker and Redis, as processes.

use std::time::Duration;

use anyhow::Context as _;
use e2e::cloud::Cloud;
use e2e::embedded::Embedded;
use e2e::fleet::{self, Fleet};
use e2e::mosquitto::Mosquitto;
use e2e::reading;
use e2e::redis::Redis;
use serde_json::Value;
use tempfile::TempDir;

use crate::case::Case;
use crate::feed::Feed;
use crate::process;
use crate::service::{Places, Service, merge};
use crate::table::{Latency, Measured};

/// Duration of the measurement of latency.
const AT_HALF_LOAD: Duration = Duration::from_secs(10);

/// Everything except the service. The topic `input` has a subscription for the service and one for
/// the bare loop. Each of them publishes to its own topic, so neither sees the work of the other.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) embedded: Embedded,
    pub(crate) cloud: Cloud,
    pub(crate) broker: Mosquitto,
    redis: Redis,
}

impl Rig {
    pub(crate) async fn start(case: &Case) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let embedded = Embedded::start(&folder.path().join("cloud")).await?;
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await?;
        let redis = Redis::start().await?;
        let cloud = Cloud::embedded(&embedded.url());
        for topic in ["input", "output", "bare-output", "dead"] {
            cloud.create_topic(topic).await?;
        }
        let subscriptions = [
            ("ours", "input"),
            ("bare", "input"),
            ("sink", "output"),
            ("bare-sink", "bare-output"),
        ];
        for (subscription, topic) in subscriptions {
            cloud.create_subscription(subscription, topic).await?;
        }
        cloud.create_subscription("buried", "dead").await?;
        cloud.create_bucket("bucket").await?;
        cloud.create_dataset("dataflow").await?;
        cloud.create_table("dataflow", "bare", &[("data", "STRING")]).await?;
        if case.service == Service::Enrich {
            let documents = reading::documents(case.load.devices);
            cloud.put_documents("devices", documents).await.context("write documents")?;
        }
        Ok(Self { folder, embedded, cloud, broker, redis })
    }

    /// Stops everything. CPU time of a process is counted after its end, so all of these processes
    /// must end before others are measured.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.embedded.kill().await?;
        self.redis.kill().await?;
        self.broker.stop().await
    }

    /// Publishes the backlog, for the service and for the bare loop.
    pub(crate) async fn feed(&self, case: &Case) -> anyhow::Result<()> {
        let url = self.embedded.url();
        if case.service != Service::Ingestion {
            let is_enriched = case.service != Service::Enrich;
            return Feed::new(&url, "input", is_enriched).await?.all(&case.load).await;
        }
        // Both subscribe once, so that the broker keeps their messages while they are away.
        process::bare(case.service, &url, self.broker.port(), 0).await?;
        let (mut process, _) = self.start_service(case).await?;
        process.terminate().await?;
        let mut fleet = Fleet::start(self.plan(case, Some(case.load.messages), 0));
        fleet.finish().await;
        Ok(())
    }

    pub(crate) async fn run_bare(&self, case: &Case) -> anyhow::Result<Measured> {
        let url = self.embedded.url();
        process::bare(case.service, &url, self.broker.port(), case.load.messages).await
    }

    pub(crate) async fn run_service(&self, case: &Case) -> anyhow::Result<Measured> {
        let (process, ready_in) = self.start_service(case).await?;
        process::measure(process, ready_in, case.load.messages).await
    }

    async fn start_service(
        &self,
        case: &Case,
    ) -> anyhow::Result<(e2e::process::Process, Duration)> {
        let settings = self.settings(case.service, ("ours", "output"), &case.settings);
        process::start(self.folder.path(), case.service, &settings).await
    }

    /// Returns the settings of a service here, with the changes of a case.
    pub(crate) fn settings(&self, service: Service, ends: (&str, &str), changes: &Value) -> Value {
        let (url, redis) = (self.embedded.url(), self.redis.url());
        let places = Places { cloud: &url, broker_port: self.broker.port(), redis: &redis };
        let mut settings = service.settings(&places, ends);
        merge(&mut settings, changes);
        settings
    }

    fn plan(&self, case: &Case, messages: Option<u64>, rate: u32) -> fleet::FleetPlan {
        fleet::FleetPlan {
            port: self.broker.port(),
            devices: case.load.devices,
            payload_bytes: case.load.payload_bytes,
            messages,
            rate,
            ..fleet::FleetPlan::default()
        }
    }
}

/// Measures the latency of a service at a rate that is half of its maximum. It is the time from the
/// publish of a message, or its receipt from the broker, until the message is durable.
pub(crate) async fn latency(case: &Case, rate: f64) -> anyhow::Result<Latency> {
    let mut case = case.clone();
    if case.service == Service::Icestore {
        // The default of a minute would hide all other latency.
        merge(
            &mut case.settings,
            &serde_json::json!({ "pipeline": { "batch": {
            "max_age": "1s", "max_idle": "1s" } } }),
        );
    }
    let rig = Rig::start(&case).await?;
    let (mut process, _) = rig.start_service(&case).await?;
    if case.service == Service::Ingestion {
        let fleet = Fleet::start(rig.plan(&case, None, rate as u32));
        tokio::time::sleep(AT_HALF_LOAD).await;
        fleet.stop();
    } else {
        let feed = Feed::new(&rig.embedded.url(), "input", case.service != Service::Enrich).await?;
        feed.at(&case.load, rate, AT_HALF_LOAD).await?;
    }
    let latency = Latency::of(&process::metrics(&process).await?);
    process.kill().await?;
    rig.stop().await?;
    Ok(latency)
}
