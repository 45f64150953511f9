//! One environment of a test, a benchmark or local mode: a broker, a cloud, Redis, and a folder.

use anyhow::Context as _;
use tempfile::TempDir;

use crate::cloud::Cloud;
use crate::embedded::Embedded;
use crate::mosquitto::Mosquitto;
use crate::redis::Redis;
use crate::settings::ServiceSettings;
use crate::strictness::{self, Strictness};

/// Broker, cloud and Redis, with their folder. Dropping it ends everything that it owns.
///
/// `C` is the server of the cloud: an `Emulator` in this process, or an [`Embedded`] one in another.
/// Local mode has another kind of broker, and a folder that stays.
#[derive(Debug)]
pub struct TestEnv<C, B = Mosquitto, F = TempDir> {
    /// MQTT broker.
    pub broker: B,
    /// Redis, if the environment has one.
    pub redis: Option<Redis>,
    /// Server of the cloud.
    pub server: C,
    /// Client of the cloud.
    pub cloud: Cloud,
    /// Folder for data, settings and logs.
    pub folder: F,
}

impl<C> TestEnv<C> {
    /// Returns the settings of all services for this environment.
    #[must_use]
    pub fn settings(&self) -> ServiceSettings {
        let redis_url = self.redis.as_ref().map(Redis::url);
        ServiceSettings::new(&self.cloud, self.broker.port(), redis_url)
    }
}

impl TestEnv<Embedded> {
    /// Starts mosquitto, Redis and the embedded cloud as processes, in a new folder.
    ///
    /// # Errors
    /// Fails when a program is missing, or does not answer.
    pub async fn start(strictness: Strictness) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let broker = Mosquitto::start(&folder.path().join("broker"), 0).await?;
        let redis = Some(Redis::start().await?);
        let server = Embedded::start(&folder.path().join("cloud")).await?;
        if strictness == Strictness::LikeGoogle {
            strictness::imitate_google(&server.url()).await?;
        }
        let cloud = Cloud::embedded(&server.url());
        Ok(Self { broker, redis, server, cloud, folder })
    }

    /// Stops everything.
    ///
    /// # Errors
    /// Fails when a process does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.server.kill().await?;
        if let Some(redis) = &mut self.redis {
            redis.kill().await?;
        }
        self.broker.stop().await
    }
}
