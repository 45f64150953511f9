//! Environment of a measured service: a fresh embedded cloud, broker and Redis, as processes.

use std::time::Duration;

use anyhow::Context as _;
use e2e::embedded::Embedded;
use e2e::env::TestEnv;
use e2e::fleet::{self, Fleet};
use e2e::names::{DATASET, DEVICES, Subscription};
use e2e::process::Process;
use e2e::reading;
use e2e::settings::merge;
use e2e::strictness::Strictness;
use serde_json::{Value, json};

use crate::case::Case;
use crate::feed::Feed;
use crate::process;
use crate::service::Service;
use crate::table::{Latency, Measured};

/// Duration of the measurement of latency.
const AT_HALF_LOAD: Duration = Duration::from_secs(10);

/// Everything except the service. The service and the bare loop read the same topic, each from its
/// own subscription. Each publishes to its own topic, so neither sees the work of the other.
pub(crate) struct BenchEnv {
    pub(crate) servers: TestEnv<Embedded>,
}

impl BenchEnv {
    /// Starts the environment of a case.
    pub(crate) async fn start(case: &Case) -> anyhow::Result<Self> {
        let devices = if case.service == Service::Enrich { case.load.devices } else { 0 };
        Self::start_with(&case.service.subscriptions(), devices).await
    }

    /// Starts an environment with these subscriptions, and documents for this many devices.
    pub(crate) async fn start_with(
        subscriptions: &[Subscription],
        devices: u32,
    ) -> anyhow::Result<Self> {
        let servers = TestEnv::start(Strictness::Lenient).await?;
        let cloud = &servers.cloud;
        cloud.create_resources(subscriptions).await?;
        cloud.create_topic("bare-output").await?;
        cloud.create_subscription("bare-sink", "bare-output").await?;
        cloud.create_table(DATASET, "bare", &[("data", "STRING")]).await?;
        if devices > 0 {
            let documents = reading::documents(devices);
            cloud.put_documents(DEVICES, documents).await.context("write documents")?;
        }
        Ok(Self { servers })
    }

    /// Stops everything. CPU time of a process is counted after its end, so all of these processes
    /// must end before others are measured.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.servers.stop().await
    }

    /// Publishes the backlog, for the service and for the bare loop.
    pub(crate) async fn feed(&self, case: &Case) -> anyhow::Result<()> {
        let url = self.servers.server.url();
        if let Some(topic) = case.service.input() {
            return Feed::new(&url, topic).await?.all(&case.load).await;
        }
        // Both subscribe once, so that the broker keeps their messages while they are away.
        process::bare(case.service.name(), &url, self.servers.broker.port(), 0).await?;
        let (mut process, _) = self.start_service(case).await?;
        process.terminate().await?;
        let mut fleet = Fleet::start(self.plan(case, Some(case.load.messages), 0));
        fleet.finish().await;
        Ok(())
    }

    pub(crate) async fn run_bare(&self, case: &Case) -> anyhow::Result<Measured> {
        let url = self.servers.server.url();
        process::bare(case.service.name(), &url, self.servers.broker.port(), case.load.messages)
            .await
    }

    pub(crate) async fn run_service(&self, case: &Case) -> anyhow::Result<Measured> {
        let (process, ready_in) = self.start_service(case).await?;
        process::measure(process, ready_in, case.load.messages).await
    }

    async fn start_service(&self, case: &Case) -> anyhow::Result<(Process, Duration)> {
        let settings = self.settings(case.service, &case.settings)?;
        process::start(self.servers.folder.path(), case.service, &settings).await
    }

    /// Returns the settings of a service here, with the changes of a case.
    pub(crate) fn settings(&self, service: Service, changes: &Value) -> anyhow::Result<Value> {
        let mut settings = self.servers.settings().json(service.name())?;
        if let Some(columns) = settings.pointer_mut("/table/columns").and_then(Value::as_array_mut)
        {
            columns.push(json!({ "name": "number", "type": "INT64" }));
        }
        merge(&mut settings, changes);
        Ok(settings)
    }

    fn plan(&self, case: &Case, messages: Option<u64>, rate: u32) -> fleet::FleetPlan {
        fleet::FleetPlan {
            port: self.servers.broker.port(),
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
        let soon = json!({ "pipeline": { "batch": { "max_age": "1s", "max_idle": "1s" } } });
        merge(&mut case.settings, &soon);
    }
    let env = BenchEnv::start(&case).await?;
    let (mut process, _) = env.start_service(&case).await?;
    if let Some(topic) = case.service.input() {
        let feed = Feed::new(&env.servers.server.url(), topic).await?;
        feed.at(&case.load, rate, AT_HALF_LOAD).await?;
    } else {
        let fleet = Fleet::start(env.plan(&case, None, rate as u32));
        tokio::time::sleep(AT_HALF_LOAD).await;
        fleet.stop();
    }
    let latency = Latency::of(&process.metrics().await?);
    process.kill().await?;
    env.stop().await?;
    Ok(latency)
}
